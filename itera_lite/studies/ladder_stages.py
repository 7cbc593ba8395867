"""The stages of the ladder: the checkpoints that its rungs are measured on, and how each is made.

A stage is finished when its checkpoint and its summary are there. Then it isn't made again. One
that was made or begun with other settings than those asked for is refused, or made again where that
is asked for. Stages that are compared with each other train in turns.

The deployed model is a student that a teacher taught, or one that was trained alone for the time of
both: the better one on the validation text. A teacher that isn't better than the latter teaches
nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any

from itera_lite.checkpoint.folder import load_checkpoint
from itera_lite.checkpoint.weights import weight_files
from itera_lite.compress.quantize import QuantizeOptions, Type, quantize, usual_method
from itera_lite.compress.start import Job, Start, TextOptions
from itera_lite.compress.vocabulary import resize
from itera_lite.config import PRESETS, REFERENCE_VOCABULARY, Family, preset
from itera_lite.data.corpus import locate
from itera_lite.data.prepare import prepare, prepare_general
from itera_lite.data.tokenizer import Tokenizer
from itera_lite.distill.objective import TOP_K, Distillation
from itera_lite.distill.plan import DistillationPlan
from itera_lite.distill.student import Student
from itera_lite.evaluate.bits import first_bytes, validation_score
from itera_lite.files import is_file, write_json
from itera_lite.records import LadderOptions, Summary, TrainingRun
from itera_lite.studies.unfinished import Settings, read_settings, refuse_other_settings
from itera_lite.train.compute import Compute
from itera_lite.train.recipe import Budget, train_config
from itera_lite.train.run_files import RunFiles, refuse_input
from itera_lite.train.train import Training, run_trainings

MANY_EPOCHS = 8  # from here on a reference is trained with dropout; at 5 it gains without
DROPOUT = 0.1
# Stages that leave a GGUF file, and its name.
QUANTIZED = {
    "q8_0": "model-q8_0.gguf",
    "q4_0": "model-q4_0.gguf",
    "few_levels": "model-q4_0.gguf.gz",
}
LEVELS = 15  # of Q4_0's 16, in the last stage


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
        return self.folder(stage) / QUANTIZED.get(stage, "model.safetensors")

    def first(self, stage: str) -> TrainingRun | None:
        """The training of the first seed's stage, which a further seed repeats token for token.

        So the seeds differ by their seed, not by how busy the machine was. None for the first
        seed itself, whose budget is in time, and for a stage without a training.
        """
        made = replace(self, seed=0).summary(stage) if self.seed else None
        return None if made is None else made.training

    def overrides(self, stage: str) -> dict[str, Any]:
        """Settings of a further seed's training that would follow from its budget in tokens: those
        of the first seed's, whose budget is in time."""
        first = self.first(stage)
        keys = ("batch_size", "lr_matrix", "lr_embedding", "lr_other")
        return {} if first is None else {key: getattr(first, key) for key in keys}

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
        overrides = self.overrides(stage)
        return TextOptions(self.data, None, str(first.tokens), self.seed, resume, overrides)

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
        budget = plan.budget(stage, minutes)
        shape = preset(self.family, self.size, data.tokenizer.vocab_size)
        overrides = plan.overrides(stage)
        if self.family == "gpt2":
            tokens = Budget("seconds", 60 * minutes).tokens(shape)
            if tokens / data.n_tokens("train") > MANY_EPOCHS:
                overrides |= {"dropout": DROPOUT}
        return Training(
            *(shape, train_config(shape, budget, overrides, plan.seed), data, budget),
            *(files, plan.compute),
            source=plan.data,
            resume=resume,
            evaluations=plan.evaluations,
            final_bytes=plan.valid_bytes,
        )


@dataclass(frozen=True)
class StudentAlone:
    """The deployed model's training without a teacher."""

    def training(
        self, plan: LadderPlan, stage: str, minutes: float, files: RunFiles, resume: bool
    ) -> Training:
        """As `FromScratch.training`."""
        if plan.teacher is None:
            tokenizer = prepare(plan.data, vocab_size=plan.size, quiet=True).tokenizer
        else:
            tokenizer = Tokenizer.load(plan.teacher)
        student = Student.find(plan.student, None, tokenizer)
        budget = plan.budget(stage, minutes)
        return Training(
            student.shape,
            student.recipe(budget, plan.seed, plan.overrides(stage)),
            prepare(plan.data, tokenizer=student.tokenizer, quiet=True),
            *(budget, files, plan.compute),
            source=plan.data,
            initial=student.initial_model(),
            resume=resume,
            final_bytes=plan.valid_bytes,
        )


