"""GPTQ on GGUF's blocks: rounding that corrects the columns after each one for its error.

Frantar et al., 2023, https://arxiv.org/abs/2210.17323. A matrix is rounded column by column; the
columns that aren't rounded yet change such that the matrix's outputs on a calibration text change
least. Layers are rounded in order, so that a later one is calibrated on the rounded earlier ones.
"""

from __future__ import annotations

from functools import partial

import torch
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Type
from torch import Tensor, nn

from itera_lite.compress.rounding import (
    Kinds,
    fake_quantize,
    ladder_scales,
    parameter_types,
    rounded,
)
from itera_lite.evaluate.bits import batches_of, evaluating
from itera_lite.export.types import is_matrix
from itera_lite.model import LanguageModel
from itera_lite.model.attention import Attention
from itera_lite.model.layers import SwiGLU, gated_silu
from itera_lite.model.moe import MoE
from itera_lite.workers import Workers

DAMPING = 0.01  # of the mean of a Hessian's diagonal, added to it
# The embedding's rows are not only multiplied with the last layer's outputs, they are looked up
# too: there all directions count alike. 0.3 and less is worse than plain rounding
# (experiments/LOG.md).
EMBEDDING_DAMPING = 3.0
TOKENS_PER_WEIGHT = 4  # of a row; an expert that fewer tokens reach is calibrated with all of them
# Q4_0: how many steps the largest weight of a block may be, with either sign of the scale
_PEAKS = torch.arange(5.0, 9.25, 0.25)


@torch.no_grad()
def gptq(
    model: LanguageModel,
    kinds: Kinds,
    windows: Tensor,
    workers: Workers | None = None,
    levels: int | None = None,
) -> LanguageModel:
    """A copy of the model with its matrices rounded to ``kinds``, other tensors plainly.

    Args:
        kinds: see `itera_lite.compress.rounding.kinds_of`. Types without blocks of 32 are
            rounded plainly.
        windows: (W, L) token ids of the calibration text.
        workers: that share the text and the matrices; None: the calling thread does all.
        levels: of Q4_0, see `itera_lite.compress.rounding.few_levels`.
    """
    workers = workers or Workers()
    others = {name: kind for name, kind in kinds.items() if not is_matrix(name)}
    copy = rounded(model, others).float()
    names = {parameter: name for name, parameter in copy.named_parameters()}

    def round_to_kind(parameter: Tensor, hessians: Tensor) -> None:
        found = parameter_types(names[parameter], kinds)  # type: ignore[index]
        if found is None:
            return
        halves = parameter.chunk(len(found), dim=-2)
        pairs = zip(halves, found, strict=True)
        done = [compensate(half, hessians, kind, levels) for half, kind in pairs]
        parameter.copy_(torch.cat(done, dim=-2))

    def inputs(module: nn.Module) -> Tensor:
        return _inputs(copy, module, windows, workers)

    with evaluating(copy):
        # The embedding comes first, as all layers can correct for it. It is calibrated as the head,
        # where its rounding shows.
        parts = workers.map(partial(copy.hidden, part) for part in batches_of(windows))
        head = _hessian(torch.cat(parts).flatten(0, 1))
        round_to_kind(copy.embedding.weight, head + _damping(head, EMBEDDING_DAMPING))
        for block in copy.blocks:
            mixer = block.mixer
            first = _hessian(inputs(mixer))
            if isinstance(mixer, Attention):
                for part in (mixer.q_proj, mixer.k_proj, mixer.v_proj):
                    round_to_kind(part.weight, first)
            else:
                round_to_kind(mixer.in_proj.weight, first)
            round_to_kind(mixer.output.weight, _hessian(inputs(mixer.output)))
            x = inputs(block.ffn)
            dense: nn.Module | None = block.ffn
            if isinstance(block.ffn, MoE):
                routed = _routed(block.ffn, x)
                round_to_kind(block.ffn.gate_up, torch.cat([_hessian(part) for part, _ in routed]))
                round_to_kind(block.ffn.down, _hidden_hessians(block.ffn, routed))
                dense = block.ffn.shared
            if isinstance(dense, SwiGLU):
                round_to_kind(dense.gate_up.weight, _hessian(x))
                round_to_kind(dense.down.weight, _hessian(gated_silu(dense.gate_up(x))))
    return copy


