"""Who teaches whom, and on what: checked, and prepared as far as a budget needs it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from itera_lite.checkpoint.folder import load_checkpoint
from itera_lite.config import PRESETS, ModelConfig, TrainConfig, preset
from itera_lite.data.loader import TokenLoader
from itera_lite.data.prepare import Dataset, prepare
from itera_lite.data.tokenizer import Tokenizer
from itera_lite.distill.cache import BLOCK, SoftTargets
from itera_lite.distill.objective import Distillation
from itera_lite.distill.teacher import Teacher
from itera_lite.errors import UsageError
from itera_lite.evaluate.bits import first_bytes, validation_score
from itera_lite.files import exists, folder_name, is_folder, write_json
from itera_lite.model import LanguageModel
from itera_lite.model.cost import cost
from itera_lite.quantities import finite_number, number_of
from itera_lite.stats.comparison import is_number
from itera_lite.train.compute import Compute
from itera_lite.train.recipe import Budget, fit_to, gentle, train_config

GO_ON_RATE = 0.3  # of the learning rates, for a student that is trained already
SPEED_STEPS = 5  # that measure how far a budget in minutes will get


@dataclass(frozen=True)
class Student:
    """What is taught: a shape, its tokenizer, and the weights that it begins with, if any."""

    name: str
    shape: ModelConfig
    tokenizer: Tokenizer
    folder: Path | None = None

    @classmethod
    def find(cls, wanted: str, tokenizer: Tokenizer | None, fallback: Tokenizer) -> Student:
        """A checkpoint's folder, a preset, or a number of parameters.

        Args:
            tokenizer: what was asked for; None: ``fallback``, or the checkpoint's own.

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
            return cls(folder_name(folder), model.config, own, folder)
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

    def begin(self) -> LanguageModel | None:
        """The model to begin with; None: random weights."""
        return None if self.folder is None else load_checkpoint(self.folder)[0]

    def recipe(self, budget: Budget, seed: int) -> TrainConfig:
        """How it is trained: a trained one at `GO_ON_RATE` of the learning rates."""
        if self.folder is not None:
            return gentle(self.shape, budget, GO_ON_RATE, seed)
        return train_config(self.shape, budget, {}, seed)


