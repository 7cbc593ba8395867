"""Quantisation-aware finishing: training goes on with weights rounded as they will be stored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from itera_lite.compress.rounding import Kinds, copy_of, rounded, straight_through
from itera_lite.compress.start import Start, budget_for
from itera_lite.data.prepare import Dataset
from itera_lite.distill.objective import TEMPERATURE, TOP_K
from itera_lite.distill.plan import Lesson
from itera_lite.errors import UsageError
from itera_lite.model import LanguageModel, StepLoss
from itera_lite.train.compute import Compute
from itera_lite.train.objective import Objective
from itera_lite.train.recipe import gentle
from itera_lite.train.run_files import RunFiles
from itera_lite.train.train import run_training

EVALUATIONS = 10
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
        self, model: LanguageModel, tokens: Tensor, positions: Tensor, balance_weight: float
    ) -> StepLoss:
        call = _Call(model, self.inner)
        weights = straight_through(model, self.kinds)
        loss: StepLoss = functional_call(
            call,
            {f"model.{name}": value for name, value in weights.items()},
            (tokens, positions, balance_weight),
        )
        return loss

    def deployed(self, model: LanguageModel) -> LanguageModel:
        return rounded(self.inner.deployed(model), self.kinds)

    def identity(self) -> dict[str, Any]:
        kinds = {name: kind.name for name, kind in self.kinds.items()}
        return {"kinds": kinds, "inner": self.inner.identity()}


class _Call(nn.Module):
    """An objective's loss as a forward pass, the only thing `functional_call` can call."""

    def __init__(self, model: LanguageModel, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, tokens: Tensor, positions: Tensor, balance_weight: float) -> StepLoss:
        return self.objective.loss(self.model, tokens, positions, balance_weight)


@dataclass(frozen=True)
class Wish:
    """How the finishing training goes.

    Attributes:
        data: the set; ``minutes`` or ``tokens``: how long.
        teachers: checkpoints that teach in it, with ``mix`` of the loss.
        resume: go on where it was stopped.
    """

    data: str
    minutes: float | None
    tokens: str | None
    teachers: tuple[Path, ...]
    mix: float
    seed: int
    resume: bool


def train_rounded(
    start: Start,
    dataset: Dataset,
    files: RunFiles,
    kinds: Kinds,
    compute: Compute,
    record: dict[str, Any],
    wish: Wish,
) -> dict[str, Any]:
    """Finish with rounded weights. The best checkpoint is written rounded.

    Args:
        record: what the summary will say under ``compress``; the rate is added.

    Returns:
        The training's summary.

    Raises:
        UsageError: a budget of nothing, or a teacher that can't teach this model.
    """
    going_on = files if wish.resume else None
    budget = budget_for(dataset, wish.minutes, wish.tokens, MINUTES, going_on)
    if budget is None:
        raise UsageError("--minutes 0 is no training: give more, or --method plain or gptq")
    record["learning_rates_times"] = RATE
    notes: dict[str, Any] = {"compress": record}
    config = replace(gentle(start.model.config, budget, RATE, wish.seed), decay=1.0)
    objective = Rounded(kinds)
    if wish.teachers:
        student = str(start.folder)
        lesson = Lesson(wish.teachers, student, wish.data, k=TOP_K, quiet=compute.quiet)
        taught = lesson.objective(TEMPERATURE, wish.mix)
        notes |= lesson.notes(taught, lesson.prepare_for(config, budget, compute))
        objective = Rounded(kinds, taught)
    return run_training(
        *(start.model.config, config, dataset, budget, files, compute),
        source=wish.data,
        initial=copy_of(start.model),
        objective=objective,
        resume=wish.resume and files.resumable,
        patience=0,
        evaluations=EVALUATIONS,
        notes=notes,
    )
