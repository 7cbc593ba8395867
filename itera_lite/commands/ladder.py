"""The verb `ladder`: from a conventional Transformer to the native engine, rung by rung."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from itera_lite.compress.targets import show, targets_of
from itera_lite.data.tokenizer import MAX_VOCAB, MIN_VOCAB
from itera_lite.errors import MissingExtra
from itera_lite.evaluate.bits import FINAL_BYTES
from itera_lite.files import check_writable, write_json
from itera_lite.machine.peak import torch_threads
from itera_lite.machine.provenance import provenance
from itera_lite.quantities import minutes_of, threads_of, whole_number
from itera_lite.studies.ladder_stages import (
    REFERENCES,
    STAGES,
    Plan,
    discard,
    is_finished,
    note_options,
    stages,
)
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
    threads: int | None = None,
    quiet: bool = False,
    overwrite: bool = False,
    checkpoints: Path | None = None,
    results: Path = Path("results"),
) -> dict[str, Any]:
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
            as everything that the shipped artifact needs. Of two references, GPT-2 models of
            15 and 5 M parameters, the better one on the validation text is rung 0.
        size: Tokens of the small vocabulary.
        student: Preset of the model that is shipped.
        teacher: A trained checkpoint that teaches, with a vocabulary of that size; by default
            one is trained.
        seeds: Trainings of every rung with different seeds, for the spread of its quality; the
            further ones read as many tokens as the first.
        repeats: How often each cost is measured.
        precision: Of the trainings' matrix products.
        threads: Processor threads of the trainings; text is always written with one.
        quiet: No progress.
        overwrite: Replace checkpoints of stages that aren't finished, or that were made with other
            options.
        checkpoints: Folder of the checkpoints; by default checkpoints/ladder-DATA.
        results: Folder of the result files.

    Returns:
        What ladder.json holds.

    Raises:
        UsageError: a number that is out of its range.
        MissingExtra: `transformers`, which decodes most rungs, isn't installed.
    """
    if minutes is not None:
        minutes_of(minutes)
    whole_number("seeds", seeds)
    whole_number("size", size, least=MIN_VOCAB, most=MAX_VOCAB)
    if repeats is not None:
        whole_number("repeats", repeats)
    if threads is not None:
        threads_of(threads)
    check_writable(Path(results) / "ladder.json")
    if find_spec("transformers") is None:  # said now, not after the trainings
        raise MissingExtra("transformers", "peers", "measuring the ladder")
    minutes = minutes or (QUICK_MINUTES if quick else MINUTES)
    heldout_bytes = QUICK_BYTES if quick else FINAL_BYTES
    folder = Path(checkpoints or Path("checkpoints") / f"ladder-{_short(data)}")
    compute = Compute.prepare(precision, threads, quiet)
    plans = [
        Plan(
            data=data,
            minutes=minutes,
            size=size,
            student=student,
            teacher=None if teacher is None else Path(teacher),
            seed=seed,
            checkpoints=folder,
            results=Path(results) / "ladder",
            compute=compute,
            threads=threads,
            final_bytes=heldout_bytes,
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
        for stage, amount in stages(plan):
            if is_finished(plan, stage):
                if not quiet:
                    print(f"{stage.title}: finished before ({plan.folder(stage.name)})")
                continue
            if not quiet:
                print(f"{stage.title}: {amount:.1f} minutes")
            discard(plan, stage)
            stage.make(plan, amount)
            note_options(plan, stage)

    from itera_lite.studies.ladder_costs import measure_rungs

    repeats = repeats or (QUICK_REPEATS if quick else REPEATS)
    measured = measure_rungs(plans, repeats, heldout_bytes)
    record = {
        **measured,
        "data": data,
        "quick": quick,
        "minutes": minutes,
        "targets": targets_of(measured["rungs"]),
        "provenance": provenance(seeds=range(seeds)),
    }
    show(record)
    path = write_json(Path(results) / "ladder.json", record)
    print(f"Written to {path}. The report: itera report --results {results}")
    return record


def _short(data: str) -> str:
    """A name for a folder: of a path its last part."""
    kept = Path(data.rstrip("/")).name if "/" in data else data
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in kept) or "text"
