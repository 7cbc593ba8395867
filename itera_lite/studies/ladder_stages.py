"""The stages of the ladder: the checkpoints that its rungs are measured on, and how each is made.

A stage is finished when its checkpoint and its summary are there. Then it isn't made again, unless
the ladder's options are others. Stages that are compared with each other train in turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from msgspec.structs import asdict

from itera_lite.compress.quantize import QuantizeOptions, Type, quantize, usual_method
from itera_lite.compress.start import Job, Start, TextOptions
from itera_lite.compress.vocabulary import resize
from itera_lite.config import REFERENCE_VOCABULARY, Family, ModelConfig, preset
from itera_lite.data.prepare import Dataset, prepare, prepare_general
from itera_lite.distill.objective import TOP_K, Distillation
from itera_lite.distill.plan import DistillationPlan
from itera_lite.errors import UsageError
from itera_lite.files import is_file
from itera_lite.model.cost import cost
from itera_lite.records import LadderOptions, Summary, TrainingRun
from itera_lite.train.compute import Compute
from itera_lite.train.recipe import Budget, train_config
from itera_lite.train.run_files import RunFiles, refuse_input
from itera_lite.train.train import Training, run_trainings

MANY_EPOCHS = 8  # from here on a reference is trained with dropout; at 5 it gains without
DROPOUT = 0.1
QUANTIZED = ("q8_0", "q4_0")  # stages that leave a GGUF file


@dataclass(frozen=True)
class LadderPlan:
    """The options of a ladder, for one seed.

    Attributes:
        data: set or path.
        minutes: of a training.
        size: tokens of the small vocabulary.
        student: preset of the deployed model.
        teacher: a trained one; None to train it.
        seed: of all trainings.
        valid_bytes: of validation text for a training's last score.
        overwrite: replace checkpoints of stages that aren't finished.
        evaluations: of a training; the reference's early stopping depends on them.
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
    valid_bytes: int
    overwrite: bool = False
    evaluations: int = 8

    def files(self, stage: str) -> RunFiles:
        """Files of a stage; those of a further seed have its number in their name."""
        suffix = f"-seed{self.seed}" if self.seed else ""
        return RunFiles(f"{stage}{suffix}", self.checkpoints, self.results)

    def folder(self, stage: str) -> Path:
        """The checkpoint that a stage leaves."""
        return self.files(stage).best

    def weights(self, stage: str) -> Path:
        """The file of weights that a stage leaves to be deployed."""
        name = f"model-{stage}.gguf" if stage in QUANTIZED else "model.safetensors"
        return self.folder(stage) / name

    def first(self, stage: str) -> TrainingRun | None:
        """The training of the first seed's stage, which a further seed repeats token for token.

        So the seeds differ by their seed, not by how busy the machine was. None for the first
        seed itself, whose budget is in time, and for a stage without a training.
        """
        made = replace(self, seed=0).summary(stage) if self.seed else None
        return None if made is None else made.training

    def budget(self, stage: str, minutes: float) -> Budget:
        first = self.first(stage)
        if first is None:
            return Budget("seconds", 60 * minutes)
        return Budget("tokens", first.tokens)

    def text(self, stage: str, minutes: float) -> TextOptions:
        """The same budget, as ways to compress take it."""
        first, resume = self.first(stage), self.files(stage).resumable
        if first is None:
            return TextOptions(self.data, minutes, seed=self.seed, resume=resume)
        return TextOptions(self.data, None, str(first.tokens), self.seed, resume)

    @contextmanager
    def claimed(self, stage: str) -> Iterator[tuple[RunFiles, bool]]:
        """Hold a stage's files; gives them, and whether a stopped training goes on."""
        files = self.files(stage)
        resume = files.resumable
        with files.claimed(resume=resume, overwrite=self.overwrite and not resume):
            yield files, resume

    def summary(self, stage: str) -> Summary | None:
        """The summary of a finished stage; None where it isn't finished.

        Raises:
            IteraError: it is damaged.
        """
        path = self.files(stage).summary
        parts = (path, self.folder(stage) / "model.safetensors", self.weights(stage))
        return Summary.read(path) if all(map(is_file, parts)) else None


