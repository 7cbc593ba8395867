"""Linear layers with float32 weights, which are packed once for all products of a step.

In bfloat16 the packed weights are rounded; the gradient of a weight is float32 and never was.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from itera_lite.ops.library import SUFFIX, call


class Packed(NamedTuple):
    """A weight (N, K) in the orders that the products read: of ``x w^T`` and of ``dy w``."""

    forward: Tensor
    backward: Tensor | None  # where it was asked for


class _Entry(NamedTuple):
    weights: tuple[weakref.ref[Tensor], ...]
    versions: tuple[int, ...]
    packed: Packed


_cache: dict[tuple[torch.dtype, tuple[int, ...]], _Entry] = {}


def _pack(weights: Sequence[Tensor], dtype: torch.dtype, both: bool) -> Packed:
    weight = weights[0].detach() if len(weights) == 1 else torch.cat([w.detach() for w in weights])
    weight = weight.contiguous()
    *stack, n, k = weight.shape
    count, kind = math.prod(stack), SUFFIX[dtype]
    forward, backward = (
        torch.empty(count * call(f"packed_size_{kind}", *shape), dtype=dtype) if wanted else None
        for shape, wanted in (((k, n), True), ((n, k), both))
    )
    call(f"pack_weights_{kind}", weight, forward, backward, count, n, k)
    assert forward is not None
    return Packed(forward, backward)


def packed(weights: Sequence[Tensor], dtype: torch.dtype, both: bool) -> Packed:
    """Some float32 weights (N_i, K), one below the other, as ``dtype`` in the products' orders.

    One alone may be a stack (E, N, K), of which each is packed by itself, one after the other.

    What was packed of leaf tensors is kept until they change (by their version, which every
    operation of PyTorch in place counts up) or are gone. Threads may call this at the same time:
    at worst two pack the same.

    Args:
        both: also in the order for a gradient by what is multiplied.
    """
    key = dtype, tuple(map(id, weights))
    entry = _cache.get(key)
    fresh = entry is not None and all(
        ref() is weight and version == weight._version
        for ref, version, weight in zip(entry.weights, entry.versions, weights, strict=True)
    )
    if entry is not None and fresh and (entry.packed.backward is not None or not both):
        return entry.packed
    if not all(weight.is_leaf and not weight.is_inference() for weight in weights):
        return _pack(weights, dtype, both)
    versions = tuple(weight._version for weight in weights)
    result = _pack(weights, dtype, both)

    def forget(_: Any) -> None:
        _cache.pop(key, None)

    _cache[key] = _Entry(tuple(weakref.ref(w, forget) for w in weights), versions, result)
    return result


def forget_packed() -> None:
    """Drop what `packed` keeps, where weights changed and their versions didn't."""
    _cache.clear()


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, *weights: Tensor) -> Tensor:
        x = x.contiguous()
        k = x.shape[-1]
        n = sum([weight.shape[0] for weight in weights])
        matrix, kind = packed(weights, x.dtype, ctx.needs_input_grad[0]), SUFFIX[x.dtype]
        y = x.new_empty(*x.shape[:-1], n)
        rows = x.numel() // k
        call(f"linear_{kind}", x, matrix.forward, bias, y, rows, n, k)
        ctx.save_for_backward(x)
        ctx.matrix, ctx.rows = matrix.backward, [weight.shape[0] for weight in weights]
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        (x,) = ctx.saved_tensors
        dy = dy.contiguous()
        n, k = dy.shape[-1], x.shape[-1]
        need_x, need_bias, *need_weights = ctx.needs_input_grad
        dx = torch.empty_like(x) if need_x else None
        dw = torch.empty(n, k) if any(need_weights) else None
        dbias = torch.empty(n) if need_bias else None
        given = (dy, x, ctx.matrix, dx, dw, dbias)
        call(f"linear_grad_{SUFFIX[x.dtype]}", *given, x.numel() // k, n, k)
        if dw is None:
            return dx, dbias, *[None] * len(need_weights)
        return dx, dbias, *(dw.split(ctx.rows) if len(ctx.rows) > 1 else (dw,))


def linear(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None] = ()) -> Tensor:
    """``x`` times the transpose of each weight, the results side by side.

    Args:
        x: (..., K). weights: (N_i, K) float32. biases: (N_i,) float32, of all or none.

    Returns:
        (..., sum of the N_i) of the type of ``x``, rounded once from a float32 sum.
    """
    return _Linear.apply(x, joined(biases), *weights)


def joined(biases: Sequence[Tensor | None]) -> Tensor | None:
    """Biases of all products or of none, one behind the other."""
    given = [bias for bias in biases if bias is not None]
    return None if not given else given[0] if len(given) == 1 else torch.cat(given)
