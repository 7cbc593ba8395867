"""Rounds weights in PyTorch as GGUF's types store them, bit for bit.

So a model can be trained, scored and saved with the weights that its file will have.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Type
from torch import Tensor

from itera_lite.export.tensors import gguf_names
from itera_lite.export.types import Scheme, check_row, is_matrix, stored_type
from itera_lite.model import LanguageModel

# GGUF's name of a matrix -> the type that it is stored in. All else stays as it is.
Kinds = Mapping[str, Type]


def fake_quantize(weights: Tensor, kind: Type) -> Tensor:
    """Round weights (..., row) plainly, as ggml and the `gguf` package store them as ``kind``.

    Rows of a type with blocks are a multiple of 32. Weights that a type can't hold become infinite
    or NaN; `itera export` refuses those.
    """
    if kind == Type.F32:
        return weights
    if kind == Type.F16:
        return weights.half().float()
    if kind == Type.BF16:
        return weights.bfloat16().float()
    blocks = weights.float().reshape(-1, GGML_QUANT_SIZES[kind][0])
    if kind == Type.Q8_0:
        exact = blocks.abs().amax(1, keepdim=True) / 127
        stored = exact.half().float()
        scaled = blocks * exact.reciprocal()
        size = scaled.abs()
        down = size.floor()
        steps = (down + (2 * (size - down)).floor()).copysign(scaled)  # half away from zero
    else:
        at = blocks.abs().argmax(1, keepdim=True)  # the first of several
        exact = blocks.gather(1, at) / -8
        stored = exact.half().float()
        steps = (blocks * exact.reciprocal() + 8.5).trunc().clamp(max=15) - 8
    # A scale too small for float16 is stored as 0; its reciprocal may have been infinite.
    return torch.where(stored == 0, 0.0, steps * stored).view_as(weights)


@torch.no_grad()
def round_parts(weights: Tensor, kinds: tuple[Type, ...]) -> Tensor:
    """A parameter that is stored as one tensor or as two, see `gguf_names`."""
    if len(set(kinds)) == 1:
        return fake_quantize(weights, kinds[0])
    halves = zip(weights.chunk(2, dim=-2), kinds, strict=True)
    return torch.cat([fake_quantize(half, kind) for half, kind in halves], dim=-2)


def kinds_of(model: LanguageModel, scheme: Scheme) -> dict[str, Type]:
    """The type of each matrix of the model, in the model's order.

    Raises:
        ExportError: where a type can't store a matrix; the message names it.
    """
    kinds = {}
    for name, rows in matrix_shapes(model).items():
        kinds[name] = stored_type(name, scheme)
        check_row(name, rows[-1], kinds[name])
    return kinds


def matrix_shapes(model: LanguageModel) -> dict[str, tuple[int, ...]]:
    """GGUF's name of each matrix -> its shape as it is stored."""
    shapes = {}
    for parameter, value in model.named_parameters():
        names = gguf_names(parameter)
        for name in filter(is_matrix, names):
            *stack, rows, row = value.shape
            shapes[name] = (*stack, rows // len(names), row)
    return shapes


def parameter_types(name: str, kinds: Kinds) -> tuple[Type, ...] | None:
    """The type of a parameter, or of each half; None where nothing of it is in ``kinds``.

    Args:
        name: as `LanguageModel.named_parameters` has it.
    """
    stored = gguf_names(name)
    if not any(part in kinds for part in stored):
        return None
    return tuple(kinds.get(part, Type.F32) for part in stored)


@torch.no_grad()
def rounded(model: LanguageModel, kinds: Kinds) -> LanguageModel:
    """A copy of the model with plainly rounded matrices, in the same mode."""
    copy = copy_of(model)
    for name, parameter in copy.named_parameters():
        types = parameter_types(name, kinds)
        if types is not None:
            parameter.copy_(round_parts(parameter, types))
    return copy


@torch.no_grad()
def copy_of(model: LanguageModel) -> LanguageModel:
    """A copy of the model in the same mode, with weights of its own.

    `copy.deepcopy` refuses a model in training, which holds the graph of its last batch.
    """
    copy = LanguageModel(model.config).to(model.embedding.weight.device)
    copy.load_state_dict(model.state_dict())
    copy.compute_dtype = model.compute_dtype
    return copy.train(model.training)
