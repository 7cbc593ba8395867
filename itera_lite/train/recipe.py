"""Derives a training from what was asked for: the shape of the model, the budget, the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from itera_lite.config import (
    PRESETS,
    Family,
    ModelConfig,
    TrainConfig,
    preset,
    reference_recipe,
)
from itera_lite.data.prepare import Dataset
from itera_lite.errors import ConfigError
from itera_lite.model.cost import cost
from itera_lite.quantities import number_of

DEFAULT_MINUTES = 10.0
LEARNING_RATES = ("lr_matrix", "lr_embedding", "lr_other")
LEAST_SHARE = 0.5  # of the parameters asked for, that the model must have
# Up to here, the number of optimizer steps limits quality, so the batch is small.
SHORT = {"tokens": 4e6, "seconds": 240.0}
# After so many tokens the means over gradients (Muon's momentum) and over their squares (AdamW's
# second beta) keep a half: the same for every batch, within what was tried.
HALF_LIVES = {"momentum": 27_000, "beta2": 280_000}
LONGEST = {"momentum": 0.95, "beta2": 0.997}
CONTINUED_RATE = 0.3  # of a new model's learning rates, for one that is trained already
# Of a gpt2 training on two cores with bfloat16 products; only `Budget.tokens` depends on it.
USUAL_FLOPS = 270e9


@dataclass(frozen=True)
class Budget:
    """How long to train."""

    unit: Literal["tokens", "seconds"]
    amount: float

    def __str__(self) -> str:
        if self.unit == "tokens":
            return f"{self.amount:,.0f} tokens"
        return f"{self.amount / 60:.3g} minutes"

    @property
    def batch_size(self) -> int:
        """Sequences a step: half as many in a short run, which gains more from more steps.

        Small steps cost 10 to 14 % of the tokens/s. In a run of 2 M tokens they gained as much as
        a third more tokens; in longer runs less.
        """
        full = TrainConfig().batch_size
        return full // 2 if self.amount <= SHORT[self.unit] else full

    def tokens(self, shape: ModelConfig) -> float:
        """How many tokens a gpt2 model reads in it, about.

        By a usual speed, not by that of this machine: a recipe that depends on it is the same
        wherever it is asked for, and whatever else runs there.
        """
        if self.unit == "tokens":
            return self.amount
        return self.amount * USUAL_FLOPS / cost(shape).flops_train


def budget_of(
    dataset: Dataset,
    epochs: float | None,
    minutes: float | None,
    tokens: str | None,
    saved: Budget | None = None,
) -> Budget:
    """The budget that was asked for; epochs become tokens.

    Args:
        saved: of the run that is resumed, which it keeps where nothing else is asked for.
    """
    if tokens is not None:
        return Budget("tokens", number_of("tokens", tokens))
    if epochs is not None:
        return Budget("tokens", epochs * (len(dataset.tokens("train")) - 1))
    if minutes is None and saved is not None:
        return saved
    return Budget("seconds", 60 * (DEFAULT_MINUTES if minutes is None else minutes))


def fit_to(
    family: Family, params: float, vocab_size: int, pattern: str | None = None
) -> ModelConfig:
    """The largest scaled preset that stays within ``params`` parameters.

    Width grows in steps of 32, and the feed-forward keeps its ratio to the width.

    Args:
        pattern: layers to use instead of the presets'.

    Raises:
        ConfigError: where even the smallest shape is larger, or the largest is far smaller; says
            how large it is.
    """
    best: tuple[int, ModelConfig] | None = None
    smallest: int | None = None
    for size, families in PRESETS.items():
        if family not in families or families.keys() == {"transformer"}:  # one for comparisons
            continue
        model = preset(family, size, vocab_size)
        if pattern is not None:
            model = model.replace(pattern=pattern)
        for width in range(32, 1025, 32):
            scale = width / model.d_model
            shape = model.replace(
                d_model=width,
                d_ff=_round(model.d_ff * scale),
                d_expert=_round(model.d_expert * scale),
                n_kv_heads=width // 32 if family == "transformer" else model.n_kv_heads,
            )
            total = cost(shape).params_total
            smallest = total if smallest is None else min(smallest, total)
            if total <= params and (best is None or total > best[0]):
                best = (total, shape)
    if best is None:
        raise ConfigError(
            f"--params {params:,.0f} is too small: the smallest {family} model with a vocabulary "
            f"of {vocab_size} has {smallest:,} parameters. A smaller --vocab-size helps"
        )
    if best[0] < LEAST_SHARE * params:
        raise ConfigError(
            f"--params {params:,.0f}: the nearest {family} model below that has {best[0]:,} "
            "parameters. Give about that many, or another --pattern"
        )
    return best[1]


def _round(width: float) -> int:
    """Round to a multiple of 32, which quantised rows need; 0 stays 0."""
    return max(32, round(width / 32) * 32) if width else 0


def train_config(
    shape: ModelConfig, budget: Budget, overrides: Mapping[str, Any], seed: int = 0
) -> TrainConfig:
    """The recipe: what follows from the budget, unless the family has its own, or the user asked.

    Args:
        shape: of the model; a gpt2 has a recipe of its own.
        overrides: fields of `TrainConfig` that were asked for; None for the others.
    """
    longest = min(TrainConfig().seq_len, shape.max_seq_len)  # a loaded model may have a short one
    derived = {"batch_size": budget.batch_size, "seq_len": longest}
    asked = {key: value for key, value in overrides.items() if value is not None}
    if shape.family == "gpt2":
        recipe = derived | reference_recipe(shape.d_model, budget.tokens(shape)) | asked
    else:
        recipe = means_of(**{key: asked.get(key, derived[key]) for key in derived})
        recipe = derived | recipe | asked
    return replace(TrainConfig(seed=seed), **recipe)


def means_of(batch_size: int, seq_len: int) -> dict[str, float]:
    """Muon's momentum and AdamW's second beta for steps of ``batch_size`` times ``seq_len`` tokens.

    A constant half-life in tokens, as Marek et al. (2025, https://arxiv.org/abs/2507.07101) find
    for the second beta.
    """
    return {
        key: min(LONGEST[key], 0.5 ** (batch_size * seq_len / half))
        for key, half in HALF_LIVES.items()
    }


def gentle(
    shape: ModelConfig,
    budget: Budget,
    rate: float,
    seed: int,
    overrides: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """The recipe for training further from trained weights: every learning rate times ``rate``,
    but those that ``overrides`` has."""
    asked = overrides or {}
    config = train_config(shape, budget, asked, seed)
    rates = [name for name in LEARNING_RATES if asked.get(name) is None]
    return replace(config, **{name: rate * getattr(config, name) for name in rates})
