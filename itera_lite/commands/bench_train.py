"""The verb `bench train`: training speed, against the processor's peak and `transformers`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from itera_lite.commands.bench import write_records
from itera_lite.commands.options import WorkerCount
from itera_lite.config import NAMES, Family, TrainConfig
from itera_lite.files import check_writable
from itera_lite.quantities import check_numbers, whole_number
from itera_lite.records import TrainingSpeed
from itera_lite.train.precision import Precision

MOST_VOCABULARY = 1 << 20


def bench_training(
    *,
    model: Literal["itera", "transformer", "both"] = "both",
    config: str = "tiny",
    vocab_size: int = 2048,
    batch_size: int | None = None,
    seq_len: int | None = None,
    precision: Precision = "auto",
    workers: WorkerCount = None,
    repeats: int = 7,
    steps: int = 4,
    peers: bool = True,
    results: Path = Path("results"),
) -> dict[str, TrainingSpeed]:
    """Measure training speed.

    Whole steps (forward, backward, clipping, optimizer) on random tokens, in turns: ours
    with a worker a core and with one, ours beside a busy program that this command starts,
    and `transformers` with the same weights and batch and a thread a core, at the precision
    that is faster for it. Writes NAME_training_speed.json.

    Args:
        model: Which of the two to measure.
        config: Size: tiny, small or base.
        vocab_size: Size of the vocabulary.
        batch_size: Sequences a step; by default that of the training.
        seq_len: Tokens a sequence; by default that of the training.
        precision: Of our matrix products; auto measures what this processor is fast at.
        workers: How many cores compute at once, and threads of transformers; by default all.
        repeats: Times that everything is measured.
        steps: Steps a repeat.
        peers: Also measure transformers, where it is installed.
        results: Folder of the result files.
    """
    from itera_lite.bench.table import print_training
    from itera_lite.bench.training import measure_training

    defaults = TrainConfig()
    check_numbers(workers=workers, repeats=repeats)
    batch_size = whole_number(
        "batch_size", defaults.batch_size if batch_size is None else batch_size
    )
    seq_len = whole_number("seq_len", defaults.seq_len if seq_len is None else seq_len)
    whole_number("steps", steps)
    whole_number("vocab_size", vocab_size, most=MOST_VOCABULARY)
    families: list[Family] = ["itera", "transformer"] if model == "both" else [model]
    for family in families:
        check_writable(Path(results) / f"{NAMES[family]}_{config}_training_speed.json")
    records = measure_training(
        families,
        config,
        vocab_size,
        TrainConfig(batch_size=batch_size, seq_len=seq_len),
        precision=precision,
        threads=workers,
        repeats=repeats,
        steps=steps,
        peers=peers,
    )
    for record in records:
        print_training(record)
    return write_records(records, results, "training_speed")
