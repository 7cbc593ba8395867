"""What the tests of both engines share: texts of all kinds, and a model with random weights."""

from pathlib import Path

import pytest

from itera_lite.export.gguf import export_gguf

TEXTS = [f"text {i * i * 7919 % 100_003} {'ab ' * (i % 40)}höher ✓" for i in range(240)]


@pytest.fixture(scope="session")
def model_file(tiny_pair: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file of a minute model."""
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    return export_gguf(tiny_pair["itera_lite_test"], "f32", path).path


@pytest.fixture(scope="session")
def other_file(tiny_pair: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one."""
    path = tmp_path_factory.mktemp("model") / "other.gguf"
    return export_gguf(tiny_pair["transformer_test"], "f32", path).path
