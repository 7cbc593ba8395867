"""The output head with hard and soft targets, without all logits at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from itera_lite.ops.library import SUFFIX, call
from itera_lite.ops.loss import LOSS_ROWS


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
        rows = hidden.shape[0]
        matrix = weight.to(hidden.dtype)
        hard, total = torch.empty(rows), torch.empty(rows)
        dhidden, dweight = torch.empty_like(hidden), torch.zeros_like(weight)
        for begin in range(0, rows, LOSS_ROWS):
            block = slice(begin, begin + LOSS_ROWS)
            part = hidden[block]
            logits = part @ matrix.t()
            call(
                f"soft_cross_entropy_{SUFFIX[hidden.dtype]}",
                logits,
                targets[block],
                ids[block],
                probabilities[block],
                hard[block],
                total[block],
                *(part.shape[0], logits.shape[1], ids.shape[1]),
                *(1.0 / scaling, float(temperature), float(mix)),
            )
            if ctx.needs_input_grad[0]:
                torch.mm(logits, matrix, out=dhidden[block])
                dweight += logits.t() @ part
        ctx.save_for_backward(dhidden, dweight)
        mean = hard.mean()
        ctx.mark_non_differentiable(mean)
        return total.mean(), mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
        dhidden, dweight = ctx.saved_tensors
        factor = grad / dhidden.shape[0]
        gradients = dhidden * factor.to(dhidden.dtype), dweight * factor
        return *gradients, None, None, None, None, None, None


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
    """What distillation minimises, of the logits ``hidden @ weight.T / scaling``; in nats.

    Its oracle, which says what is computed, is `itera_lite.distill.objective.soft_cross_entropy`.

    Args:
        hidden: (T, D). weight: (V, D). targets: (T,) int64.
        ids: (T, k) the teacher's likeliest tokens, different in each row.
        probabilities: (T, k) of them, at ``temperature``.

    Returns:
        The mean of it, and the mean of the cross-entropy alone (without a gradient).
    """
    return _LinearSoftCrossEntropy.apply(
        hidden, weight, targets, ids, probabilities, temperature, mix, scaling
    )
