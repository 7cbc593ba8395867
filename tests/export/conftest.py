"""A tokenizer and checkpoints that the tests of this folder share."""

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from itera_lite.checkpoint.folder import save_checkpoint
from itera_lite.config import ModelConfig
from itera_lite.data.tokenizer import Tokenizer
from tests.export.models import VOCAB, random_model

SaveRandom = Callable[[ModelConfig], Path]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([Path(textwrap.__file__).read_bytes()], VOCAB)


@pytest.fixture
def save_random(tmp_path: Path, tokenizer: Tokenizer) -> SaveRandom:
    """Saves a model with random weights as a checkpoint: config -> folder."""

    def save(config: ModelConfig) -> Path:
        return save_checkpoint(tmp_path / "a_model", random_model(config), tokenizer)

    return save