@dataclass(frozen=True)
class Stage:
    """A training, or another way to make one checkpoint from others.

    Attributes:
        name: of its files.
        title: in words.
        share: of a training's minutes.
        after: stages that it is made from, whose time is part of its own time to train; of several
            students the chosen one.
        make: makes it in a number of minutes; gives the summary.
        group: stages of one group are compared with each other: they train in turns.
    """

    name: str
    title: str
    share: float
    after: tuple[str, ...]
    make: Make | FromScratch | StudentAlone
    group: str | None = None

    def parents(self, plan: LadderPlan) -> tuple[str, ...]:
        """The stages that it is made from."""
        return (chosen_student(plan),) if self.after == STUDENTS else self.after


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
            overrides=plan.overrides("distilled"),
            final_bytes=plan.valid_bytes,
        )


def _quantized(stage: str, kind: Type, levels: int | None = None) -> Make:
    """Rounds the student; with few ``levels``, into a compressed file."""

    def make(plan: LadderPlan, minutes: float) -> Summary:
        start = Start.load(plan.folder(chosen_student(plan)))
        text = plan.text(stage, minutes)
        options = QuantizeOptions(
            kind,
            usual_method(kind, text),
            levels=levels,
            format="gguf.gz" if levels else "gguf",
        )
        with plan.claimed(stage) as (files, _):
            return quantize(Job(start, text, plan.compute, files), options)

    return make


STUDENTS = ("distilled", "alone")
TAUGHT = ("teacher", "distilled")
STAGES = (
    Stage("transformer", "a strong Transformer", 1, (), FromScratch("transformer"), "tiny"),
    Stage("itera", "the Itera architecture", 1, (), FromScratch("itera"), "tiny"),
    Stage("vocabulary", "a smaller vocabulary", 0.4, ("itera",), _vocabulary),
    Stage("teacher", "the teacher", 2, (), FromScratch("itera", "small"), "student"),
    Stage("alone", "a small model", 4, (), StudentAlone(), "student"),
    Stage("distilled", "distillation", 2, ("teacher",), _distilled),
    Stage("q8_0", "8-bit weights", 0, STUDENTS, _quantized("q8_0", "q8_0")),
    Stage("q4_0", "4-bit weights", 0.5, STUDENTS, _quantized("q4_0", "q4_0")),
    Stage(
        "few_levels",
        f"{LEVELS} levels, compressed",
        2,
        STUDENTS,
        _quantized("few_levels", "q4_0", LEVELS),
    ),
)
DEPLOYED = STAGES[-1].name


# GPT-2 models of three sizes: the best one on the validation text is the first rung. A reference is
# trained for as long as the deployed model, its teacher and its rounding together.
DEPLOYED_SHARE = sum(s.share for s in STAGES if s.name in (*TAUGHT, DEPLOYED))
REFERENCES = tuple(
    Stage(size, title, DEPLOYED_SHARE, (), FromScratch("gpt2", size), "references")
    for size, title in (
        ("reference", "the conventional reference"),
        ("reference_medium", "a medium reference"),
        ("reference_small", "a smaller reference"),
    )
)


def chosen_reference(plan: LadderPlan) -> str:
    """The stage of the best reference of the first seed."""
    return _best(plan, [stage.name for stage in REFERENCES])


def chosen_student(plan: LadderPlan) -> str:
    """The stage of the first seed's better student: taught, or trained alone."""
    return _best(plan, STUDENTS if teacher_is_better(plan) else ["alone"])


def _best(plan: LadderPlan, names: Sequence[str]) -> str:
    """The stage of the first seed with the fewest bits per byte on the validation text."""
    scores = {name: bpb for name in names if (bpb := valid_bpb(plan, name)) is not None}
    return min(scores, key=lambda name: scores[name])


def valid_bpb(plan: LadderPlan, stage: str) -> float | None:
    """Bits per byte of the first seed's stage on the validation text; None: not finished."""
    made = replace(plan, seed=0).summary(stage)
    return made.valid.bpb if made and made.valid else None


