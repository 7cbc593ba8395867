"""Measures speed, memory and energy of models side by side: what `itera bench` does.

A *cell* is one batch size and context length. In each repeat every model reads its prompt and
then decodes, in turns with the others, after a repeat that isn't counted; all samples are kept.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from itera_lite import ops
from itera_lite.bench.processes import measure_fresh
from itera_lite.bench.runtimes import (
    ENGINE,
    LLAMA,
    TRANSFORMERS,
    EngineRuntime,
    LlamaRuntime,
    Runtime,
    TorchRuntime,
    TransformersRuntime,
    missing_runtimes,
    prompt_text,
    runtime_versions,
)
from itera_lite.bench.turns import Progress, progress_bar, turns
from itera_lite.checkpoint.folder import load_checkpoint
from itera_lite.config import preset_of
from itera_lite.export.gguf import export_gguf
from itera_lite.files import folder_name
from itera_lite.machine.energy import DEFAULT_WATTS, Meter, energy_record, find_meter
from itera_lite.machine.peak import synchronize, torch_threads
from itera_lite.machine.provenance import default_threads, provenance
from itera_lite.model import LanguageModel
from itera_lite.model.cost import cost
from itera_lite.stats.samples import stat

CONTEXTS = (128, 1024, 8192)
BATCHES = (1, 8)
QUICK_CELL = 8192  # tokens (batch x context) in a quick run's largest cell
PEER_CELL = 1024  # in a peer's: the eager Mamba-2 of transformers takes gigabytes above
REPEATS, QUICK_REPEATS = 7, 3
LARGE_CELL = 16384  # above, a round takes many seconds: no more than the quick repeats
STEPS, QUICK_STEPS = 100, 34  # tokens decoded a repeat
ONE_TEXT = "one text at a time: batch 1 only"  # what isn't measured of a peer
ONE_THREAD_BELOW = 10_000_000  # parameters: with fewer, a second thread costs more than it gives


@dataclass
class Segment:
    """One repeat of one cell by one runtime. Times in seconds."""

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
    """All repeats of one runtime at one batch size and context length."""

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
        p50, p99 = np.percentile(every, [50, 99]).tolist()
        return {
            "batch": self.batch,
            "context": self.context,
            "tokens_per_second": stat(
                [self.batch * len(s.steps) / sum(s.steps) for s in self.segments]
            ),
            "latency_ms": {
                **stat([1e3 * statistics.median(s.steps) for s in self.segments]),
                "p50": p50,
                "p99": p99,
                "steps": len(every),
            },
        }


@dataclass
class Entry:
    """A checkpoint in a runtime, and what was measured.

    Attributes:
        name: in the results and in the progress.
        runtime: what reads and decodes.
        of: index of the checkpoint.
        peer: ``transformers``, ``llama.cpp`` or ``engine``; empty for our PyTorch model.
    """

    name: str
    runtime: Runtime
    of: int
    peer: str = ""
    cells: list[Cell] = field(default_factory=list)

    def takes(self, batch: int, context: int) -> bool:
        """Whether it is measured in this cell."""
        if not self.peer:
            return True
        return batch * context <= PEER_CELL and (batch == 1 or self.runtime.batches)

    def rows(self) -> dict[str, Any]:
        return {
            "prefill": [cell.prefill_row() for cell in self.cells],
            "decode": [cell.decode_row() for cell in self.cells],
        }


def measure_speed(
    folders: Sequence[Path],
    *,
    quick: bool = False,
    peers: bool = False,
    repeats: int | None = None,
    threads: int | None = None,
    watts: float | None = None,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """Measure checkpoints in all cells, and loading and memory in fresh processes.

    Args:
        folders: checkpoints.
        quick: three repeats, and no batches of long prompts.
        peers: whether to measure other runtimes with the same weights, those that are here.
        repeats: times that everything is measured; None: `REPEATS`.
        threads: of the processor; None: 1 below 10 million parameters, else all cores.
        watts: power of a busy core, for the estimate where no energy counter can be read.
        device: ``cpu`` or ``cuda``.

    Returns:
        The record of each checkpoint.
    """
    loaded = [load_checkpoint(folder) for folder in folders]
    models = [model.to(device) for model, _ in loaded]
    prompts = [tokenizer.encode(prompt_text()) for _, tokenizer in loaded]
    problem = ops.enable()
    threads = threads or _default_threads(models)
    repeats = repeats or (QUICK_REPEATS if quick else REPEATS)
    names = [folder_name(folder) for folder in folders]
    entries = [Entry(name, TorchRuntime(models[i]), i) for i, name in enumerate(names)]
    if peers:
        entries += find_peers(folders, device=device, threads=threads, context=PEER_CELL + STEPS)
    meter = find_meter(device)
    plan = [
        (cell, [entry for entry in entries if entry.takes(*cell)], cell_repeats(cell, repeats))
        for cell in cells_of(models, QUICK_CELL if quick else None)
    ]
    rounds = sum((times + 1) * len(group) for _, group, times in plan) + repeats * len(names)
    fresh: list[list[dict[str, float]]] = [[] for _ in folders]
    with torch_threads(threads), progress_bar("bench", rounds) as progress:
        for cell, group, times in plan:
            measure_cell(
                group,
                prompts,
                *cell,
                repeats=times,
                steps=QUICK_STEPS if quick else STEPS,
                device=device,
                meter=meter,
                progress=progress,
            )
        for _ in range(repeats):
            for folder, name, samples in zip(folders, names, fresh, strict=True):
                progress(f"{name}, a fresh process")
                samples.append(measure_fresh(folder, threads=threads, device=device))
        origin = provenance(device=device)
    origin["versions"] |= runtime_versions({entry.peer for entry in entries})
    records = []
    for i, model in enumerate(models):
        record = _record(entries[i], model, fresh[i], meter, watts or DEFAULT_WATTS)
        for entry in entries:
            if entry.of == i and entry.peer:
                note = {} if entry.runtime.batches else {"note": ONE_TEXT}
                record.setdefault("peers", {})[entry.peer] = entry.rows() | note
        if peers and (missing := missing_runtimes(device)):
            record["peers_left_out"] = missing
        record["interleaved_with"] = [e.name for e in entries if e is not entries[i]]
        record["fused_kernels"] = problem is None
        record["provenance"] = origin
        records.append(record)
    for entry in entries:
        entry.runtime.close()
    return records


def measure_cell(
    entries: Sequence[Entry],
    prompts: Sequence[Sequence[int]],
    batch: int,
    context: int,
    *,
    repeats: int,
    steps: int,
    progress: Progress,
    device: str = "cpu",
    meter: Meter | None = None,
) -> None:
    """Measure every entry in one cell, in turns, and add the cell to the entries.

    Args:
        entries: what is compared.
        prompts: token ids of the same text, a list for each checkpoint (its own tokenizer).
        batch: texts at once.
        context: tokens of the prompt.
        repeats: timed repeats, after one round that isn't counted.
        steps: tokens a row decoded in each repeat.
        progress: called before each turn.
        device: where the models are.
        meter: read around decoding, where there is one.
    """
    rows = [prompt_rows(ids, batch, context).to(device) for ids in prompts]
    for entry in entries:
        entry.cells.append(Cell(batch, context))

    def title(entry: Entry) -> str:
        return f"{entry.name}, batch {batch}, context {context}"

    for repeat, entry in turns(entries, repeats, progress, title):
        segment = _segment(entry.runtime, rows[entry.of], steps, device, meter)
        if repeat >= 0:
            entry.cells[-1].segments.append(segment)


@torch.inference_mode()
def _segment(
    runtime: Runtime, rows: Tensor, steps: int, device: str, meter: Meter | None
) -> Segment:
    """Greedy decoding after the prompt; picking the token is part of a step."""
    cpu, begin = time.process_time(), time.perf_counter()
    token = runtime.read(rows).argmax(-1)
    synchronize(device)
    prefill = time.perf_counter() - begin
    times = []
    before = meter.read() if meter is not None else ()
    decode_cpu = time.process_time()
    for _ in range(steps):
        start = time.perf_counter()
        token = runtime.step(token).argmax(-1)
        synchronize(device)
        times.append(time.perf_counter() - start)
    end_cpu, end = time.process_time(), time.perf_counter()
    used = meter.since(before) if meter is not None else None
    return Segment(prefill, times, end - begin, end_cpu - cpu, end_cpu - decode_cpu, used)


def prompt_rows(ids: Sequence[int], batch: int, context: int) -> Tensor:
    """(B, L) of one text, repeated where it is too short; each row begins elsewhere."""
    text = torch.tensor(list(ids), dtype=torch.int64)
    start = torch.arange(batch)[:, None] * (len(text) // batch)
    return text[(start + torch.arange(context)) % len(text)]


def cpu_use(cells: Sequence[Cell]) -> dict[str, float]:
    """Processor use in percent of one core: over everything, and the busiest segment."""
    segments = [s for cell in cells for s in cell.segments]
    return {
        "mean_percent": 100 * sum(s.cpu for s in segments) / sum(s.wall for s in segments),
        "max_percent": 100 * max(s.cpu / s.wall for s in segments),
    }


def cells_of(models: Sequence[LanguageModel], largest: int | None) -> list[tuple[int, int]]:
    """(batch, context) pairs that every model can read, up to ``largest`` tokens a cell."""
    longest = min(model.config.max_seq_len for model in models)
    contexts = [c for c in CONTEXTS if c <= longest] or [longest]
    pairs = [(batch, context) for context in contexts for batch in BATCHES]
    return [(b, c) for b, c in pairs if largest is None or b * c <= largest]


def cell_repeats(cell: tuple[int, int], repeats: int) -> int:
    """How often a cell is measured."""
    return min(repeats, QUICK_REPEATS) if cell[0] * cell[1] > LARGE_CELL else repeats


def find_peers(
    folders: Sequence[Path], *, device: str, threads: int, context: int
) -> list[Entry]:
    """Every other runtime that can be measured here, with every checkpoint.

    `transformers` loads the checkpoint; llama.cpp and the engine an F32 export of it.

    Args:
        folders: checkpoints.
        device: what the models run on.
        threads: processor threads; the engine reads a text with one.
        context: tokens that a text may have.
    """
    missing = missing_runtimes(device)
    found: list[Entry] = []

    def add(i: int, peer: str, runtime: Runtime) -> None:
        found.append(Entry(f"{peer}:{folder_name(folders[i])}", runtime, i, peer))

    # Loaded models keep their files mapped: the folder may go before they are used.
    with tempfile.TemporaryDirectory() as scratch:
        for i, folder in enumerate(folders):
            if TRANSFORMERS not in missing:
                add(i, TRANSFORMERS, TransformersRuntime(folder, device))
            if {LLAMA, ENGINE} <= missing.keys():
                continue
            path = Path(scratch) / f"{i}.gguf"
            export_gguf(folder, "f32", path)
            if LLAMA not in missing:
                add(i, LLAMA, LlamaRuntime(path, context, threads=threads))
            if ENGINE not in missing:
                add(i, ENGINE, EngineRuntime(path, context))
    return found


def _default_threads(models: Sequence[LanguageModel]) -> int:
    largest = max(cost(model.config).params_total for model in models)
    return 1 if largest < ONE_THREAD_BELOW else default_threads()


def _record(
    entry: Entry,
    model: LanguageModel,
    fresh: Sequence[dict[str, float]],
    meter: Meter | None,
    watts: float,
) -> dict[str, Any]:
    costs = cost(model.config)
    process = {key: stat([sample[key] for sample in fresh]) for key in fresh[0]}
    single = entry.cells[0]  # batch 1, shortest context: what a user who waits for text pays
    per_token = [segment.per_decoded_token(single.batch) for segment in single.segments]
    return {
        "name": entry.name,
        "family": model.config.family,
        "preset": preset_of(model.config.to_dict()),
        "params": {
            "total": costs.params_total,
            "embedding": costs.params_embedding,
            "non_embedding": costs.params_non_embedding,
            "active": costs.params_active,
        },
        "flops_per_token": {
            "forward": costs.flops_forward,
            "decode": costs.flops_decode,
            "train": costs.flops_train,
            "context": costs.context,
        },
        **entry.rows(),
        "memory": {
            "weights_bytes": sum(p.numel() * p.element_size() for p in model.parameters()),
            "state_bytes": {str(c): costs.state_bytes(c) for c in CONTEXTS},
            "peak_rss_bytes": process["peak_rss_bytes"],
            "import_rss_bytes": process["import_rss_bytes"],
        },
        "cpu": cpu_use(entry.cells),
        "energy": energy_record(per_token, meter, watts),
        "load_ms": process["load_ms"],
        "first_token_ms": process["first_token_ms"],
        "import_ms": process["import_ms"],
    }
