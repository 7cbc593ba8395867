"""Causal attention, of which the scores stay in the cache."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from itera_lite.config import ModelConfig
from itera_lite.ops.library import SUFFIX, call


class _Sizes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in "batch length heads kv_heads width".split()]


class _Attention(Function):
    """Causal attention over a whole sequence, a block of queries at a time. Only the sums of the
    exponentials are kept of the scores.

    Args of `forward`:
        qkv: (B, L, (H + 2 H_kv) * P), the projected queries, keys and values.
        cos, sin: (L, P) rotary tables, or None for no positions.

    Returns:
        (B, L, H * P).
    """

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, config: ModelConfig, cos: Tensor | None, sin: Tensor | None
    ) -> Tensor:
        qkv = qkv.contiguous()
        (batch, length, _), c = qkv.shape, config
        sizes = _Sizes(batch, length, c.n_heads, c.n_kv_heads, c.head_dim)
        y = qkv.new_empty(batch, length, c.n_heads * c.head_dim)
        total = torch.empty(batch, c.n_heads, length)
        call(f"attention_{SUFFIX[qkv.dtype]}", qkv, cos, sin, y, total, ctypes.byref(sizes))
        ctx.save_for_backward(qkv, cos, sin, y, total)
        ctx.sizes = sizes
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        saved, dqkv = ctx.saved_tensors, torch.empty_like(ctx.saved_tensors[0])
        given = (*saved, dy.contiguous(), dqkv, ctypes.byref(ctx.sizes))
        call(f"attention_grad_{SUFFIX[dqkv.dtype]}", *given)
        return dqkv, None, None, None
