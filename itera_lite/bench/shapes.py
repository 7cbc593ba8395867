"""The GGUF files that `bench decode` and `bench score` measure.

They are exported checkpoints, or models of llama2.c's sizes with random weights: speed doesn't
depend on what a model has learnt. The sizes are those of stories260K and stories15M
(https://github.com/karpathy/llama2.c).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf import TokenType
from numpy.typing import NDArray
from tokenizers.pre_tokenizers import ByteLevel

from itera_lite import _engine
from itera_lite.checkpoint.weights import weight_files
from itera_lite.data.tokenizer import EOT
from itera_lite.export.gguf import export_gguf
from itera_lite.export.types import SCHEMES, pack, stored_type
from itera_lite.files import folder_name


@dataclass(frozen=True)
class ModelFiles:
    """A model in GGUF files.

    Attributes:
        name: of the checkpoint, or of the shape.
        family: ``itera`` or ``transformer``.
        params: numbers in all tensors.
        paths: type of the weights -> file.
        isa: instruction set of the engine's kernels.
        folder: the checkpoint; None for a shape.
        weights_sha256: of the checkpoint's weights.
    """

    name: str
    family: str
    params: int
    paths: dict[str, Path]
    isa: str
    folder: Path | None = None
    weights_sha256: str = ""

    @property
    def main_type(self) -> str:
        """The type that targets are about."""
        return "q8_0" if "q8_0" in self.paths else self.first_type

    @property
    def first_type(self) -> str:
        """The type of the first file."""
        return next(iter(self.paths))


def export_model(folder: Path, types: Sequence[str], scratch: Path) -> ModelFiles:
    """Export a checkpoint to a file of each type in ``scratch``."""
    name, paths = folder_name(folder), {}
    for kind in dict.fromkeys(types):
        paths[kind] = scratch / f"{name}-{kind}.gguf"
        export_gguf(folder, kind, paths[kind])
    digest = hashlib.sha256()
    for file in weight_files(folder):
        digest.update(file.read_bytes())
    return _model_files(name, paths, folder, digest.hexdigest())


def shape_model(name: str, scratch: Path) -> ModelFiles:
    """One of `SHAPES`, in a file of each of its types in ``scratch``."""
    return _model_files(
        name,
        {
            kind: write_shape(name, kind, scratch / f"{name}-{kind}.gguf")
            for kind in SHAPES[name].types
        },
    )


def _model_files(
    name: str, paths: dict[str, Path], folder: Path | None = None, sha256: str = ""
) -> ModelFiles:
    model = _engine.Model.load(str(next(iter(paths.values()))), 256)
    family = "transformer" if model.architecture == "llama" else "itera"
    return ModelFiles(name, family, model.parameters, paths, model.isa, folder, sha256)


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama with tied embeddings, and the types that its rows can be stored in."""

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    hidden: int
    vocab_size: int
    types: tuple[str, ...] = ("f32", "q8_0", "q4_0")


SHAPES = {
    "stories260K": Shape(64, 5, 8, 4, 172, 512, types=("f32",)),  # 172 is no multiple of 32
    "stories15M": Shape(288, 6, 6, 6, 768, 32000),
}


def write_shape(name: str, kind: str, path: Path, context: int = 512) -> Path:
    """Write a model of one of `SHAPES`.

    Args:
        name: of the shape.
        kind: type of its matrices, such as ``q8_0``; norms stay in F32.
        path: the file.
        context: tokens that a text may have.
    """
    shape = SHAPES[name]
    writer = gguf.GGUFWriter(None, "llama")
    writer.add_name(name)
    writer.add_file_type(SCHEMES[kind].file_type)
    writer.add_vocab_size(shape.vocab_size)
    writer.add_context_length(context)
    writer.add_embedding_length(shape.dim)
    writer.add_block_count(shape.n_layers)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.n_heads)
    writer.add_head_count_kv(shape.n_kv_heads)
    writer.add_rope_dimension_count(shape.dim // shape.n_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    _add_tokenizer(writer, shape.vocab_size)
    for tensor, weights in _weights(shape):
        stored = stored_type(tensor, SCHEMES[kind])
        writer.add_tensor(tensor, pack(tensor, weights, stored), raw_dtype=stored)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _weights(shape: Shape) -> Iterator[tuple[str, NDArray[np.float32]]]:
    generator = np.random.default_rng(0)
    kv = shape.dim // shape.n_heads * shape.n_kv_heads

    def matrix(rows: int, columns: int) -> NDArray[np.float32]:
        weights = generator.standard_normal((rows, columns), dtype=np.float32)
        return weights * np.float32(columns**-0.5)

    ones = np.ones(shape.dim, np.float32)
    yield "token_embd.weight", matrix(shape.vocab_size, shape.dim)
    yield "output_norm.weight", ones
    for layer in range(shape.n_layers):
        prefix = f"blk.{layer}."
        yield prefix + "attn_norm.weight", ones
        yield prefix + "ffn_norm.weight", ones
        yield prefix + "attn_q.weight", matrix(shape.dim, shape.dim)
        yield prefix + "attn_k.weight", matrix(kv, shape.dim)
        yield prefix + "attn_v.weight", matrix(kv, shape.dim)
        yield prefix + "attn_output.weight", matrix(shape.dim, shape.dim)
        yield prefix + "ffn_gate.weight", matrix(shape.hidden, shape.dim)
        yield prefix + "ffn_up.weight", matrix(shape.hidden, shape.dim)
        yield prefix + "ffn_down.weight", matrix(shape.dim, shape.hidden)


def _add_tokenizer(writer: gguf.GGUFWriter, vocab_size: int) -> None:
    """Bytes, an end of text, and random merges of tokens that are there already."""
    tokens = [EOT, *sorted(ByteLevel.alphabet())]
    known, merges, choice = set(tokens), [], random.Random(0)
    while len(tokens) < vocab_size:
        left, right = (tokens[choice.randrange(1, len(tokens))] for _ in range(2))
        if len(left) + len(right) > 12 or left + right in known:
            continue
        known.add(left + right)
        tokens.append(left + right)
        merges.append(f"{left} {right}")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] + [TokenType.NORMAL] * (len(tokens) - 1))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(True)
