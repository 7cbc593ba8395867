"""Quantisation-aware finishing: training goes on with weights rounded as they will be stored."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from itera_lite.compress.rounding import Kinds, rounded, straight_through
from itera_lite.model import LanguageModel, StepLoss
from itera_lite.train.objective import Objective

RATE = 0.02  # of the learning rates of a whole training; found by a search (experiments/LOG.md)
MINUTES = 3.0


class Rounded(Objective):
    """Another objective, of the model with rounded matrices.

    Every step sees the weights that the file will hold, and moves those behind them; what is
    scored and saved is rounded too. Any objective may be inside, distillation for one:
    ``Rounded(kinds, Distilled(...))``.

    Args:
        kinds: see `itera_lite.compress.rounding.kinds_of`.
        inner: what is minimised; by default the loss of the next token.
    """

    def __init__(self, kinds: Kinds, inner: Objective | None = None) -> None:
        self.kinds, self.inner = kinds, inner or Objective()

    def loss(
        self, model: LanguageModel, tokens: Tensor, places: Tensor, balance_weight: float
    ) -> StepLoss:
        call = _Call(model, self.inner)
        weights = straight_through(model, self.kinds)
        loss: StepLoss = functional_call(
            call,
            {f"model.{name}": value for name, value in weights.items()},
            (tokens, places, balance_weight),
        )
        return loss

    def artifact(self, model: LanguageModel) -> LanguageModel:
        return rounded(self.inner.artifact(model), self.kinds)

    def identity(self) -> dict[str, Any]:
        kinds = {name: kind.name for name, kind in self.kinds.items()}
        return {"kinds": kinds, "inner": self.inner.identity()}


class _Call(nn.Module):
    """An objective's loss as a forward pass, the only thing `functional_call` can call."""

    def __init__(self, model: LanguageModel, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, tokens: Tensor, places: Tensor, balance_weight: float) -> StepLoss:
        return self.objective.loss(self.model, tokens, places, balance_weight)
