"""Whole training steps, ours and those of `transformers`, timed in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from itera_lite import ops
from itera_lite.config import NAMES, TrainConfig, preset
from itera_lite.machine.peak import measured_peak
from itera_lite.machine.provenance import default_threads
from itera_lite.model import LanguageModel
from itera_lite.stats.samples import stat
from itera_lite.train.optim import Optimizer
from itera_lite.train.precision import choose

Step = Callable[[Tensor], float]  # one update on a batch (B, L+1); returns the loss in nats


@dataclass
class Contender:
    """Somebody who trains, with some threads."""

    label: str
    step: Step
    threads: int
    precision: str
    speeds: list[float] = field(default_factory=list)  # tokens/s, one a repeat
    losses: list[float] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        return {
            "threads": self.threads,
            "precision": self.precision,
            "tokens_per_second": stat(self.speeds),
            "first_loss": self.losses[0],
        }


def our_step(model: LanguageModel, config: TrainConfig) -> Step:
    """A step as `itera train` takes it: Muon and AdamW, with the experts' balance loss."""
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


def take_turns(
    name: str,
    contenders: Sequence[Contender],
    vocab_size: int,
    config: TrainConfig,
    repeats: int,
    steps: int,
) -> dict[tuple[str, int], list[float]]:
    """Fill the contenders' speeds; returns the peaks measured in between (FLOP/s), by
    precision and threads."""
    generator = torch.Generator().manual_seed(0)
    shape = (config.batch_size, config.seq_len + 1)
    batch = torch.randint(vocab_size, shape, generator=generator)
    tokens = config.batch_size * config.seq_len
    peaks: dict[tuple[str, int], list[float]] = {}
    rounds = (repeats + 1) * len(contenders)
    with tqdm(total=rounds, desc=f"bench train {name}", disable=None) as bar:
        for repeat in range(-1, repeats):
            for turn in range(len(contenders)):
                one = contenders[(turn + repeat) % len(contenders)]
                torch.set_num_threads(one.threads)
                bar.update()
                if repeat < 0:
                    one.losses.append(one.step(batch))  # warm-up
                    continue
                seconds = [seconds_of(one.step, batch) for _ in range(steps)]
                one.speeds.append(tokens * steps / sum(seconds))
                dtype = torch.bfloat16 if one.precision == "bf16" else torch.float32
                peaks.setdefault((one.precision, one.threads), []).append(
                    measured_peak(dtype, seconds=0.2)
                )
    return peaks


def seconds_of(step: Step, batch: Tensor) -> float:
    """How long one step takes."""
    begin = time.perf_counter()
    step(batch)
    return time.perf_counter() - begin


def training_speeds(
    config: str,
    vocab_size: int,
    batch_size: int,
    threads: int | None = None,
    repeats: int = 9,
    steps: int = 2,
) -> dict[str, Any]:
    """Measure how fast the two models of a size train, in turns with each other.

    Returns:
        Each model's record, by its name: ``tokens_per_second``, ``threads``, ``precision``.
    """
    train, before = TrainConfig(batch_size=batch_size), torch.get_num_threads()
    threads = threads or default_threads()
    torch.set_num_threads(threads)
    try:
        ops.enable()
        dtype = choose("auto", "cpu").dtype
        contenders = []
        for family in NAMES:
            torch.manual_seed(0)
            model = LanguageModel(preset(family, config, vocab_size)).train()
            model.compute_dtype = dtype
            label, step = f"{NAMES[family]}_{config}", our_step(model, train)
            contenders.append(Contender(label, step, threads, short(dtype)))
        take_turns(config, contenders, vocab_size, train, repeats, steps)
        return {one.label: one.record() for one in contenders}
    finally:
        torch.set_num_threads(before)


def short(dtype: torch.dtype) -> str:
    """The name of a precision."""
    return "bf16" if dtype == torch.bfloat16 else "fp32"
