"""The small parts that every layer is made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itera_lite import kernels


class Linear(nn.Module):
    """A matrix product without bias; the weight is float32 and follows its input's type."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d_out, d_in))
        nn.init.normal_(self.weight, std=d_in**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


class RMSNorm(nn.Module):
    """Root-mean-square norm (Zhang and Sennrich, 2019), computed in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Normalise (..., width); the result has ``dtype``, by default that of ``x``."""
        dtype = dtype or x.dtype
        if kernels.usable(x):
            return kernels.rms_norm(x, self.weight, self.eps, dtype)
        return F.rms_norm(x.float(), self.weight.shape, self.weight, self.eps).to(dtype)

    def after(self, x: Tensor, add: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Go on along the residual stream: ``x + scale * add``, and that normalised.

        Args:
            x: (..., width), the stream. add: what the last layer adds, in the products' type.

        Returns:
            The stream in the type of ``x``, its norm in the type of ``add``.
        """
        if kernels.usable(x):
            return kernels.add_rms_norm(x, add, scale, self.weight, self.eps)
        x = x + scale * add
        return x, self(x, add.dtype)


class SwiGLU(nn.Module):
    """A gated feed-forward (Shazeer, 2020): ``down(silu(gate(x)) * up(x))``."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate_up = Linear(d_model, 2 * d_ff)
        self.down = Linear(d_ff, d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(gated_silu(self.gate_up(x)))


def gated_silu(gate_up: Tensor) -> Tensor:
    """(..., 2F), the gate first -> silu(gate) * up, (..., F)."""
    if kernels.usable(gate_up):
        return kernels.gated_silu(gate_up)
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up
