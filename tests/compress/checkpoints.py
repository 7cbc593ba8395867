"""Checkpoints with random weights whose vocabulary was made for a small text."""

from collections.abc import Callable
from pathlib import Path

import pytest

from itera_lite.checkpoint.folder import save_checkpoint
from itera_lite.config import ModelConfig
from itera_lite.data.prepare import prepare
from itera_lite.data.tokenizer import Tokenizer
from tests.export.models import random_model
from tests.train.conftest import text

__all__ = ["GPT2", "ITERA", "TRANSFORMER", "files", "old", "save", "text"]

VOCAB = 310
ITERA = ModelConfig("itera", "ma", VOCAB, 64, n_experts=6, d_expert=32, d_state=8)
TRANSFORMER = ModelConfig("transformer", "aa", VOCAB, 64, d_ff=96, n_kv_heads=2)
GPT2 = ModelConfig("gpt2", "aa", VOCAB, 64, d_ff=96, n_kv_heads=2, max_seq_len=256)


@pytest.fixture(scope="session")
def old(text: Path) -> Tokenizer:
    """The tokenizer that the checkpoints come with."""
    return prepare(str(text), vocab_size=VOCAB, quiet=True).tokenizer


@pytest.fixture
def save(tmp_path: Path, old: Tokenizer) -> Callable[[ModelConfig], Path]:
    """A checkpoint of a shape: config -> folder."""
    return lambda config: save_checkpoint(tmp_path / "given", random_model(config), old)


def files(folder: Path) -> dict[str, bytes]:
    """All that lies in a folder, to see whether it was changed."""
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
