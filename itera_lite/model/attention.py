"""Causal attention with grouped key/value heads and a cache.

Positions are rotary (Su et al., 2021) or none (Kazemnejad et al., 2023: in the Itera model the
Mamba layers carry the order). Learned positions are added to the embedding, in `LanguageModel`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itera_lite import ops
from itera_lite.config import ModelConfig
from itera_lite.model.layers import Linear, has_hooks, linear

FUSED_LENGTH = 1024  # longest sequence for which a whole score matrix is cheaper than tiles


@dataclass
class AttentionState:
    """Keys and values (B, H_kv, capacity, P), of which ``length`` are in use."""

    keys: Tensor
    values: Tensor
    length: int = 0

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append (B, H_kv, L, P); returns views of all keys and values."""
        end = self.length + keys.shape[2]
        if end > self.keys.shape[2]:
            grow = max(end, 2 * self.keys.shape[2]) - self.keys.shape[2]
            self.keys = F.pad(self.keys, (0, 0, 0, grow))
            self.values = F.pad(self.values, (0, 0, 0, grow))
        self.keys[:, :, self.length : end] = keys
        self.values[:, :, self.length : end] = values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


def rotary_table(length: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines (L, P) of the rotary embedding, with the halves repeated as in Llama."""
    frequency = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos().float(), angle.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate (B, H, L, P) by the angles of its positions."""
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return (x * cos.to(x.dtype)) + (turned * sin.to(x.dtype))


class Attention(nn.Module):
    """A causal attention mixer (B, L, D) -> (B, L, D)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        kv = config.n_kv_heads * config.head_dim
        bias = config.parts.bias
        self.q_proj = Linear(config.d_model, config.d_model, bias)
        self.k_proj = Linear(config.d_model, kv, bias)
        self.v_proj = Linear(config.d_model, kv, bias)
        self.o_proj = Linear(config.d_model, config.d_model, bias)
        self._rotary: tuple[Tensor, Tensor] | None = None

    @property
    def output(self) -> Linear:
        """The projection back to the residual stream."""
        return self.o_proj

    def initial_state(self, batch: int, capacity: int = 64) -> AttentionState:
        shape = (batch, self.config.n_kv_heads, capacity, self.config.head_dim)
        weight = self.k_proj.weight
        return AttentionState(weight.new_zeros(shape), weight.new_zeros(shape))

    def _project(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, (H + 2 H_kv) * P); many rows take one product of joined weights."""
        parts = (self.q_proj, self.k_proj, self.v_proj)
        if x.shape[0] * x.shape[1] < self.config.d_model or has_hooks(*parts):
            return torch.cat([part(x) for part in parts], dim=-1)
        return linear(x, [part.weight for part in parts], [part.bias for part in parts])

    def _angles(self, start: int, end: int) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Cosines and sines (end - start, P) of the positions; None without positions."""
        c = self.config
        if c.parts.positions != "rotary":
            return None, None
        table = self._rotary  # read once: another thread may put a shorter one there
        if table is None or table[0].shape[0] < end:
            table = self._rotary = rotary_table(max(2 * end, 256), c.head_dim, c.rope_theta)
        cos, sin = table
        device = self.k_proj.weight.device
        return cos[start:end].to(device), sin[start:end].to(device)

    def _heads(self, x: Tensor, start: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, L, P), keys and values (B, H_kv, L, P) at positions from ``start``."""
        c = self.config
        qkv = self._project(x).unflatten(-1, (-1, c.head_dim)).transpose(1, 2)
        q, k, v = qkv.split((c.n_heads, c.n_kv_heads, c.n_kv_heads), dim=1)
        cos, sin = self._angles(start, start + x.shape[1])
        if cos is not None and sin is not None:
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        return q, k, v

    def forward(self, x: Tensor, state: AttentionState | None = None) -> Tensor:
        """Mix a sequence (B, L, D), after ``state`` if one is given, which is updated."""
        parts, out = (self.q_proj, self.k_proj, self.v_proj), self.o_proj
        fused = x.shape[1] <= FUSED_LENGTH and ops.usable(x) and not has_hooks(*parts, out)
        if state is None and fused:
            weights, biases = [part.weight for part in parts], [part.bias for part in parts]
            given = (self.config, self._angles(0, x.shape[1]), weights, biases)
            return ops.attention_layer(x, *given, out.weight, out.bias)
        before = 0 if state is None else state.length
        q, k, v = self._heads(x, before)
        if state is not None:
            k, v = state.append(k, v)
        if before == 0:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        else:
            position = torch.arange(k.shape[2], device=x.device)
            mask = position <= position[before:, None]
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        return self.o_proj(y.transpose(1, 2).flatten(-2))

    def step(self, x: Tensor, state: AttentionState) -> Tensor:
        """Mix one token (B, D) and update the state in place."""
        q, k, v = self._heads(x[:, None], state.length)
        k, v = state.append(k, v)
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.o_proj(y.flatten(1))
