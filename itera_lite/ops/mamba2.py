"""Mamba-2 between its two projections, in one pass."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from itera_lite.config import ModelConfig
from itera_lite.ops.library import SUFFIX, call

MAMBA_CHUNK = 16  # steps between the states that the backward pass starts from


class _Shape(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in "batch length heads width states taps chunk".split()),
        ("eps", ctypes.c_float),
    ]


class _Weights(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in "conv conv_bias dt_bias a_log d norm".split()]


def _mamba2_arguments(
    projected: Tensor, c: ModelConfig, weights: Sequence[Tensor]
) -> tuple[_Shape, _Weights, list[Tensor]]:
    """Shape, pointers, and the tensors that the pointers need to stay alive."""
    batch, length, _ = projected.shape
    sizes = (batch, length, c.n_ssm_heads, c.ssm_head_dim, c.d_state, c.d_conv, MAMBA_CHUNK)
    held = [weights[0].t().contiguous(), *(weight.contiguous() for weight in weights[1:])]
    return _Shape(*sizes, c.norm_eps), _pointers(held), held


def _pointers(weights: Sequence[Tensor]) -> _Weights:
    return _Weights(*(weight.data_ptr() for weight in weights))


@torch.no_grad()
def mamba2_from(
    projected: Tensor, config: ModelConfig, weights: Sequence[Tensor], conv: Tensor, ssm: Tensor
) -> Tensor:
    """`Mamba2.scan` on from a state, without gradients.

    Args:
        projected: (B, L, z+x+B+C+dt). weights: as `_Mamba2` takes them.
        conv: (B, C, K-1) float32, the convolution's last inputs; left as it is.
        ssm: (B, H, P, N) float32 and contiguous; updated in place.
    """
    projected, conv = projected.contiguous(), conv.contiguous()
    shape, pointers, _held = _mamba2_arguments(projected, config, weights)
    out = projected.new_empty(*projected.shape[:2], config.d_inner)
    given = (projected, ctypes.byref(shape), ctypes.byref(pointers))
    call(f"mamba2_{SUFFIX[out.dtype]}", *given, out, None, None, None, conv, ssm)
    return out


class _Mamba2(Function):
    """`Mamba2.scan` from an empty state: (B, L, z+x+B+C+dt) -> (B, L, d_inner).

    Args of `forward`:
        weights: conv_weight, conv_bias, dt_bias, A_log, D and the norm's weight.
    """

    @staticmethod
    def forward(ctx: Any, projected: Tensor, config: ModelConfig, *weights: Tensor) -> Tensor:
        projected = projected.contiguous()
        batch, length, _ = projected.shape
        c = config
        shape, pointers, held = _mamba2_arguments(projected, c, weights)
        out = projected.new_empty(batch, length, c.d_inner)
        kept = rstd = states = None
        if any(ctx.needs_input_grad):
            kept, rstd = torch.empty_like(out), torch.empty(batch * length)
            states = torch.empty(batch, -(-length // MAMBA_CHUNK), c.d_inner * c.d_state)
            ctx.save_for_backward(projected, kept, rstd, states, *held)
        ctx.shape, ctx.config = shape, config
        name = f"mamba2_{SUFFIX[out.dtype]}"
        given = (projected, ctypes.byref(shape), ctypes.byref(pointers))
        call(name, *given, out, kept, rstd, states, None, None)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Any, ...]:
        projected, kept, rstd, states, *held = ctx.saved_tensors
        c = ctx.config
        pointers = _pointers(held)  # weights that were sharded lie elsewhere now
        sizes = [c.d_conv_channels * c.d_conv, c.d_conv_channels, *[c.n_ssm_heads] * 3, c.d_inner]
        dprojected, dweights = torch.empty_like(projected), torch.zeros(sum(sizes))
        call(
            f"mamba2_grad_{SUFFIX[projected.dtype]}",
            projected,
            ctypes.byref(ctx.shape),
            ctypes.byref(pointers),
            kept,
            rstd,
            states,
            dout.contiguous(),
            dprojected,
            dweights,
        )
        dconv, *others = dweights.split(sizes)
        return dprojected, None, dconv.view(c.d_conv, -1).t(), *others
