"""The verb `bench scaling`: training with several processes, against one."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from itera_lite.commands.bench_train import MOST_VOCABULARY
from itera_lite.config import NAMES, TrainConfig
from itera_lite.files import check_writable
from itera_lite.quantities import check_numbers, whole_number
from itera_lite.records import Scaling
from itera_lite.train.precision import Precision


def bench_scaling(
    *,
    model: Literal["itera", "transformer"] = "itera",
    config: str = "tiny",
    vocab_size: int = 2048,
    batch_size: int | None = None,
    seq_len: int | None = None,
    precision: Precision = "auto",
    most: int = 4,
    repeats: int = 3,
    steps: int = 8,
    results: Path = Path("results"),
) -> Scaling:
    """Measure training with several processes on this machine, against one.

    Whole steps on random tokens by 1, 2, 4 processes with 1, 2, ... workers each, which
    torchrun starts, in turns. Writes NAME_scaling.json.

    Args:
        model: Which of the two to measure.
        config: Size: tiny, small or base.
        vocab_size: Size of the vocabulary.
        batch_size: Sequences a step of one process; by default that of the training.
        seq_len: Tokens a sequence; by default that of the training.
        precision: Of our matrix products; auto measures what this processor is fast at.
        most: Workers of all processes together, at most.
        repeats: Times that everything is measured.
        steps: Steps a repeat.
        results: Folder of the result files.
    """
    from itera_lite.bench.scaling import measure_scaling
    from itera_lite.bench.table import print_scaling

    defaults = TrainConfig()
    check_numbers(repeats=repeats)
    batch_size = whole_number(
        "batch_size", defaults.batch_size if batch_size is None else batch_size
    )
    seq_len = whole_number("seq_len", defaults.seq_len if seq_len is None else seq_len)
    whole_number("steps", steps)
    whole_number("most", most, most=1024)
    whole_number("vocab_size", vocab_size, most=MOST_VOCABULARY)
    path = Path(results) / f"{NAMES[model]}_{config}_scaling.json"
    check_writable(path)
    record = measure_scaling(
        model,
        config,
        vocab_size,
        TrainConfig(batch_size=batch_size, seq_len=seq_len),
        precision=precision,
        most=most,
        repeats=repeats,
        steps=steps,
    )
    print_scaling(record)
    record.write(path)
    print(f"\nWritten to {path}")
    return record
