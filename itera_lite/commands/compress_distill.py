"""The verb `compress distill`: a small model learns from a larger one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from itera_lite.checkpoint.folder import lock_path
from itera_lite.compress.start import budget_for, check_numbers
from itera_lite.data.tokenizer import MAX_VOCAB, MIN_VOCAB
from itera_lite.distill.objective import MIX, TEMPERATURE, TOP_K
from itera_lite.distill.plan import Lesson
from itera_lite.errors import UsageError
from itera_lite.machine.peak import torch_threads
from itera_lite.quantities import finite_number, minutes_of, seed_of, whole_number
from itera_lite.train.compute import Compute
from itera_lite.train.precision import Precision
from itera_lite.train.recipe import DEFAULT_MINUTES
from itera_lite.train.run_files import RunFiles, locked, refuse_input
from itera_lite.train.train import run_training


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
    patience: int = 6,
    precision: Precision = "auto",
    threads: int | None = None,
    quiet: bool = False,
    checkpoints: Path = Path("checkpoints"),
    results: Path = Path("results"),
) -> dict[str, Any]:
    """Train a small model on what a larger one says.

    The teachers' likeliest next tokens are kept in the cache folder, for as much of the text
    as the student will see, so a second student costs no teacher time. Writes
    checkpoints/NAME, NAME_metrics.csv and NAME_summary.json. Ctrl-C saves and stops.

    Args:
        teacher: Checkpoint that teaches, of any family; several are averaged.
        student: pico, nano, tiny, small, a size such as 1M, or a checkpoint to go on from.
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
        patience: Stop early after this many evaluations without a better one; 0: never.
        precision: Of the student's matrix products.
        threads: Processor threads; by default one a core.
        quiet: No progress bar.
        checkpoints: Folder of the checkpoints.
        results: Folder of the result files.

    Returns:
        The student's summary, or with ``compare`` the comparison.
    """
    if minutes is not None and tokens is not None:
        raise UsageError("--minutes and --tokens are each a budget: give one of them")
    if minutes is not None:
        minutes_of(minutes)
    check_numbers(seed=seed, threads=threads, tokens=tokens, mix=mix)
    whole_number("top_k", top_k)
    whole_number("patience", patience, least=0)
    finite_number("temperature", temperature, above=0)
    if vocab_size is not None:
        whole_number("vocab_size", vocab_size, least=MIN_VOCAB, most=MAX_VOCAB)
    if compare and whole_number("seeds", seeds) < 2:
        raise UsageError(f"--seeds {seeds}: expected 2 or more, a spread needs that")
    if compare:
        seed_of(seed + seeds - 1)
    lesson = Lesson(
        teacher, student, data, k=top_k, tokenizer=tokenizer, vocab_size=vocab_size, quiet=quiet
    )
    objective = lesson.objective(temperature, mix)
    files = _files(lesson, name, Path(checkpoints), Path(results))
    going_on = files if resume and not compare else None
    budget = budget_for(lesson.dataset, minutes, tokens, DEFAULT_MINUTES, going_on)
    assert budget is not None  # minutes are above 0 here
    if compare:
        from itera_lite.studies.teacher_or_not import compare_distillation

        file = lock_path(files.results / f"{files.name}_comparison.json")
        file.parent.mkdir(parents=True, exist_ok=True)
        with locked(file, files.name), torch_threads():
            compute = Compute.prepare(precision, threads, quiet)
            return compare_distillation(
                *(lesson, objective, budget, files, compute, seeds, seed), overwrite=overwrite
            )
    with files.claimed(resume=resume, overwrite=overwrite), torch_threads():
        compute = Compute.prepare(precision, threads, quiet)
        config = lesson.student.recipe(budget, seed)
        seconds = lesson.prepare_for(config, budget, compute)
        summary = run_training(
            *(lesson.student.shape, config, lesson.dataset, budget, files, compute),
            source=data,
            initial=lesson.student.begin(),
            objective=objective,
            resume=resume and files.resumable,
            patience=patience,
            notes=lesson.notes(objective, seconds),
        )
    _tell(summary, quiet)
    return summary


def _files(lesson: Lesson, name: str | None, checkpoints: Path, results: Path) -> RunFiles:
    """Where the result goes: never onto a checkpoint that was given."""
    files = RunFiles(name or f"{lesson.student.name}_distilled", checkpoints, results)
    given = [teacher.folder for teacher in lesson.teachers]
    given += [lesson.student.folder] if lesson.student.folder else []
    for folder in given:
        refuse_input(files, folder)
    return files


def _tell(summary: dict[str, Any], quiet: bool) -> None:
    """What was gained and what it cost, in two lines; a warning where a teacher is no better."""
    told, own = summary["distillation"], summary["valid"]["bpb"]
    best = min(teacher["bpb"] for teacher in told["teachers"])
    if best >= own:
        print(
            f"warning: no teacher is better ({best:.4f} bits per byte) than the student "
            f"({own:.4f}): train a better teacher first",
            file=sys.stderr,
        )
    if not quiet:
        cache = told["cache"]
        names = ", ".join(f"{each['name']} {each['bpb']:.4f}" for each in told["teachers"])
        print(
            f"teachers: {names} bits per byte, {told['teacher_seconds']:.0f} s for what the "
            f"student saw; student: {own:.4f}, {summary['train']['seconds']:.0f} s\n"
            f"the teachers' top {told['k']} hold {cache['top_k_mass']:.1%} of the probability and "
            f"take {cache['disk_bytes'] / 1e6:,.0f} MB in the cache"
        )
