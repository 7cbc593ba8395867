"""The verb `ladder`: from a conventional Transformer to the native engine, rung by rung."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from itera_lite.bench.runtimes import LLAMA, installed
from itera_lite.checkpoint.hf import read_config
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
from itera_lite.report.ladder import (
    NOT_IN_LLAMA,
    factors,
    lost_quality,
    references_tried,
    steadiness,
    teaching,
    types_tried,
)
from itera_lite.studies.ladder_costs import measure_ladder
from itera_lite.studies.ladder_stages import (
    REFERENCES,
    STAGES,
    LadderPlan,
    groups,
    is_finished,
    make,
    share_of,
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
    size: int = 1024,
    student: str = "femto",
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
        minutes: Length of a training; a rung takes from 0.4 to 4 of them, a reference as long
            as everything that the deployed model needs. Of three references, GPT-2 models of
            15, 9 and 5 M parameters, the best one on the validation text is rung 0.
        size: Tokens of the small vocabulary.
        student: Preset of the deployed model.
        teacher: A trained checkpoint that teaches, with a vocabulary of that size; by default
            one is trained. It teaches only where it is better than what the student reaches alone.
        seeds: Trainings of every rung with different seeds, for the spread of its quality; the
            further ones read as many tokens as the first.
        repeats: How often each cost is measured.
        precision: Of the trainings' matrix products.
        workers: How many cores train at once; text is always written with one.
        quiet: No progress.
        overwrite: Replace checkpoints of stages that aren't finished, or that were made with other
            settings.
        checkpoints: Folder of the checkpoints; by default checkpoints/ladder-DATA.
        results: Folder of the result files.

    Returns:
        The record that ladder.json holds.

    Raises:
        CheckpointError: there is no teacher where one is named.
        UsageError: a number that is out of its range, or a stage that was made with other
            settings.
        MissingExtra: `transformers`, which decodes most rungs, isn't installed.
    """
    check_numbers(minutes=minutes, seeds=seeds, repeats=repeats, workers=workers)
    whole_number("size", size, least=MIN_VOCAB, most=MAX_VOCAB)
    check_writable(Path(results) / "ladder.json")
    if find_spec("transformers") is None:  # said now, not after the trainings
        raise MissingExtra("transformers", "peers", "measuring the ladder")
    if not installed(LLAMA):
        print(f"warning: {NOT_IN_LLAMA}", file=sys.stderr)
    if teacher is not None:
        read_config(Path(teacher))  # said now, too
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
        total = sum(share_of(plans[0], stage) for stage in (*REFERENCES, *STAGES))
        further = [s for s in STAGES if s.name not in ("teacher", "distilled")]
        total += (seeds - 1) * sum(s.share for s in (REFERENCES[0], *further))
        print(
            f"ladder on {data}: at most {total * minutes:.0f} minutes of training where "
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
    rungs = {f"{index}: {rung.name}": rung for index, rung in enumerate(record.rungs)}
    if record.quantized is not None:
        rungs[record.quantized.name] = record.quantized
    rows = [
        (
            name,
            f"{rung.bpb.median:.4f}",
            f"{rung.bytes_on_disk / 1e6:.3f}",
            f"{rung.peak_rss_bytes.median / 1e6:.1f}",
            f"{rung.cpu_seconds_per_kb.median:.4g}",
            f"{rung.flops_per_byte / 1e6:.3g}",
            f"{rung.train_minutes:.1f}",
        )
        for name, rung in rungs.items()
    ]
    print(table(header, rows))
    header = ("the last rung", "against rung 0", "wanted", "verdict", "in llama.cpp", "wanted", "")
    print(table(header, [[label, *first, *second] for label, first, second in factors(record)]))
    for sentence in (
        references_tried(record.references),
        steadiness(record),
        types_tried(record),
        teaching(record.teaching),
        lost_quality(record),
    ):
        if sentence:
            print(sentence)
