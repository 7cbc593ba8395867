"""The fused operations as differentiable PyTorch functions (CPU, float32 and bfloat16)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from itera_lite.config import ModelConfig
from itera_lite.kernels.build import load

_library: ctypes.CDLL | None = None
_SUFFIX = {torch.float32: "f32", torch.bfloat16: "b16"}
MAMBA_CHUNK = 16  # steps between the states that the backward pass starts from
LOSS_ROWS = 1024  # rows of logits that exist at a time


def load_library() -> None:
    """Compile and load the library.

    Raises:
        OSError: where it can't be compiled or loaded.
    """
    global _library
    _library = _library or load()


def _call(name: str, *arguments: Any) -> int:
    """Call ``name`` and return its whole number, if it gives one.

    Tensors go as pointers, whole numbers as int64, other numbers as float.
    """
    if _library is None:
        raise RuntimeError("call itera_lite.kernels.enable() first")
    converted: list[Any] = []
    for value in arguments:
        if isinstance(value, Tensor):
            converted.append(ctypes.c_void_p(value.data_ptr()))
        elif isinstance(value, int):
            converted.append(ctypes.c_int64(value))
        elif isinstance(value, float):
            converted.append(ctypes.c_float(value))
        else:
            converted.append(value)  # None, or a reference to a structure
    return int(getattr(_library, name)(*converted))


class _RMSNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        x = x.contiguous()
        width = x.shape[-1]
        rows = x.numel() // width
        y, rstd = torch.empty(x.shape, dtype=dtype), torch.empty(rows)
        name = f"rms_norm_{_SUFFIX[x.dtype]}_{_SUFFIX[dtype]}"
        _call(name, x, None, 1.0, weight, None, y, rstd, rows, width, eps)
        ctx.save_for_backward(x, weight, rstd)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        x, weight, rstd = ctx.saved_tensors
        dy = dy.contiguous()
        dx, dw = torch.empty_like(x), torch.zeros_like(weight)
        name = f"rms_norm_grad_{_SUFFIX[x.dtype]}_{_SUFFIX[dy.dtype]}"
        sizes = (rstd.numel(), x.shape[-1])
        _call(name, x, weight, rstd, dy, None, 1.0, dx, None, dw, *sizes)
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
        name = f"rms_norm_{_SUFFIX[x.dtype]}_{_SUFFIX[add.dtype]}"
        _call(name, x, add, float(scale), weight, total, y, rstd, rows, width, eps)
        ctx.save_for_backward(total, weight, rstd)
        ctx.scale = float(scale)
        return total, y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dtotal: Tensor, dy: Tensor) -> tuple[Any, ...]:
        total, weight, rstd = ctx.saved_tensors
        dtotal, dy = dtotal.contiguous(), dy.contiguous()
        dx, dadd, dw = torch.empty_like(total), torch.empty_like(dy), torch.zeros_like(weight)
        name = f"rms_norm_grad_{_SUFFIX[total.dtype]}_{_SUFFIX[dy.dtype]}"
        sizes = (rstd.numel(), total.shape[-1])
        _call(name, total, weight, rstd, dy, dtotal, ctx.scale, dx, dadd, dw, *sizes)
        return dx, dadd, None, dw, None


def add_rms_norm(
    x: Tensor, add: Tensor, scale: float, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """``x + scale * add`` in the type of ``x``, and its `RMSNorm` in the type of ``add``."""
    return _AddRMSNorm.apply(x, add, scale, weight, eps)


class _GatedSiLU(Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate_up = gate_up.contiguous()
        half = gate_up.shape[-1] // 2
        y = gate_up.new_empty(*gate_up.shape[:-1], half)
        _call(f"gated_silu_{_SUFFIX[y.dtype]}", gate_up, y, y.numel() // max(half, 1), half)
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
    _call(f"gated_silu_grad_{_SUFFIX[dy.dtype]}", gate_up, dy, grad, rows, half)
    return grad


def gated_silu(gate_up: Tensor) -> Tensor:
    """(..., 2F) -> (..., F): silu of the first half times the second."""
    return _GatedSiLU.apply(gate_up)


@dataclass(frozen=True)
class Routing:
    """Which expert gets which token: what `route` finds and `experts` follows."""

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
        room = _call("route_f32", logits, index, gates, slot, counts, mean, tokens, n, k)
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
        _call("route_grad_f32", logits, index, gates, *given, dlogits, tokens, n, k)
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
        kind, slot = _SUFFIX[x.dtype], routing.slot
        x, gates = x.contiguous(), gates.contiguous()

        rows = x.new_zeros(n, room, width)  # an expert's empty rows stay zero all the way
        _call(f"scatter_{kind}", x, slot, None, rows, tokens, k, width)
        hidden = torch.bmm(rows, gate_up.mT)
        active = hidden.new_empty(n, room, hidden.shape[-1] // 2)
        _call(f"gated_silu_{kind}", hidden, active, n * room, active.shape[-1])
        results = torch.bmm(active, down.mT)
        y = torch.empty_like(x)
        _call(f"gather_{kind}", results, slot, gates, y, tokens, k, width)
        ctx.save_for_backward(rows, slot, gates, gate_up, down, hidden, active, results)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        rows, slot, gates, gate_up, down, hidden, active, results = ctx.saved_tensors
        (tokens, k), kind, width = gates.shape, _SUFFIX[dy.dtype], rows.shape[-1]
        dy = dy.contiguous()
        dgates = torch.empty_like(gates)
        _call(f"gate_grad_{kind}", results, slot, dy, dgates, tokens, k, width)
        dresults = torch.zeros_like(rows)
        _call(f"scatter_{kind}", dy, slot, gates, dresults, tokens, k, width)
        ddown = torch.bmm(dresults.mT, active)
        dhidden = _gated_silu_grad(hidden, torch.bmm(dresults, down))
        dgate_up = torch.bmm(dhidden.mT, rows)
        drows = torch.bmm(dhidden, gate_up)
        dx = torch.empty_like(dy)
        _call(f"gather_{kind}", drows, slot, None, dx, tokens, k, width)
        return dx, None, dgates, dgate_up, ddown


def experts(x: Tensor, routing: Routing, gates: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """`itera_lite.model.moe.experts_naive` as batched products, one expert each."""
    return _Experts.apply(x, routing, gates, gate_up, down)


class _Attention(Function):
    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, config: ModelConfig, cos: Tensor | None, sin: Tensor | None
    ) -> Tensor:
        qkv = qkv.contiguous()
        (batch, length, _), c, kind = qkv.shape, config, _SUFFIX[qkv.dtype]
        q = qkv.new_empty(batch, c.n_heads, length, c.head_dim)
        k = qkv.new_empty(batch, c.n_kv_heads, length, c.head_dim)
        v = torch.empty_like(k)
        ctx.sizes = (batch, length, c.n_heads, c.n_kv_heads, c.head_dim)
        _call(f"split_heads_{kind}", qkv, cos, sin, q, k, v, *ctx.sizes)
        # The query heads of a group lie one after the other: (B*Hkv, G*L, P) each.
        group = batch * c.n_kv_heads
        q, k, v = (x.view(group, -1, c.head_dim) for x in (q, k, v))
        probs = q @ k.transpose(1, 2)
        rows, ctx.scale = probs.numel() // length, c.head_dim**-0.5
        _call(f"causal_softmax_{kind}", probs, rows, length, ctx.scale)
        y = (probs @ v).view(batch, c.n_heads, length, c.head_dim)
        ctx.save_for_backward(q, k, v, probs, cos, sin)
        return y.transpose(1, 2).reshape(batch, length, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        q, k, v, probs, cos, sin = ctx.saved_tensors
        (batch, length, n_heads, n_kv, width), kind = ctx.sizes, _SUFFIX[dy.dtype]
        dy = dy.view(batch, length, n_heads, width).transpose(1, 2).contiguous()
        dy = dy.view(batch * n_kv, -1, width)
        dv = probs.transpose(1, 2) @ dy
        dscores = dy @ v.transpose(1, 2)
        rows = probs.numel() // length
        _call(f"causal_softmax_grad_{kind}", probs, dscores, rows, length, ctx.scale)
        dq, dk = dscores @ k, dscores.transpose(1, 2) @ q
        dqkv = dy.new_empty(batch, length, (n_heads + 2 * n_kv) * width)
        _call(f"merge_heads_{kind}", dqkv, cos, sin, dq, dk, dv, *ctx.sizes)
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


class _LinearCrossEntropy(Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, scaling: float
    ) -> Tensor:
        hidden, targets = hidden.contiguous(), targets.contiguous()
        rows = hidden.shape[0]
        matrix = weight.to(hidden.dtype)
        losses = torch.empty(rows)
        dhidden, dweight = torch.empty_like(hidden), torch.zeros_like(weight)
        for begin in range(0, rows, LOSS_ROWS):
            part = hidden[begin : begin + LOSS_ROWS]
            logits = part @ matrix.t()
            _call(
                f"cross_entropy_{_SUFFIX[hidden.dtype]}",
                logits,
                targets[begin : begin + LOSS_ROWS],
                losses[begin : begin + LOSS_ROWS],
                part.shape[0],
                logits.shape[1],
                1.0 / scaling,
                1.0,
            )
            if ctx.needs_input_grad[0]:
                torch.mm(logits, matrix, out=dhidden[begin : begin + LOSS_ROWS])
                dweight += logits.t() @ part
        ctx.save_for_backward(dhidden, dweight)
        return losses.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        dhidden, dweight = ctx.saved_tensors
        factor = grad / dhidden.shape[0]
        return dhidden * factor.to(dhidden.dtype), dweight * factor, None, None


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, scaling: float = 1.0
) -> Tensor:
    """Mean cross-entropy of ``hidden @ weight.T / scaling``, a scalar in nats.

    The logits exist a block of rows at a time, and their gradient is taken at
    once: memory doesn't grow with the vocabulary times the batch.

    Args:
        hidden: (T, D). weight: (V, D). targets: (T,) int64.
    """
    return _LinearCrossEntropy.apply(hidden, weight, targets, scaling)


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
    pointers = _Weights(*(weight.data_ptr() for weight in held))
    return _Shape(*sizes, c.norm_eps), pointers, held


@torch.no_grad()
def mamba2_from(
    projected: Tensor, config: ModelConfig, weights: Sequence[Tensor], conv: Tensor, ssm: Tensor
) -> Tensor:
    """`Mamba2.scan` on from a state, without gradients.

    Args:
        projected: (B, L, z+x+B+C+dt). weights: as `mamba2` takes them.
        conv: (B, C, K-1) float32, the convolution's last inputs; left as it is.
        ssm: (B, H, P, N) float32 and contiguous; updated in place.
    """
    projected, conv = projected.contiguous(), conv.contiguous()
    shape, pointers, _held = _mamba2_arguments(projected, config, weights)
    out = projected.new_empty(*projected.shape[:2], config.d_inner)
    given = (projected, ctypes.byref(shape), ctypes.byref(pointers))
    _call(f"mamba2_{_SUFFIX[out.dtype]}", *given, out, None, None, None, conv, ssm)
    return out


class _Mamba2(Function):
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
        ctx.shape, ctx.pointers, ctx.config = shape, pointers, config
        name = f"mamba2_{_SUFFIX[out.dtype]}"
        given = (projected, ctypes.byref(shape), ctypes.byref(pointers))
        _call(name, *given, out, kept, rstd, states, None, None)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Any, ...]:
        projected, kept, rstd, states, *_ = ctx.saved_tensors
        c, batch = ctx.config, projected.shape[0]
        sizes = [c.d_conv_channels * c.d_conv, c.d_conv_channels, *[c.n_ssm_heads] * 3, c.d_inner]
        dprojected, dweights = torch.empty_like(projected), torch.zeros(batch, sum(sizes))
        _call(
            f"mamba2_grad_{_SUFFIX[projected.dtype]}",
            projected,
            ctypes.byref(ctx.shape),
            ctypes.byref(ctx.pointers),
            kept,
            rstd,
            states,
            dout.contiguous(),
            dprojected,
            dweights,
        )
        dconv, *others = dweights.sum(dim=0).split(sizes)
        return dprojected, None, dconv.view(c.d_conv, -1).t(), *others


def mamba2(projected: Tensor, config: ModelConfig, weights: Sequence[Tensor]) -> Tensor:
    """`Mamba2.scan` from an empty state: (B, L, z+x+B+C+dt) -> (B, L, d_inner).

    Args:
        weights: conv_weight, conv_bias, dt_bias, A_log, D and the norm's weight.
    """
    return _Mamba2.apply(projected, config, *weights)
