"""Mamba-2: a selective state-space layer, as chunked matrix products (SSD).

Source: Dao and Gu, 'Transformers are SSMs' (2024), https://arxiv.org/abs/2405.21060.
Shapes: ``(B, L, D)`` model width, ``H`` heads of ``P`` channels, ``N`` states a channel.

`ssd_recurrent` is the definition, a step at a time, and the oracle of the tests; `ssd_chunked`
computes the same with matrix products. The fused operation in `itera_lite.ops` computes
convolution, scan, gate and norm in one pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itera_lite import ops
from itera_lite.config import ModelConfig
from itera_lite.model.layers import Linear, RMSNorm, has_hooks


def ssd_recurrent(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The state-space map, one step at a time: the naive oracle.

    ``h_t = exp(dt_t A) h_(t-1) + dt_t x_t B_t^T`` and ``y_t = h_t C_t``.

    Args:
        x: (B, L, H, P) input. dt: (B, L, H) step sizes, positive. A: (H,) decay
            rates, negative. B, C: (B, L, N), shared by the heads.
        state: (B, H, P, N) state before the first step.

    Returns:
        y of shape (B, L, H, P), and the state after the last step.
    """
    outputs = []
    for t in range(x.shape[1]):
        decay = torch.exp(dt[:, t] * A)[:, :, None, None]
        update = (dt[:, t, :, None] * x[:, t])[..., None] * B[:, t, None, None, :]
        state = decay * state + update
        outputs.append(torch.einsum("bhpn,bn->bhp", state, C[:, t]))
    return torch.stack(outputs, dim=1), state


def ssd_chunked(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor, chunk: int = 64
) -> tuple[Tensor, Tensor]:
    """`ssd_recurrent` as matrix products over chunks; same arguments and results."""
    length = x.shape[1]
    pad = -length % chunk
    if pad:  # dt = 0 leaves the state as it is
        x, dt = F.pad(x, (0, 0, 0, 0, 0, pad)), F.pad(dt, (0, 0, 0, pad))
        B, C = F.pad(B, (0, 0, 0, pad)), F.pad(C, (0, 0, 0, pad))
    batch, padded, heads, width = x.shape
    n_chunks = padded // chunk
    x = (x * dt[..., None]).view(batch, n_chunks, chunk, heads, width)
    log_decay = (dt * A).view(batch, n_chunks, chunk, heads).cumsum(dim=2)
    B, C = B.view(batch, n_chunks, chunk, -1), C.view(batch, n_chunks, chunk, -1)

    # Inside a chunk: a masked, decayed attention (B, chunks, H, target, source).
    scores = torch.einsum("bcln,bcsn->bcls", C, B)
    span = log_decay.permute(0, 1, 3, 2)
    span = span[..., :, None] - span[..., None, :]
    causal = torch.ones(chunk, chunk, dtype=torch.bool, device=x.device).tril()
    weights = scores[:, :, None] * torch.exp(span.masked_fill(~causal, -torch.inf))
    y = torch.einsum("bchls,bcshp->bclhp", weights, x)

    # What each chunk adds to the state, then the recurrence over chunks.
    to_end = torch.exp(log_decay[:, :, -1:] - log_decay)
    added = torch.einsum("bcln,bclhp,bclh->bchpn", B, x, to_end)
    whole = torch.exp(log_decay[:, :, -1])
    before = []
    for c in range(n_chunks):
        before.append(state)
        state = whole[:, c, :, None, None] * state + added[:, c]
    y = y + torch.einsum(
        "bcln,bchpn,bclh->bclhp", C, torch.stack(before, dim=1), torch.exp(log_decay)
    )
    return y.reshape(batch, padded, heads, width)[:, :length], state


@dataclass
class MambaState:
    """The state of a Mamba-2 layer, of a size that doesn't grow with the context."""

    conv: Tensor  # (B, C, K-1), the last inputs of the convolution
    ssm: Tensor  # (B, H, P, N)


