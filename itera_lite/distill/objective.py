"""Distillation as an objective: imitate the teachers' distribution, and predict the text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from itera_lite import ops
from itera_lite.data.prepare import Dataset
from itera_lite.distill.cache import SoftTargets
from itera_lite.distill.teacher import Teacher
from itera_lite.model import LanguageModel, StepLoss
from itera_lite.train.objective import Objective

TOP_K = 32
TEMPERATURE = 1.0
MIX = 0.9


class Distillation(Objective):
    """``mix * T^2 * KL(teacher || student) + (1 - mix) * cross-entropy`` (Hinton et al., 2015).

    The divergence is at temperature T and between distributions over k + 1 outcomes: the
    teacher's k likeliest tokens, and any other token. Where no teacher says anything, the
    cross-entropy alone counts.
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

    def identity(self) -> dict[str, Any]:
        return {
            "targets": self.targets.folder.name,
            "temperature": self.temperature,
            "mix": self.mix,
        }


def distillation_objective(
    teachers: Sequence[Path],
    dataset: Dataset,
    *,
    k: int = TOP_K,
    temperature: float = TEMPERATURE,
    mix: float = MIX,
    dtype: torch.dtype = torch.float32,
    quiet: bool = False,
) -> Distillation:
    """The objective alone, for a training that does something else as well.

    The teachers speak when a place is first asked for; what they said before is in the cache.

    Args:
        teachers: checkpoints' folders; the mean of their probabilities teaches.
        dataset: what the student trains on, in the student's tokens.
        dtype: of the teachers' matrix products; that of the training is fine.
    """
    loaded = [Teacher.load(Path(folder)) for folder in teachers]
    for teacher in loaded:
        teacher.model.compute_dtype = dtype
    return Distillation(SoftTargets(loaded, dataset, k, quiet=quiet), temperature, mix)


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
    """The oracle of `ops.linear_soft_cross_entropy`, and what takes its place without it.

    Args:
        logits: (n, V). targets: (n,). ids, probabilities: (n, k).
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
