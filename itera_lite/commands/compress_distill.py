"""The verb `compress distill`: a small model learns from a larger one."""

from __future__ import annotations

import sys
from pathlib import Path

from itera_lite.commands.options import WorkerCount
from itera_lite.data.tokenizer import MAX_VOCAB, MIN_VOCAB
from itera_lite.distill.objective import MIX, TEMPERATURE, TOP_K, Distillation
from itera_lite.distill.plan import DistillationPlan
from itera_lite.errors import UsageError
from itera_lite.machine.peak import torch_threads
from itera_lite.quantities import check_numbers, seed_of, whole_number
from itera_lite.records import Summary, TeacherComparison
from itera_lite.terminal import table
from itera_lite.train.compute import Compute
from itera_lite.train.precision import Precision
from itera_lite.train.recipe import budget_of
from itera_lite.train.run_files import RunFiles, refuse_input


def distill(
    *,
    teacher: list[Path],
    student: str,
    data: str,
    minutes: float | None = None,
    tokens: str | None = None,
    top_k: int = TOP_K,
    temperature: float = TEMPERATURE,
    mix: float = MIX,
    tokenizer: Path | None = None,
    vocab_size: int | None = None,
    compare: bool = False,
    seeds: int = 3,
    seed: int = 0,
    name: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    patience: int | None = None,
    precision: Precision = "auto",
    workers: WorkerCount = None,
    quiet: bool = False,
    checkpoints: Path = Path("checkpoints"),
    results: Path = Path("results"),
) -> Summary | TeacherComparison:
    """Train a small model on the probabilities of a larger one.

    The teachers' likeliest next tokens are kept in the cache folder, for as much of the text
    as the student will see, so a second student costs no teacher time. Writes
    checkpoints/NAME, NAME_metrics.csv and NAME_summary.json. Ctrl-C saves and stops.

    Args:
        teacher: Checkpoint that teaches, of any family; several are averaged.
        student: femto, pico, nano, tiny, small, a size such as 1M, or a checkpoint to go on from.
        data: Set or path to learn on.
        minutes: Train the student for this long (10 by default); teacher time isn't counted.
        tokens: Train the student on this many tokens instead, such as 20M.
        top_k: How many of the teacher's likeliest tokens are kept for each token of the text.
        temperature: Of both distributions where they are compared; above 1 they are flatter.
        mix: Share of the teacher in the loss; the rest is the text itself.
        tokenizer: Tokenizer of a new student, as a file or folder; by default the teacher's.
        vocab_size: Train a tokenizer of this size for a new student instead.
        compare: Train the same student without a teacher as well, with several seeds each.
        seeds: How many, in a comparison; 3 or more make a verdict.
        seed: Of the student's weights and of the order of the text.
        name: Name of the result; by default the student's, with _distilled.
        resume: Go on where the run of this name was stopped.
        overwrite: Replace a model of this name, if there is one.
        patience: Stop early after this many evaluations without a better one, by default 6;
            0: never.
        precision: Of the student's matrix products.
        workers: How many cores compute at once; by default all.
        quiet: No progress bar.
        checkpoints: Folder of the checkpoints.
        results: Folder of the result files.

    Returns:
        The student's summary, or with ``compare`` the comparison.
    """
    if minutes is not None and tokens is not None:
        raise UsageError("--minutes and --tokens are each a budget: give one of them")
    check_numbers(seed=seed, workers=workers, minutes=minutes, tokens=tokens, patience=patience)
    check_numbers(temperature=temperature, mix=mix)
    whole_number("top_k", top_k)
    if vocab_size is not None:
        whole_number("vocab_size", vocab_size, least=MIN_VOCAB, most=MAX_VOCAB)
        if tokenizer is not None:
            raise UsageError("--tokenizer has its own vocabulary: leave out --vocab-size")
    if compare:
        if whole_number("seeds", seeds) < 2:
            raise UsageError(f"--seeds {seeds}: expected 2 or more, a spread needs that")
        seed_of(seed + seeds - 1)
    if not teacher:
        raise UsageError("expected a --teacher: a checkpoint's folder; several are averaged")
    plan = DistillationPlan.find(
        teacher, student, data, top_k, tokenizer=tokenizer, vocab_size=vocab_size, quiet=quiet
    )
    objective = Distillation(plan.targets, temperature, mix)
    files = RunFiles(name or f"{plan.student.name}_distilled", Path(checkpoints), Path(results))
    for folder in (*(each.folder for each in plan.teachers), plan.student.folder):
        if folder is not None:
            refuse_input(files, folder)
    with torch_threads():
        if compare:
            from itera_lite.studies.teacher_or_not import TeacherStudy

            budget = budget_of(plan.dataset, None, minutes, tokens)
            compute = Compute.prepare(precision, workers, quiet)
            study = TeacherStudy(plan, objective, budget, compute)
            record = study.run(files, range(seed, seed + seeds), overwrite)
            if not quiet:
                print(_comparison(record))
            return record
        with files.claimed(resume=resume, overwrite=overwrite):
            going_on = resume and files.resumable
            saved = files.saved_budget() if going_on else None
            budget = budget_of(plan.dataset, None, minutes, tokens, saved)
            if precision == "auto":
                precision = files.precision(going_on)
            compute = Compute.prepare(precision, workers, quiet)
            summary = plan.train(
                *(objective, budget, files, compute),
                seed=seed,
                resume=going_on,
                patience=patience,
            )
    warn_of_weak_teachers(summary)
    if not quiet:
        print(describe_distillation(summary))
    return summary


def warn_of_weak_teachers(summary: Summary) -> None:
    """Warn where no teacher is better than the student became."""
    assert summary.distillation and summary.valid
    best = min(teacher.bpb for teacher in summary.distillation.teachers)
    if best >= summary.valid.bpb:
        print(
            f"warning: no teacher is better ({best:.4f} bits per byte) than the student "
            f"({summary.valid.bpb:.4f}): train a better teacher first",
            file=sys.stderr,
        )


def describe_distillation(summary: Summary) -> str:
    """What was gained and what it cost, in two lines."""
    made = summary.distillation
    assert made and summary.valid and summary.training
    names = ", ".join(f"{teacher.name} {teacher.bpb:.4f}" for teacher in made.teachers)
    return (
        f"teachers: {names} bits per byte, {made.teacher_seconds:.0f} s for what the student saw; "
        f"student: {summary.valid.bpb:.4f}, {summary.training.seconds:.0f} s\n"
        f"the teachers' top {made.top_k} hold {made.cache.top_k_mass:.1%} of the probability and "
        f"take {made.cache.disk_bytes / 1e6:,.0f} MB in the cache"
    )


def _comparison(record: TeacherComparison) -> str:
    """The sides of a comparison, and the verdicts."""
    header = ("student", "bits/byte", "lowest", "highest", "training s", "teacher s", "tokens")
    rows = [
        (
            side.label,
            f"{side.valid_bpb.median:.4f}",
            f"{side.valid_bpb.min:.4f}",
            f"{side.valid_bpb.max:.4f}",
            f"{side.seconds.median:.0f}",
            f"{side.teacher_seconds.median:.0f}",
            f"{side.tokens.median:,.0f}",
        )
        for side in record.sides.values()
    ]
    verdicts = [
        f"Against {record.sides[name].label}: {verdict.text}."
        for name, verdict in record.verdicts.items()
    ]
    return "\n".join([table(header, rows), *verdicts])
