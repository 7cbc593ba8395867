"""The parts of a layer: linear maps, norms, feed-forwards."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itera_lite import ops


class Linear(nn.Module):
    """A matrix product in the input's type; weight and bias (none by default) are float32."""

    def __init__(self, d_in: int, d_out: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d_out, d_in))
        self.bias = nn.Parameter(torch.zeros(d_out)) if bias else None
        nn.init.normal_(self.weight, std=d_in**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, [self.weight], [self.bias])


def linear(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> Tensor:
    """``x`` (..., K) times the transpose of each (N_i, K), in the type of ``x``, side by side.

    Args:
        biases: (N_i,), of all or none.
    """
    if ops.usable(x):
        return ops.linear(x, weights, biases)
    weight = weights[0] if len(weights) == 1 else torch.cat(list(weights))
    given = [bias.to(x.dtype) for bias in biases if bias is not None]
    return F.linear(x, weight.to(x.dtype), torch.cat(given) if given else None)


def has_hooks(*modules: nn.Module) -> bool:
    """Whether hooks wait for what passes through a module: its layer then calls it by itself."""
    return any(module._forward_hooks or module._forward_pre_hooks for module in modules)


class Dropout(nn.Module):
    """Zeroes a share of the numbers, and scales the others up. It is off until `drop` is set.

    Attributes:
        drop: the share, and a key that decides which numbers; training sets it for each batch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.drop = ops.Drop()

    def forward(self, x: Tensor) -> Tensor:
        if not self.drop.share:
            return x
        if ops.usable(x):
            return ops.dropout(x, self.drop)
        return x * self.drop.kept(x) * self.drop.scale


class RMSNorm(nn.Module):
    """Root-mean-square norm (Zhang and Sennrich, 2019), computed in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps
        self.dropout = Dropout()  # of what `after` adds

    def forward(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Normalise (..., width); the result has ``dtype``, by default that of ``x``."""
        dtype = dtype or x.dtype
        if ops.usable(x, dtype=dtype):
            return ops.rms_norm(x, self.weight, self.eps, dtype)
        return F.rms_norm(x.float(), self.weight.shape, self.weight, self.eps).to(dtype)

    def after(self, x: Tensor, add: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Add a layer's output to the residual stream, ``x + scale * add``, and normalise that.

        Args:
            x: (..., width), the stream. add: the layer's output, in the type of the products.

        Returns:
            The stream in the type of ``x``, its norm in the type of ``add``.
        """
        if ops.usable(x, dtype=add.dtype):
            return ops.add_rms_norm(x, add, scale, self.dropout.drop, self.weight, self.eps)
        x = x + scale * self.dropout(add)
        return x, self(x, add.dtype)


class LayerNorm(nn.Module):
    """Layer norm (Ba et al., 2016), computed in float32; the methods are those of `RMSNorm`."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps
        self.dropout = Dropout()

    def forward(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        normed = F.layer_norm(x.float(), self.weight.shape, self.weight, self.bias, self.eps)
        return normed.to(dtype or x.dtype)

    def after(self, x: Tensor, add: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        x = x + scale * self.dropout(add)
        return x, self(x, add.dtype)


class GELU(nn.Module):
    """GPT-2's feed-forward: ``down(gelu(up(x)))`` with biases and the tanh approximation."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.up = Linear(d_model, d_ff, bias=True)
        self.down = Linear(d_ff, d_model, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class SwiGLU(nn.Module):
    """A gated feed-forward (Shazeer, 2020): ``down(silu(gate(x)) * up(x))``."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate_up = Linear(d_model, 2 * d_ff)
        self.down = Linear(d_ff, d_model)

    def forward(self, x: Tensor) -> Tensor:
        if ops.usable(x) and not has_hooks(self.gate_up, self.down):
            return ops.swiglu(x, self.gate_up.weight, self.down.weight)
        return self.down(gated_silu(self.gate_up(x)))


def gated_silu(gate_up: Tensor) -> Tensor:
    """(..., 2F), the gate first -> silu(gate) * up, (..., F)."""
    if ops.usable(gate_up):
        return ops.gated_silu(gate_up)
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up
