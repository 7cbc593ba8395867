"""How each tensor of a GGUF file is stored: the types on offer, and packing into them."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from gguf import GGML_QUANT_SIZES, LlamaFileType
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize
from numpy.typing import NDArray

from itera_lite.errors import ExportError

# What a matrix product or the look-up of a token reads. All else (norms, convolution, state
# space, biases, router) stays float32: it is small, and the model is sensitive to it.
_MATRIX = re.compile(
    r"token_embd|(ssm_(in|out)|attn_(q|k|v|output)|ffn_(gate|up|down)(_exps|_shexp)?)\.weight$"
)


@dataclass(frozen=True)
class Scheme:
    """The stored type of the matrices, of the embedding, and llama.cpp's number for the mix."""

    matrices: Type
    embedding: Type
    file_type: LlamaFileType


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
    if not _MATRIX.search(name):
        return Type.F32
    return scheme.embedding if name.startswith("token_embd") else scheme.matrices


def pack(name: str, weights: NDArray[np.float32], kind: Type) -> NDArray[np.generic]:
    """The weights (..., row) in the stored type ``kind``.

    Raises:
        ExportError: where the rows don't divide into the type's blocks, or a weight isn't
            finite or is beyond the type's range. The message names the tensor and the remedy.
    """
    block, _ = GGML_QUANT_SIZES[kind]
    row = weights.shape[-1]
    if row % block:
        low, high = row // block * block, -(-row // block) * block
        choice = f"{low} or {high}" if low else str(high)
        raise ExportError(
            f"{kind.name} stores rows in blocks of {block}, and a row of '{name}' has {row} "
            f"weights. Train with {_row_dimension(name)}={choice}, or export with --type f16"
        )
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
    return packed


def _row_dimension(name: str) -> str:
    """The field of `ModelConfig` that decides how long the rows of a matrix are."""
    if "ffn_down_exps" in name:
        return "d_expert"
    return "d_ff" if "ffn_down" in name else "d_model"