def teacher_bpb(plan: LadderPlan) -> float | None:
    """The teacher's bits per byte on the validation text; None: not finished."""
    if plan.teacher is None:
        return valid_bpb(plan, "teacher")
    path = plan.results / ".teacher_valid"
    key = {"--data": plan.data, "bytes": plan.valid_bytes}
    key["weights"] = [_hash(file) for file in weight_files(plan.teacher)]
    known = read_settings(path)
    if known is None or any(known.get(name) != value for name, value in key.items()):
        model, tokenizer = load_checkpoint(plan.teacher)
        texts = prepare(plan.data, tokenizer=tokenizer, quiet=True).documents("valid")
        texts = first_bytes(texts, plan.valid_bytes)
        known = {**key, "bpb": validation_score(model, tokenizer, texts, plan.compute.workers).bpb}
        write_json(path, known)
    return float(known["bpb"])


def teacher_is_better(plan: LadderPlan) -> bool:
    """Whether the teacher is better than the student that was trained alone, so that it teaches."""
    teacher, alone = teacher_bpb(plan), valid_bpb(plan, "alone")
    return teacher is not None and alone is not None and teacher < alone


def _is_wanted(plan: LadderPlan, stage: Stage) -> bool:
    """Whether a stage is part of the ladder, by those before it that are finished.

    Of a further seed the chosen reference and the chosen student alone; and the first seed's
    teacher teaches every seed.
    """
    if stage.name == "teacher":
        return plan.teacher is None and not plan.seed
    if stage.name in STUDENTS and plan.seed:
        return stage.name == chosen_student(plan)
    if stage.name == "distilled":
        return teacher_is_better(plan)
    return not plan.seed or stage not in REFERENCES or stage.name == chosen_reference(plan)


def share_of(plan: LadderPlan, stage: Stage) -> float:
    """Of a training's minutes: a teacher that was brought along takes no time of the student's."""
    brought = stage.name == "alone" and plan.teacher is not None
    return next(s.share for s in STAGES if s.name == "distilled") if brought else stage.share


def groups(plan: LadderPlan) -> Iterator[list[tuple[Stage, float]]]:
    """Every stage of the ladder with its minutes, the references first; those together that train
    in turns. Which ones a group has follows from those before it, which must be finished."""
    for _, found in groupby((*REFERENCES, *STAGES), lambda each: each.group or each.name):
        wanted = [
            (stage, share_of(plan, stage) * plan.minutes)
            for stage in found
            if _is_wanted(plan, stage)
        ]
        if wanted:
            yield wanted


def _options(plan: LadderPlan, stage: Stage) -> LadderOptions:
    """The settings that a stage depends on."""
    options = LadderOptions(plan.data, plan.minutes, precision=plan.compute.precision.name)
    if isinstance(stage.make, FromScratch):
        options.evaluations = plan.evaluations
    if stage.name in ("vocabulary", "teacher", *STUDENTS, *QUANTIZED):
        options.size = plan.size
    if stage.name in (*STUDENTS, *QUANTIZED):
        options.student = plan.student
        options.teacher = None if plan.teacher is None else str(plan.teacher)
    if (first := plan.first(stage.name)) is not None:
        options.tokens = first.tokens
    for name in stage.parents(plan):
        parent = replace(plan, seed=0) if name == "teacher" else plan
        if name != "teacher" or plan.teacher is None:
            options.made_from[name] = _hash(parent.weights(name))
    return options


def _hash(file: Path) -> str:
    return sha256(file.read_bytes()).hexdigest()[:16]


def _shape(plan: LadderPlan, stage: Stage) -> dict[str, Any]:
    """The fields of a preset that a stage trains; its vocabulary is a setting of the ladder."""
    if isinstance(stage.make, FromScratch):
        shape = preset(stage.make.family, stage.make.size, REFERENCE_VOCABULARY).to_dict()
    elif stage.name in STUDENTS and plan.student in PRESETS:
        shape = preset("itera", plan.student, REFERENCE_VOCABULARY).to_dict()
    else:
        return {}
    del shape["vocab_size"]
    return shape


def _wanted_settings(plan: LadderPlan, stage: Stage) -> Settings:
    levels = LEVELS if stage.name == DEPLOYED else None
    return _settings(_options(plan, stage), _text_of(plan), levels, _shape(plan, stage))


def _text_of(plan: LadderPlan) -> str:
    """The hash of the text that the plan trains on."""
    return _text_hash(plan.data, str(locate(plan.data).fingerprint()))


@lru_cache(maxsize=4)
def _text_hash(data: str, fingerprint: str) -> str:
    """The hash of a set's text, found once while the set's fingerprint stays the same."""
    dataset = prepare_general(data, REFERENCE_VOCABULARY, quiet=True)
    return str(dataset.manifest["sha256"])


