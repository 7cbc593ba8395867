"""The rungs of the ladder: what each is made from, and how.

A rung that is trained is a *stage*: finished when its checkpoint and its summary are there, and
then not done again, unless the ladder's options are others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from itera_lite.config import REFERENCE_VOCABULARY, Family, preset
from itera_lite.data.prepare import Dataset, prepare, prepare_general
from itera_lite.errors import IteraError, UsageError
from itera_lite.files import is_file, read_object, write_json
from itera_lite.train.compute import Compute
from itera_lite.train.recipe import Budget, train_config
from itera_lite.train.run_files import RunFiles
from itera_lite.train.train import run_training

MANY_EPOCHS = 8  # from here on a reference is trained with dropout; at 5 it gains yet without
DROPOUT = 0.1
QUANTIZED = ("q8_0", "q4_0")  # stages that leave a file


@dataclass(frozen=True)
class Plan:
    """What the ladder was asked for.

    Attributes:
        data: the set; ``minutes``: of a training; ``size``: tokens of the small vocabulary.
        student: preset of the shipped model; ``teacher``: a trained one, or None to train it.
        seed: of all trainings; ``suffix`` marks the files of a further seed.
    """

    data: str
    minutes: float
    size: int
    student: str
    teacher: Path | None
    seed: int
    checkpoints: Path
    results: Path
    compute: Compute
    threads: int | None
    final_bytes: int
    overwrite: bool = False  # checkpoints of stages that aren't finished
    evaluations: int = 8  # of a training; the reference's early stopping goes by them

    @property
    def suffix(self) -> str:
        return f"-seed{self.seed}" if self.seed else ""

    def folder(self, stage: str) -> Path:
        """The checkpoint that a stage leaves."""
        return self.checkpoints / f"{stage}{self.suffix}"

    def first(self, stage: str) -> dict[str, Any] | None:
        """The training of the first seed's stage, which a further seed repeats token for token.

        So the seeds differ by their seed, not by how busy the machine was. None for the first
        seed itself, which trains by the clock, and for a stage without a training.
        """
        made = replace(self, seed=0).summary(stage) if self.seed else None
        return None if made is None else made.get("train")

    def budget(self, stage: str, minutes: float) -> dict[str, Any]:
        """How long a verb trains, in its own words."""
        first = self.first(stage)
        return {"minutes": minutes} if first is None else {"tokens": str(first["tokens"])}

    def summary(self, stage: str) -> dict[str, Any] | None:
        """What a finished stage says of itself; None where it isn't finished."""
        path = self.results / f"{stage}{self.suffix}_summary.json"
        if not is_file(path) or not is_file(self.folder(stage) / "model.safetensors"):
            return None
        made = read_object(path, IteraError)
        lacks_file = stage in QUANTIZED and "file" not in (made.get("compress") or {})
        return None if lacks_file else made


@dataclass(frozen=True)
class Stage:
    """A training, or another way to make one checkpoint from others.

    Attributes:
        name: of its files.
        title: in words.
        share: of a training's minutes.
        after: stages whose time is part of its own time to train.
        make: does it.
    """

    name: str
    title: str
    share: float
    after: tuple[str, ...]
    make: Callable[[Plan, float], Any]


def _files(plan: Plan, stage: str) -> RunFiles:
    return RunFiles(f"{stage}{plan.suffix}", plan.checkpoints, plan.results)


def _conventional_set(plan: Plan) -> Dataset:
    return prepare_general(plan.data, REFERENCE_VOCABULARY, quiet=True)


def _train(plan: Plan, stage: str, minutes: float, family: Family, size: str, data: Dataset) -> Any:
    first = plan.first(stage)
    budget, overrides = Budget("seconds", 60 * minutes), {}
    if first is not None:
        budget, overrides = Budget("tokens", first["tokens"]), {"batch_size": first["batch_size"]}
    shape = preset(family, size, data.tokenizer.vocab_size)
    if family == "gpt2" and _expected_epochs(plan, shape, minutes, data) > MANY_EPOCHS:
        shape = shape.replace(dropout=DROPOUT)
    files = _files(plan, stage)
    resume = files.resumable
    with files.claimed(resume=resume, overwrite=plan.overwrite and not resume):
        return run_training(
            shape,
            train_config(shape, budget, overrides, plan.seed),
            data,
            budget,
            files,
            plan.compute,
            source=plan.data,
            resume=resume,
            evaluations=plan.evaluations,
            final_bytes=plan.final_bytes,
        )


def _expected_epochs(plan: Plan, shape: Any, minutes: float, data: Dataset) -> float:
    """Passes over the text in the time, at half of the machine's peak."""
    from itera_lite.model.cost import cost

    flops = 0.5 * plan.compute.precision.peak * 60 * minutes
    return flops / cost(shape).flops_train / data.n_tokens("train")


def _reference(size: str) -> Callable[[Plan, float], Any]:
    def make(plan: Plan, minutes: float) -> Any:
        return _train(plan, size, minutes, "gpt2", size, _conventional_set(plan))

    return make


def _transformer(plan: Plan, minutes: float) -> Any:
    return _train(plan, "transformer", minutes, "transformer", "tiny", _conventional_set(plan))


def _itera(plan: Plan, minutes: float) -> Any:
    return _train(plan, "itera", minutes, "itera", "tiny", _conventional_set(plan))


def _teacher(plan: Plan, minutes: float) -> Any:
    data = prepare(plan.data, vocab_size=plan.size, quiet=True)
    return _train(plan, "teacher", minutes, "itera", "small", data)


