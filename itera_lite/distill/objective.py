"""The loss of distillation: divergence from the teachers' distribution, and cross-entropy."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from itera_lite import ops
from itera_lite.distill.cache import SoftTargets
from itera_lite.model import LanguageModel, StepLoss
from itera_lite.train.objective import Objective
from itera_lite.workers import Workers

TOP_K = 32
TEMPERATURE = 1.0
MIX = 0.9


class Distillation(Objective):
    """``mix * T^2 * KL(teacher || student) + (1 - mix) * cross-entropy`` (Hinton et al., 2015).

    The divergence is at temperature T and between distributions over k + 1 outcomes: the
    teachers' k likeliest tokens, and any other token. Where no teacher has a distribution, the
    loss is the cross-entropy.

    Args:
        targets: the teachers' distributions over the text that is trained on.
        temperature: T.
        mix: weight of the divergence, 0 to 1.
    """

    def __init__(
        self, targets: SoftTargets, temperature: float = TEMPERATURE, mix: float = MIX
    ) -> None:
        self.targets, self.temperature, self.mix = targets, temperature, mix

    def loss(
        self, model: LanguageModel, tokens: Tensor, positions: Tensor, balance_weight: float
    ) -> StepLoss:
        wanted = tokens[:, 1:].flatten()
        ids, probabilities = self.targets.at(positions[:, 1:].cpu().numpy())
        probabilities = tempered(probabilities, self.temperature, self.targets.vocab_size)
        ids, probabilities = ids.to(tokens.device), probabilities.to(tokens.device)
        hidden = model.hidden(tokens[:, :-1]).flatten(0, 1)
        weight, scaling = model.embedding.weight, model.config.logits_scaling
        soft = (ids, probabilities, self.temperature, self.mix)
        if ops.usable(hidden):
            minimised, hard = ops.linear_soft_cross_entropy(hidden, weight, wanted, *soft, scaling)
        else:
            logits = F.linear(hidden, weight.to(hidden.dtype)).float() / scaling
            minimised, hard = soft_cross_entropy(logits, wanted, *soft)
        return model.step_loss(minimised, hard, balance_weight)

    def prepare(self, positions: NDArray[np.int64], workers: Workers) -> None:
        self.targets.fill_at(positions[:, 1:], workers)

    def identity(self) -> dict[str, Any]:
        return {
            "targets": self.targets.folder.name,
            "temperature": self.temperature,
            "mix": self.mix,
        }


def tempered(probabilities: Tensor, temperature: float, vocab_size: int) -> Tensor:
    """(n, k) top probabilities -> the same at a temperature: p^(1/T), scaled to sum to 1.

    What lies outside the top k is taken as spread evenly over the other tokens.
    """
    if temperature == 1:
        return probabilities
    n_others = vocab_size - probabilities.shape[1]
    others = (1 - probabilities.sum(-1, keepdim=True)).clamp(min=0) / max(n_others, 1)
    hot = probabilities.pow(1 / temperature)
    total = hot.sum(-1, keepdim=True) + n_others * others.pow(1 / temperature)
    taught = probabilities[:, :1] > 0
    return torch.where(taught, hot / total, 0.0)


def soft_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    ids: Tensor,
    probabilities: Tensor,
    temperature: float,
    mix: float,
) -> tuple[Tensor, Tensor]:
    """The loss in plain PyTorch: the reference of `ops.linear_soft_cross_entropy`.

    Args:
        logits: (n, V).
        targets: (n,) the text's own tokens.
        ids, probabilities: (n, k) of the teachers, see `SoftTargets.at` and `tempered`.

    Returns:
        The mean loss that is minimised, and the mean cross-entropy, in nats.
    """
    hard = F.cross_entropy(logits, targets, reduction="none")
    q = (logits / temperature).log_softmax(-1)
    known = q.gather(1, ids.long())
    others = q.scatter(1, ids.long(), -torch.inf).logsumexp(-1)
    p_others = (1 - probabilities.sum(-1)).clamp(min=0)
    soft = torch.xlogy(probabilities, probabilities) - probabilities * known
    divergence = soft.sum(-1) + torch.xlogy(p_others, p_others) - p_others * others
    share = mix * (probabilities[:, 0] > 0)
    mixed = (1 - share) * hard + share * temperature**2 * divergence
    return mixed.mean(), hard.mean().detach()
