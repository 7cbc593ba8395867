"""RMSNorm, alone or with the sum into the residual stream before it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from itera_lite.ops.library import SUFFIX, call


class _RMSNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        x = x.contiguous()
        width = x.shape[-1]
        rows = x.numel() // width
        y, rstd = torch.empty(x.shape, dtype=dtype), torch.empty(rows)
        name = f"rms_norm_{SUFFIX[x.dtype]}_{SUFFIX[dtype]}"
        call(name, x, None, 1.0, weight, None, y, rstd, rows, width, eps)
        ctx.save_for_backward(x, weight, rstd)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        x, weight, rstd = ctx.saved_tensors
        dy = dy.contiguous()
        dx, dw = torch.empty_like(x), torch.zeros_like(weight)
        name = f"rms_norm_grad_{SUFFIX[x.dtype]}_{SUFFIX[dy.dtype]}"
        sizes = (rstd.numel(), x.shape[-1])
        call(name, x, weight, rstd, dy, None, 1.0, dx, None, dw, *sizes)
        return dx, dw, None, None


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """`RMSNorm` of (..., D), the result in ``dtype``."""
    return _RMSNorm.apply(x, weight, eps, dtype)


class _AddRMSNorm(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, add: Tensor, scale: float, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        x, add = x.contiguous(), add.contiguous()
        width = x.shape[-1]
        rows = x.numel() // width
        total, y, rstd = torch.empty_like(x), torch.empty_like(add), torch.empty(rows)
        name = f"rms_norm_{SUFFIX[x.dtype]}_{SUFFIX[add.dtype]}"
        call(name, x, add, float(scale), weight, total, y, rstd, rows, width, eps)
        ctx.save_for_backward(total, weight, rstd)
        ctx.scale = float(scale)
        return total, y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dtotal: Tensor, dy: Tensor) -> tuple[Any, ...]:
        total, weight, rstd = ctx.saved_tensors
        dtotal, dy = dtotal.contiguous(), dy.contiguous()
        dx, dadd, dw = torch.empty_like(total), torch.empty_like(dy), torch.zeros_like(weight)
        name = f"rms_norm_grad_{SUFFIX[total.dtype]}_{SUFFIX[dy.dtype]}"
        sizes = (rstd.numel(), total.shape[-1])
        call(name, total, weight, rstd, dy, dtotal, ctx.scale, dx, dadd, dw, *sizes)
        return dx, dadd, None, dw, None


def add_rms_norm(
    x: Tensor, add: Tensor, scale: float, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """``x + scale * add`` in the type of ``x``, and its `RMSNorm` in the type of ``add``."""
    return _AddRMSNorm.apply(x, add, scale, weight, eps)
