"""The verb `ladder`: from a conventional Transformer to the native engine, rung by rung."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from itera_lite.commands.compress_distill import describe_distillation, warn_of_weak_teachers
from itera_lite.commands.compress_quantize import describe_quantization
from itera_lite.commands.compress_vocab import describe_vocabulary
from itera_lite.commands.options import WorkerCount
from itera_lite.data.tokenizer import MAX_VOCAB, MIN_VOCAB
from itera_lite.errors import MissingExtra
from itera_lite.evaluate.bits import FINAL_BYTES
from itera_lite.files import check_writable
from itera_lite.machine.peak import torch_threads
from itera_lite.quantities import check_numbers, whole_number
from itera_lite.records import Ladder, Quantization, Summary, VocabularyChange
from itera_lite.studies.ladder_costs import measure_ladder
from itera_lite.studies.ladder_stages import (
    REFERENCES,
    STAGES,
    LadderPlan,
    groups,
    is_finished,
    make,
)
from itera_lite.terminal import table
from itera_lite.train.compute import Compute
from itera_lite.train.precision import Precision

MINUTES = 30.0
QUICK_MINUTES = 0.15
QUICK_BYTES = 50_000
QUICK_EVALUATIONS = 2
REPEATS = 5
QUICK_REPEATS = 3


@torch_threads()
def ladder(
    data: str = "python",
    *,
    quick: bool = False,
    minutes: float | None = None,
    size: int = 2048,
    student: str = "pico",
    teacher: Path | None = None,
    seeds: int = 1,
    repeats: int | None = None,
    precision: Precision = "auto",
    workers: WorkerCount = None,
    quiet: bool = False,
    overwrite: bool = False,
    checkpoints: Path | None = None,
    results: Path = Path("results"),
) -> Ladder:
    """Climb from a conventional Transformer to 100-300x, measured.

    Trains and makes every rung, then measures all of them in turns: bits per byte on held-out
    text, bytes on disk, memory, processor time and energy of the text they write. What is
    finished is not done again, so it may be stopped with Ctrl-C and started again. Writes
    RESULTS/ladder.json, which `itera report` shows, and the trainings' own files into
    RESULTS/ladder.

    Args:
        data: Set or path.
        quick: A small version in about 10 minutes: it shows the way, not what it leads to.
        minutes: Length of a training; a rung takes from 0.4 to 2 of them, a reference as long
            as everything that the deployed model needs. Of two references, GPT-2 models of
            15 and 5 M parameters, the better one on the validation text is rung 0.
        size: Tokens of the small vocabulary.
        student: Preset of the deployed model.
        teacher: A trained checkpoint that teaches, with a vocabulary of that size; by default
            one is trained.
        seeds: Trainings of every rung with different seeds, for the spread of its quality; the
            further ones read as many tokens as the first.
        repeats: How often each cost is measured.
        precision: Of the trainings' matrix products.
        workers: How many cores train at once; text is always written with one.
        quiet: No progress.
        overwrite: Replace checkpoints of stages that aren't finished, or that were made with other
            options.
        checkpoints: Folder of the checkpoints; by default checkpoints/ladder-DATA.
        results: Folder of the result files.

    Returns:
        The record that ladder.json holds.

    Raises:
        UsageError: a number that is out of its range.
        MissingExtra: `transformers`, which decodes most rungs, isn't installed.
    """
    check_numbers(minutes=minutes, seeds=seeds, repeats=repeats, workers=workers)
    whole_number("size", size, least=MIN_VOCAB, most=MAX_VOCAB)
    check_writable(Path(results) / "ladder.json")
    if find_spec("transformers") is None:  # said now, not after the trainings
        raise MissingExtra("transformers", "peers", "measuring the ladder")
    minutes = minutes or (QUICK_MINUTES if quick else MINUTES)
    heldout_bytes = QUICK_BYTES if quick else FINAL_BYTES
    folder = Path(checkpoints or Path("checkpoints") / f"ladder-{_short(data)}")
    compute = Compute.prepare(precision, workers, quiet)
    plans = [
        LadderPlan(
            data=data,
            minutes=minutes,
            size=size,
            student=student,
            teacher=None if teacher is None else Path(teacher),
            seed=seed,
            checkpoints=folder,
            results=Path(results) / "ladder",
            compute=compute,
            valid_bytes=heldout_bytes,
            overwrite=overwrite,
            **({"evaluations": QUICK_EVALUATIONS} if quick else {}),
        )
        for seed in range(seeds)
    ]
    if not quiet:
        total = sum(stage.share for stage in (*REFERENCES, *STAGES))
        total += (seeds - 1) * sum(stage.share for stage in (REFERENCES[0], *STAGES))
        print(
            f"ladder on {data}: about {total * minutes:.0f} minutes of training where "
            "nothing is finished yet, then the measurements"
        )
    for plan in plans:
        for group in groups(plan):
            missing = []
            for stage, amount in group:
                if not is_finished(plan, stage):
                    missing.append((stage, amount))
                elif not quiet:
                    print(f"{stage.title}: finished before ({plan.folder(stage.name)})")
            if not quiet:
                for stage, amount in missing:
                    print(f"{stage.title}: {amount:.1f} minutes")
            for summary in make(plan, missing):
                if summary.distillation and not summary.compression:
                    warn_of_weak_teachers(summary)
                if not quiet and (text := _describe(summary)):
                    print(text)

    repeats = repeats or (QUICK_REPEATS if quick else REPEATS)
    record = measure_ladder(plans, repeats, heldout_bytes, quick)
    _show(record)
    path = record.write(Path(results) / "ladder.json")
    print(f"Written to {path}. The report: itera report --results {results}")
    return record


def _short(data: str) -> str:
    """A name for a folder: of a path its last part."""
    kept = Path(data.rstrip("/")).name if "/" in data else data
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in kept) or "text"


def _describe(summary: Summary) -> str:
    """What a stage changed, in words; empty for a training from random weights."""
    match summary.compression:
        case VocabularyChange():
            return describe_vocabulary(summary)
        case Quantization():
            return describe_quantization(summary)
    return describe_distillation(summary) if summary.distillation else ""


def _show(record: Ladder) -> None:
    """The ladder on the terminal."""
    held = record.held_out
    print(f"\n{record.source}, {held.split} split, {held.bytes:,} bytes held out")
    header = ("", "bits/byte", "MB on disk", "peak MB", "CPU-s/kB", "MFLOP/byte", "train min")
    rows = [
        (
            f"{index}: {rung.name}",
            f"{rung.bpb.median:.4f}",
            f"{rung.bytes_on_disk / 1e6:.3f}",
            f"{rung.peak_rss_bytes.median / 1e6:.1f}",
            f"{rung.cpu_seconds_per_kb.median:.4g}",
            f"{rung.flops_per_byte / 1e6:.3g}",
            f"{rung.train_minutes:.1f}",
        )
        for index, rung in enumerate(record.rungs)
    ]
    print(table(header, rows))
    for target in record.targets:
        goal = "" if target.goal is None else f", the goal {target.goal:g}x {target.goal_verdict}"
        print(
            f"{target.label}: {target.value:.0f}x below the reference; "
            f"{target.target:g}x {target.verdict_text}{goal}"
        )
    for tried in record.references:
        chosen = "rung 0" if tried.chosen else "not taken"
        print(
            f"{tried.stage}: {tried.params / 1e6:.1f} M parameters, "
            f"{tried.valid_bpb:.4f} bits per byte on the validation text: {chosen}"
        )
    if any(target.reason and target.verdict == "missed" for target in record.targets):
        first, last = record.rungs[0].bpb, record.rungs[-1].bpb
        print(
            f"The last rung is worse ({last.max:.4f}) than the reference ({first.min:.4f}): no "
            "factor counts"
        )