Make = Callable[[LadderPlan, float], Summary]


@dataclass(frozen=True)
class FromScratch:
    """A training from random weights; the teacher's set has the small vocabulary."""

    family: Family
    size: str = "tiny"

    def training(
        self, plan: LadderPlan, stage: str, minutes: float, files: RunFiles, resume: bool
    ) -> Training:
        """The training of a stage, for files that are claimed."""
        if stage == "teacher":
            data = prepare(plan.data, vocab_size=plan.size, quiet=True)
        else:
            data = prepare_general(plan.data, REFERENCE_VOCABULARY, quiet=True)
        first, budget = plan.first(stage), plan.budget(stage, minutes)
        shape = preset(self.family, self.size, data.tokenizer.vocab_size)
        overrides: dict[str, Any] = {} if first is None else {"batch_size": first.batch_size}
        if self.family == "gpt2" and _expected_epochs(plan, shape, minutes, data) > MANY_EPOCHS:
            overrides["dropout"] = DROPOUT
        return Training(
            *(shape, train_config(shape, budget, overrides, plan.seed), data, budget),
            *(files, plan.compute),
            source=plan.data,
            resume=resume,
            evaluations=plan.evaluations,
            final_bytes=plan.valid_bytes,
        )


@dataclass(frozen=True)
class Stage:
    """A training, or another way to make one checkpoint from others.

    Attributes:
        name: of its files.
        title: in words.
        share: of a training's minutes.
        after: stages whose time is part of its own time to train.
        make: makes it in a number of minutes; gives the summary.
        group: stages of one group are compared with each other: they train in turns.
    """

    name: str
    title: str
    share: float
    after: tuple[str, ...]
    make: Make | FromScratch
    group: str | None = None


def _expected_epochs(plan: LadderPlan, shape: ModelConfig, minutes: float, data: Dataset) -> float:
    """Passes over the text in the time, at half of the machine's peak."""
    flops = 0.5 * plan.compute.precision.peak * 60 * minutes
    return flops / cost(shape).flops_train / data.n_tokens("train")


def _vocabulary(plan: LadderPlan, minutes: float) -> Summary:
    start = Start.load(plan.folder("itera"))
    with plan.claimed("vocabulary") as (files, _):
        job = Job(start, plan.text("vocabulary", minutes), plan.compute, files)
        return resize(job, plan.size)


def _distilled(plan: LadderPlan, minutes: float) -> Summary:
    teacher = plan.teacher or replace(plan, seed=0).folder("teacher")
    quiet = plan.compute.quiet
    teaching = DistillationPlan.find([teacher], plan.student, plan.data, TOP_K, quiet=quiet)
    refuse_input(plan.files("distilled"), teacher)
    with plan.claimed("distilled") as (files, resume):
        return teaching.train(
            *(Distillation(teaching.targets), plan.budget("distilled", minutes), files),
            plan.compute,
            seed=plan.seed,
            resume=resume,
        )


def _quantized(kind: Type) -> Make:
    def make(plan: LadderPlan, minutes: float) -> Summary:
        start = Start.load(plan.folder("distilled"))
        text = plan.text(kind, minutes)
        options = QuantizeOptions(kind, usual_method(kind, text))
        with plan.claimed(kind) as (files, _):
            return quantize(Job(start, text, plan.compute, files), options)

    return make


STAGES = (
    Stage("transformer", "a strong Transformer", 1, (), FromScratch("transformer"), "tiny"),
    Stage("itera", "the Itera architecture", 1, (), FromScratch("itera"), "tiny"),
    Stage("vocabulary", "a smaller vocabulary", 0.4, ("itera",), _vocabulary),
    Stage("teacher", "the teacher", 2, (), FromScratch("itera", "small")),
    Stage("distilled", "distillation", 2, ("teacher",), _distilled),
    Stage("q8_0", "8-bit weights", 0, ("distilled",), _quantized("q8_0")),
    Stage("q4_0", "4-bit weights", 0.5, ("distilled",), _quantized("q4_0")),
)


