"""RMSNorm, alone or with the sum into the residual stream before it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from itera_lite.ops.dropout import Drop
from itera_lite.ops.library import SUFFIX, call


class _RMSNorm(Function):
    """The norm of ``x``; with ``add``, the sum ``x + scale * drop(add)`` and the norm of that."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        add: Tensor | None,
        scale: float,
        drop: Drop,
        weight: Tensor,
        eps: float,
        dtype: torch.dtype,
    ) -> Any:
        x, add = x.contiguous(), None if add is None else add.contiguous()
        width = x.shape[-1]
        rows = x.numel() // width
        y, rstd = torch.empty(x.shape, dtype=dtype), torch.empty(rows)
        total = None if add is None else torch.empty_like(x)
        name = f"rms_norm_{SUFFIX[x.dtype]}_{SUFFIX[dtype]}"
        ctx.scaling = scale * drop.scale, drop.key, drop.threshold
        call(name, x, add, *ctx.scaling, weight, total, y, rstd, rows, width, eps)
        ctx.save_for_backward(x if total is None else total, weight, rstd)
        return y if total is None else (total, y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, weight, rstd = ctx.saved_tensors
        dtotal, dy = (None, *grads) if len(grads) == 1 else grads
        dtotal, dy = None if dtotal is None else dtotal.contiguous(), dy.contiguous()
        dx, dw = torch.empty_like(x), torch.empty_like(weight)
        dadd = None if dtotal is None else torch.empty_like(dy)
        name = f"rms_norm_grad_{SUFFIX[x.dtype]}_{SUFFIX[dy.dtype]}"
        sizes = (rstd.numel(), x.shape[-1])
        call(name, x, weight, rstd, dy, dtotal, *ctx.scaling, dx, dadd, dw, *sizes)
        return dx, dadd, None, None, dw, None, None


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """`RMSNorm` of (..., D), the result in ``dtype``."""
    return _RMSNorm.apply(x, None, 1.0, Drop(), weight, eps, dtype)


def add_rms_norm(
    x: Tensor, add: Tensor, scale: float, drop: Drop, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """``x + scale * drop(add)`` in the type of ``x``, its `RMSNorm` in the type of ``add``."""
    return _RMSNorm.apply(x, add, float(scale), drop, weight, eps, add.dtype)
