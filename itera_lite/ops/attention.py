"""Causal attention, of which the scores stay in the cache."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from itera_lite.config import ModelConfig
from itera_lite.ops.library import SUFFIX, call
from itera_lite.ops.products import has_products


class _Sizes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in "batch length heads kv_heads width".split()]


class _Attention(Function):
    """A block of queries at a time. Only the sums of the exponentials are kept of the scores."""

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, config: ModelConfig, cos: Tensor | None, sin: Tensor | None
    ) -> Tensor:
        qkv = qkv.contiguous()
        (batch, length, _), c = qkv.shape, config
        sizes = _Sizes(batch, length, c.n_heads, c.n_kv_heads, c.head_dim)
        y = qkv.new_empty(batch, length, c.n_heads * c.head_dim)
        total = torch.empty(batch, c.n_heads, length)
        call("attention_b16", qkv, cos, sin, y, total, ctypes.byref(sizes))
        ctx.save_for_backward(qkv, cos, sin, y, total)
        ctx.sizes = sizes
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        saved, dqkv = ctx.saved_tensors, torch.empty_like(ctx.saved_tensors[0])
        call("attention_grad_b16", *saved, dy.contiguous(), dqkv, ctypes.byref(ctx.sizes))
        return dqkv, None, None, None


class _WholeAttention(Function):
    """Two batched products and a softmax between them: B * H * L * L scores at a time."""

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, config: ModelConfig, cos: Tensor | None, sin: Tensor | None
    ) -> Tensor:
        qkv = qkv.contiguous()
        (batch, length, _), c, kind = qkv.shape, config, SUFFIX[qkv.dtype]
        q = qkv.new_empty(batch, c.n_heads, length, c.head_dim)
        k = qkv.new_empty(batch, c.n_kv_heads, length, c.head_dim)
        v = torch.empty_like(k)
        ctx.sizes = (batch, length, c.n_heads, c.n_kv_heads, c.head_dim)
        call(f"split_heads_{kind}", qkv, cos, sin, q, k, v, *ctx.sizes)
        # The query heads of a group are adjacent: (B*Hkv, G*L, P) each.
        group = batch * c.n_kv_heads
        q, k, v = (x.view(group, -1, c.head_dim) for x in (q, k, v))
        probs = q @ k.transpose(1, 2)
        rows, ctx.scale = probs.numel() // length, c.head_dim**-0.5
        call(f"causal_softmax_{kind}", probs, rows, length, ctx.scale)
        y = (probs @ v).view(batch, c.n_heads, length, c.head_dim)
        ctx.save_for_backward(q, k, v, probs, cos, sin)
        return y.transpose(1, 2).reshape(batch, length, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        q, k, v, probs, cos, sin = ctx.saved_tensors
        (batch, length, n_heads, n_kv, width), kind = ctx.sizes, SUFFIX[dy.dtype]
        dy = dy.view(batch, length, n_heads, width).transpose(1, 2).contiguous()
        dy = dy.view(batch * n_kv, -1, width)
        dv = probs.transpose(1, 2) @ dy
        dscores = dy @ v.transpose(1, 2)
        rows = probs.numel() // length
        call(f"causal_softmax_grad_{kind}", probs, dscores, rows, length, ctx.scale)
        dq, dk = dscores @ k, dscores.transpose(1, 2) @ q
        dqkv = dy.new_empty(batch, length, (n_heads + 2 * n_kv) * width)
        call(f"merge_heads_{kind}", dqkv, cos, sin, dq, dk, dv, *ctx.sizes)
        return dqkv, None, None, None


def attention(qkv: Tensor, config: ModelConfig, cos: Tensor | None, sin: Tensor | None) -> Tensor:
    """Causal attention over a whole sequence.

    Args:
        qkv: (B, L, (H + 2 H_kv) * P), the projected queries, keys and values.
        cos, sin: (L, P) rotary tables, or None for no positions.

    Returns:
        (B, L, H * P).
    """
    fused = qkv.dtype == torch.bfloat16 and has_products()
    return (_Attention if fused else _WholeAttention).apply(qkv, config, cos, sin)
