"""The feed-forward: its gate, and a mixture of experts as batched products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from itera_lite.ops.library import SUFFIX, call


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


@dataclass(frozen=True)
class Routing:
    """Which expert gets which token: the result of `route`, an argument of `experts`."""

    slot: Tensor  # (T, k) int64, the pair's row when each expert has ``room`` rows
    room: int
    counts: Tensor  # (E,) int64, the pairs of each expert


class _Route(Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, k: int) -> tuple[Any, ...]:
        logits = logits.contiguous()
        tokens, n = logits.shape
        index, slot = (torch.empty(tokens, k, dtype=torch.int64) for _ in range(2))
        gates, mean = torch.empty(tokens, k), torch.empty(n)
        counts = torch.empty(n, dtype=torch.int64)
        room = call("route_f32", logits, index, gates, slot, counts, mean, tokens, n, k)
        ctx.mark_non_differentiable(slot, counts)
        ctx.save_for_backward(logits, index, gates)
        return gates, mean, slot, counts, room

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
    gates, mean, slot, counts, room = _Route.apply(logits, k)
    return gates, mean, Routing(slot, room, counts)


class _Experts(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, routing: Routing, gates: Tensor, gate_up: Tensor, down: Tensor
    ) -> Tensor:
        tokens, width = x.shape
        k, n, room = gates.shape[1], gate_up.shape[0], routing.room
        kind, slot = SUFFIX[x.dtype], routing.slot
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
    """`itera_lite.model.moe.experts_naive` as batched products, one expert each."""
    return _Experts.apply(x, routing, gates, gate_up, down)