class Lesson:
    """Teachers, a student and a set, and the teachers' cached words for it.

    Raises:
        UsageError: teachers and student can't be told apart.
        CheckpointError: a teacher or student that can't be loaded.
    """

    def __init__(
        self,
        teachers: Sequence[Path],
        student: str,
        data: str,
        *,
        k: int,
        tokenizer: Path | None = None,
        vocab_size: int | None = None,
        quiet: bool = False,
    ) -> None:
        if not teachers:
            raise UsageError("expected a --teacher: a checkpoint's folder; several are averaged")
        if k < 1:
            raise UsageError(f"--top-k {k}: expected 1 or more")
        if tokenizer is not None and vocab_size is not None:
            raise UsageError("--tokenizer has its own vocabulary: leave out --vocab-size")
        self.teachers = [Teacher.load(Path(folder)) for folder in teachers]
        asked: Tokenizer | None = None
        if tokenizer is not None:
            asked = Tokenizer.load(tokenizer)
        elif vocab_size is not None:
            asked = prepare(data, vocab_size=vocab_size, quiet=quiet).tokenizer
        self.student = Student.find(student, asked, self.teachers[0].tokenizer)
        self.dataset: Dataset = prepare(data, tokenizer=self.student.tokenizer, quiet=quiet)
        self.spec, self.quiet = data, quiet
        self.targets = SoftTargets(self.teachers, self.dataset, k, quiet=quiet)
        self._warn()

    def objective(self, temperature: float, mix: float) -> Distillation:
        finite_number("temperature", temperature, above=0)
        finite_number("mix", mix, above=0, most=1)  # of 0 the teacher has no say
        return Distillation(self.targets, temperature, mix)

    def prepare_for(self, config: TrainConfig, budget: Budget, compute: Compute) -> float:
        """Fill the cache for a run, before it, so that the run's clock is the student's alone.

        Only what the run will see is filled: with a budget in tokens that is known, with one
        in time a short measurement says it, and a student that gets further asks on its way.

        Returns:
            Seconds that the teachers spent on what this run sees, now or earlier.
        """
        tokens = budget.amount
        if budget.unit == "seconds":
            tokens *= 1.15 * self._speed(config, compute)
        blocks = self._seen(config, tokens)
        for teacher in self.teachers:
            teacher.model.compute_dtype = compute.precision.dtype
        self.targets.fill(blocks, "teaching" if len(self.teachers) == 1 else "the teachers")
        spent = self.targets.spent()
        positions = min(len(blocks) * BLOCK, self.targets.positions)
        return spent["seconds"] * min(1.0, positions / max(spent["positions"], 1.0))

    def notes(self, objective: Distillation, seconds: float) -> dict[str, Any]:
        """What the summary says about the teaching."""
        spent = self.targets.spent()
        return {
            "distillation": {
                "teachers": self._scores(),
                "student": None if self.student.folder is None else self.student.name,
                "same_tokenizer": all(
                    t.tokenizer.sha256 == self.student.tokenizer.sha256 for t in self.teachers
                ),
                "k": self.targets.k,
                "temperature": objective.temperature,
                "mix": objective.mix,
                "teacher_seconds": seconds,
                "cache": {**spent, "disk_bytes": self.targets.disk_bytes},
            }
        }

    def _scores(self) -> list[dict[str, Any]]:
        """Each teacher and its quality on the validation text, measured once."""
        rows = []
        for teacher in self.teachers:
            path = self.targets.folder / f"teacher-{teacher.sha256[:16]}.json"
            bpb = _known_score(path)
            if bpb is None:
                begin = time.perf_counter()
                texts = list(first_bytes(self.dataset.documents("valid")))
                bpb = validation_score(teacher.model, teacher.tokenizer, texts).bpb
                write_json(path, {"bpb": bpb, "seconds": time.perf_counter() - begin})
            rows.append(
                {
                    "name": folder_name(teacher.folder),
                    "family": teacher.model.config.family,
                    "params": cost(teacher.model.config).params_total,
                    "vocab_size": teacher.tokenizer.vocab_size,
                    "sha256": teacher.sha256,
                    "bpb": bpb,
                }
            )
        return rows

    def _seen(self, config: TrainConfig, tokens: float) -> NDArray[np.int64]:
        """The blocks that a run of so many tokens sees, rising."""
        blocks = -(-self.targets.positions // BLOCK)
        loader = TokenLoader(
            self.dataset.tokens("train"),
            batch_size=config.batch_size,
            seq_len=config.seq_len,
            seed=config.seed,
        )
        if tokens >= loader.tokens_per_epoch:
            return np.arange(blocks)
        seen = np.zeros(blocks, dtype=bool)
        steps = int(-(-tokens // (config.batch_size * config.seq_len)))
        for _ in range(steps):
            seen[loader.next_positions()[:, 1:] // BLOCK] = True
        return np.flatnonzero(seen)

    def _speed(self, config: TrainConfig, compute: Compute) -> float:
        """Tokens a second of the student's training, about."""
        model = LanguageModel(self.student.shape).train()
        model.compute_dtype = compute.precision.dtype
        shape = (config.batch_size, config.seq_len + 1)
        ids = torch.randint(0, self.student.shape.vocab_size, shape)
        times = []
        for _ in range(SPEED_STEPS):
            begin = time.perf_counter()
            model.loss(ids[:, :-1], ids[:, 1:]).total.backward()
            times.append(time.perf_counter() - begin)
        return config.batch_size * config.seq_len / min(islice(times, 1, None))

    def _warn(self) -> None:
        """Say what is possible but seldom meant."""
        own = cost(self.student.shape).params_total
        for teacher in self.teachers:
            theirs = cost(teacher.model.config).params_total
            if theirs <= own:
                print(
                    f"warning: the teacher '{folder_name(teacher.folder)}' has {theirs:,} "
                    f"parameters, the student {own:,}: a smaller teacher seldom helps",
                    file=sys.stderr,
                )


def _known_score(path: Path) -> float | None:
    """A teacher's bits per byte as they were measured before; None where they weren't."""
    try:
        bpb = json.loads(path.read_text(encoding="utf-8"))["bpb"]
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return float(bpb) if is_number(bpb) else None
