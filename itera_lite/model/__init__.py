"""The models: one `LanguageModel` for every pattern of layers."""

from itera_lite.model.lm import LanguageModel, State, StepLoss

__all__ = ["LanguageModel", "State", "StepLoss"]
