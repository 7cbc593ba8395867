"""Measures training: whole steps of our models and of `transformers`, timed in turns.

`itera bench train` reports them; `itera bench seeds` takes the ratio of our two models' speeds.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itera_lite import ops
from itera_lite.bench import runtimes
from itera_lite.bench.busy import NICENESS, BusyProgram, Priority
from itera_lite.bench.runtimes import OURS, TRANSFORMERS
from itera_lite.bench.turns import Entry, measure_in_turns
from itera_lite.checkpoint.hf import load_model, read_config, save_model
from itera_lite.config import NAMES, Family, TrainConfig, preset
from itera_lite.machine.peak import measured_peak, torch_threads
from itera_lite.machine.processor import cpu_name, default_threads
from itera_lite.machine.provenance import Provenance
from itera_lite.model import LanguageModel
from itera_lite.model.cost import cost, describe
from itera_lite.records import RuntimeTraining, SpeedsOfSize, TrainingSpeed
from itera_lite.stats.comparison import Measurement
from itera_lite.stats.load import Load
from itera_lite.stats.samples import Stat
from itera_lite.stats.targets import Target, ratio
from itera_lite.train.distributed import World
from itera_lite.train.objective import Objective
from itera_lite.train.optim import Optimizer
from itera_lite.train.precision import Precision, choose
from itera_lite.train.step import BatchGradient
from itera_lite.workers import Workers

Step = Callable[[Tensor], float]  # one update on a batch (B, L+1); returns the loss in nats
PEER_TYPES = (torch.float32, torch.bfloat16)
SHARE_OF_PEAK: dict[Family, float] = {"itera": 0.45, "transformer": 0.55}  # targets, tiny presets


class Repeat(NamedTuple):
    """One repeat of some steps."""

    first_loss: float  # nats
    tokens_per_second: float
    peak: float  # of the workers' cores just after, FLOP/s; 0 beside a busy program


@dataclass(kw_only=True)
class Trainer(Entry[Repeat]):
    """A way to train.

    Attributes:
        workers: as many as the step uses; of a peer, as many threads of PyTorch.
        beside: the priority of a busy program that runs meanwhile; None: none does.
    """

    step: Step
    batch: Tensor
    steps: int  # a repeat
    workers: Workers
    dtype: torch.dtype
    beside: Priority | None = None

    def measure(self) -> Repeat:
        with BusyProgram(self.beside) if self.beside else nullcontext():
            begin = time.perf_counter()
            losses = [self.step(self.batch) for _ in range(self.steps)]
            seconds = time.perf_counter() - begin
        tokens = self.batch[:, 1:].numel() * self.steps
        return Repeat(losses[0], tokens / seconds, 0.0 if self.beside else self._peak())

    def _peak(self) -> float:
        """What all workers reach together in products of matrices, FLOP/s."""
        measure = partial(measured_peak, self.dtype, seconds=0.2)
        return sum(self.workers.map([measure] * self.workers.count))

    @property
    def speed(self) -> Measurement:
        """Tokens a second."""
        return Measurement.of_samples([one.tokens_per_second for one in self.samples])

    def record(self) -> RuntimeTraining:
        return RuntimeTraining(
            threads=self.workers.count,
            precision="bf16" if self.dtype == torch.bfloat16 else "fp32",
            tokens_per_second=Stat.of([one.tokens_per_second for one in self.samples]),
            first_loss=self.samples[0].first_loss,
            beside=self.beside,
        )


def measure_training(
    families: Sequence[Family],
    size: str,
    vocab_size: int,
    config: TrainConfig,
    *,
    precision: Precision,
    threads: int | None,
    repeats: int,
    steps: int,
    peers: bool,
) -> list[TrainingSpeed]:
    """Measure how fast models train: with all workers and with one, with all beside a busy
    program, and in `transformers`.

    Args:
        families: which models; they aren't timed in turns with each other.
        size: ``tiny``, ``small`` or ``base``.
        vocab_size: of the vocabulary.
        config: batch size and sequence length.
        threads: workers; a peer has as many threads of PyTorch.
        precision, repeats, steps, peers: the options of `itera bench train`.

    Returns:
        The record of each model.
    """
    records = []
    with torch_threads(1), Workers(threads or default_threads()) as workers, Workers() as one:
        problem = ops.enable()
        dtype = choose(precision, "cpu", workers).dtype
        for family in families:
            name = f"{NAMES[family]}_{size}"
            torch.manual_seed(0)
            model = LanguageModel(preset(family, size, vocab_size))
            with tempfile.TemporaryDirectory() as folder:
                save_model(model, folder, eot_id=0)
                trainers = list(_trainers(folder, config, dtype, (workers, one), steps, peers))
            rounds = measure_in_turns(f"bench train {name}", trainers, repeats)
            origin = Provenance.now(
                seed=0,
                versions=runtimes.versions((TRANSFORMERS,) if peers else ()),
                load_by_others=rounds.load.by_others,
            )
            flops = cost(model.config, config.seq_len).flops_train
            rows = _shares_of_peak(trainers, flops)
            median = {label: row.tokens_per_second.median for label, row in rows.items()}
            first, *others = median
            records.append(
                TrainingSpeed(
                    model=describe(name, model.config),
                    flops_train_per_token=flops,
                    batch_size=config.batch_size,
                    seq_len=config.seq_len,
                    runtimes=rows,
                    fused_operations=problem is None,
                    speedup_of_first={label: median[first] / median[label] for label in others},
                    targets=_targets(family, size, trainers, rows, flops, origin.load),
                    repeated_rounds=rounds.repeated,
                    provenance=origin,
                )
            )
    return records


def training_speeds(
    size: str,
    vocab_size: int,
    batch_size: int,
    threads: int | None = None,
    repeats: int = 9,
    steps: int = 2,
) -> SpeedsOfSize:
    """Measure how fast our two models of a size train, in turns with each other.

    Args:
        threads: workers.
    """
    config = TrainConfig(batch_size=batch_size)
    with torch_threads(1), Workers(threads or default_threads()) as workers:
        ops.enable()
        dtype = choose("auto", "cpu", workers).dtype
        batch, trainers = random_batch(vocab_size, config), []
        for family in NAMES:
            torch.manual_seed(0)
            model = LanguageModel(preset(family, size, vocab_size)).train()
            model.compute_dtype = dtype
            trainers.append(
                Trainer(
                    name=f"{NAMES[family]}_{size}",
                    step=our_step(model, config, workers),
                    batch=batch,
                    steps=steps,
                    workers=workers,
                    dtype=dtype,
                )
            )
        rounds = measure_in_turns(f"bench train {size}", trainers, repeats)
    return SpeedsOfSize(
        *(size, batch_size, vocab_size),
        models={one.name: one.record() for one in trainers},
        load=rounds.load.load,
        repeated_rounds=rounds.repeated,
        cpu=cpu_name(),
    )


def our_step(
    model: LanguageModel, config: TrainConfig, workers: Workers, world: World | None = None
) -> Step:
    """A step as `itera train` takes it: Muon and AdamW, with the experts' balance loss.

    The learning rate is zero, so that the weights stay the same; so it is in `peer_step`.

    Args:
        world: processes that share the batch; the step takes the rows of this one.
    """
    optimizer = Optimizer(model, config)
    gradient = BatchGradient(model, config, Objective(), workers, world or World())

    def step(batch: Tensor) -> float:
        tokens = batch.numpy()
        losses = gradient(tokens, np.zeros_like(tokens), 0)
        optimizer.step(gradient.gradients, 0.0, workers, losses.norm)
        return losses.cross_entropy

    return step


def peer_step(model: nn.Module, config: TrainConfig, dtype: torch.dtype) -> Step:
    """A step as a user of `transformers` writes it: autocast, clipping, fused AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.1, fused=True)

    def step(batch: Tensor) -> float:
        half = dtype != torch.float32
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            logits = model(input_ids=batch[:, :-1], use_cache=False).logits
        loss = F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip, foreach=True)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def random_batch(vocab_size: int, config: TrainConfig) -> Tensor:
    """Token ids (B, L+1), the same for everybody."""
    generator = torch.Generator().manual_seed(0)
    shape = (config.batch_size, config.seq_len + 1)
    return torch.randint(vocab_size, shape, generator=generator)


