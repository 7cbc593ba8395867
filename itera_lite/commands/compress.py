"""The verb `compress`: a size or a loss is given, and what fits is picked and applied."""

from __future__ import annotations

from pathlib import Path

from itera_lite.commands.compress_experts import describe_experts
from itera_lite.commands.compress_quantize import describe_quantization
from itera_lite.commands.options import WorkerCount
from itera_lite.compress.fit import Fit
from itera_lite.compress.start import Job, Start, TextOptions
from itera_lite.errors import UsageError
from itera_lite.export.gguf import check_engine_runs
from itera_lite.quantities import bytes_of, check_numbers, share_of
from itera_lite.records import Quantization, Summary
from itera_lite.train.compute import Compute


def compress(
    checkpoint: Path,
    *,
    data: str,
    target_bytes: str | None = None,
    max_loss: str | None = None,
    minutes: float | None = None,
    seed: int = 0,
    name: str | None = None,
    overwrite: bool = False,
    workers: WorkerCount = None,
    quiet: bool = False,
    checkpoints: Path = Path("checkpoints"),
    results: Path = Path("results"),
) -> Summary:
    """Make a model smaller: say how small, or how much worse it may get.

    With a size, the mildest way that fits: 8 bits; else 8 or 4 bits for each matrix; else 4 bits
    and fewer experts. With a loss, the smallest way that stays within it: 4 bits, 4 bits with
    the embedding in 8, or 8 bits. Says what it does and why, and writes a checkpoint with its
    GGUF file inside. The checkpoint given stays as it is.

    Args:
        checkpoint: Folder of the model.
        data: Set or path to train on and to measure with.
        target_bytes: Size of the file at most, such as 1MB.
        max_loss: How much bits per byte may rise, such as 1%.
        minutes: Length of each training that a step needs; 3 by default.
        seed: Of the order of the text.
        name: Name of the result; by default the checkpoint's with _small.
        overwrite: Replace a model of this name, if there is one.
        workers: How many cores compute at once; by default all.
        quiet: Say nothing.
        checkpoints: Folder of the checkpoints.
        results: Folder of the result files.

    Returns:
        The result's summary. Its ``compression`` has ``steps``: what was done and why.
    """
    if (target_bytes is None) == (max_loss is None):
        raise UsageError("say how small or how good: give one of --target-bytes and --max-loss")
    text = TextOptions(data, minutes, seed=seed)
    check_numbers(workers=workers)
    limit = None if target_bytes is None else bytes_of("target-bytes", target_bytes)
    loss = 0.0 if max_loss is None else share_of("max-loss", max_loss)
    start = Start.load(checkpoint)
    check_engine_runs(start.folder, start.model.config)

    def explain(sentence: str) -> None:
        if not quiet:
            print(sentence)

    def made(summary: Summary) -> None:
        quantized = isinstance(summary.compression, Quantization)
        explain((describe_quantization if quantized else describe_experts)(summary))

    with start.claimed(
        name, f"{start.name}_small", checkpoints, results, overwrite=overwrite
    ) as files:
        job = Job(start, text, Compute.prepare(workers=workers, quiet=quiet), files)
        fit = Fit(job, explain, made)
        summary = fit.within_loss(loss) if limit is None else fit.to_size(limit)
    assert isinstance(summary.compression, Quantization)
    explain(f"Written to {summary.compression.file}")
    return summary
