"""A results folder of invented numbers; see `synthetic`."""

from pathlib import Path

import pytest

from .synthetic import write_results


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return write_results(tmp_path / "results")
