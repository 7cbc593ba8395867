"""The verb `ladder`: from a conventional Transformer to the native engine, rung by rung."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from itera_lite.commands.compress_distill import describe_distillation
from itera_lite.commands.compress_quantize import describe_quantization
from itera_lite.commands.compress_vocab import describe_vocabulary
from itera_lite.data.tokenizer import MAX_VOCAB, MIN_VOCAB
from itera_lite.errors import MissingExtra
from itera_lite.files import check_writable, write_json
from itera_lite.machine.provenance import provenance
from itera_lite.quantities import check_numbers, whole_number
from itera_lite.studies.ladder_costs import measure_rungs, middle, samples, targets_of
from itera_lite.studies.ladder_stages import (
    REFERENCES,
    STAGES,
    LadderPlan,
    is_finished,
    make,
    stages,
)
from itera_lite.train.precision import Precision
from itera_lite.train.session import FINAL_BYTES, Compute, threads_restored

MINUTES = 30.0
QUICK_MINUTES = 0.15
QUICK_BYTES = 50_000
QUICK_EVALUATIONS = 2
REPEATS = 5
QUICK_REPEATS = 3


@threads_restored()
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
    check_numbers(minutes=minutes, seeds=seeds, repeats=repeats, threads=threads)
    whole_number("size", size, least=MIN_VOCAB, most=MAX_VOCAB)
    check_writable(Path(results) / "ladder.json")
    if find_spec("transformers") is None:  # said now, not after the trainings
        raise MissingExtra("transformers", "peers", "measuring the ladder")
    minutes = minutes or (QUICK_MINUTES if quick else MINUTES)
    heldout_bytes = QUICK_BYTES if quick else FINAL_BYTES
    folder = Path(checkpoints or Path("checkpoints") / f"ladder-{_short(data)}")
    compute = Compute.prepare(precision, threads, quiet)
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
        for stage, amount in stages(plan):
            if is_finished(plan, stage):
                if not quiet:
                    print(f"{stage.title}: finished before ({plan.folder(stage.name)})")
                continue
            if not quiet:
                print(f"{stage.title}: {amount:.1f} minutes")
            summary = make(plan, stage, amount)
            if not quiet and (text := describe(summary)):
                print(text)

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
    _show(record)
    path = write_json(Path(results) / "ladder.json", record)
    print(f"Written to {path}. The report: itera report --results {results}")
    return record


def _short(data: str) -> str:
    """A name for a folder: of a path its last part."""
    kept = Path(data.rstrip("/")).name if "/" in data else data
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in kept) or "text"


def describe(summary: dict[str, Any]) -> str:
    """What a stage changed, in words; empty for a training from random weights."""
    if "distillation" in summary and "compress" not in summary:
        return describe_distillation(summary)
    verb = summary.get("compress", {}).get("verb")
    if verb == "vocab":
        return describe_vocabulary(summary)
    return describe_quantization(summary) if verb == "quantize" else ""


def _show(record: dict[str, Any]) -> None:
    """The ladder on the terminal."""
    rungs = record["rungs"]
    held = record["held_out"]
    print(f"\n{record['data']}, {held['split']} split, {held['bytes']:,} bytes held out")
    header = ("", "bits/byte", "MB on disk", "peak MB", "CPU-s/kB", "MFLOP/byte", "train min")
    print(f"{header[0]:32}" + "".join(f"{h:>12}" for h in header[1:]))
    for index, rung in enumerate(rungs):
        cells = (
            f"{middle(rung['bpb']):.4f}",
            f"{rung['bytes_on_disk'] / 1e6:.3f}",
            f"{middle(rung['peak_rss_bytes']) / 1e6:.1f}",
            f"{middle(rung['cpu_seconds_per_kb']):.4g}",
            f"{rung['flops_per_byte'] / 1e6:.3g}",
            f"{rung['train_minutes']:.1f}",
        )
        print(f"{index}: {rung['name']:29}" + "".join(f"{c:>12}" for c in cells))
    for target in record["targets"]:
        verdict = "reached" if target["reached"] else "MISSED"
        goal = "" if target["goal"] is None else f", the goal {target['goal']:g}x "
        if goal:
            goal += "reached" if target["goal_reached"] else "missed"
        print(
            f"{target['label']}: {target['factor']:.0f}x below the reference; "
            f"{target['least']:g}x {verdict}{goal}"
        )
    for tried in record["references"]:
        chosen = "rung 0" if tried["chosen"] else "not taken"
        print(
            f"{tried['stage']}: {tried['params'] / 1e6:.1f} M parameters, "
            f"{tried['valid_bpb']:.4f} bits per byte on the validation text: {chosen}"
        )
    if not record["targets"][0]["as_good"]:
        print(
            f"The last rung is worse ({max(samples(rungs[-1]['bpb'])):.4f}) than the reference "
            f"({min(samples(rungs[0]['bpb'])):.4f}): no factor counts"
        )
