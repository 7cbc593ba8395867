"""Models so small that a training takes a second."""

import pytest

from itera_lite import config


def make_small(patch: pytest.MonkeyPatch) -> None:
    """Put very small shapes in the place of the tiny ones."""
    shapes = {
        "itera": {"pattern": "ma", "d_model": 64, "n_experts": 4, "d_expert": 32, "d_state": 16},
        "transformer": {"pattern": "aa", "d_model": 64, "d_ff": 96, "n_kv_heads": 2},
    }
    patch.setitem(config.PRESETS, "tiny", shapes)