def _settings(
    options: LadderOptions, text: str, levels: int | None, shape: Mapping[str, Any]
) -> Settings:
    """By their names on the terminal; and those that another version of this program may have: the
    levels that the weights are rounded to, and the fields of the model's ``shape``.

    Args:
        text: its hash.
    """
    given = {
        f"--{key}": getattr(options, key)
        for key in ("data", "minutes", "size", "student", "teacher", "precision")
    }
    parents = {f"the weights of '{name}'": made for name, made in options.made_from.items()}
    evaluations = {"the number of evaluations (--quick)": options.evaluations}
    others = {
        "the first seed's tokens": options.tokens,
        "the number of levels": levels,
        "the hash of the text": text[:16],
    }
    fields = {f"the model's {field}": value for field, value in shape.items()}
    return {**given, **evaluations, **others, **parents, **fields}


def _begun(plan: LadderPlan, stage: Stage) -> Path:
    """The file with the settings of a stage that isn't finished."""
    return plan.results / f".{plan.files(stage.name).name}.settings"


def make(plan: LadderPlan, group: Sequence[tuple[Stage, float]]) -> list[Summary]:
    """Make the stages of a group, in the place of what other settings have left.

    The settings that a stage was made with go into its summary, for `is_finished`.

    Args:
        group: stages with their minutes.

    Returns:
        Their summaries.
    """
    options = {stage.name: _options(plan, stage) for stage, _ in group}
    for stage, _ in group:
        discard(plan, stage)
        write_json(_begun(plan, stage), dict(_wanted_settings(plan, stage)))
    summaries = []
    with ExitStack() as stack:
        trainings = []
        for stage, minutes in group:
            if isinstance(stage.make, FromScratch | StudentAlone):
                files, resume = stack.enter_context(plan.claimed(stage.name))
                trainings.append(stage.make.training(plan, stage.name, minutes, files, resume))
            else:
                summaries.append(stage.make(plan, minutes))
        summaries += run_trainings(trainings)
    for (stage, _), summary in zip(group, summaries, strict=True):
        summary.ladder = options[stage.name]
        summary.write(plan.files(stage.name).summary)
        _begun(plan, stage).unlink(missing_ok=True)
    return summaries


def is_finished(plan: LadderPlan, stage: Stage) -> bool:
    """Whether a stage was made with the settings of ``plan``.

    Raises:
        UsageError: it was made or begun with other settings, and ``plan.overwrite`` isn't set.
    """
    summary = plan.summary(stage.name)
    made = _made_settings(plan, stage)
    wanted = _wanted_settings(plan, stage)
    if made is None or made == wanted:
        begun = _begun(plan, stage)
        if summary is not None and summary.ladder is not None:
            begun.unlink(missing_ok=True)  # of a ladder that was killed right before it did so
            return True
        return summary is not None and not begun.exists()
    if not plan.overwrite:
        refuse_other_settings(
            f"the ladder's stage '{stage.name}' in '{plan.folder(stage.name)}' was "
            f"{'begun' if summary is None else 'made'}",
            *(made, wanted),
            "Give the same settings, other folders with --checkpoints and --results, or "
            "--overwrite to make it again",
        )
    return False


def _made_settings(plan: LadderPlan, stage: Stage) -> Settings | None:
    """The settings of a stage that is finished or was stopped; None where they aren't known."""
    summary = plan.summary(stage.name)
    if summary is not None and summary.ladder is not None:
        levels, config = getattr(summary.compression, "levels", None), summary.model.config
        shape = {field: getattr(config, field, None) for field in _shape(plan, stage)}
        text = summary.dataset.sha256 if summary.dataset else _text_of(plan)
        return _settings(summary.ladder, text, levels, shape)
    # A stage that was killed right after its summary was written has its settings here too.
    begun = summary is not None or plan.files(stage.name).resumable
    return read_settings(_begun(plan, stage)) if begun else None


def discard(plan: LadderPlan, stage: Stage) -> None:
    """Remove the files of a stage that is finished, that was stopped with other settings, or that
    was killed while it wrote a result without a training that could go on."""
    wanted, files = _wanted_settings(plan, stage), plan.files(stage.name)
    others = _made_settings(plan, stage) not in (None, wanted)
    killed = read_settings(_begun(plan, stage)) == wanted
    goes_on = killed and files.resumable
    if others or ((killed or plan.summary(stage.name) is not None) and not goes_on):
        files.discard()


def minutes_of(summary: Summary) -> float:
    """Minutes that a stage took by itself: its training, and its teachers' targets."""
    trained = summary.training.seconds if summary.training else 0.0
    taught = summary.distillation.teacher_seconds if summary.distillation else 0.0
    return (trained + taught) / 60
