"""The loss of a training step: next-token cross-entropy; compression methods add terms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from itera_lite.model import LanguageModel, StepLoss
from itera_lite.workers import Workers


class Objective:
    """Next-token cross-entropy. Distillation and quantisation-aware training are subclasses."""

    def loss(
        self, model: LanguageModel, tokens: Tensor, positions: Tensor, balance_weight: float
    ) -> StepLoss:
        """The loss of one batch, or of a part of one: a mean over its tokens.

        Several threads call this at once, each with a replica of the model.

        Args:
            tokens: (B, L+1) ids; inputs are ``[:, :-1]``, targets ``[:, 1:]``.
            positions: (B, L+1), position of each token in the train split's stream.
            balance_weight: factor of the experts' balance loss.
        """
        return model.loss(tokens[:, :-1], tokens[:, 1:], balance_weight)

    def prepare(self, positions: NDArray[np.int64], workers: Workers) -> None:
        """Compute what `loss` needs of a batch; called once before the batch is shared out.

        Args:
            positions: (B, L+1), as in `loss`.
        """

    def rounding(self, name: str) -> Callable[[Tensor], Tensor] | None:
        """How a parameter is rounded before each step, for the loss to be computed with the result.

        The gradient by the rounded parameter moves the parameter itself (straight through).

        Args:
            name: of the parameter, as `LanguageModel.named_parameters` has it.

        Returns:
            None: it isn't rounded.
        """
        return None

    def deployed(self, model: LanguageModel) -> LanguageModel:
        """The model that is scored and saved for ``model``: itself, or a rounded copy."""
        return model

    def identity(self) -> dict[str, Any]:
        """The objective's settings, as JSON holds them: a resumed run must have the same."""
        return {}