def _trainers(
    folder: str,
    config: TrainConfig,
    dtype: torch.dtype,
    workers: tuple[Workers, Workers],
    steps: int,
    peers: bool,
) -> Iterator[Trainer]:
    """Everybody loads the same weights, which a learning rate of zero keeps the same.

    Args:
        workers: all, and one.
    """
    batch = random_batch(read_config(Path(folder)).vocab_size, config)

    def trainer(
        label: str, step: Step, workers: Workers, dtype: torch.dtype, beside: Priority | None = None
    ) -> Trainer:
        return Trainer(
            name=label + (f", beside a busy program of {beside} priority" if beside else ""),
            step=step,
            batch=batch,
            steps=steps,
            workers=workers,
            dtype=dtype,
            beside=beside,
        )

    ways = []
    for some in {each.count: each for each in workers}.values():
        model = load_model(folder).train()
        model.compute_dtype = dtype
        label = f"{OURS}, {some.count} worker{'s' if some.count > 1 else ''}"
        ways.append((label, our_step(model, config, some), some, dtype))
    for way in ways:
        yield trainer(*way)
    for priority in NICENESS:
        yield trainer(*ways[0], priority)
    if peers:
        peer = runtimes.load_transformers(folder, attention="sdpa").train()
        n = workers[0].count
        with torch_threads(n):
            best = min(PEER_TYPES, key=lambda dtype: _seconds(peer, config, batch, dtype))
        step = _with_threads(n, peer_step(peer, config, best))
        label = f"{TRANSFORMERS}, {n} thread{'s' if n > 1 else ''}"
        yield trainer(label, step, workers[0], best)


