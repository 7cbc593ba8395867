"""The models: one `LanguageModel` for every pattern of layers."""

from itera_lite.model.lm import LanguageModel, ModelState, StepLoss

__all__ = ["LanguageModel", "ModelState", "StepLoss"]
