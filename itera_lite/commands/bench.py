"""The verb `bench`: speed, memory and energy of models, measured side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from itera_lite.errors import UsageError
from itera_lite.files import check_writable, folder_name
from itera_lite.quantities import check_numbers
from itera_lite.records import Benchmark, Decode, Scoring, TrainingSpeed

OfModel = TypeVar("OfModel", Benchmark, Decode, Scoring, TrainingSpeed)
DEFAULT_CHECKPOINTS = (Path("checkpoints/itera_lite_tiny"), Path("checkpoints/transformer_tiny"))


def bench(
    *checkpoints: Path,
    quick: bool = False,
    peers: bool = False,
    repeats: int | None = None,
    threads: int | None = None,
    watts: float | None = None,
    device: str = "cpu",
    results: Path = Path("results"),
) -> dict[str, Benchmark]:
    """Measure speed, memory and energy.

    The models take turns in every measurement, after a warm-up, and every figure is a
    median with its spread. Writes NAME_benchmark.json for each.

    Args:
        checkpoints: Folders of the models; by default both tiny ones.
        quick: Three repeats and no batches of long prompts: under a minute for tiny models.
        peers: Also measure what others would use with the same weights.
        repeats: Times that everything is measured; by default 7 (batches of long prompts 3),
            or 3 with quick.
        threads: Processor threads; by default 1 below 10 million parameters, else all cores.
        watts: Power of a busy core, for the estimate where no energy counter can be read.
        device: What the models run on, cpu or cuda.
        results: Folder of the result files.
    """
    import torch

    from itera_lite.bench import runtimes
    from itera_lite.bench.speed import ONE_TEXT, measure_speed
    from itera_lite.bench.table import print_speed

    check_numbers(repeats=repeats, threads=threads, watts=watts)
    folders = folders_of(checkpoints, results, "benchmark")
    if device != "cpu" and not (device.partition(":")[0] == "cuda" and torch.cuda.is_available()):
        raise UsageError(f"device={device!r}: expected 'cpu', or 'cuda' where PyTorch finds a GPU")
    if peers:
        missing = print_missing(device)
        for kind in (runtimes.LLAMA, runtimes.ENGINE):
            if kind not in missing:
                print(f"{kind}: {ONE_TEXT}")
    measured = measure_speed(
        folders,
        quick=quick,
        peers=peers,
        repeats=repeats,
        threads=threads,
        watts=watts,
        device=device,
    )
    print_speed(measured)
    return write_records(measured, results, "benchmark")


def folders_of(checkpoints: Sequence[Path], results: Path, kind: str) -> list[Path]:
    """The checkpoints' folders, by default both tiny ones.

    Raises:
        UsageError: two folders have one name.
        OutputError: the file NAME_KIND.json of one can't be written.
    """
    folders = [Path(folder) for folder in checkpoints or DEFAULT_CHECKPOINTS]
    names = [folder_name(folder) for folder in folders]
    if len(set(names)) < len(names):
        raise UsageError(
            f"checkpoints {', '.join(names)}: two folders have one name, and their results would "
            "go to one file; rename one"
        )
    for name in names:
        check_writable(Path(results) / f"{name}_{kind}.json")
    return folders


def print_missing(device: str = "cpu") -> dict[str, str]:
    """Print which other runtimes can't be measured, and why; returns the reasons."""
    from itera_lite.bench.runtimes import missing

    for kind, reason in (found := missing(device)).items():
        print(f"{kind}: not measured, {reason}")
    return found


def write_records(records: Sequence[OfModel], results: Path, kind: str) -> dict[str, OfModel]:
    """Write each model's record to NAME_KIND.json; returns them by name."""
    for record in records:
        record.write(Path(results) / f"{record.model.name}_{kind}.json")
    print(f"\nWritten to {Path(results) / f'NAME_{kind}.json'}")
    return {record.model.name: record for record in records}
