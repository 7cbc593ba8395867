"""A mixture of SwiGLU experts with a softmax over the top-k router logits.

No token is dropped. The auxiliary loss of the Switch Transformer (Fedus et al., 2021) balances the
experts: E times the sum over the experts of their load and their mean probability. The load is that
of the last training step's whole batch, so that the losses of the parts of a batch average to that
of the batch, however it is cut.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itera_lite import ops
from itera_lite.config import ModelConfig
from itera_lite.model.layers import Linear, SwiGLU, gated_silu, has_hooks


def experts_naive(x: Tensor, index: Tensor, gates: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Each token through its experts, one expert after the other: the oracle of the tests.

    Args:
        x: (T, D). index, gates: (T, k), the chosen experts and their weights.
        gate_up: (E, 2F, D). down: (E, D, F).

    Returns:
        (T, D), the weighted sum over each token's experts.
    """
    out = torch.zeros_like(x)
    for expert in range(gate_up.shape[0]):
        token, slot = (index == expert).nonzero(as_tuple=True)
        hidden = gated_silu(x[token] @ gate_up[expert].T)
        y = (hidden @ down[expert].T) * gates[token, slot, None].to(x.dtype)
        out = out.index_add(0, token, y)
    return out


def experts_of_few(
    x: Tensor, index: Tensor, gates: Tensor, gate_up: Tensor, down: Tensor
) -> Tensor:
    """`experts_naive` for few tokens, as in decoding: reads only the chosen experts."""
    hidden = torch.einsum("tkfd,td->tkf", gate_up[index], x)
    gate, up = hidden.chunk(2, dim=-1)
    y = torch.einsum("tkdf,tkf->tkd", down[index], F.silu(gate) * up)
    return (y * gates[..., None].to(x.dtype)).sum(dim=1)


class MoE(nn.Module):
    """Top-k of E experts, and a shared expert where ``d_ff`` > 0: (..., D) -> (..., D)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c = self.config = config
        self.router = Linear(c.d_model, c.n_experts)
        self.gate_up = nn.Parameter(torch.empty(c.n_experts, 2 * c.d_expert, c.d_model))
        self.down = nn.Parameter(torch.empty(c.n_experts, c.d_model, c.d_expert))
        nn.init.normal_(self.gate_up, std=c.d_model**-0.5)
        nn.init.normal_(self.down, std=c.d_expert**-0.5)
        self.shared = SwiGLU(c.d_model, c.d_ff) if c.d_ff else None
        # (E,) each expert's share of the last step's batch, sums to 1; the training loop sets it
        self.load: Tensor | None = None
        # Of the last forward pass in training:
        self.counts: Tensor | None = None  # (E,) tokens of each expert
        self.balance_loss: Tensor | None = None  # scalar, 1 when balanced

    def forward(self, x: Tensor) -> Tensor:
        few = not self.training and x[..., 0].numel() * self.config.top_k <= self.config.n_experts
        if ops.usable(x) and not few and not has_hooks(self.router):
            weights = (self.router.weight, self.gate_up, self.down)
            y, balance, counts = ops.mixture(x, *weights, self._load(), self.config.top_k)
        else:
            y, balance, counts = self._mix(x, few)
        if self.training:
            self.counts, self.balance_loss = counts, balance
        return y if self.shared is None else y + self.shared(x)

    def _load(self) -> Tensor:
        if self.load is not None:
            return self.load
        n = self.config.n_experts
        return self.router.weight.new_full((n,), 1 / n)

    def _mix(self, x: Tensor, few: bool) -> tuple[Tensor, Tensor, Tensor]:
        """What `ops.mixture` returns, in plain PyTorch."""
        flat = x.reshape(-1, x.shape[-1])
        logits = self.router(flat).float()  # (T, E)
        top, index = logits.topk(self.config.top_k, dim=-1)
        gates, probability = top.softmax(dim=-1), logits.softmax(dim=-1).mean(dim=0)
        counts = torch.bincount(index.flatten(), minlength=self.config.n_experts)
        mix = experts_of_few if few else experts_naive
        y = mix(flat, index, gates, self.gate_up.to(x.dtype), self.down.to(x.dtype))
        balance = self.config.n_experts * (self._load() * probability).sum()
        return y.view_as(x), balance, counts
