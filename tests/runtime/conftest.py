"""GGUF files of the minute models with random weights."""

from pathlib import Path

import pytest

from itera_lite.export.gguf import export_gguf


@pytest.fixture(scope="session")
def gguf_pair(
    tiny_pair: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Exact (F32) files of both, by name."""
    into = tmp_path_factory.mktemp("gguf")
    return {
        name: export_gguf(folder, "f32", into / f"{name}.gguf").path
        for name, folder in tiny_pair.items()
    }


@pytest.fixture(scope="session")
def itera_file(gguf_pair: dict[str, Path]) -> Path:
    return gguf_pair["itera_lite_test"]
