"""The output head and its cross-entropy, without all logits at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from itera_lite.ops.library import SUFFIX, call

LOSS_ROWS = 1024  # rows of logits that exist at a time


class _LinearCrossEntropy(Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, scaling: float
    ) -> Tensor:
        hidden, targets = hidden.contiguous(), targets.contiguous()
        rows = hidden.shape[0]
        matrix = weight.to(hidden.dtype)
        losses = torch.empty(rows)
        dhidden, dweight = torch.empty_like(hidden), torch.zeros_like(weight)
        for begin in range(0, rows, LOSS_ROWS):
            part = hidden[begin : begin + LOSS_ROWS]
            logits = part @ matrix.t()
            call(
                f"cross_entropy_{SUFFIX[hidden.dtype]}",
                logits,
                targets[begin : begin + LOSS_ROWS],
                losses[begin : begin + LOSS_ROWS],
                part.shape[0],
                logits.shape[1],
                1.0 / scaling,
                1.0,
            )
            if ctx.needs_input_grad[0]:
                torch.mm(logits, matrix, out=dhidden[begin : begin + LOSS_ROWS])
                dweight += logits.t() @ part
        ctx.save_for_backward(dhidden, dweight)
        return losses.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        dhidden, dweight = ctx.saved_tensors
        factor = grad / dhidden.shape[0]
        return dhidden * factor.to(dhidden.dtype), dweight * factor, None, None


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, scaling: float = 1.0
) -> Tensor:
    """Mean cross-entropy of ``hidden @ weight.T / scaling``, a scalar in nats.

    The logits exist a block of rows at a time, and their gradient is taken at
    once: memory doesn't grow with the vocabulary times the batch.

    Args:
        hidden: (T, D). weight: (V, D). targets: (T,) int64.
    """
    return _LinearCrossEntropy.apply(hidden, weight, targets, scaling)
