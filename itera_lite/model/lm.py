"""One language model for every pattern of layers.

A block is ``x + mixer(norm(x))`` then ``x + feed_forward(norm(x))``; the
embedding is also the output head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itera_lite import kernels
from itera_lite.config import ModelConfig
from itera_lite.model.attention import Attention, AttentionState
from itera_lite.model.layers import RMSNorm, SwiGLU
from itera_lite.model.moe import MoE
from itera_lite.model.ssd import Mamba2, MambaState

State = list[MambaState | AttentionState]


@dataclass
class StepLoss:
    """What one batch costs. ``total`` is what training minimises."""

    total: Tensor  # scalar: cross_entropy + weighted balance
    cross_entropy: Tensor  # scalar, nats a token
    balance: Tensor  # scalar, 1 when the experts are used alike; 0 in a dense model


class Block(nn.Module):
    def __init__(self, config: ModelConfig, kind: str) -> None:
        super().__init__()
        self.mixer_norm = RMSNorm(config.d_model, config.norm_eps)
        self.mixer: Mamba2 | Attention = Mamba2(config) if kind == "m" else Attention(config)
        self.ffn_norm = RMSNorm(config.d_model, config.norm_eps)
        self.ffn: MoE | SwiGLU = (
            MoE(config) if config.n_experts else SwiGLU(config.d_model, config.d_ff)
        )
        self.residual_multiplier = config.residual_multiplier

    def forward(
        self,
        x: Tensor,
        add: Tensor | None,
        dtype: torch.dtype,
        state: MambaState | AttentionState | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The residual stream x (B, L, D) and what the last layer adds to it -> the same.

        What is added stays apart until the next norm, which takes both in one pass.
        """
        r = self.residual_multiplier
        if add is None:
            normed = self.mixer_norm(x, dtype)
        else:
            x, normed = self.mixer_norm.after(x, add, r)
        x, normed = self.ffn_norm.after(x, self.mixer(normed, state), r)
        return x, self.ffn(normed)

    def step(self, x: Tensor, state: MambaState | AttentionState) -> Tensor:
        r = self.residual_multiplier
        # Each kind of mixer gets the state that its own `initial_state` made.
        x = x + r * self.mixer.step(self.mixer_norm(x), state)  # type: ignore[arg-type]
        return x + r * self.ffn(self.ffn_norm(x))


class LanguageModel(nn.Module):
    """Token ids -> logits of the next token, for any `ModelConfig`.

    ``compute_dtype`` is the type of the matrix products (float32, or bfloat16
    in training on processors that are faster at it); weights, residual stream
    and logits are float32.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = torch.float32
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(Block(config, kind) for kind in config.pattern)
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        nn.init.normal_(self.embedding.weight, std=0.02)
        with torch.no_grad():  # a new block begins as the identity
            for block in self.blocks:
                block.mixer.output.weight.zero_()
                for part in (block.ffn, getattr(block.ffn, "shared", None)):
                    if isinstance(part, MoE):
                        part.down.zero_()
                    elif isinstance(part, SwiGLU):
                        part.down.weight.zero_()

    @property
    def blocks(self) -> list[Block]:
        return list(self.layers)  # type: ignore[arg-type]

    def _embed(self, ids: Tensor) -> Tensor:
        x: Tensor = self.embedding(ids)
        scale = self.config.embedding_multiplier
        return x if scale == 1 else x * scale

    def _head(self, hidden: Tensor) -> Tensor:
        weight = self.embedding.weight.to(hidden.dtype)
        return F.linear(hidden, weight).float() / self.config.logits_scaling

    def hidden(self, ids: Tensor, state: State | None = None) -> Tensor:
        """(B, L) -> (B, L, D), normalised, in ``compute_dtype``."""
        x, add = self._embed(ids), torch.empty(0)
        for i, block in enumerate(self.blocks):
            x, add = block(
                x, add if i else None, self.compute_dtype, None if state is None else state[i]
            )
        return self.norm.after(x, add, self.config.residual_multiplier)[1]

    def forward(self, ids: Tensor) -> Tensor:
        """(B, L) int64 -> logits (B, L, V) float32: row t is about token t+1."""
        return self._head(self.hidden(ids))

    def initial_state(self, batch_size: int) -> State:
        """The memory before the first token, for `prefill` and `step`."""
        return [block.mixer.initial_state(batch_size) for block in self.blocks]

    def prefill(self, ids: Tensor, state: State) -> Tensor:
        """Read (B, L) tokens on from ``state``; returns the last position's logits (B, V)."""
        return self._head(self.hidden(ids, state)[:, -1])

    def step(self, ids: Tensor, state: State) -> Tensor:
        """Read one token a row, (B,); returns logits (B, V). ``state`` is updated in place."""
        x = self._embed(ids)
        for block, memory in zip(self.blocks, state, strict=True):
            x = block.step(x, memory)
        return self._head(self.norm(x))

    def loss(self, ids: Tensor, targets: Tensor, balance_weight: float = 0.01) -> StepLoss:
        """Mean cross-entropy of (B, L) targets, and the experts' balance loss."""
        hidden = self.hidden(ids).flatten(0, 1)
        if kernels.usable(hidden):
            cross_entropy = kernels.linear_cross_entropy(
                hidden, self.embedding.weight, targets.flatten(), self.config.logits_scaling
            )
        else:
            cross_entropy = F.cross_entropy(self._head(hidden), targets.flatten())
        moes = [block.ffn for block in self.blocks if isinstance(block.ffn, MoE)]
        losses = [moe.balance_loss for moe in moes if moe.balance_loss is not None]
        balance = torch.stack(losses).mean() if losses else cross_entropy.new_zeros(())
        total = cross_entropy + balance_weight * balance if losses else cross_entropy
        return StepLoss(total, cross_entropy, balance)
