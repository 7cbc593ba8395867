"""Causal attention as two batched products and one fused softmax."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from itera_lite.config import ModelConfig
from itera_lite.ops.library import SUFFIX, call


class _Attention(Function):
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
        (B, L, H * P). The scores exist whole: B * H * L * L numbers.
    """
    return _Attention.apply(qkv, config, cos, sin)