def _with_threads(threads: int, step: Step) -> Step:
    """A step in which PyTorch has so many threads."""

    def run(batch: Tensor) -> float:
        with torch_threads(threads):
            return step(batch)

    return run


def _seconds(model: nn.Module, config: TrainConfig, batch: Tensor, dtype: torch.dtype) -> float:
    """Of a step of `transformers` in a precision, the better of two."""
    step, times = peer_step(model, config, dtype), []
    step(batch)
    for _ in range(2):
        begin = time.perf_counter()
        step(batch)
        times.append(time.perf_counter() - begin)
    return min(times)


def _shares_of_peak(trainers: Sequence[Trainer], flops: float) -> dict[str, RuntimeTraining]:
    """Each trainer's record with the best peak that was measured in its precision and with its
    workers, and its share of that."""
    peaks, rows = defaultdict[tuple[torch.dtype, int], float](float), {}
    for one in trainers:
        key = one.dtype, one.workers.count
        peaks[key] = max(peaks[key], *(repeat.peak for repeat in one.samples))
    for one in trainers:
        peak, row = peaks[one.dtype, one.workers.count], one.record()
        row.peak_gflops = peak / 1e9
        row.share_of_peak = row.tokens_per_second.median * flops / peak
        rows[one.name] = row
    return rows


def _targets(
    family: Family,
    size: str,
    trainers: Sequence[Trainer],
    rows: dict[str, RuntimeTraining],
    flops: float,
    load: Load | None,
) -> list[Target]:
    """Judge what all cores give a tiny model; what a second one gives, only where there are two.

    Args:
        trainers: ours first, with all workers.
        flops: of training, a token.
        load: by others.
    """
    if size != "tiny" or family not in SHARE_OF_PEAK:
        return []
    ours = [one for one in trainers if one.name.startswith(OURS)]
    all_cores, quiet = ours[0], {one.workers.count: one for one in ours if not one.beside}
    found: list[tuple[Target, Measurement | None]] = []
    if all_cores.workers.count == 2:
        beside = {one.beside: one for one in ours}
        for key, label, least, one in (
            ("workers", "Two workers against one", 1.85, all_cores),
            ("beside_low", "Two beside low priority, against one alone", 1.6, beside["low"]),
            ("beside_equal", "Two beside equal priority, against one alone", 1.15, beside["equal"]),
        ):
            found.append((Target(key, label, "at least", least), ratio(one.speed, quiet[1].speed)))
    if peak := rows[all_cores.name].peak_gflops:
        share = all_cores.speed.scaled(flops / (1e9 * peak))
        least = SHARE_OF_PEAK[family]
        target = Target("peak", "All workers, share of the cores' peak", "at least", least, "%")
        found.append((target, share))
    if family == "itera":
        peer = next((one for one in trainers if one.name.startswith(TRANSFORMERS)), None)
        target = Target("transformers", "All workers, against transformers", "at least", 6)
        found.append((target, ratio(all_cores.speed, peer.speed if peer else None)))
    return [target.judged(measurement, load=load) for target, measurement in found]