def _vocabulary(plan: Plan, minutes: float) -> Any:
    from itera_lite.commands.compress_vocab import vocab

    return vocab(
        plan.folder("itera"),
        data=plan.data,
        size=plan.size,
        **plan.budget("vocabulary", minutes),
        **_common(plan, "vocabulary"),
    )


def _distilled(plan: Plan, minutes: float) -> Any:
    from itera_lite.commands.compress_distill import distill

    return distill(
        teacher=[plan.teacher or replace(plan, seed=0).folder("teacher")],
        student=plan.student,
        data=plan.data,
        **plan.budget("distilled", minutes),
        **_common(plan, "distilled"),
    )


def _quantized(kind: Literal["q8_0", "q4_0"]) -> Callable[[Plan, float], Any]:
    def make(plan: Plan, minutes: float) -> Any:
        from itera_lite.commands.compress_quantize import quantize

        return quantize(
            plan.folder("distilled"),
            type=kind,
            data=plan.data,
            **(plan.budget(kind, minutes) if minutes else {}),
            **_common(plan, kind),
        )

    return make


def _common(plan: Plan, stage: str) -> dict[str, Any]:
    files = _files(plan, stage)
    return {
        "seed": plan.seed,
        "name": files.name,
        "resume": files.resumable,
        "overwrite": plan.overwrite and not files.resumable,
        "threads": plan.threads,
        "quiet": plan.compute.quiet,
        "checkpoints": plan.checkpoints,
        "results": plan.results,
    }


STAGES = (
    Stage("transformer", "a strong Transformer", 1, (), _transformer),
    Stage("itera", "the Itera architecture", 1, (), _itera),
    Stage("vocabulary", "a smaller vocabulary", 0.4, ("itera",), _vocabulary),
    Stage("teacher", "the teacher", 2, (), _teacher),
    Stage("distilled", "distillation", 2, ("teacher",), _distilled),
    Stage("q8_0", "8-bit weights", 0, ("distilled",), _quantized("q8_0")),
    Stage("q4_0", "4-bit weights", 0.5, ("distilled",), _quantized("q4_0")),
)


def shipped_share() -> float:
    """Trainings that the shipped artifact takes in all, its teacher's among them.

    A reference gets as long.
    """
    return sum(s.share for s in STAGES if s.name in ("teacher", "distilled", "q4_0"))


# GPT-2 models of two sizes: whichever is better on the validation text is rung 0.
REFERENCES = tuple(
    Stage(size, title, shipped_share(), (), _reference(size))
    for size, title in (
        ("reference", "the conventional reference"),
        ("reference_small", "a smaller reference"),
    )
)


def chosen_reference(plan: Plan) -> str:
    """The stage of the better reference of the first seed."""
    first = replace(plan, seed=0)
    made = {stage.name: first.summary(stage.name) for stage in REFERENCES}
    return min(
        (name for name, summary in made.items() if summary),
        key=lambda name: float((made[name] or {})["valid"]["bpb"]),
    )


def stages(plan: Plan) -> Iterator[tuple[Stage, float]]:
    """Every stage in order, with its minutes: the references first.

    Of a further seed the chosen reference alone; and the first seed's teacher teaches every seed.
    """
    for stage in (*REFERENCES, *STAGES):
        if stage.name == "teacher" and (plan.teacher is not None or plan.seed):
            continue
        if plan.seed and stage in REFERENCES and stage.name != chosen_reference(plan):
            continue
        yield stage, stage.share * plan.minutes


def _options(plan: Plan, stage: Stage) -> dict[str, Any]:
    """What a stage depends on, of what the ladder was asked for."""
    options: dict[str, Any] = {"data": plan.data, "minutes": plan.minutes}
    if stage.name in ("vocabulary", "teacher", "distilled", "q8_0", "q4_0"):
        options["size"] = plan.size
    if stage.name in ("distilled", "q8_0", "q4_0"):
        options["student"] = plan.student
        options["teacher"] = None if plan.teacher is None else str(plan.teacher)
    return options


def note_options(plan: Plan, stage: Stage) -> None:
    """Write into a stage's summary what it was made with, for `is_finished`."""
    summary = plan.summary(stage.name)
    if summary is not None:
        write_json(
            _files(plan, stage.name).summary,
            summary | {"ladder": _options(plan, stage)},
        )


def is_finished(plan: Plan, stage: Stage) -> bool:
    """Whether a stage needn't be made again: it was made, and with the options of ``plan``.

    Raises:
        UsageError: it was made with other options, and nobody asked to replace it.
    """
    summary = plan.summary(stage.name)
    if summary is None:
        return False
    wanted = _options(plan, stage)
    made = summary.get("ladder", wanted)  # earlier versions didn't write it
    differing = [f"--{key} {made.get(key)}" for key in wanted if made.get(key) != wanted[key]]
    if not differing:
        return True
    if not plan.overwrite:
        raise UsageError(
            f"'{plan.folder(stage.name)}' is finished, and was made with {', '.join(differing)}. "
            "Give the same options, other folders with --checkpoints and --results, or --overwrite "
            "to make it again"
        )
    return False


def discard(plan: Plan, stage: Stage) -> None:
    """Remove what a stage that was made with other options has left."""
    if plan.summary(stage.name) is not None:
        _files(plan, stage.name).discard()


def minutes_of(summary: dict[str, Any]) -> float:
    """Minutes that a stage took by itself: training, and what its teachers had to read for it."""
    trained = (summary.get("train") or {}).get("seconds") or 0.0
    taught = (summary.get("distillation") or {}).get("teacher_seconds") or 0.0
    return (float(trained) + float(taught)) / 60
