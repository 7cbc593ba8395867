"""A results folder of invented numbers; see `synthetic`."""

from pathlib import Path

import pytest

from itera_lite.commands.report import report

from .synthetic import write_ladder, write_results, write_seeds


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    """A folder with every kind of result, and the report of it. Not to be changed."""
    folder = tmp_path_factory.mktemp("whole")
    results = write_results(folder / "results")
    write_seeds(results)
    write_ladder(results, in_llama=True)
    return results, report(results=results, reports=folder / "reports")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return write_results(tmp_path / "results")
