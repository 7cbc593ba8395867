"""The feed-forward: its gate, and a mixture of experts."""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from itera_lite.ops.library import SUFFIX, call
from itera_lite.ops.products import has_products, packed


class _GatedSiLU(Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate_up = gate_up.contiguous()
        half = gate_up.shape[-1] // 2
        y = gate_up.new_empty(*gate_up.shape[:-1], half)
        call(f"gated_silu_{SUFFIX[y.dtype]}", gate_up, y, y.numel() // max(half, 1), half)
        ctx.save_for_backward(gate_up)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        return _gated_silu_grad(gate_up, dy.contiguous())


def _gated_silu_grad(gate_up: Tensor, dy: Tensor) -> Tensor:
    grad, half = torch.empty_like(gate_up), dy.shape[-1]
    rows = dy.numel() // max(half, 1)
    call(f"gated_silu_grad_{SUFFIX[dy.dtype]}", gate_up, dy, grad, rows, half)
    return grad


def gated_silu(gate_up: Tensor) -> Tensor:
    """(..., 2F) -> (..., F): silu of the first half times the second."""
    return _GatedSiLU.apply(gate_up)


class Routing(NamedTuple):
    """Which expert gets which token: the result of `route`, an argument of `experts`."""

    pair: Tensor  # (T * k,) int64: the pairs (token, choice), token * k + choice, by their expert
    start: Tensor  # (E + 1,) int64: where the pairs of each expert begin, and the last ones end

    @property
    def counts(self) -> Tensor:
        """(E,) int64, the pairs of each expert."""
        return self.start.diff()


class _Route(Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, k: int) -> tuple[Any, ...]:
        logits = logits.contiguous()
        tokens, n = logits.shape
        index, pair = torch.empty(tokens, k, dtype=torch.int64), torch.empty(tokens * k).long()
        gates, mean = torch.empty(tokens, k), torch.empty(n)
        start = torch.empty(n + 1, dtype=torch.int64)
        call("route_f32", logits, index, gates, pair, start, mean, tokens, n, k)
        ctx.mark_non_differentiable(pair, start)
        ctx.save_for_backward(logits, index, gates)
        return gates, mean, pair, start

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dgates: Tensor, dmean: Tensor, *_: Any) -> tuple[Tensor, None]:
        logits, index, gates = ctx.saved_tensors
        (tokens, n), k = logits.shape, index.shape[1]
        dlogits = torch.empty_like(logits)
        given = (dgates.contiguous(), dmean.contiguous())
        call("route_grad_f32", logits, index, gates, *given, dlogits, tokens, n, k)
        return dlogits, None


def route(logits: Tensor, k: int) -> tuple[Tensor, Tensor, Routing]:
    """Top-k routing of (T, E) float32 logits.

    Returns:
        Gates (T, k), a softmax over the k; the mean probability of each expert
        (E,), for the balance loss; and the routing.
    """
    gates, mean, pair, start = _Route.apply(logits, k)
    return gates, mean, Routing(pair, start)


class _Sizes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in "tokens k experts width inner".split()]


class _Experts(Function):
    """Exactly the products that the tokens need, an expert at a time."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, routing: Routing, gates: Tensor, gate_up: Tensor, down: Tensor
    ) -> Tensor:
        x, gates = x.contiguous(), gates.contiguous()
        (n, width, inner), (tokens, k) = down.shape, gates.shape
        up_matrix, down_matrix = packed((gate_up,)), packed((down,))
        sizes = _Sizes(tokens, k, n, width, inner)
        hidden, y = x.new_empty(tokens * k, 2 * inner), torch.empty_like(x)
        weights = (up_matrix.forward, down_matrix.forward)
        call("experts_b16", x, *routing, gates, *weights, hidden, y, ctypes.byref(sizes))
        ctx.save_for_backward(x, *routing, gates, hidden)
        ctx.sizes, ctx.weights = sizes, (up_matrix.backward, down_matrix.backward)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        x, pair, start, gates, hidden = ctx.saved_tensors
        s, dx, dgates = ctx.sizes, torch.empty_like(x), torch.empty_like(gates)
        dgate_up = torch.empty(s.experts, 2 * s.inner, s.width)
        ddown = torch.empty(s.experts, s.width, s.inner)
        given = (dy.contiguous(), x, pair, start, gates, hidden, *ctx.weights)
        call("experts_grad_b16", *given, dx, dgates, dgate_up, ddown, ctypes.byref(s))
        return dx, None, dgates, dgate_up, ddown


class _PaddedExperts(Function):
    """Batched products, in which each expert has as many rows."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, routing: Routing, gates: Tensor, gate_up: Tensor, down: Tensor
    ) -> Tensor:
        tokens, width = x.shape
        k, n = gates.shape[1], gate_up.shape[0]
        kind, slot = SUFFIX[x.dtype], torch.empty_like(routing.pair)
        room = call("expert_slots", *routing, slot, n)
        x, gates = x.contiguous(), gates.contiguous()

        rows = x.new_zeros(n, room, width)  # an expert's empty rows stay zero all the way
        call(f"scatter_{kind}", x, slot, None, rows, tokens, k, width)
        hidden = torch.bmm(rows, gate_up.mT)
        active = hidden.new_empty(n, room, hidden.shape[-1] // 2)
        call(f"gated_silu_{kind}", hidden, active, n * room, active.shape[-1])
        results = torch.bmm(active, down.mT)
        y = torch.empty_like(x)
        call(f"gather_{kind}", results, slot, gates, y, tokens, k, width)
        ctx.save_for_backward(rows, slot, gates, gate_up, down, hidden, active, results)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        rows, slot, gates, gate_up, down, hidden, active, results = ctx.saved_tensors
        (tokens, k), kind, width = gates.shape, SUFFIX[dy.dtype], rows.shape[-1]
        dy = dy.contiguous()
        dgates = torch.empty_like(gates)
        call(f"gate_grad_{kind}", results, slot, dy, dgates, tokens, k, width)
        dresults = torch.zeros_like(rows)
        call(f"scatter_{kind}", dy, slot, gates, dresults, tokens, k, width)
        ddown = torch.bmm(dresults.mT, active)
        dhidden = _gated_silu_grad(hidden, torch.bmm(dresults, down))
        dgate_up = torch.bmm(dhidden.mT, rows)
        drows = torch.bmm(dhidden, gate_up)
        dx = torch.empty_like(dy)
        call(f"gather_{kind}", drows, slot, None, dx, tokens, k, width)
        return dx, None, dgates, dgate_up, ddown


def experts(x: Tensor, routing: Routing, gates: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """`itera_lite.model.moe.experts_naive` of many tokens.

    Args:
        x: (T, D) float32 or bfloat16. gates: (T, k). gate_up: (E, 2F, D), down: (E, D, F) float32.
    """
    if x.dtype == torch.bfloat16 and has_products():
        return _Experts.apply(x, routing, gates, gate_up, down)
    return _PaddedExperts.apply(x, routing, gates, gate_up.to(x.dtype), down.to(x.dtype))
