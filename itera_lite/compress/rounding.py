"""Rounds weights in PyTorch as GGUF's types store them, bit for bit.

So a model can be trained, scored and saved with the weights that its file will have. Q4_0 can do
with fewer than its 16 levels (`few_levels`): the file is of the same type, and smaller once it is
compressed.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Type
from torch import Tensor

from itera_lite.export.tensors import gguf_names
from itera_lite.export.types import (
    BLOCK,
    LADDER_LOW,
    LADDER_STEP,
    Scheme,
    check_row,
    is_matrix,
    stored_type,
)
from itera_lite.model import LanguageModel

# GGUF's name of a tensor -> the type whose values it gets. All else stays as it is.
Kinds = Mapping[str, Type]
# The scales that are tried for a block of few levels, in steps of the ladder from the one with
# which the largest weight is the last level: a smaller one cuts that weight, and fits the others.
# With none larger, the largest weight is always the last level, so what is rounded stays as it is.
_SCALES_TRIED = range(-3, 1)
_SCALES_TRIED_FOR_3 = range(-6, 1)
_LARGEST_SCALE = 0x7B  # of float16's high byte
_CHUNK = 4096  # blocks that are rounded at once: they fit in a core's cache


def fake_quantize(weights: Tensor, kind: Type, levels: int | None = None) -> Tensor:
    """Round weights (..., row) plainly, as ggml and the `gguf` package store them as ``kind``.

    Rows of a type with blocks are a multiple of 32. Weights that a type can't hold become infinite
    or NaN; `itera export` refuses those.

    Args:
        levels: see `few_levels`, which then rounds Q4_0.
    """
    if kind == Type.Q4_0 and levels is not None:
        return few_levels(weights, levels)
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


def few_levels(weights: Tensor, levels: int) -> Tensor:
    """Round weights (..., row) to multiples of a scale: -n to n of them, ``levels = 2 n + 1``.

    Every block of 32 has the scale of a coarse ladder (`itera_lite.export.types.LADDER_LOW`) with
    the least squared error.
    """
    blocks = weights.float().reshape(-1, BLOCK)
    most = levels // 2
    rounded = [_steps(part, _scales(part, most), most) for part in blocks.split(_CHUNK)]
    return torch.cat(rounded).view_as(weights)


def _scales(blocks: Tensor, most: int) -> Tensor:
    """The scale (N, 1) of each block (N, 32)."""
    candidates = ladder_scales(blocks.abs().amax(1, keepdim=True), most)
    errors = [(blocks - _steps(blocks, each, most)).square().sum(1) for each in candidates]
    best = torch.stack(errors).argmin(0, keepdim=True)
    return torch.stack(candidates)[..., 0].gather(0, best).T


def ladder_scales(peak: Tensor, most: int) -> list[Tensor]:
    """The scales that are tried for blocks of ``-most`` to ``most`` steps, by their peaks."""
    code = (peak.float() / most).half().view(torch.int16).int()
    place = (code - LADDER_LOW + LADDER_STEP // 2) // LADDER_STEP  # of the nearest on the ladder
    tried = _SCALES_TRIED if most > 1 else _SCALES_TRIED_FOR_3
    places = [(place + each).clamp(0, _LARGEST_SCALE) for each in tried]
    codes = [(each * LADDER_STEP + LADDER_LOW).to(torch.int16) for each in places]
    return [code.view(torch.float16).to(peak.dtype) for code in codes]


def _steps(blocks: Tensor, scale: Tensor, most: int) -> Tensor:
    return (blocks / scale).round_().clamp_(-most, most).mul_(scale)


@torch.no_grad()
def round_parts(weights: Tensor, kinds: tuple[Type, ...], levels: int | None = None) -> Tensor:
    """A parameter that is stored as one tensor or as two, see `gguf_names`."""
    if len(set(kinds)) == 1:
        return fake_quantize(weights, kinds[0], levels)
    halves = zip(weights.chunk(2, dim=-2), kinds, strict=True)
    return torch.cat([fake_quantize(half, kind, levels) for half, kind in halves], dim=-2)


def kinds_of(model: LanguageModel, scheme: Scheme, levels: int | None = None) -> dict[str, Type]:
    """The type of each matrix of the model, in the model's order.

    With few levels, all that stays in 32 bits gets BF16's values too: half of its bytes are zero
    then, and take no room in a compressed file.

    Raises:
        ExportError: where a type can't store a matrix; the message names it.
    """
    kinds = {}
    for name, rows in matrix_shapes(model).items():
        kinds[name] = stored_type(name, scheme)
        check_row(name, rows[-1], kinds[name])
    if levels is not None:
        parameters = (gguf_names(name) for name, _ in model.named_parameters())
        others = {names[0] for names in parameters if not is_matrix(names[0])}
        # ssm_a is stored as a function of the parameter: it would have other values.
        kinds |= {name: Type.BF16 for name in sorted(others) if not name.endswith("ssm_a")}
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
def rounded(model: LanguageModel, kinds: Kinds, levels: int | None = None) -> LanguageModel:
    """A copy of the model with plainly rounded tensors, in the same mode."""
    copy = copy_of(model)
    for name, parameter in copy.named_parameters():
        types = parameter_types(name, kinds)
        if types is not None:
            parameter.copy_(round_parts(parameter, types, levels))
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
