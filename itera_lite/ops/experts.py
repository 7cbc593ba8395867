"""The feed-forward: its gate, and a mixture of experts."""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from itera_lite.ops.library import SUFFIX, call
from itera_lite.ops.products import packed


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
    """Which expert gets which token."""

    pair: Tensor  # (T * k,) int64: the pairs (token, choice), token * k + choice, by their expert
    start: Tensor  # (E + 1,) int64: where the pairs of each expert begin, and the last ones end

    @property
    def counts(self) -> Tensor:
        """(E,) int64, the pairs of each expert."""
        return self.start.diff()


class _Routed(NamedTuple):
    """Outputs of the router for logits (T, E) float32, as `_route` computes them."""

    chosen: Tensor  # (T, k), the experts of each token
    gates: Tensor  # (T, k), their weights
    mean: Tensor  # (E,), the mean probability of each expert
    routing: Routing


def _route(logits: Tensor, k: int) -> _Routed:
    tokens, n = logits.shape
    index, pair, start = (
        torch.empty(shape, dtype=torch.int64) for shape in ((tokens, k), tokens * k, n + 1)
    )
    gates, mean = torch.empty(tokens, k), torch.empty(n)
    call("route_f32", logits, index, gates, pair, start, mean, tokens, n, k)
    return _Routed(index, gates, mean, Routing(pair, start))


def _route_grad(
    logits: Tensor, index: Tensor, gates: Tensor, dgates: Tensor, dmean: Tensor
) -> Tensor:
    (tokens, n), k = logits.shape, index.shape[1]
    dlogits = torch.empty_like(logits)
    call("route_grad_f32", logits, index, gates, dgates, dmean, dlogits, tokens, n, k)
    return dlogits


class _Sizes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in "tokens k experts width inner".split()]


class _Pass(NamedTuple):
    """A forward pass through exactly the products that the tokens need, an expert at a time."""

    y: Tensor  # (T, D)
    hidden: Tensor  # (T k, 2 F), before the gate
    sizes: _Sizes
    weights: tuple[Tensor | None, Tensor | None]  # gate_up and down, packed for the way back


def _experts(
    x: Tensor, routing: Routing, gates: Tensor, gate_up: Tensor, down: Tensor, both: bool
) -> _Pass:
    (n, width, inner), (tokens, k) = down.shape, gates.shape
    up_matrix, down_matrix = (packed((w,), x.dtype, both) for w in (gate_up, down))
    sizes = _Sizes(tokens, k, n, width, inner)
    hidden, y = x.new_empty(tokens * k, 2 * inner), torch.empty_like(x)
    weights = (up_matrix.forward, down_matrix.forward)
    call(f"experts_{SUFFIX[x.dtype]}", x, *routing, gates, *weights, hidden, y, ctypes.byref(sizes))
    return _Pass(y, hidden, sizes, (up_matrix.backward, down_matrix.backward))


def _experts_grad(
    dy: Tensor,
    x: Tensor,
    routing: Routing,
    gates: Tensor,
    hidden: Tensor,
    weights: tuple[Tensor | None, Tensor | None],
    s: _Sizes,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, gates, gate_up and down."""
    dx, dgates = torch.empty_like(x), torch.empty_like(gates)
    dgate_up = torch.empty(s.experts, 2 * s.inner, s.width)
    ddown = torch.empty(s.experts, s.width, s.inner)
    results = (dx, dgates, dgate_up, ddown)
    given = (dy, x, *routing, gates, hidden, *weights)
    call(f"experts_grad_{SUFFIX[x.dtype]}", *given, *results, ctypes.byref(s))
    return results


class _Mixture(Function):
    """Router, experts and the balance loss: one step for autograd, whose steps cost as much."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, router: Tensor, gate_up: Tensor, down: Tensor, load: Tensor, k: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = x.contiguous()
        both = any(ctx.needs_input_grad)
        (n, width), matrix = router.shape, packed((router,), x.dtype, both)
        tokens = x.numel() // width
        logits = torch.empty(tokens, n)
        call(f"router_{SUFFIX[x.dtype]}", x, matrix.forward, logits, tokens, n, width)
        index, gates, mean, routing = _route(logits, k)
        y, hidden, ctx.sizes, ctx.weights = _experts(x, routing, gates, gate_up, down, both)
        ctx.save_for_backward(x, load, logits, index, gates, hidden, *routing)
        ctx.router = matrix.backward
        counts = routing.counts
        ctx.mark_non_differentiable(counts)
        return y, n * load.dot(mean), counts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dbalance: Tensor, _: Any) -> tuple[Any, ...]:
        x, load, logits, index, gates, hidden, pair, start = ctx.saved_tensors
        (tokens, n), width = logits.shape, x.shape[-1]
        given = (dy.contiguous(), x, Routing(pair, start), gates, hidden, ctx.weights, ctx.sizes)
        dx, dgates, dgate_up, ddown = _experts_grad(*given)
        dlogits = _route_grad(logits, index, gates, dgates, load * (n * dbalance))
        drouter = torch.empty(n, width)
        name = f"router_grad_{SUFFIX[x.dtype]}"
        call(name, dlogits, x, ctx.router, dx, drouter, tokens, n, width)
        return dx, drouter, dgate_up, ddown, None, None


def mixture(
    x: Tensor, router: Tensor, gate_up: Tensor, down: Tensor, load: Tensor, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """A mixture of experts with its router.

    Args:
        x: (..., D). router: (E, D), gate_up: (E, 2F, D), down: (E, D, F), float32.
        load: (E,) float32, the share of each expert that the balance loss reckons with.

    Returns:
        (..., D) of the type of ``x``; the balance loss, ``E`` times the sum of load times mean
        probability; and the tokens of each expert, (E,) int64.
    """
    return _Mixture.apply(x, router, gate_up, down, load, k)
