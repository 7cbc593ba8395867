"""The output head and its cross-entropy, with hard or soft targets, a block of rows at a time.

The logits of one block exist at a time, in the cache, and their gradient is taken at once, so
memory doesn't grow with the vocabulary times the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from itera_lite.ops.library import SUFFIX, call
from itera_lite.ops.products import packed


def _forward(
    ctx: Any,
    hidden: Tensor,
    weight: Tensor,
    name: str,
    of_rows: Sequence[Tensor],
    *numbers: int | float,
) -> None:
    """Compute losses and gradients, which are saved for `_backward`.

    Args:
        hidden: (T, D), contiguous. weight: (V, D).
        name: of the loss in the library's function.
        of_rows: what else it takes, and the losses that it writes, each with T rows.
        numbers: its other arguments.
    """
    need_hidden, need_weight, *_ = ctx.needs_input_grad
    dhidden = torch.empty_like(hidden) if need_hidden or need_weight else None
    dweight = torch.empty_like(weight) if need_weight else None
    (t, d), v = hidden.shape, weight.shape[0]
    orders = packed((weight,), hidden.dtype, dhidden is not None)
    gradients = (dhidden, dweight, t, v, d)
    function = f"head_{name}_{SUFFIX[hidden.dtype]}"
    call(function, hidden, *orders, *of_rows, *gradients, *numbers, 1 / t)
    ctx.save_for_backward(dhidden, dweight)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of hidden and weight; those that were saved are of the mean over the rows."""
    saved, factor = ctx.saved_tensors, grad.item()
    if factor == 1:
        return tuple(saved)
    return tuple(None if tensor is None else tensor * factor for tensor in saved)


class _LinearCrossEntropy(Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, scaling: float
    ) -> Tensor:
        hidden, targets = hidden.contiguous(), targets.contiguous()
        losses = torch.empty(hidden.shape[0])
        _forward(ctx, hidden, weight, "cross_entropy", (targets, losses), 1.0 / scaling)
        return losses.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return *_backward(ctx, grad), None, None


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, scaling: float = 1.0
) -> Tensor:
    """Mean cross-entropy of ``hidden @ weight.T / scaling``, a scalar in nats.

    Args:
        hidden: (T, D). weight: (V, D). targets: (T,) int64.
    """
    return _LinearCrossEntropy.apply(hidden, weight, targets, scaling)


class _LinearSoftCrossEntropy(Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        ids: Tensor,
        probabilities: Tensor,
        temperature: float,
        mix: float,
        scaling: float,
    ) -> tuple[Tensor, Tensor]:
        hidden, targets = hidden.contiguous(), targets.contiguous()
        ids, probabilities = ids.int().contiguous(), probabilities.float().contiguous()
        hard, total = torch.empty(hidden.shape[0]), torch.empty(hidden.shape[0])
        of_rows = (targets, ids, probabilities, hard, total)
        numbers = (ids.shape[1], 1.0 / scaling, float(temperature), float(mix))
        _forward(ctx, hidden, weight, "soft_cross_entropy", of_rows, *numbers)
        mean = hard.mean()
        ctx.mark_non_differentiable(mean)
        return total.mean(), mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
        return *_backward(ctx, grad), None, None, None, None, None, None


def linear_soft_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    ids: Tensor,
    probabilities: Tensor,
    temperature: float,
    mix: float,
    scaling: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """The loss of distillation for the logits ``hidden @ weight.T / scaling``, in nats.

    `itera_lite.distill.objective.soft_cross_entropy` defines it, and is the oracle of the tests.

    Args:
        hidden: (T, D). weight: (V, D). targets: (T,) int64.
        ids: (T, k) the teacher's likeliest tokens, different in each row.
        probabilities: (T, k) of them, at ``temperature``.

    Returns:
        The mean loss, and the mean cross-entropy of the targets alone (without a gradient).
    """
    return _LinearSoftCrossEntropy.apply(
        hidden, weight, targets, ids, probabilities, temperature, mix, scaling
    )
