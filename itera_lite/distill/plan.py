"""Teachers, a student and a text: what a distillation needs, and the training itself.

The teachers' targets are computed before the training, for as many tokens as its budget will
read, so that the budget's time is the student's alone.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from itera_lite.config import TrainConfig
from itera_lite.data.loader import TokenLoader
from itera_lite.data.prepare import Dataset, prepare
from itera_lite.data.tokenizer import Tokenizer
from itera_lite.distill.cache import BLOCK, SoftTargets
from itera_lite.distill.objective import Distillation
from itera_lite.distill.student import Student
from itera_lite.distill.teacher import Teacher
from itera_lite.evaluate.bits import FINAL_BYTES, first_bytes, validation_score
from itera_lite.files import write_json
from itera_lite.model import LanguageModel
from itera_lite.model.cost import cost
from itera_lite.records import DistillationRecord, Summary, TeacherDescription
from itera_lite.stats.comparison import is_number
from itera_lite.train.compute import Compute
from itera_lite.train.objective import Objective
from itera_lite.train.recipe import Budget
from itera_lite.train.run_files import RunFiles
from itera_lite.train.step import BatchGradient
from itera_lite.train.train import Training
from itera_lite.workers import Workers

SPEED_STEPS = 5  # timed to estimate how many tokens a budget in minutes will read


class DistillationPlan:
    """Teachers, the student, the set that they meet on, and the teachers' cached targets for it.

    Args:
        dataset: in the student's tokens.
        k: how many of the teachers' likeliest tokens are kept at a position.
        source: name or path of the set, as it was given.
        quiet: no progress bar.
    """

    def __init__(
        self,
        teachers: Sequence[Teacher],
        student: Student,
        dataset: Dataset,
        k: int,
        *,
        source: str,
        quiet: bool = False,
    ) -> None:
        self.teachers, self.student, self.dataset = list(teachers), student, dataset
        self.source = source
        self.targets = SoftTargets(self.teachers, dataset, k, quiet=quiet)
        self._warn_of_small_teachers()

    @classmethod
    def find(
        cls,
        teachers: Sequence[Path],
        student: str,
        data: str,
        k: int,
        *,
        tokenizer: Path | None = None,
        vocab_size: int | None = None,
        quiet: bool = False,
    ) -> DistillationPlan:
        """Load the teachers and the student, and prepare the set.

        Args:
            teachers: folders of checkpoints, at least one.
            student: see `Student.find`.
            tokenizer: of a new student; by default the first teacher's.
            vocab_size: train a tokenizer of this size for a new student instead; the text is cut
                into units as for the first teacher.

        Raises:
            UsageError: the student is nothing known, or has another tokenizer.
            CheckpointError: a teacher or the student can't be loaded.
            DataError: the set can't be read.
        """
        loaded = [Teacher.load(Path(folder)) for folder in teachers]
        chosen: Tokenizer | None = None
        if tokenizer is not None:
            chosen = Tokenizer.load(tokenizer)
        elif vocab_size is not None:
            unit = loaded[0].tokenizer.unit
            chosen = prepare(data, vocab_size=vocab_size, unit=unit, quiet=quiet).tokenizer
        found = Student.find(student, chosen, loaded[0].tokenizer)
        dataset = prepare(data, tokenizer=found.tokenizer, quiet=quiet)
        return cls(loaded, found, dataset, k, source=data, quiet=quiet)

    def train(
        self,
        objective: Distillation,
        budget: Budget,
        files: RunFiles,
        compute: Compute,
        *,
        seed: int,
        resume: bool,
        patience: int | None = None,
        overrides: dict[str, Any] | None = None,
        final_bytes: int = FINAL_BYTES,
    ) -> Summary:
        """Train the student. The caller has claimed ``files``.

        Args:
            resume, patience, final_bytes: see `Training`.
            overrides: see `Student.recipe`.

        Returns:
            The summary, as it is written.
        """
        config = self.student.recipe(budget, seed, overrides)
        seconds = self.compute_targets(config, budget, compute)
        return Training(
            *(self.student.shape, config, self.dataset, budget, files, compute),
            source=self.source,
            initial=self.student.initial_model(),
            objective=objective,
            resume=resume,
            patience=patience,
            distillation=self.record(objective, seconds, compute.workers),
            final_bytes=final_bytes,
        ).run()

    def compute_targets(self, config: TrainConfig, budget: Budget, compute: Compute) -> float:
        """Compute the targets that a training will read.

        With a budget in tokens it is known which these are. With one in time a short measurement
        estimates it; if the training gets further, it computes the rest on its way.

        Returns:
            Seconds that the teachers spent on these targets, now or earlier.
        """
        tokens = budget.amount
        if budget.unit == "seconds":
            tokens *= 1.15 * self._student_speed(config, compute)
        blocks = self._blocks_read(config, tokens)
        for teacher in self.teachers:
            teacher.model.compute_dtype = compute.precision.dtype
        title = "teaching" if len(self.teachers) == 1 else "the teachers"
        self.targets.fill(blocks, title, compute.workers)
        totals = self.targets.totals()
        positions = min(len(blocks) * BLOCK, self.targets.positions)
        return totals.seconds * min(1.0, positions / max(totals.positions, 1.0))

    def record(
        self, objective: Distillation, seconds: float, workers: Workers
    ) -> DistillationRecord:
        """Who teaches, and how, for the summary.

        Args:
            seconds: see `compute_targets`.
        """
        student = self.student
        own = student.tokenizer.sha256
        return DistillationRecord(
            teachers=self.teacher_scores(workers),
            student=None if student.folder is None else student.name,
            same_tokenizer=all(teacher.tokenizer.sha256 == own for teacher in self.teachers),
            top_k=self.targets.k,
            temperature=objective.temperature,
            mix=objective.mix,
            teacher_seconds=seconds,
            cache=self.targets.totals(),
        )

    def teacher_scores(self, workers: Workers) -> list[TeacherDescription]:
        """Each teacher and its bits per byte on the validation text, measured once."""
        rows = []
        for teacher in self.teachers:
            path = self.targets.folder / f"teacher-{teacher.sha256[:16]}.json"
            bpb = _cached_score(path)
            if bpb is None:
                begin = time.perf_counter()
                texts = list(first_bytes(self.dataset.documents("valid")))
                bpb = validation_score(teacher.model, teacher.tokenizer, texts, workers).bpb
                write_json(path, {"bpb": bpb, "seconds": time.perf_counter() - begin})
            config = teacher.model.config
            rows.append(
                TeacherDescription(
                    name=teacher.name,
                    family=config.family,
                    params=cost(config).params_total,
                    vocab_size=teacher.tokenizer.vocab_size,
                    sha256=teacher.sha256,
                    bpb=bpb,
                )
            )
        return rows

    def _blocks_read(self, config: TrainConfig, tokens: float) -> NDArray[np.int64]:
        """The blocks of positions that a training reads in so many tokens, rising."""
        blocks = -(-self.targets.positions // BLOCK)
        loader = TokenLoader(
            self.dataset.tokens("train"),
            batch_size=config.batch_size,
            seq_len=config.seq_len,
            seed=config.seed,
        )
        if tokens >= loader.tokens_per_epoch:
            return np.arange(blocks)
        read = np.zeros(blocks, dtype=bool)
        steps = int(-(-tokens // (config.batch_size * config.seq_len)))
        for _ in range(steps):
            read[loader.next_positions()[:, 1:] // BLOCK] = True
        return np.flatnonzero(read)

    def _student_speed(self, config: TrainConfig, compute: Compute) -> float:
        """Tokens a second of the student's training, about."""
        model = LanguageModel(self.student.shape).train()
        model.compute_dtype = compute.precision.dtype
        gradient = BatchGradient(model, config, Objective(), compute.workers, compute.world)
        shape = (config.batch_size, config.seq_len + 1)
        ids = np.random.default_rng(0).integers(0, self.student.shape.vocab_size, shape)
        times = []
        for step in range(SPEED_STEPS):
            begin = time.perf_counter()
            gradient(ids, np.zeros_like(ids), step)
            times.append(time.perf_counter() - begin)
        return config.batch_size * config.seq_len / min(islice(times, 1, None))

    def _warn_of_small_teachers(self) -> None:
        own = cost(self.student.shape).params_total
        for teacher in self.teachers:
            theirs = cost(teacher.model.config).params_total
            if theirs <= own:
                print(
                    f"warning: the teacher '{teacher.name}' has {theirs:,} parameters, the student "
                    f"{own:,}: a smaller teacher seldom helps",
                    file=sys.stderr,
                )


def _cached_score(path: Path) -> float | None:
    """A teacher's bits per byte as they were measured before; None where they weren't."""
    try:
        bpb = json.loads(path.read_text(encoding="utf-8"))["bpb"]
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return float(bpb) if is_number(bpb) else None
