"""Quantisation-aware training: further training with weights rounded as they will be stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from itera_lite.compress.rounding import Kinds, copy_of, parameter_types, round_parts, rounded
from itera_lite.compress.start import Job
from itera_lite.data.prepare import Dataset
from itera_lite.distill.objective import TEMPERATURE, TOP_K, Distillation
from itera_lite.distill.plan import DistillationPlan
from itera_lite.distill.student import Student
from itera_lite.distill.teacher import Teacher
from itera_lite.errors import UsageError
from itera_lite.model import LanguageModel, StepLoss
from itera_lite.records import Quantization, Summary
from itera_lite.train.objective import Objective
from itera_lite.train.recipe import gentle
from itera_lite.train.train import Training
from itera_lite.workers import Workers

EVALUATIONS = 10
RATE = 0.02  # of the learning rates of a whole training; found by a search (experiments/LOG.md)
MINUTES = 3.0


class Rounded(Objective):
    """Another objective's loss, of the model with rounded weights.

    Every step computes with the weights that the file will hold, and updates the exact ones
    behind them (the straight-through estimator of Bengio et al., 2013,
    https://arxiv.org/abs/1308.3432); what is scored and saved is rounded too.

    Args:
        kinds: see `itera_lite.compress.rounding.kinds_of`.
        inner: the loss; by default of the next token. Distillation may be another.
        levels: of Q4_0, see `itera_lite.compress.rounding.few_levels`.
    """

    def __init__(
        self, kinds: Kinds, inner: Objective | None = None, levels: int | None = None
    ) -> None:
        self.kinds, self.inner, self.levels = kinds, inner or Objective(), levels

    def loss(
        self, model: LanguageModel, tokens: Tensor, positions: Tensor, balance_weight: float
    ) -> StepLoss:
        return self.inner.loss(model, tokens, positions, balance_weight)

    def prepare(self, positions: NDArray[np.int64], workers: Workers) -> None:
        self.inner.prepare(positions, workers)

    def rounding(self, name: str) -> Callable[[Tensor], Tensor] | None:
        types = parameter_types(name, self.kinds)
        if types is None:
            return None
        return partial(round_parts, kinds=types, levels=self.levels)

    def deployed(self, model: LanguageModel) -> LanguageModel:
        return rounded(self.inner.deployed(model), self.kinds, self.levels)

    def identity(self) -> dict[str, Any]:
        kinds = {name: kind.name for name, kind in self.kinds.items()}
        few = {} if self.levels is None else {"levels": self.levels}
        return {"kinds": kinds, **few, "inner": self.inner.identity()}


def train_rounded(
    job: Job,
    dataset: Dataset,
    kinds: Kinds,
    levels: int | None,
    teachers: Sequence[Path],
    mix: float,
    record: Callable[[float], Quantization],
) -> Summary:
    """Train with rounded weights. The best checkpoint is written rounded.

    Args:
        kinds, levels: see `Rounded`.
        teachers: folders of checkpoints that teach, with a share of ``mix`` in the loss.
        record: gives how the model was made, from its bits per byte; the checkpoint is written
            then.

    Raises:
        UsageError: a budget of nothing, or a teacher that can't teach this model.
    """
    start, compute = job.start, job.compute
    budget = job.budget(dataset, MINUTES)
    if budget is None:
        raise UsageError("--minutes 0 is no training: give more, or --method plain or gptq")
    shape, source = start.model.config, str(job.text.data)
    config = gentle(shape, budget, RATE, job.text.seed, job.text.overrides)
    config = replace(config, decay=1.0)
    objective, taught = Rounded(kinds, levels=levels), None
    if teachers:
        student = Student(start.name, shape, start.tokenizer, start.folder)
        loaded = [Teacher.load(folder) for folder in teachers]
        plan = DistillationPlan(loaded, student, dataset, TOP_K, source=source, quiet=compute.quiet)
        distillation = Distillation(plan.targets, TEMPERATURE, mix)
        seconds = plan.compute_targets(config, budget, compute)
        taught = plan.record(distillation, seconds, compute.workers)
        objective = Rounded(kinds, distillation, levels)
    return Training(
        *(shape, config, dataset, budget, job.files, compute),
        source=source,
        initial=copy_of(start.model),
        objective=objective,
        resume=job.resume,
        patience=0,
        evaluations=EVALUATIONS,
        compression=record,
        distillation=taught,
    ).run()
