"""Measures training: whole steps of our models and of `transformers`, timed in turns.

`itera bench train` reports them; `itera bench seeds` takes the ratio of our two models' speeds.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itera_lite import ops
from itera_lite.bench.runtimes import TRANSFORMERS, load_transformers, runtime_versions
from itera_lite.bench.turns import progress_bar, turns
from itera_lite.checkpoint.hf import load_model, save_model
from itera_lite.config import NAMES, Family, TrainConfig, preset
from itera_lite.machine.peak import measured_peak, torch_threads
from itera_lite.machine.provenance import default_threads, provenance
from itera_lite.model import LanguageModel
from itera_lite.model.cost import cost
from itera_lite.stats.samples import stat
from itera_lite.train.optim import Optimizer
from itera_lite.train.precision import Precision, choose

Step = Callable[[Tensor], float]  # one update on a batch (B, L+1); returns the loss in nats


@dataclass
class Trainer:
    """A way to train, with some threads, and its speeds."""

    label: str
    step: Step
    threads: int
    dtype: torch.dtype
    speeds: list[float] = field(default_factory=list)  # tokens/s, one a repeat
    losses: list[float] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)  # of the processor meanwhile, FLOP/s

    def record(self) -> dict[str, Any]:
        return {
            "threads": self.threads,
            "precision": "bf16" if self.dtype == torch.bfloat16 else "fp32",
            "tokens_per_second": stat(self.speeds),
            "first_loss": self.losses[0],
        }


def measure_training(
    families: Sequence[Family],
    size: str,
    vocab_size: int,
    config: TrainConfig,
    *,
    precision: Precision = "auto",
    threads: int | None = None,
    repeats: int = 7,
    steps: int = 4,
    peers: bool = True,
) -> dict[str, dict[str, Any]]:
    """Measure how fast models train, with all threads and with one, beside `transformers`.

    Args:
        families: which models; they aren't timed in turns with each other.
        size: ``tiny``, ``small`` or ``base``.
        vocab_size: of the vocabulary.
        config: batch size and sequence length.
        precision: of our matrix products.
        threads: of the processor; None: one a core.
        repeats: times that everything is measured.
        steps: a repeat.
        peers: whether to measure `transformers`.

    Returns:
        The record of each model, by its name.
    """
    threads = threads or default_threads()
    records = {}
    with torch_threads(threads):
        problem = ops.enable()
        dtype = choose(precision, "cpu").dtype
        for family in families:
            name = f"{NAMES[family]}_{size}"
            torch.manual_seed(0)
            model = LanguageModel(preset(family, size, vocab_size))
            with tempfile.TemporaryDirectory() as folder:
                save_model(model, folder, eot_id=0)
                trainers = _trainers(folder, config, dtype, threads, peers)
            measure_trainers(name, trainers, vocab_size, config, repeats, steps)
            record = _record(name, model, config, trainers)
            record["fused_kernels"] = problem is None
            record["provenance"] = provenance(seed=0)
            record["provenance"]["versions"] |= runtime_versions((TRANSFORMERS,) if peers else ())
            records[name] = record
    return records


def training_speeds(
    size: str,
    vocab_size: int,
    batch_size: int,
    threads: int | None = None,
    repeats: int = 9,
    steps: int = 2,
) -> dict[str, Any]:
    """Measure how fast our two models of a size train, in turns with each other.

    Returns:
        Each model's record, by its name: ``tokens_per_second``, ``threads``, ``precision``.
    """
    config = TrainConfig(batch_size=batch_size)
    threads = threads or default_threads()
    with torch_threads(threads):
        ops.enable()
        dtype = choose("auto", "cpu").dtype
        trainers = []
        for family in NAMES:
            torch.manual_seed(0)
            model = LanguageModel(preset(family, size, vocab_size)).train()
            model.compute_dtype = dtype
            label = f"{NAMES[family]}_{size}"
            trainers.append(Trainer(label, our_step(model, config), threads, dtype))
        measure_trainers(size, trainers, vocab_size, config, repeats, steps)
    return {one.label: one.record() for one in trainers}


def our_step(model: LanguageModel, config: TrainConfig) -> Step:
    """A step as `itera train` takes it: Muon and AdamW, with the experts' balance loss.

    The learning rate is zero, so that the weights stay the same; so it is in `peer_step`.
    """
    optimizer = Optimizer(model, config)

    def step(batch: Tensor) -> float:
        loss = model.loss(batch[:, :-1], batch[:, 1:], config.balance_weight)
        loss.total.backward()
        optimizer.step(0.0)
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


def measure_trainers(
    name: str,
    trainers: Sequence[Trainer],
    vocab_size: int,
    config: TrainConfig,
    repeats: int,
    steps: int,
) -> None:
    """Let them train on random tokens in turns; adds speeds, losses and peaks to each."""
    generator = torch.Generator().manual_seed(0)
    shape = (config.batch_size, config.seq_len + 1)
    batch = torch.randint(vocab_size, shape, generator=generator)
    tokens = config.batch_size * config.seq_len
    with progress_bar(f"bench train {name}", (repeats + 1) * len(trainers)) as progress:
        for repeat, one in turns(trainers, repeats, progress, lambda one: one.label):
            torch.set_num_threads(one.threads)
            if repeat < 0:
                one.losses.append(one.step(batch))
                continue
            seconds = sum(_seconds_of(one.step, batch) for _ in range(steps))
            one.speeds.append(tokens * steps / seconds)
            one.peaks.append(measured_peak(one.dtype, seconds=0.2))


def _seconds_of(step: Step, batch: Tensor) -> float:
    begin = time.perf_counter()
    step(batch)
    return time.perf_counter() - begin


def _trainers(
    folder: str, config: TrainConfig, dtype: torch.dtype, threads: int, peers: bool
) -> list[Trainer]:
    """Everybody loads the same weights, which a learning rate of zero keeps the same."""

    def label(runtime: str, n: int) -> str:
        return f"{runtime}, {n} thread{'s' if n > 1 else ''}"

    found = []
    for n in dict.fromkeys((threads, 1)):
        model = load_model(folder).train()
        model.compute_dtype = dtype
        found.append(Trainer(label("itera-lite", n), our_step(model, config), n, dtype))
    if peers:
        peer = load_transformers(folder, attention="sdpa").train()
        best = _best_precision(peer, config)
        step = peer_step(peer, config, best)
        found.append(Trainer(label(TRANSFORMERS, threads), step, threads, best))
    return found


def _best_precision(model: nn.Module, config: TrainConfig) -> torch.dtype:
    """The faster of float32 and bfloat16 autocast for ``model``; the better of two each."""
    batch = torch.zeros(config.batch_size, config.seq_len + 1, dtype=torch.int64)
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        step = peer_step(model, config, dtype)
        step(batch)
        seconds[dtype] = min(_seconds_of(step, batch) for _ in range(2))
    return min(seconds, key=lambda dtype: seconds[dtype])


def _record(
    name: str, model: LanguageModel, config: TrainConfig, trainers: Sequence[Trainer]
) -> dict[str, Any]:
    """Shares of the peak, and ratios of medians: above 1 means that the first one is faster."""
    flops = cost(model.config, config.seq_len).flops_train
    rows = {}
    for one in trainers:
        alike = [t for t in trainers if (t.dtype, t.threads) == (one.dtype, one.threads)]
        peak = max(peak for other in alike for peak in other.peaks)
        row = one.record() | {"peak_gflops": peak / 1e9}
        row["share_of_peak"] = row["tokens_per_second"]["median"] * flops / peak
        rows[one.label] = row
    median = {label: row["tokens_per_second"]["median"] for label, row in rows.items()}
    first = trainers[0].label
    return {
        "name": name,
        "family": model.config.family,
        "params": cost(model.config).params_total,
        "flops_train_per_token": flops,
        "batch_size": config.batch_size,
        "seq_len": config.seq_len,
        "contenders": rows,
        "speedup_of_first": {k: median[first] / v for k, v in median.items() if k != first},
    }
