"""The stored types of a GGUF file's tensors, and packing weights into them.

A quantised type has a grid in each block of weights: a scale times whole steps. Plain rounding
takes the scale from the block's largest weight. Weights that lie on a grid already, because a
better method rounded them, may have another scale: `exact_blocks` finds it, so they stay exactly
as they are in this export and every later one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
from gguf import GGML_QUANT_SIZES, GGUF_DEFAULT_ALIGNMENT, LlamaFileType
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize
from numpy.typing import NDArray

from itera_lite.errors import ExportError

# The matrices of products and of the embedding. Other tensors (norms, convolution, state space,
# biases, router) stay float32: they are small, and the model is sensitive to them.
_MATRIX = re.compile(
    r"token_embd|(ssm_(in|out)|attn_(q|k|v|qkv|output)|ffn_(gate|up|down)(_exps|_shexp)?)\.weight$"
)
BLOCK = GGML_QUANT_SIZES[Type.Q4_0][0]  # weights that share a scale; 32, in Q8_0 too
# The steps that the largest weight of a block may have, the likeliest first. Q4_0 has steps -8 to
# 7 and a scale of either sign: without -8 the steps are symmetric, and a positive scale is enough.
_PEAKS = {Type.Q4_0: (-8, *range(7, 0, -1)), Type.Q8_0: tuple(range(127, 0, -1))}
_LEVELS = {Type.Q4_0: (-8, 7), Type.Q8_0: (-127, 127)}
GRIDS = tuple(_PEAKS)
# The scales of weights with few levels (`itera_lite.compress.rounding.few_levels`): the float16
# numbers with this low byte, four an octave. In the file they are negative. A byte of two zero
# weights is 0x88 too, and high bytes from 0xA5 to 0xAB are bytes of other weights: so the scales,
# which stand between the weights, need no codes of their own where the file is compressed. That
# takes 3 to 4 % less than scales with a low byte of 0.
LADDER_LOW = 0x88
LADDER_STEP = 0x100


@dataclass(frozen=True)
class Scheme:
    """The stored types of a model's matrices.

    Attributes:
        matrices: the type of the matrices but the embedding.
        embedding: the type of the embedding.
        file_type: llama.cpp's number for the mixture.
        tensors: by GGUF name, the matrices of another type.
    """

    matrices: Type
    embedding: Type
    file_type: LlamaFileType
    tensors: Mapping[str, Type] = field(default_factory=dict)


SCHEMES: dict[str, Scheme] = {
    "f32": Scheme(Type.F32, Type.F32, LlamaFileType.ALL_F32),
    "f16": Scheme(Type.F16, Type.F16, LlamaFileType.MOSTLY_F16),
    "bf16": Scheme(Type.BF16, Type.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": Scheme(Type.Q8_0, Type.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "q4_0": Scheme(Type.Q4_0, Type.Q4_0, LlamaFileType.MOSTLY_Q4_0),
    "mixed": Scheme(Type.Q4_0, Type.Q8_0, LlamaFileType.MOSTLY_Q4_0),
}


def stored_type(name: str, scheme: Scheme) -> Type:
    """The type in which the tensor ``name`` (its GGUF name) is stored."""
    if not is_matrix(name):
        return Type.F32
    usual = scheme.embedding if name.startswith("token_embd") else scheme.matrices
    return scheme.tensors.get(name, usual)


def is_matrix(name: str) -> bool:
    """Whether a scheme decides about the tensor ``name``; others stay float32."""
    return _MATRIX.search(name) is not None


def scheme_of(kinds: Mapping[str, Type]) -> Scheme:
    """The scheme with the type of each matrix by its GGUF name."""
    ((usual, _),) = Counter(kinds.values()).most_common(1)
    number = next(s.file_type for s in SCHEMES.values() if s.matrices == usual)
    return Scheme(usual, usual, number, dict(kinds))


def exact_scheme(tensors: Iterable[tuple[str, NDArray[np.float32]]]) -> Scheme:
    """The scheme with each matrix in the smallest type that holds its weights exactly.

    It gives a quantised model its types back, from its weights alone.
    """
    return scheme_of({name: _smallest(value) for name, value in tensors if is_matrix(name)})


def _smallest(weights: NDArray[np.float32]) -> Type:
    for kind in (Type.Q4_0, Type.Q8_0):
        if is_exact(weights, kind):
            return kind
    with np.errstate(over="ignore"):
        halved = weights.astype(np.float16).astype(np.float32)
    return Type.F16 if np.array_equal(halved, weights) else Type.F32


def packed_bytes(shape: Sequence[int], kind: Type) -> int:
    """Bytes of a tensor in a file, with the padding after it."""
    block, size = GGML_QUANT_SIZES[kind]
    length = prod(shape) // block * size
    return -(-length // GGUF_DEFAULT_ALIGNMENT) * GGUF_DEFAULT_ALIGNMENT


def pack(name: str, weights: NDArray[np.float32], kind: Type) -> NDArray[np.generic]:
    """The weights (..., row) in the stored type ``kind``.

    Raises:
        ExportError: where the rows don't divide into the type's blocks, or a weight isn't
            finite or is beyond the type's range. The message names the tensor and the remedy.
    """
    check_row(name, weights.shape[-1], kind)
    if not np.isfinite(weights).all():
        raise ExportError(
            f"'{name}' holds weights that aren't finite: expected numbers. Train anew"
        )
    with np.errstate(over="ignore", invalid="ignore"):  # what is too large becomes infinite
        packed = quantize(weights, kind)
        holds = np.isfinite(dequantize(packed, kind)).all()
    if not holds:
        largest = np.abs(weights).max()
        raise ExportError(
            f"'{name}' has a weight of size {largest:.3g}, which {kind.name} can't hold. "
            "Export with --type bf16 or f32"
        )
    if kind in GRIDS:  # what lies on the grid already is kept as it is
        found, blocks = exact_blocks(weights, kind)
        packed.reshape(found.size, -1)[found] = blocks
    return packed


def check_row(name: str, row: int, kind: Type) -> None:
    """Raises `ExportError` where rows of ``row`` weights don't divide into the type's blocks."""
    block, _ = GGML_QUANT_SIZES[kind]
    if row % block:
        low, high = row // block * block, -(-row // block) * block
        choice = f"{low} or {high}" if low else str(high)
        raise ExportError(
            f"{kind.name} stores rows in blocks of {block}, and a row of '{name}' has {row} "
            f"weights. Train with {_row_dimension(name)}={choice}, or export with --type f16"
        )


def _row_dimension(name: str) -> str:
    """The field of `ModelConfig` that decides how long the rows of a matrix are."""
    if "ffn_down_exps" in name:
        return "d_expert"
    return "d_ff" if "ffn_down" in name else "d_model"


def exact_blocks(
    weights: NDArray[np.float32], kind: Type
) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
    """Which blocks of 32 weights are on the grid of ``kind``, and these as they are stored.

    Args:
        weights: (..., row), rows of a multiple of 32.

    Returns:
        (n,) for each block whether it can be stored without any rounding; (m, bytes) the blocks
        that can. Blocks of zeros are left to plain rounding, which keeps them: they count as on
        the grid only in `is_exact`.
    """
    blocks = weights.reshape(-1, BLOCK)
    if kind == Type.Q4_0:
        scale, steps = _on_grid(blocks, kind, ladder=True)
        if (scale != 0)[blocks.any(axis=1)].all():
            found = scale != 0
            return found, _stored(-scale[found], -steps[found], kind)
    scale, steps = _on_grid(blocks, kind)
    found = scale != 0
    return found, _stored(scale[found], steps[found], kind)


def _on_grid(
    blocks: NDArray[np.float32], kind: Type, ladder: bool = False
) -> tuple[NDArray[np.float16], NDArray[np.int8]]:
    """The scale (n,) of each block, 0 where there is none that fits, and its steps (n, 32).

    Args:
        ladder: only positive scales of the ladder, and the fewest steps.
    """
    low, high = (-7, 7) if ladder else _LEVELS[kind]
    at = np.abs(blocks).argmax(axis=1)
    peak = blocks[np.arange(len(blocks)), at]
    scale = np.zeros(len(blocks), dtype=np.float16)
    steps = np.zeros(blocks.shape, dtype=np.int8)
    todo = np.flatnonzero(peak)
    for k in range(1, 8) if ladder else _PEAKS[kind]:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            most = peak[todo] if k < 0 else np.abs(peak[todo])
            d = (most / np.float32(k)).astype(np.float16)
            hit = (d.astype(np.float32) * np.float32(k) == most) & (d != 0) & np.isfinite(d)
            if ladder:
                hit &= d.view(np.uint16) % LADDER_STEP == LADDER_LOW
            # Products of a float16 and a few bits are exact in float32, and so is their quotient
            at, d = todo[hit], d[hit]
            q = blocks[at] / d[:, None].astype(np.float32)
            whole = ((q == np.rint(q)) & (q >= low) & (q <= high)).all(axis=1)
        scale[at[whole]], steps[at[whole]] = d[whole], q[whole].astype(np.int8)
        todo = np.setdiff1d(todo, at[whole], assume_unique=True)
    return scale, steps


def is_exact(weights: NDArray[np.float32], kind: Type) -> bool:
    """Whether every weight can be stored as ``kind`` without any rounding."""
    if weights.shape[-1] % BLOCK:
        return False
    found, _ = exact_blocks(weights, kind)
    return bool(found[weights.reshape(-1, BLOCK).any(axis=1)].all())


def _stored(scale: NDArray[np.float16], steps: NDArray[np.int8], kind: Type) -> NDArray[np.uint8]:
    if kind == Type.Q8_0:
        values: NDArray[np.uint8] = steps.view(np.uint8)
    else:  # the first half of the block in the low four bits, the second in the high ones
        halves = (steps + 8).astype(np.uint8).reshape(-1, 2, BLOCK // 2)
        values = halves[:, 0] | halves[:, 1] << np.uint8(4)
    return np.concatenate([scale[:, None].view(np.uint8), values], axis=1)
