"""Measures training: whole steps of our models and of `transformers`, timed in turns.

`itera bench train` reports them; `itera bench seeds` takes the ratio of our two models' speeds.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itera_lite import ops
from itera_lite.bench import runtimes
from itera_lite.bench.runtimes import OURS, TRANSFORMERS
from itera_lite.bench.turns import Entry, measure_in_turns
from itera_lite.checkpoint.hf import load_model, read_config, save_model
from itera_lite.config import NAMES, Family, TrainConfig, preset
from itera_lite.machine.peak import measured_peak, torch_threads
from itera_lite.machine.processor import default_threads
from itera_lite.machine.provenance import Provenance
from itera_lite.model import LanguageModel
from itera_lite.model.cost import cost, describe
from itera_lite.records import RuntimeTraining, TrainingSpeed
from itera_lite.stats.samples import Stat
from itera_lite.train.optim import Optimizer
from itera_lite.train.precision import Precision, choose
from itera_lite.workers import Workers

Step = Callable[[Tensor], float]  # one update on a batch (B, L+1); returns the loss in nats


class Repeat(NamedTuple):
    """One repeat of some steps."""

    first_loss: float  # nats
    tokens_per_second: float
    peak: float  # of the processor just after, FLOP/s


@dataclass(kw_only=True)
class Trainer(Entry[Repeat]):
    """A way to train."""

    step: Step
    batch: Tensor
    steps: int  # a repeat
    threads: int
    dtype: torch.dtype

    def measure(self) -> Repeat:
        torch.set_num_threads(self.threads)
        begin = time.perf_counter()
        losses = [self.step(self.batch) for _ in range(self.steps)]
        seconds = time.perf_counter() - begin
        tokens = self.batch[:, 1:].numel() * self.steps
        return Repeat(losses[0], tokens / seconds, measured_peak(self.dtype, seconds=0.2))

    def record(self) -> RuntimeTraining:
        return RuntimeTraining(
            threads=self.threads,
            precision="bf16" if self.dtype == torch.bfloat16 else "fp32",
            tokens_per_second=Stat.of([one.tokens_per_second for one in self.samples]),
            first_loss=self.samples[0].first_loss,
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
    """Measure how fast models train, with all threads and with one, beside `transformers`.

    Args:
        families: which models; they aren't timed in turns with each other.
        size: ``tiny``, ``small`` or ``base``.
        vocab_size: of the vocabulary.
        config: batch size and sequence length.
        precision, threads, repeats, steps, peers: the options of `itera bench train`.

    Returns:
        The record of each model.
    """
    threads = threads or default_threads()
    records = []
    with torch_threads(threads):
        problem = ops.enable()
        dtype = choose(precision, "cpu", Workers(threads)).dtype
        for family in families:
            name = f"{NAMES[family]}_{size}"
            torch.manual_seed(0)
            model = LanguageModel(preset(family, size, vocab_size))
            with tempfile.TemporaryDirectory() as folder:
                save_model(model, folder, eot_id=0)
                trainers = list(_trainers(folder, config, dtype, threads, steps, peers))
            measure_in_turns(f"bench train {name}", trainers, repeats)
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
                    provenance=Provenance.now(
                        seed=0, versions=runtimes.versions((TRANSFORMERS,) if peers else ())
                    ),
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
) -> dict[str, RuntimeTraining]:
    """Measure how fast our two models of a size train, in turns with each other.

    Returns:
        Each model's speed, by its name.
    """
    config = TrainConfig(batch_size=batch_size)
    threads = threads or default_threads()
    with torch_threads(threads):
        ops.enable()
        dtype = choose("auto", "cpu", Workers(threads)).dtype
        batch, trainers = _random_batch(vocab_size, config), []
        for family in NAMES:
            torch.manual_seed(0)
            model = LanguageModel(preset(family, size, vocab_size)).train()
            model.compute_dtype = dtype
            trainers.append(
                Trainer(
                    name=f"{NAMES[family]}_{size}",
                    step=our_step(model, config),
                    batch=batch,
                    steps=steps,
                    threads=threads,
                    dtype=dtype,
                )
            )
        measure_in_turns(f"bench train {size}", trainers, repeats)
    return {one.name: one.record() for one in trainers}


def our_step(model: LanguageModel, config: TrainConfig) -> Step:
    """A step as `itera train` takes it: Muon and AdamW, with the experts' balance loss.

    The learning rate is zero, so that the weights stay the same; so it is in `peer_step`.
    """
    optimizer = Optimizer(model, config)

    def step(batch: Tensor) -> float:
        loss = model.loss(batch[:, :-1], batch[:, 1:], config.balance_weight)
        gradients = torch.autograd.grad(loss.total, optimizer.parameters)
        optimizer.step(gradients, 0.0, Workers(1))
        return loss.cross_entropy.item()

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


def _random_batch(vocab_size: int, config: TrainConfig) -> Tensor:
    """Token ids (B, L+1), the same for everybody."""
    generator = torch.Generator().manual_seed(0)
    shape = (config.batch_size, config.seq_len + 1)
    return torch.randint(vocab_size, shape, generator=generator)


def _trainers(
    folder: str, config: TrainConfig, dtype: torch.dtype, threads: int, steps: int, peers: bool
) -> Iterator[Trainer]:
    """Everybody loads the same weights, which a learning rate of zero keeps the same."""
    batch = _random_batch(read_config(Path(folder)).vocab_size, config)

    def trainer(label: str, step: Step, n: int, dtype: torch.dtype) -> Trainer:
        name = f"{label}, {n} thread{'s' if n > 1 else ''}"
        return Trainer(name=name, step=step, batch=batch, steps=steps, threads=n, dtype=dtype)

    for n in dict.fromkeys((threads, 1)):
        model = load_model(folder).train()
        model.compute_dtype = dtype
        yield trainer(OURS, our_step(model, config), n, dtype)
    if peers:
        peer = runtimes.load_transformers(folder, attention="sdpa").train()
        best = min((torch.float32, torch.bfloat16), key=lambda d: _seconds(peer, config, batch, d))
        yield trainer(TRANSFORMERS, peer_step(peer, config, best), threads, best)


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
    threads, and its share of that."""
    peaks, rows = defaultdict[tuple[torch.dtype, int], float](float), {}
    for one in trainers:
        key = one.dtype, one.threads
        peaks[key] = max(peaks[key], *(repeat.peak for repeat in one.samples))
    for one in trainers:
        peak, row = peaks[one.dtype, one.threads], one.record()
        row.peak_gflops = peak / 1e9
        row.share_of_peak = row.tokens_per_second.median * flops / peak
        rows[one.name] = row
    return rows
