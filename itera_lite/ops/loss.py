"""The output head and its cross-entropy, with hard or soft targets, a block of rows at a time.

The logits of one block exist at a time and their gradient is taken at once, so memory doesn't grow
with the vocabulary times the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from itera_lite.ops.library import SUFFIX, call

LOSS_ROWS = 1024  # rows of logits that exist at a time


def _forward(
    ctx: Any, hidden: Tensor, weight: Tensor, loss: Callable[[Tensor, slice], None]
) -> None:
    """Compute losses and gradients block by block; the gradients are saved for `_backward`.

    Args:
        hidden: (T, D), contiguous. weight: (V, D).
        loss: writes the losses of some rows, given their logits, which it replaces by their
            gradients.
    """
    matrix = weight.to(hidden.dtype)
    dhidden, dweight = torch.empty_like(hidden), torch.zeros_like(weight)
    for begin in range(0, hidden.shape[0], LOSS_ROWS):
        rows = slice(begin, begin + LOSS_ROWS)
        logits = hidden[rows] @ matrix.t()
        loss(logits, rows)
        if ctx.needs_input_grad[0]:
            torch.mm(logits, matrix, out=dhidden[rows])
            dweight += logits.t() @ hidden[rows]
    ctx.save_for_backward(dhidden, dweight)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of hidden and weight, for a mean over the rows."""
    dhidden, dweight = ctx.saved_tensors
    factor = grad / dhidden.shape[0]
    return dhidden * factor.to(dhidden.dtype), dweight * factor


class _LinearCrossEntropy(Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, scaling: float
    ) -> Tensor:
        hidden, targets = hidden.contiguous(), targets.contiguous()
        losses, name = torch.empty(hidden.shape[0]), f"cross_entropy_{SUFFIX[hidden.dtype]}"

        def loss(logits: Tensor, rows: slice) -> None:
            call(name, logits, targets[rows], losses[rows], *logits.shape, 1.0 / scaling, 1.0)

        _forward(ctx, hidden, weight, loss)
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
        name = f"soft_cross_entropy_{SUFFIX[hidden.dtype]}"

        def loss(logits: Tensor, rows: slice) -> None:
            given = (logits, targets[rows], ids[rows], probabilities[rows])
            sizes = (*logits.shape, ids.shape[1])
            scales = (1.0 / scaling, float(temperature), float(mix))
            call(name, *given, hard[rows], total[rows], *sizes, *scales)

        _forward(ctx, hidden, weight, loss)
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
