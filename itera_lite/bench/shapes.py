"""The models that `bench decode` and `bench score` measure, as GGUF files.

They are checkpoints that are exported, or models with random weights of llama2.c's sizes,
stories260K and stories15M (https://github.com/karpathy/llama2.c): speed doesn't depend on what a
model has learnt.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tokenizers
import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from itera_lite import _engine
from itera_lite.checkpoint.folder import save_checkpoint
from itera_lite.checkpoint.hf import read_config
from itera_lite.checkpoint.weights import weight_files
from itera_lite.config import ModelConfig
from itera_lite.data.tokenizer import EOT, Tokenizer
from itera_lite.export.gguf import export_gguf
from itera_lite.files import folder_name
from itera_lite.model import LanguageModel
from itera_lite.model.cost import describe
from itera_lite.records import ModelDescription

LONGEST_TOKEN = 12  # bytes


@dataclass(frozen=True)
class Shape:
    """A size of a Llama, and the types that its rows can be stored in."""

    config: ModelConfig
    types: tuple[str, ...] = ("f32", "q8_0", "q4_0")


SHAPES = {
    "stories260K": Shape(
        ModelConfig("transformer", 5 * "a", 512, 64, head_dim=8, n_kv_heads=4, d_ff=172),
        types=("f32",),  # 172 is no multiple of 32
    ),
    "stories15M": Shape(
        ModelConfig("transformer", 6 * "a", 32000, 288, head_dim=48, n_kv_heads=6, d_ff=768)
    ),
}


@dataclass(frozen=True)
class ModelFiles:
    """A checkpoint's folder, and its GGUF files by the type of their weights."""

    model: ModelDescription
    folder: Path
    paths: dict[str, Path]
    isa: str  # instruction set of the engine's kernels

    @property
    def main_type(self) -> str:
        """The type that targets are about."""
        return "q8_0" if "q8_0" in self.paths else next(iter(self.paths))

    def load(self, context: int, kind: str | None = None) -> _engine.Model:
        """The engine's model of a type, by default the first, for texts of ``context`` tokens."""
        return _engine.Model.load(str(self.paths[kind or next(iter(self.paths))]), context)


def export_model(folder: Path, types: Sequence[str], scratch: Path) -> ModelFiles:
    """Export a checkpoint to a file of each type in ``scratch``."""
    name, paths = folder_name(folder), {}
    for kind in dict.fromkeys(types):
        paths[kind] = scratch / f"{name}-{kind}.gguf"
        export_gguf(folder, kind, paths[kind])
    digest = hashlib.sha256()
    for file in weight_files(folder):
        digest.update(file.read_bytes())
    model = describe(name, read_config(folder), sha256=digest.hexdigest())
    isa = _engine.Model.load(str(next(iter(paths.values()))), 256).isa
    return ModelFiles(model, folder, paths, isa)


def save_shape(name: str, scratch: Path) -> Path:
    """Make a checkpoint of one of `SHAPES` with random weights; returns its folder."""
    torch.manual_seed(0)
    config = SHAPES[name].config
    return save_checkpoint(
        scratch / name, LanguageModel(config), _random_tokenizer(config.vocab_size)
    )


def _random_tokenizer(vocab_size: int) -> Tokenizer:
    """Bytes, an end of text, and random merges of tokens that are there already."""
    tokens = [EOT, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    known, merges, choice = set(tokens), [], random.Random(0)
    while len(tokens) < vocab_size:
        left, right = (tokens[choice.randrange(1, len(tokens))] for _ in range(2))
        if len(left) + len(right) <= LONGEST_TOKEN and left + right not in known:
            known.add(left + right)
            tokens.append(left + right)
            merges.append((left, right))
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(EOT, special=True, normalized=False)])
    return Tokenizer(backend)
