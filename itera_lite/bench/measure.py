"""Times models side by side: interleaved, warmed up, repeated; the raw samples are kept.

A *cell* is one batch size and context length. In each repeat every runner reads its
prompt and then decodes, one runner after the other, and the order turns from repeat to
repeat, so a machine that gets slower for a while slows all of them alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from itera_lite.machine.energy import Meter
from itera_lite.machine.peak import synchronize
from itera_lite.model import LanguageModel
from itera_lite.stats.samples import percentile, stat


class Runner(Protocol):
    """What is measured: reads a prompt, then one token a row at a time."""

    @property
    def name(self) -> str: ...

    def prefill(self, ids: Tensor) -> tuple[Tensor, Any]:
        """Token ids (B, L) -> logits of the last position (B, V), and a state."""
        ...

    def step(self, ids: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Token ids (B,) and a state -> logits (B, V), and the state after them."""
        ...


class IteraRunner:
    """A `LanguageModel` of this package."""

    def __init__(self, name: str, model: LanguageModel) -> None:
        self.name = name
        self._model = model

    def prefill(self, ids: Tensor) -> tuple[Tensor, Any]:
        state = self._model.initial_state(ids.shape[0])
        return self._model.prefill(ids, state), state

    def step(self, ids: Tensor, state: Any) -> tuple[Tensor, Any]:
        return self._model.step(ids, state), state


@dataclass
class Segment:
    """One repeat of one cell by one runner. Times in seconds."""

    prefill: float
    steps: list[float]
    wall: float
    cpu: float  # processor time of the process, over both parts
    decode_cpu: float
    decode_joules: float | None

    def per_decoded_token(self, batch: int) -> tuple[float, float | None]:
        """Processor seconds, and joules where a meter was read."""
        tokens = batch * len(self.steps)
        joules = self.decode_joules
        return self.decode_cpu / tokens, None if joules is None else joules / tokens


@dataclass
class Cell:
    """All repeats of one runner at one batch size and context length."""

    batch: int
    context: int
    segments: list[Segment] = field(default_factory=list)

    def prefill_row(self) -> dict[str, Any]:
        times = [s.prefill for s in self.segments]
        tokens = self.batch * self.context
        return {
            "batch": self.batch,
            "context": self.context,
            "tokens_per_second": stat([tokens / t for t in times]),
            "latency_ms": stat([1e3 * t for t in times]),
        }

    def decode_row(self) -> dict[str, Any]:
        """Latency of a step: the statistics of the repeats' medians, and the percentiles
        of all steps together."""
        every = [1e3 * t for s in self.segments for t in s.steps]
        return {
            "batch": self.batch,
            "context": self.context,
            "tokens_per_second": stat(
                [self.batch * len(s.steps) / sum(s.steps) for s in self.segments]
            ),
            "latency_ms": {
                **stat([1e3 * statistics.median(s.steps) for s in self.segments]),
                "p50": percentile(every, 50),
                "p99": percentile(every, 99),
                "steps": len(every),
            },
        }


def prompt_rows(ids: Sequence[int], batch: int, context: int) -> Tensor:
    """(B, L) of one text, repeated where it is too short; each row begins elsewhere."""
    text = torch.tensor(list(ids), dtype=torch.int64)
    start = torch.arange(batch)[:, None] * (len(text) // batch)
    return text[(start + torch.arange(context)) % len(text)]


def interleave(
    runners: Sequence[Runner],
    prompts: Sequence[Sequence[int]],
    cells: Sequence[tuple[int, int]],
    *,
    repeats: int,
    steps: int,
    device: str = "cpu",
    meter: Meter | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[list[Cell]]:
    """Measures every runner in every cell, side by side.

    Args:
        runners: models to compare.
        prompts: token ids of the same text, a list for each runner (its own tokenizer).
        cells: (batch, context) pairs.
        repeats: timed repeats, after one round that isn't counted.
        steps: tokens a row decoded in each repeat.
        device: where the runners are.
        meter: read around decoding, where there is one.
        progress: told what comes next, before each segment.

    Returns:
        A list of cells for each runner, in the order given.
    """
    table: list[list[Cell]] = [[] for _ in runners]
    for batch, context in cells:
        rows = [prompt_rows(ids, batch, context).to(device) for ids in prompts]
        for column in table:
            column.append(Cell(batch, context))
        for repeat in range(-1, repeats):
            for turn in range(len(runners)):
                i = (turn + repeat) % len(runners)
                if progress is not None:
                    progress(f"{runners[i].name}, batch {batch}, context {context}")
                segment = _segment(runners[i], rows[i], steps, device, meter)
                if repeat >= 0:
                    table[i][-1].segments.append(segment)
    return table


@torch.inference_mode()
def _segment(runner: Runner, rows: Tensor, steps: int, device: str, meter: Meter | None) -> Segment:
    """Greedy decoding after the prompt; picking the token is part of a step."""
    cpu, begin = time.process_time(), time.perf_counter()
    logits, state = runner.prefill(rows)
    token = logits.argmax(-1)
    synchronize(device)
    prefill = time.perf_counter() - begin
    times = []
    before = meter.read() if meter is not None else ()
    decode_cpu = time.process_time()
    for _ in range(steps):
        start = time.perf_counter()
        logits, state = runner.step(token, state)
        token = logits.argmax(-1)
        synchronize(device)
        times.append(time.perf_counter() - start)
    end_cpu, end = time.process_time(), time.perf_counter()
    used = meter.since(before) if meter is not None else None
    return Segment(prefill, times, end - begin, end_cpu - cpu, end_cpu - decode_cpu, used)


def cpu_use(cells: Sequence[Cell]) -> dict[str, float]:
    """Processor use in percent of one core: over everything, and the busiest segment."""
    segments = [s for cell in cells for s in cell.segments]
    return {
        "mean_percent": 100 * sum(s.cpu for s in segments) / sum(s.wall for s in segments),
        "max_percent": 100 * max(s.cpu / s.wall for s in segments),
    }
