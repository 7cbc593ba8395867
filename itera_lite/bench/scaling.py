"""Measures how training scales with processes: `itera bench scaling`.

`torchrun` starts processes that run this module and take whole steps on random tokens, for each
number of processes and workers in turns. Strong scaling: they share one batch. Weak scaling: each
has such a batch. The share of communication is the time of a process in sums of gradients, in which
it waits for slower ones too.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from itera_lite import ops
from itera_lite.bench.training import our_step, random_batch
from itera_lite.bench.turns import Entry, progress_bar, take_turns
from itera_lite.config import NAMES, Family, TrainConfig, preset
from itera_lite.errors import TrainingError
from itera_lite.machine.processor import usable_cores
from itera_lite.machine.provenance import Provenance
from itera_lite.model import LanguageModel
from itera_lite.model.cost import describe
from itera_lite.records import Scaling, ScalingRow
from itera_lite.stats.samples import Stat
from itera_lite.train.distributed import World
from itera_lite.train.precision import Precision, choose
from itera_lite.workers import Workers

WARM_UP = 2  # steps before those that are timed


class Sample(NamedTuple):
    """Some steps of one batch size, as the leading process saw them."""

    tokens_per_second: float
    communication: float  # share of the time
    bytes_per_step: float  # of the sums, in each process


@dataclass(kw_only=True)
class Arrangement(Entry[dict[str, Sample]]):
    """Processes and their workers; a measurement starts them anew.

    Attributes:
        batches: by kind of scaling, sequences of all processes together.
    """

    processes: int
    workers: int
    batches: dict[str, int]
    family: Family
    size: str
    vocab_size: int
    seq_len: int
    steps: int
    precision: str

    def measure(self) -> dict[str, Sample]:
        """Raises `TrainingError` where a process fails."""
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "samples.json"
            asked = {key: value for key, value in vars(self).items() if key != "samples"}
            command = [sys.executable, "-m"]
            if self.processes > 1:
                command += ["torch.distributed.run", "--nproc-per-node", str(self.processes)]
                command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
                command += ["--local-addr", "127.0.0.1", "-m"]
            command += ["itera_lite.bench.scaling", json.dumps(asked), str(out)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise TrainingError(
                    f"{self.name} couldn't be measured, the processes ended with "
                    f"{done.returncode}: {done.stderr[-2000:]}"
                )
            return {kind: Sample(*found) for kind, found in json.loads(out.read_text()).items()}

    def row(self, kind: str) -> ScalingRow:
        """What was found for a kind of scaling."""
        found = [sample[kind] for sample in self.samples]
        return ScalingRow(
            processes=self.processes,
            workers=self.workers,
            batch_size=self.batches[kind],
            tokens_per_second=Stat.of([one.tokens_per_second for one in found]),
            communication_share=Stat.of([one.communication for one in found]),
            bytes_per_step=round(found[0].bytes_per_step),
        )


def arrangements(most: int, cores: int) -> list[tuple[int, int]]:
    """Processes and workers, powers of two, at most ``most`` workers in all; one of each first."""
    powers = [1 << i for i in range(most.bit_length())]
    return [
        (processes, workers)
        for processes in powers
        for workers in powers
        if processes * workers <= most and workers <= cores
    ]


def measure_scaling(
    family: Family,
    size: str,
    vocab_size: int,
    config: TrainConfig,
    *,
    precision: Precision,
    most: int,
    repeats: int,
    steps: int,
) -> Scaling:
    """Measure every arrangement of at most ``most`` workers in all.

    Args:
        config: its batch is that of one process, and of all in strong scaling.
        precision, repeats, steps: the options of `itera bench scaling`.

    Raises:
        TrainingError: a process failed.
        ConfigError: no such model, or a batch that can't be shared by so many processes.
    """
    shape, found = preset(family, size, vocab_size), arrangements(most, usable_cores())
    for processes, _ in found:
        World(size=processes).share_of(config.batch_size)
    with Workers() as one:
        dtype = choose(precision, "cpu", one).name
    entries = [
        Arrangement(
            name=f"{processes} x {workers}",
            processes=processes,
            workers=workers,
            batches={"strong": config.batch_size, "weak": config.batch_size * processes},
            family=family,
            size=size,
            vocab_size=vocab_size,
            seq_len=config.seq_len,
            steps=steps,
            precision=dtype,
        )
        for processes, workers in found
    ]
    with progress_bar("bench scaling", repeats * len(entries)) as progress:
        rounds = take_turns(entries, repeats, progress, warm_up=False)  # each start warms up
    return Scaling(
        model=describe(f"{NAMES[family]}_{size}", shape),
        seq_len=config.seq_len,
        cores=usable_cores(),
        precision=dtype,
        strong=[entry.row("strong") for entry in entries],
        weak=[entry.row("weak") for entry in entries],
        repeated_rounds=rounds.repeated,
        provenance=Provenance.now(seed=0, load_by_others=rounds.load.by_others),
    )


def _measure(asked: Arrangement, out: Path) -> None:
    """What each process does: time steps, and write what the leading one saw."""
    with World.join() as world:
        found = _time_steps(asked, world)
        if world.is_leader:
            out.write_text(json.dumps(found))
        world.agree(0.0)


def _time_steps(asked: Arrangement, world: World) -> dict[str, Sample]:
    """Time the steps of each kind of batch, in this process."""
    found = {}
    torch.set_num_threads(1)
    ops.enable()
    with Workers(asked.workers) as workers:
        for kind, batch_size in asked.batches.items():
            config = TrainConfig(batch_size=batch_size, seq_len=asked.seq_len)
            torch.manual_seed(0)
            model = LanguageModel(preset(asked.family, asked.size, asked.vocab_size)).train()
            model.compute_dtype = torch.bfloat16 if asked.precision == "bf16" else torch.float32
            step = our_step(model, config, workers, world)
            rows = world.share_of(batch_size)
            batch = random_batch(asked.vocab_size, config)[world.rank * rows :][:rows]
            for _ in range(WARM_UP):
                step(batch)
            world.agree(0.0)
            sent, waited = world.traffic.bytes, world.traffic.seconds
            begin = time.perf_counter()
            for _ in range(asked.steps):
                step(batch)
            seconds = time.perf_counter() - begin
            found[kind] = Sample(
                batch_size * asked.seq_len * asked.steps / seconds,
                (world.traffic.seconds - waited) / seconds,
                (world.traffic.bytes - sent) / asked.steps,
            )
    return found


def main(arguments: Sequence[str]) -> None:
    asked, out = arguments
    _measure(Arrangement(**json.loads(asked)), Path(out))


if __name__ == "__main__":
    main(sys.argv[1:])
