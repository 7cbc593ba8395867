"""What a step minimises: the next token, unless a way to compress has more to say."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from itera_lite.model import LanguageModel, StepLoss


class Objective:
    """Predict the next token of the text. Distillation and quantisation-aware training differ."""

    def loss(
        self, model: LanguageModel, tokens: Tensor, positions: Tensor, balance_weight: float
    ) -> StepLoss:
        """The loss of one batch.

        Args:
            tokens: (B, L+1) ids; inputs are ``[:, :-1]``, targets ``[:, 1:]``.
            positions: (B, L+1), where each of them lies in the train split's stream.
            balance_weight: of the experts' balance loss.
        """
        return model.loss(tokens[:, :-1], tokens[:, 1:], balance_weight)

    def artifact(self, model: LanguageModel) -> LanguageModel:
        """The model as it is scored and saved: here itself."""
        return model

    def identity(self) -> dict[str, Any]:
        """What must be alike, as JSON holds it, for one run to go on from another."""
        return {}
