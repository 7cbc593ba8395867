"""Layers with their products: several operations that are one step of autograd.

A step of autograd costs 50 to 150 microseconds of Python in each micro-batch, as much as a product.
Each function here computes exactly what its operations, called one by one, would.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from itera_lite.config import ModelConfig
from itera_lite.ops.attention import _Attention
from itera_lite.ops.experts import _GatedSiLU
from itera_lite.ops.mamba2 import _Mamba2
from itera_lite.ops.products import _Linear, joined


class _Part:
    """The context of an operation inside a layer: what its ``forward`` and ``backward`` take."""

    def __init__(self, *needs_input_grad: bool) -> None:
        self.needs_input_grad = needs_input_grad
        self.saved_tensors: tuple[Tensor | None, ...] = ()

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        self.saved_tensors = tensors


class _SwiGLU(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        need = any(ctx.needs_input_grad)
        parts = first, gate, last = _Part(need, False, need), _Part(need), _Part(need, False, need)
        hidden = _Linear.forward(first, x, None, gate_up)
        y = _Linear.forward(last, _GatedSiLU.forward(gate, hidden), None, down)
        ctx.parts = parts
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        first, gate, last = ctx.parts
        dactive, _, ddown = _Linear.backward(last, dy)
        dx, _, dgate_up = _Linear.backward(first, _GatedSiLU.backward(gate, dactive))
        return dx, dgate_up, ddown


def swiglu(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """A gated feed-forward: (..., D) -> (..., D).

    Args:
        gate_up: (2F, D), the gate first. down: (D, F). Both are float32.
    """
    return _SwiGLU.apply(x, gate_up, down)


class _AttentionLayer(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        config: ModelConfig,
        cos: Tensor | None,
        sin: Tensor | None,
        bias: Tensor | None,
        out: Tensor,
        out_bias: Tensor | None,
        *weights: Tensor,
    ) -> Tensor:
        need = any(ctx.needs_input_grad)
        biased = need and bias is not None
        first, mixer = _Part(need, biased, *[need] * len(weights)), _Part(need)
        last = _Part(need, need and out_bias is not None, need)
        qkv = _Linear.forward(first, x, bias, *weights)
        y = _Linear.forward(last, _Attention.forward(mixer, qkv, config, cos, sin), out_bias, out)
        ctx.parts = first, mixer, last
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        first, mixer, last = ctx.parts
        dmixed, dout_bias, dout = _Linear.backward(last, dy)
        dqkv, *_ = _Attention.backward(mixer, dmixed)
        dx, dbias, *dweights = _Linear.backward(first, dqkv)
        return dx, None, None, None, dbias, dout, dout_bias, *dweights


def attention_layer(
    x: Tensor,
    config: ModelConfig,
    angles: tuple[Tensor, Tensor] | tuple[None, None],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    out: Tensor,
    out_bias: Tensor | None,
) -> Tensor:
    """Causal attention with its projections: (B, L, D) -> (B, L, D).

    Args:
        angles: cos and sin (L, P), the rotary tables, or None for no positions.
        weights, biases: of the queries, keys and values, float32. out, out_bias: of the output.
    """
    bias = joined(biases)
    return _AttentionLayer.apply(x, config, *angles, bias, out, out_bias, *weights)


class _Mamba2Layer(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, config: ModelConfig, into: Tensor, out: Tensor, *weights: Tensor
    ) -> Tensor:
        need = any(ctx.needs_input_grad)
        parts = first, mixer, last = _Part(need, False, need), _Part(need), _Part(need, False, need)
        projected = _Linear.forward(first, x, None, into)
        y = _Linear.forward(last, _Mamba2.forward(mixer, projected, config, *weights), None, out)
        ctx.parts = parts
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        first, mixer, last = ctx.parts
        dmixed, _, dout = _Linear.backward(last, dy)
        dprojected, _, *dweights = _Mamba2.backward(mixer, dmixed)
        dx, _, dinto = _Linear.backward(first, dprojected)
        return dx, None, dinto, dout, *dweights


def mamba2_layer(
    x: Tensor, config: ModelConfig, into: Tensor, out: Tensor, weights: Sequence[Tensor]
) -> Tensor:
    """Mamba-2 with its projections, from an empty state: (B, L, D) -> (B, L, D).

    Args:
        into, out: the projections' weights, float32. weights: as `_Mamba2` takes them.
    """
    return _Mamba2Layer.apply(x, config, into, out, *weights)
