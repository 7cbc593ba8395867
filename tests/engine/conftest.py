"""GGUF files of models with random weights, for the tests of this folder."""

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from itera_lite.checkpoint.folder import save_checkpoint
from itera_lite.config import ModelConfig
from itera_lite.data.tokenizer import Tokenizer
from itera_lite.engine import Model
from itera_lite.export.gguf import export_gguf
from tests.export.models import VOCAB, random_model

Export = Callable[[ModelConfig, str], Path]


@pytest.fixture(scope="session")
def gguf_pair(
    tiny_pair: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Exact (F32) files of both minute models, by name."""
    into = tmp_path_factory.mktemp("gguf")
    return {
        name: export_gguf(folder, "f32", into / f"{name}.gguf").path
        for name, folder in tiny_pair.items()
    }


@pytest.fixture(scope="session")
def itera_file(gguf_pair: dict[str, Path]) -> Path:
    return gguf_pair["itera_lite_test"]


@pytest.fixture(scope="session", params=["itera_lite_test", "transformer_test"])
def name(request: pytest.FixtureRequest) -> str:
    """Of a minute model, one of each family."""
    return str(request.param)


@pytest.fixture(scope="session")
def engine(name: str, gguf_pair: dict[str, Path]) -> Model:
    """The native engine with it."""
    return Model.load(gguf_pair[name])


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """A file of a type, of a config with `random_model`'s weights; each is made once."""
    folder = tmp_path_factory.mktemp("export")
    tokenizer = Tokenizer.train([Path(textwrap.__file__).read_bytes()], VOCAB)
    checkpoints: dict[ModelConfig, Path] = {}

    def file(config: ModelConfig, type: str) -> Path:
        if config not in checkpoints:
            into = folder / str(len(checkpoints))
            checkpoints[config] = save_checkpoint(into, random_model(config), tokenizer)
        path = checkpoints[config] / f"model-{type}.gguf"
        return path if path.exists() else export_gguf(checkpoints[config], type).path

    return file
