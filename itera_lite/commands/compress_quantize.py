"""The verb `compress quantize`: a model's matrices in 8 or 4 bits, as GGUF stores them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from itera_lite.commands.options import WorkerCount
from itera_lite.compress import quantize as quantization
from itera_lite.compress.quantize import QuantizeOptions, Type, usual_method
from itera_lite.compress.start import Job, Start, TextOptions
from itera_lite.distill.objective import MIX
from itera_lite.errors import UsageError
from itera_lite.export.summary import Format
from itera_lite.quantities import bytes_of, check_numbers
from itera_lite.records import Quantization, Summary
from itera_lite.train.compute import Compute
from itera_lite.train.run_files import refuse_input

MethodOrAuto = Literal["auto", "plain", "gptq", "qat"]
Levels = Literal[15, 9, 7, 5, 3]


def quantize(
    checkpoint: Path,
    *,
    type: Type | None = None,
    levels: Levels | None = None,
    method: MethodOrAuto = "auto",
    data: str | None = None,
    max_bytes: str | None = None,
    format: Format = "gguf",
    minutes: float | None = None,
    tokens: str | None = None,
    teacher: list[Path] | None = None,
    mix: float = MIX,
    seed: int = 0,
    name: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    workers: WorkerCount = None,
    quiet: bool = False,
    checkpoints: Path = Path("checkpoints"),
    results: Path = Path("results"),
) -> Summary:
    """Store a model in 8 or 4 bits, with as little loss as the time allows.

    Writes a checkpoint with the rounded weights and, inside it, the GGUF file. The checkpoint
    given stays as it is.

    Args:
        checkpoint: Folder of the model.
        type: q4_0 by default; mixed is q4_0 with the embedding in q8_0.
        levels: Of the 16 levels of q4_0, use only so many about zero, and round the rest of the
            model to 16 bits. The type and the file's size stay as they are; compressed, the file
            is a quarter (9 levels) to a half (3) smaller.
        method: plain rounding; gptq, which compensates errors on a calibration text; qat, a short
            training with rounded weights; auto takes qat for 4 bits where there is text (gptq with
            --minutes 0), else plain.
        data: Set or path to calibrate or train on, and to measure with. Plain needs none.
        max_bytes: Size of the file at most, such as 1MB: each matrix gets 8 or 4 bits so that the
            loss is least.
        format: gguf; or gguf.gz, the same file compressed, which the engine reads as it is, and
            llama.cpp after gunzip.
        minutes: Length of qat's training; 3 by default.
        tokens: Length of qat's training in tokens instead, such as 2M.
        teacher: Checkpoint that teaches in qat's training, as in `compress distill`; several are
            averaged.
        mix: Share of the teacher in the loss; the rest is the text itself.
        seed: Of the order of the text.
        name: Name of the result; by default the checkpoint's with the type.
        resume: Go on where the run of this name was stopped.
        overwrite: Replace a model of this name, if there is one.
        workers: How many cores compute at once; by default all.
        quiet: No progress bar.
        checkpoints: Folder of the checkpoints.
        results: Folder of the result files.

    Returns:
        The summary. Its ``compression`` has bytes and bits per byte before and after, these as
        PyTorch and as the native engine score the validation text.
    """
    text = TextOptions(data, minutes, tokens, seed, resume)
    check_numbers(workers=workers, mix=mix)
    if max_bytes is not None and type not in (None, "mixed"):
        raise UsageError(f"--max-bytes chooses the type of each matrix: leave out --type {type}")
    limit = None if max_bytes is None else bytes_of("max-bytes", max_bytes)
    type = type or ("q4_0" if max_bytes is None else "mixed")
    if levels is not None and type != "q4_0":
        raise UsageError(f"--levels {levels} is for --type q4_0, not {type}")
    chosen = usual_method(type, text) if method == "auto" else method
    if teacher and chosen != "qat":
        raise UsageError(f"--teacher is for --method qat: nothing is trained by {chosen}")
    for wanted, needed in (
        (f"--method {chosen}", chosen != "plain"),
        ("--max-bytes", limit is not None),
        ("--tokens or --minutes", minutes is not None or tokens is not None),
    ):
        if needed and data is None:
            raise UsageError(f"{wanted} needs text: name a set or a path with --data")
    options = QuantizeOptions(type, chosen, limit, tuple(teacher or ()), mix, levels, format)
    start = Start.load(checkpoint)
    few = "" if levels is None else f"_{levels}_levels"
    with start.claimed(
        *(name, f"{start.name}_{type}{few}", checkpoints, results),
        resume=resume,
        overwrite=overwrite,
    ) as files:
        for folder in options.teachers:
            refuse_input(files, Path(folder))
        compute = Compute.prepare(files.precision(resume), workers, quiet)
        summary = quantization.quantize(Job(start, text, compute, files), options)
    if not quiet:
        print(describe_quantization(summary))
    return summary


def describe_quantization(summary: Summary) -> str:
    """The file, its size, and what was lost, in a few lines."""
    made = summary.compression
    assert isinstance(made, Quantization)
    size, bpb = made.bytes, made.bpb
    few = "" if made.levels is None else f" with {made.levels} levels"
    lines = [
        f"{made.file}: {made.type}{few} by {made.method}, "
        f"{made.bits_per_weight:.2f} bits per weight",
        f"  bytes          {size.before:>10,} -> {size.after:,} "
        f"({size.before / size.after:.1f} times fewer than float32)",
    ]
    if size.compressed is not None:
        lines.append(f"  compressed     {size.compressed:25,}")
    if bpb is None:
        return "\n".join([*lines, "  bits per byte not measured: name a set with --data"])
    lines += [
        f"  bits per byte  {bpb.before:10.4f} -> {bpb.after:.4f}  (PyTorch)",
        f"                 {bpb.before_engine:10.4f} -> {bpb.after_engine:.4f}  "
        "(native engine, from the files)",
    ]
    return "\n".join(lines)
