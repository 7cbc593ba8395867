"""A model of about a given number of parameters: one dial, the rest derived."""

from __future__ import annotations

from itera_lite.config import PRESETS, Family, ModelConfig, preset
from itera_lite.errors import ConfigError
from itera_lite.model.cost import cost

FURTHEST = 0.5  # the model has at least this share of the parameters asked for


def fit_to(
    family: Family, params: float, vocab_size: int, pattern: str | None = None
) -> ModelConfig:
    """The largest scaled preset that stays within ``params`` parameters.

    Width grows in steps of 32, and the feed-forward keeps its ratio to the width.

    Args:
        pattern: layers to use instead of the presets'.

    Raises:
        ConfigError: where even the smallest shape is larger, or the largest is far smaller; says
            how large it is.
    """
    best: tuple[int, ModelConfig] | None = None
    smallest: int | None = None
    for size, families in PRESETS.items():
        if family not in families:
            continue
        model = preset(family, size, vocab_size)
        if pattern is not None:
            model = model.replace(pattern=pattern)
        for width in range(32, 1025, 32):
            scale = width / model.d_model
            shape = model.replace(
                d_model=width,
                d_ff=_round(model.d_ff * scale),
                d_expert=_round(model.d_expert * scale),
                n_kv_heads=width // 32 if family == "transformer" else model.n_kv_heads,
            )
            total = cost(shape).params_total
            smallest = total if smallest is None else min(smallest, total)
            if total <= params and (best is None or total > best[0]):
                best = (total, shape)
    if best is None:
        raise ConfigError(
            f"--params {params:,.0f} is too small: the smallest {family} model with a vocabulary "
            f"of {vocab_size} has {smallest:,} parameters. A smaller --vocab-size helps"
        )
    if best[0] < FURTHEST * params:
        raise ConfigError(
            f"--params {params:,.0f}: the nearest {family} model below that has {best[0]:,} "
            "parameters. Give about that many, or another --pattern"
        )
    return best[1]


def _round(width: float) -> int:
    """To a multiple of 32, which quantised rows need; 0 stays 0."""
    return max(32, round(width / 32) * 32) if width else 0
