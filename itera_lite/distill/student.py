"""The student of a distillation: its shape, its tokenizer, and its weights at the start."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from itera_lite.checkpoint.folder import load_checkpoint
from itera_lite.config import PRESETS, ModelConfig, TrainConfig, preset
from itera_lite.data.tokenizer import Tokenizer
from itera_lite.errors import UsageError
from itera_lite.files import exists, folder_name, is_folder
from itera_lite.model import LanguageModel
from itera_lite.quantities import number_of
from itera_lite.train.recipe import CONTINUED_RATE, Budget, fit_to, gentle, train_config


@dataclass(frozen=True)
class Student:
    """A model to train.

    Attributes:
        folder, model: of the checkpoint that it begins from; None for random weights.
    """

    name: str
    shape: ModelConfig
    tokenizer: Tokenizer
    folder: Path | None = None
    model: LanguageModel | None = None

    @classmethod
    def find(cls, wanted: str, tokenizer: Tokenizer | None, fallback: Tokenizer) -> Student:
        """The student of a checkpoint's folder, a preset, or a number of parameters.

        Args:
            tokenizer: as asked for; None: the checkpoint's own, or ``fallback``.

        Raises:
            UsageError: it is none of these, or a checkpoint has another tokenizer.
        """
        folder = Path(wanted)
        if is_folder(folder) or (wanted not in PRESETS and exists(folder)):
            model, own = load_checkpoint(folder)
            if tokenizer is not None and tokenizer.sha256 != own.sha256:
                raise UsageError(
                    f"the student '{wanted}' has a tokenizer of its own: leave out --tokenizer "
                    "and --vocab-size"
                )
            return cls(folder_name(folder), model.config, own, folder, model)
        chosen = tokenizer or fallback
        if wanted in PRESETS:
            shape = preset("itera", wanted, chosen.vocab_size)
        else:
            try:
                params = number_of("student", wanted)
            except UsageError:
                raise UsageError(
                    f"--student {wanted}: expected a checkpoint's folder, one of "
                    f"{', '.join(PRESETS)}, or a number of parameters such as 1M"
                ) from None
            shape = fit_to("itera", params, chosen.vocab_size)
        return cls(f"itera_lite_{wanted.replace('.', '_')}", shape, chosen)

    def initial_model(self) -> LanguageModel | None:
        """A copy of the model to begin with, for a training to change; None: random weights."""
        return deepcopy(self.model)

    def recipe(
        self, budget: Budget, seed: int, overrides: dict[str, Any] | None = None
    ) -> TrainConfig:
        """The settings of its training, gentler for a model that is trained already.

        Args:
            overrides: fields that don't follow from the budget.
        """
        if self.model is None:
            return train_config(self.shape, budget, overrides or {}, seed)
        return replace(gentle(self.shape, budget, CONTINUED_RATE, seed), **(overrides or {}))