class Mamba2(nn.Module):
    """A Mamba-2 mixer (B, L, D) -> (B, L, D), one group, gated RMSNorm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        inner, heads, channels = config.d_inner, config.n_ssm_heads, config.d_conv_channels
        self.in_proj = Linear(config.d_model, inner + channels + heads)  # z, x, B, C, dt
        self.conv_weight = nn.Parameter(torch.empty(channels, config.d_conv))
        self.conv_bias = nn.Parameter(torch.zeros(channels))
        self.dt_bias = nn.Parameter(torch.empty(heads))
        self.A_log = nn.Parameter(torch.empty(heads))
        self.D = nn.Parameter(torch.ones(heads))
        self.norm = RMSNorm(inner, config.norm_eps)
        self.out_proj = Linear(inner, config.d_model)
        self.reset_parameters()

    @property
    def output(self) -> Linear:
        """The projection back to the residual stream."""
        return self.out_proj

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initial weights as in the code of the Mamba-2 paper: dt log-uniform in 1e-3..0.1."""
        bound = self.config.d_conv**-0.5
        nn.init.uniform_(self.conv_weight, -bound, bound)
        dt = torch.exp(torch.empty_like(self.dt_bias).uniform_(math.log(1e-3), math.log(0.1)))
        self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus
        self.A_log.copy_(torch.empty_like(self.A_log).uniform_(1.0, 16.0).log())

    def initial_state(self, batch: int) -> MambaState:
        c, weight = self.config, self.in_proj.weight
        return MambaState(
            conv=weight.new_zeros(batch, c.d_conv_channels, c.d_conv - 1),
            ssm=weight.new_zeros(batch, c.n_ssm_heads, c.ssm_head_dim, c.d_state),
        )

    def forward(self, x: Tensor, state: MambaState | None = None) -> Tensor:
        """Mix a sequence (B, L, D), after ``state`` if one is given, which is updated."""
        c, fused = self.config, ops.usable(x, self.config)
        weights = [self.conv_weight, self.conv_bias, self.dt_bias, self.A_log, self.D]
        weights.append(self.norm.weight)
        if fused and state is None and not has_hooks(self.in_proj, self.out_proj):
            return ops.mamba2_layer(x, c, self.in_proj.weight, self.out_proj.weight, weights)
        projected = self.in_proj(x)
        if fused and state is not None:
            state.ssm = state.ssm.contiguous()
            y = ops.mamba2_from(projected, c, weights, state.conv, state.ssm)
            inputs = projected[..., c.d_inner : c.d_inner + c.d_conv_channels].mT.float()
            state.conv = torch.cat([state.conv, inputs], dim=-1)[..., -(c.d_conv - 1) :]
        else:
            y = self.scan(projected, state)
        return self.out_proj(y)

    def scan(self, projected: Tensor, state: MambaState | None) -> Tensor:
        """Convolution, state space, gate and norm: (B, L, z+x+B+C+dt) -> (B, L, d_inner)."""
        c = self.config
        batch, dtype = projected.shape[0], projected.dtype
        z, xbc, dt = projected.float().split((c.d_inner, c.d_conv_channels, c.n_ssm_heads), dim=-1)
        xbc = xbc.transpose(1, 2)  # (B, C, L)
        if state is None:
            padded = F.pad(xbc, (c.d_conv - 1, 0))
        else:
            padded = torch.cat([state.conv, xbc], dim=-1)
            state.conv = padded[..., -(c.d_conv - 1) :]
        xbc = F.conv1d(padded, self.conv_weight[:, None], self.conv_bias, groups=padded.shape[1])
        u, B, C = F.silu(xbc).transpose(1, 2).split((c.d_inner, c.d_state, c.d_state), dim=-1)
        u = u.unflatten(-1, (c.n_ssm_heads, c.ssm_head_dim))
        dt = F.softplus(dt + self.dt_bias)
        start = self.initial_state(batch).ssm if state is None else state.ssm
        y, end = ssd_chunked(u, dt, -torch.exp(self.A_log), B, C, start.float())
        if state is not None:
            state.ssm = end
        y = (y + self.D[:, None] * u).flatten(-2)
        return self.norm(y * F.silu(z)).to(dtype)

    def step(self, x: Tensor, state: MambaState) -> Tensor:
        """Mix one token (B, D) and update the state in place."""
        c = self.config
        z, xbc, dt = self.in_proj(x).split((c.d_inner, c.d_conv_channels, c.n_ssm_heads), dim=-1)
        window = torch.cat([state.conv, xbc[..., None]], dim=-1)  # (B, C, K)
        state.conv = window[..., 1:]
        xbc = F.silu((window * self.conv_weight).sum(-1) + self.conv_bias)
        u, B, C = xbc.split((c.d_inner, c.d_state, c.d_state), dim=-1)
        u = u.unflatten(-1, (c.n_ssm_heads, c.ssm_head_dim))
        dt = F.softplus(dt + self.dt_bias)  # (B, H)
        decay = torch.exp(dt * -torch.exp(self.A_log))[..., None, None]
        state.ssm = decay * state.ssm + (dt[..., None] * u)[..., None] * B[:, None, None, :]
        y = torch.einsum("bhpn,bn->bhp", state.ssm, C) + self.D[:, None] * u
        return self.out_proj(self.norm(y.flatten(-2) * F.silu(z)))