# GPT-2 models of two sizes: the better one on the validation text is the first rung. A reference is
# trained for as long as the deployed model, its teacher and its rounding together.
DEPLOYED_SHARE = sum(s.share for s in STAGES if s.name in ("teacher", "distilled", "q4_0"))
REFERENCES = tuple(
    Stage(size, title, DEPLOYED_SHARE, (), FromScratch("gpt2", size), "references")
    for size, title in (
        ("reference", "the conventional reference"),
        ("reference_small", "a smaller reference"),
    )
)


def chosen_reference(plan: LadderPlan) -> str:
    """The stage of the better reference of the first seed."""
    first = replace(plan, seed=0)
    made = {stage.name: first.summary(stage.name) for stage in REFERENCES}
    scores = {name: each.valid.bpb for name, each in made.items() if each and each.valid}
    return min(scores, key=lambda name: scores[name])


def stages(plan: LadderPlan) -> Iterator[tuple[Stage, float]]:
    """Every stage in order, with its minutes: the references first.

    Of a further seed the chosen reference alone; and the first seed's teacher teaches every seed.
    """
    for stage in (*REFERENCES, *STAGES):
        if stage.name == "teacher" and (plan.teacher is not None or plan.seed):
            continue
        if plan.seed and stage in REFERENCES and stage.name != chosen_reference(plan):
            continue
        yield stage, stage.share * plan.minutes


def _options(plan: LadderPlan, stage: Stage) -> LadderOptions:
    """Those of the ladder's options that a stage depends on."""
    options = LadderOptions(plan.data, plan.minutes)
    if stage.name in ("vocabulary", "teacher", "distilled", *QUANTIZED):
        options.size = plan.size
    if stage.name in ("distilled", *QUANTIZED):
        options.student = plan.student
        options.teacher = None if plan.teacher is None else str(plan.teacher)
    return options


def groups(plan: LadderPlan) -> Iterator[list[tuple[Stage, float]]]:
    """`stages`, those together that train in turns."""
    for _, found in groupby(stages(plan), lambda each: each[0].group or each[0].name):
        yield list(found)


def make(plan: LadderPlan, group: Sequence[tuple[Stage, float]]) -> list[Summary]:
    """Make the stages of a group, in the place of what other options have left.

    The options that a stage was made with go into its summary, for `is_finished`.

    Args:
        group: stages with their minutes.

    Returns:
        Their summaries.
    """
    for stage, _ in group:
        discard(plan, stage)
    summaries = []
    with ExitStack() as stack:
        trainings = []
        for stage, minutes in group:
            if isinstance(stage.make, FromScratch):
                files, resume = stack.enter_context(plan.claimed(stage.name))
                trainings.append(stage.make.training(plan, stage.name, minutes, files, resume))
            else:
                summaries.append(stage.make(plan, minutes))
        summaries += run_trainings(trainings)
    for (stage, _), summary in zip(group, summaries, strict=True):
        summary.ladder = _options(plan, stage)
        summary.write(plan.files(stage.name).summary)
    return summaries


def is_finished(plan: LadderPlan, stage: Stage) -> bool:
    """Whether a stage was made, with the options of ``plan``.

    Raises:
        UsageError: it was made with other options, and ``plan.overwrite`` isn't set.
    """
    summary = plan.summary(stage.name)
    if summary is None:
        return False
    wanted = asdict(_options(plan, stage))
    made = wanted if summary.ladder is None else asdict(summary.ladder)
    differing = [f"--{key} {made[key]}" for key in wanted if made[key] != wanted[key]]
    if not differing:
        return True
    if not plan.overwrite:
        raise UsageError(
            f"'{plan.folder(stage.name)}' is finished, and was made with {', '.join(differing)}. "
            "Give the same options, other folders with --checkpoints and --results, or --overwrite "
            "to make it again"
        )
    return False


def discard(plan: LadderPlan, stage: Stage) -> None:
    """Remove the files of a finished stage."""
    if plan.summary(stage.name) is not None:
        plan.files(stage.name).discard()


def minutes_of(summary: Summary) -> float:
    """Minutes that a stage took by itself: its training, and its teachers' targets."""
    trained = summary.training.seconds if summary.training else 0.0
    taught = summary.distillation.teacher_seconds if summary.distillation else 0.0
    return (trained + taught) / 60