def compensate(weights: Tensor, hessians: Tensor, kind: Type, levels: int | None = None) -> Tensor:
    """Round matrices so that their outputs change little.

    Args:
        weights: (..., R, C).
        hessians: (E, C, C), sums of ``x x^T`` over the inputs of each matrix of a stack.
        kind: Q8_0 or Q4_0; another is rounded plainly.
        levels: of Q4_0, see `itera_lite.compress.rounding.few_levels`.

    Returns:
        The same shape, every block of 32 on a grid of the type with a float16 scale.
    """
    block = GGML_QUANT_SIZES[kind][0]
    if kind not in (Type.Q8_0, Type.Q4_0):
        return fake_quantize(weights, kind)
    work = weights.reshape(-1, *weights.shape[-2:]).double()
    factor = _inverse_factor(hessians.double())  # (E, C, C), upper triangular
    result = torch.empty_like(work)
    low, high = (-127, 127) if kind == Type.Q8_0 else (-8, 7)
    most = None if levels is None or kind != Type.Q4_0 else levels // 2
    if most is not None:
        low, high = -most, most
    for start in range(0, work.shape[-1], block):
        columns = range(start, start + block)
        loss = factor.diagonal(dim1=1, dim2=2)[:, None, columns].square().reciprocal()
        scale = _scales(work[..., columns], loss, kind, most)
        safe = torch.where(scale == 0, 1.0, scale)
        for j in columns:
            steps = (work[..., j] / safe).round().clamp(low, high)
            result[..., j] = steps * scale
            error = (work[..., j] - result[..., j]) / factor[:, j, j, None]
            work[..., j + 1 :] -= error[..., None] * factor[:, None, j, j + 1 :]
    return result.float().view_as(weights)


def _scales(blocks: Tensor, loss: Tensor, kind: Type, most: int | None = None) -> Tensor:
    """The scale (E, R) of each block (E, R, 32), as float16 stores it.

    For four bits the scale with the least error over all weights, each weighed with ``loss``; for
    eight the usual one, as there is little to gain. With ``most`` steps, it is on the ladder.
    """
    peak = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))[..., 0]
    if kind == Type.Q8_0:
        return (peak / 127).half().double()
    if most is None:
        low, high = -8, 7
        tried = [(peak / steps).half().double() for steps in torch.cat([_PEAKS, -_PEAKS]).tolist()]
    else:
        low, high = -most, most
        tried = ladder_scales(peak.abs(), most)
    best, least = torch.zeros_like(peak), torch.full_like(peak, torch.inf)
    for scale in tried:
        near = (blocks / torch.where(scale == 0, 1.0, scale)[..., None]).round().clamp(low, high)
        error = (loss * (blocks - near * scale[..., None]).square()).sum(-1)
        better = error < least
        best, least = torch.where(better, scale, best), torch.where(better, error, least)
    return best


def _inverse_factor(hessians: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse: row j spreads the error of column j."""
    damped = hessians + _damping(hessians, DAMPING)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True)


def _damping(hessians: Tensor, share: float) -> Tensor:
    """``share`` of the mean of each diagonal, on all of it."""
    diagonal = hessians.diagonal(dim1=1, dim2=2)
    mean = diagonal.mean(-1, keepdim=True)
    return torch.diag_embed(share * torch.where(mean > 0, mean, 1.0).expand_as(diagonal))


def _hessian(x: Tensor) -> Tensor:
    """(T, C) inputs -> (1, C, C)."""
    return (x.T @ x)[None]


class _Reached(Exception):
    """A forward pass has come to the module whose inputs are wanted, and ends there."""

    def __init__(self, inputs: Tensor) -> None:
        super().__init__()
        self.inputs = inputs


def _inputs(model: LanguageModel, module: nn.Module, windows: Tensor, workers: Workers) -> Tensor:
    """The inputs of a module on the calibration text, (T, C)."""

    def stop(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        raise _Reached(arguments[0])

    def inputs(part: Tensor) -> Tensor:
        try:
            model.hidden(part)
        except _Reached as reached:
            return reached.inputs.reshape(-1, reached.inputs.shape[-1])
        raise AssertionError("the module isn't part of the model's forward pass")

    hook = module.register_forward_pre_hook(stop)
    try:
        return torch.cat(workers.map(partial(inputs, part) for part in batches_of(windows)))
    finally:
        hook.remove()


def _routed(moe: MoE, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The inputs of each expert, of (T, D): each times its gate, and the gates.

    The gate weighs the expert's output, so it weighs its errors too.
    """
    top, index = moe.router(x).float().topk(moe.config.top_k, dim=-1)
    gates = top.softmax(dim=-1)
    routed = []
    for expert in range(moe.config.n_experts):
        token, slot = (index == expert).nonzero(as_tuple=True)
        if len(token) < TOKENS_PER_WEIGHT * x.shape[-1]:
            routed.append((x, x.new_ones(len(x), 1)))
        else:
            gate = gates[token, slot, None]
            routed.append((x[token] * gate, gate))
    return routed


def _hidden_hessians(moe: MoE, routed: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Hessians (E, F, F) of each expert's second matrix, after its first one is rounded."""
    parts = []
    for (x, gate), weight in zip(routed, moe.gate_up, strict=True):
        parts.append(_hessian(gated_silu((x / gate) @ weight.T) * gate))
    return torch.cat(parts)
