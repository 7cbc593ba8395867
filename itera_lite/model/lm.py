"""One language model for every pattern of layers.

A block is ``x + mixer(norm(x))`` then ``x + feed_forward(norm(x))``; the
embedding is also the output head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itera_lite import ops
from itera_lite.config import ModelConfig
from itera_lite.errors import UsageError
from itera_lite.model.attention import Attention, AttentionState
from itera_lite.model.layers import GELU, Dropout, LayerNorm, RMSNorm, SwiGLU
from itera_lite.model.moe import MoE
from itera_lite.model.ssd import Mamba2, MambaState

ModelState = list[MambaState | AttentionState]


@dataclass
class StepLoss:
    """The losses of one batch; training minimises ``total``."""

    total: Tensor  # scalar: cross_entropy, or an objective's own loss, + weighted balance
    cross_entropy: Tensor  # scalar, nats a token
    balance: Tensor  # scalar, 1 when the experts are used alike; 0 in a dense model


NORMS: dict[str, type[RMSNorm | LayerNorm]] = {"rms": RMSNorm, "layer": LayerNorm}
FEED_FORWARDS: dict[str, type[SwiGLU | GELU]] = {"swiglu": SwiGLU, "gelu": GELU}


class Block(nn.Module):
    """A layer: a mixer (Mamba-2 or attention) and a feed-forward, each after a norm."""

    def __init__(self, config: ModelConfig, kind: str) -> None:
        super().__init__()
        norm = NORMS[config.parts.norm]
        self.mixer_norm = norm(config.d_model, config.norm_eps)
        self.mixer: Mamba2 | Attention = Mamba2(config) if kind == "m" else Attention(config)
        self.ffn_norm = norm(config.d_model, config.norm_eps)
        self.ffn: MoE | SwiGLU | GELU
        if config.n_experts:
            self.ffn = MoE(config)
        else:
            self.ffn = FEED_FORWARDS[config.parts.feed_forward](config.d_model, config.d_ff)
        self.residual_multiplier = config.residual_multiplier

    def forward(
        self,
        x: Tensor,
        add: Tensor | None,
        dtype: torch.dtype,
        state: MambaState | AttentionState | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The residual stream (B, L, D) and the output of the last layer -> the same of this one.

        The output is added to the stream by the next norm, which does both in one pass.

        Args:
            x: the stream, without ``add``. add: the last layer's output; None in the first layer.
            dtype: of the products.
            state: where the sequence continues; updated.
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

    ``compute_dtype`` is the type of the matrix products: float32, or bfloat16 in training on
    processors that are faster with it. Weights, residual stream and logits are float32.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = torch.float32
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(Block(config, kind) for kind in config.pattern)
        self.norm = NORMS[config.parts.norm](config.d_model, config.norm_eps)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.positions: nn.Embedding | None = None
        if config.parts.positions == "learned":
            self.positions = nn.Embedding(config.max_seq_len, config.d_model)
            nn.init.normal_(self.positions.weight, std=0.01)
        self.dropout = Dropout()  # of the embedding, with learned positions
        if config.parts.init == "gpt2":
            self._init_gpt2()
        else:
            self._init_identity()

    @property
    def blocks(self) -> list[Block]:
        return list(self.layers)  # type: ignore[arg-type]

    def set_loads(self, loads: Sequence[Tensor]) -> None:
        """Set the loads that the experts are balanced by; see `MoE`.

        Args:
            loads: (E,) of each mixture, sums to 1.
        """
        for moe, load in zip(self.mixtures, loads, strict=True):
            moe.load = load

    @property
    def mixtures(self) -> list[MoE]:
        """The mixture of experts of each layer; none in a dense model."""
        return [block.ffn for block in self.blocks if isinstance(block.ffn, MoE)]

    @torch.no_grad()
    def _init_identity(self) -> None:
        """Zero the projections back to the residual stream: a new block adds nothing."""
        for block in self.blocks:
            block.mixer.output.weight.zero_()
            for part in (block.ffn, getattr(block.ffn, "shared", None)):
                if isinstance(part, MoE):
                    part.down.zero_()
                elif isinstance(part, SwiGLU):
                    part.down.weight.zero_()

    def _init_gpt2(self) -> None:
        """GPT-2's initial weights (Radford et al., 2019)."""
        for name, parameter in self.layers.named_parameters():
            if parameter.dim() == 2:
                last = name.endswith(("o_proj.weight", "down.weight"))
                std = 0.02 / (2 * self.config.n_layers) ** 0.5 if last else 0.02
                nn.init.normal_(parameter, std=std)

    def _embed(self, ids: Tensor, start: int = 0) -> Tensor:
        """Embeddings of (B, L) ids at positions from ``start``, or of (B,) ids at that position."""
        x: Tensor = self.embedding(ids)
        if self.positions is not None:
            end = start + (ids.shape[1] if ids.dim() == 2 else 1)
            if end > self.config.max_seq_len:
                raise UsageError(
                    f"{end} tokens: this model has learned {self.config.max_seq_len} positions, "
                    "and no more. Give a shorter text"
                )
            x = self.dropout(x + self.positions.weight[start:end])
        scale = self.config.embedding_multiplier
        return x if scale == 1 else x * scale

    def _start(self, state: ModelState | None) -> int:
        """The position of the next token, for learned positions (a model of attention layers)."""
        first = state[0] if state else None
        return first.length if isinstance(first, AttentionState) else 0

    def _head(self, hidden: Tensor) -> Tensor:
        weight = self.embedding.weight.to(hidden.dtype)
        return F.linear(hidden, weight).float() / self.config.logits_scaling

    def hidden(self, ids: Tensor, state: ModelState | None = None) -> Tensor:
        """(B, L) -> (B, L, D), normalised, in ``compute_dtype``."""
        x, add = self._embed(ids, self._start(state)), torch.empty(0)
        for i, block in enumerate(self.blocks):
            x, add = block(
                x, add if i else None, self.compute_dtype, None if state is None else state[i]
            )
        return self.norm.after(x, add, self.config.residual_multiplier)[1]

    def forward(self, ids: Tensor) -> Tensor:
        """(B, L) int64 -> logits (B, L, V) float32; row t predicts token t+1."""
        return self._head(self.hidden(ids))

    def initial_state(self, batch_size: int) -> ModelState:
        """The state before the first token, for `prefill` and `step`."""
        return [block.mixer.initial_state(batch_size) for block in self.blocks]

    def prefill(self, ids: Tensor, state: ModelState) -> Tensor:
        """Read (B, L) tokens after ``state``, which is updated; returns the last logits (B, V)."""
        return self._head(self.hidden(ids, state)[:, -1])

    def step(self, ids: Tensor, state: ModelState) -> Tensor:
        """Read one token a row, (B,); returns logits (B, V). ``state`` is updated in place."""
        x = self._embed(ids, self._start(state))
        for block, own in zip(self.blocks, state, strict=True):
            x = block.step(x, own)
        return self._head(self.norm(x))

    def loss(self, ids: Tensor, targets: Tensor, balance_weight: float = 0.01) -> StepLoss:
        """Mean cross-entropy of (B, L) targets, and the balance loss of the experts."""
        hidden = self.hidden(ids).flatten(0, 1)
        if ops.usable(hidden):
            cross_entropy = ops.linear_cross_entropy(
                hidden, self.embedding.weight, targets.flatten(), self.config.logits_scaling
            )
        else:
            cross_entropy = F.cross_entropy(self._head(hidden), targets.flatten())
        return self.step_loss(cross_entropy, cross_entropy, balance_weight)

    def step_loss(
        self, minimised: Tensor, cross_entropy: Tensor, balance_weight: float
    ) -> StepLoss:
        """The losses of the last batch: ``minimised`` plus the balance loss of its experts."""
        losses = [moe.balance_loss for moe in self.mixtures if moe.balance_loss is not None]
        balance = torch.stack(losses).mean() if losses else minimised.new_zeros(())
        total = minimised + balance_weight * balance if losses else minimised
        return StepLoss(total, cross_entropy, balance)
