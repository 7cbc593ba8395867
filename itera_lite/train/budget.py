"""How long to train: a number of tokens, or a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from itera_lite.config import TrainConfig
from itera_lite.data.shards import Dataset
from itera_lite.quantities import number_of as number_of

DEFAULT_MINUTES = 10.0
SHORT = {"tokens": 4e6, "seconds": 240.0}  # up to here a run is short of steps, not of tokens/s


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

        Small steps cost 10 to 14 % of the tokens/s, and were worth a third more tokens at 2 M;
        the longer a run, the less.
        """
        full = TrainConfig().batch_size
        return full // 2 if self.amount <= SHORT[self.unit] else full


def budget_of(
    dataset: Dataset, epochs: float | None, minutes: float | None, tokens: str | None
) -> Budget:
    """The budget that was asked for; epochs become tokens."""
    if tokens is not None:
        return Budget("tokens", number_of("tokens", tokens))
    if epochs is not None:
        return Budget("tokens", epochs * (len(dataset.tokens("train")) - 1))
    return Budget("seconds", 60 * (DEFAULT_MINUTES if minutes is None else minutes))
