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

import numpy as np
import torch
from torch import Tensor

from itera_lite import ops
from itera_lite.bench import runtimes
from itera_lite.bench.processes import measure_fresh
from itera_lite.bench.runtimes import ENGINE, LLAMA, TRANSFORMERS, Runtime, prompt_text
from itera_lite.bench.turns import Entry, Progress, Rounds, progress_bar, take_turns
from itera_lite.checkpoint.folder import load_checkpoint
from itera_lite.export.gguf import export_gguf
from itera_lite.files import folder_name
from itera_lite.machine.energy import DEFAULT_WATTS, Energy, Meter, find_meter
from itera_lite.machine.peak import synchronize, torch_threads
from itera_lite.machine.processor import default_threads
from itera_lite.machine.provenance import Provenance
from itera_lite.model import LanguageModel
from itera_lite.model.cost import cost, describe
from itera_lite.records import (
    Benchmark,
    CpuUse,
    DecodeSpeed,
    Flops,
    Memory,
    PeerSpeed,
    PrefillSpeed,
    StepLatency,
)
from itera_lite.stats.samples import Stat

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
    """One repeat of one cell. Times in seconds."""

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


@dataclass(kw_only=True)
class Cell(Entry[Segment]):
    """All repeats of one model in one runtime, at one batch size and context length."""

    runtime: Runtime
    rows: Tensor  # the prompts (B, L)
    steps: int  # tokens a row decoded after them
    device: str
    meter: Meter | None  # read around decoding

    @torch.inference_mode()
    def measure(self) -> Segment:
        """Greedy decoding after the prompt; picking the token is part of a step."""
        cpu, begin = time.process_time(), time.perf_counter()
        token = self.runtime.read(self.rows).argmax(-1)
        synchronize(self.device)
        prefill = time.perf_counter() - begin
        times = []
        before = self.meter.read() if self.meter else ()
        decode_cpu = time.process_time()
        for _ in range(self.steps):
            start = time.perf_counter()
            token = self.runtime.step(token).argmax(-1)
            synchronize(self.device)
            times.append(time.perf_counter() - start)
        end_cpu, end = time.process_time(), time.perf_counter()
        used = self.meter.since(before) if self.meter else None
        return Segment(prefill, times, end - begin, end_cpu - cpu, end_cpu - decode_cpu, used)

    @property
    def batch(self) -> int:
        return len(self.rows)

    @property
    def context(self) -> int:
        return self.rows.shape[1]

    @property
    def prefill(self) -> PrefillSpeed:
        times = [s.prefill for s in self.samples]
        tokens = self.batch * self.context
        return PrefillSpeed(
            batch=self.batch,
            context=self.context,
            tokens_per_second=Stat.of([tokens / t for t in times]),
            latency_ms=Stat.of([1e3 * t for t in times]),
        )

    @property
    def decode(self) -> DecodeSpeed:
        every = [1e3 * t for s in self.samples for t in s.steps]
        p50, p99 = np.percentile(every, [50, 99]).tolist()
        medians = [1e3 * statistics.median(s.steps) for s in self.samples]
        return DecodeSpeed(
            batch=self.batch,
            context=self.context,
            tokens_per_second=Stat.of(
                [self.batch * len(s.steps) / sum(s.steps) for s in self.samples]
            ),
            latency_ms=StepLatency.of(medians, p50=p50, p99=p99, steps=len(every)),
        )


@dataclass(kw_only=True)
class FreshProcess(Entry[dict[str, float]]):
    """Loading a checkpoint and the first token, in a fresh process each time."""

    folder: Path
    threads: int
    device: str

    def measure(self) -> dict[str, float]:
        return measure_fresh(self.folder, threads=self.threads, device=self.device)


@dataclass
class Candidate:
    """A checkpoint in a runtime, and its cells."""

    name: str
    runtime: Runtime
    checkpoint: int  # index
    peer: str = ""  # transformers, llama.cpp or engine; empty for our PyTorch model
    cells: list[Cell] = field(default_factory=list)

    def takes(self, batch: int, context: int) -> bool:
        """Whether it is measured in this cell."""
        if not self.peer:
            return True
        return batch * context <= PEER_CELL and (batch == 1 or self.runtime.batches)

    @property
    def prefill(self) -> list[PrefillSpeed]:
        return [cell.prefill for cell in self.cells]

    @property
    def decode(self) -> list[DecodeSpeed]:
        return [cell.decode for cell in self.cells]


def measure_speed(
    folders: Sequence[Path],
    *,
    quick: bool,
    peers: bool,
    repeats: int | None,
    threads: int | None,
    watts: float | None,
    device: str,
) -> list[Benchmark]:
    """Measure checkpoints in all cells, and loading and memory in fresh processes.

    The arguments are the options of `itera bench`. Returns a record of each checkpoint.
    """
    loaded = [load_checkpoint(folder) for folder in folders]
    models = [model.to(device) for model, _ in loaded]
    prompts = [tokenizer.encode(prompt_text()) for _, tokenizer in loaded]
    problem = ops.enable()
    threads = threads or _default_threads(models)
    repeats = repeats or (QUICK_REPEATS if quick else REPEATS)
    names = [folder_name(folder) for folder in folders]
    ours = [Candidate(name, runtimes.Torch(models[i]), i) for i, name in enumerate(names)]
    others = find_peers(folders, device, threads, PEER_CELL + STEPS) if peers else []
    everybody = [*ours, *others]
    meter = find_meter(device)
    plan = [
        (cell, [one for one in everybody if one.takes(*cell)], cell_repeats(cell, repeats))
        for cell in cells_of(models, QUICK_CELL if quick else None)
    ]
    rounds = sum((times + 1) * len(group) for _, group, times in plan) + repeats * len(names)
    fresh = [
        FreshProcess(name=f"{name}, a fresh process", folder=folder, threads=threads, device=device)
        for name, folder in zip(names, folders, strict=True)
    ]
    done = Rounds()
    with torch_threads(threads), progress_bar("bench", rounds) as progress:
        for cell, group, times in plan:
            steps = QUICK_STEPS if quick else STEPS
            done += measure_cell(group, prompts, cell, times, steps, progress, device, meter)
        done += take_turns(fresh, repeats, progress, warm_up=False)
        versions = runtimes.versions({one.peer for one in others})
        origin = Provenance.now(
            device=device, versions=versions, load_by_others=done.load.by_others
        )
    for one in everybody:
        one.runtime.close()
    records = []
    for one, model, started in zip(ours, models, fresh, strict=True):
        costs = cost(model.config)
        samples = started.samples
        process = {key: Stat.of([sample[key] for sample in samples]) for key in samples[0]}
        single = one.cells[0]  # batch 1, shortest context: what a user who waits for text pays
        per_token = [segment.per_decoded_token(single.batch) for segment in single.samples]
        records.append(
            Benchmark(
                model=describe(one.name, model.config),
                flops_per_token=Flops(
                    forward=costs.flops_forward,
                    train=costs.flops_train,
                    decode=costs.flops_decode,
                    context=costs.context,
                ),
                prefill=one.prefill,
                decode=one.decode,
                memory=Memory(
                    weights_bytes=sum(p.numel() * p.element_size() for p in model.parameters()),
                    state_bytes={context: costs.state_bytes(context) for context in CONTEXTS},
                    peak_rss_bytes=process["peak_rss_bytes"],
                    import_rss_bytes=process["import_rss_bytes"],
                ),
                cpu=cpu_use(one.cells),
                energy=Energy.of(per_token, meter, watts or DEFAULT_WATTS),
                load_ms=process["load_ms"],
                first_token_ms=process["first_token_ms"],
                import_ms=process["import_ms"],
                fused_operations=problem is None,
                peers={
                    other.peer: PeerSpeed(
                        prefill=other.prefill,
                        decode=other.decode,
                        note="" if other.runtime.batches else ONE_TEXT,
                    )
                    for other in others
                    if other.checkpoint == one.checkpoint
                },
                peers_left_out=runtimes.missing(device) if peers else {},
                interleaved_with=[other.name for other in everybody if other is not one],
                repeated_rounds=done.repeated,
                provenance=origin,
            )
        )
    return records


def measure_cell(
    candidates: Sequence[Candidate],
    prompts: Sequence[Sequence[int]],
    cell: tuple[int, int],
    repeats: int,
    steps: int,
    progress: Progress,
    device: str = "cpu",
    meter: Meter | None = None,
) -> Rounds:
    """Measure the candidates in one cell, in turns; adds a `Cell` to each.

    ``prompts`` holds the ids of the same text for each checkpoint, in its own tokenizer.
    """
    batch, context = cell
    rows = [prompt_rows(ids, batch, context).to(device) for ids in prompts]
    for one in candidates:
        one.cells.append(
            Cell(
                name=f"{one.name}, batch {batch}, context {context}",
                runtime=one.runtime,
                rows=rows[one.checkpoint],
                steps=steps,
                device=device,
                meter=meter,
            )
        )
    return take_turns([one.cells[-1] for one in candidates], repeats, progress)


def prompt_rows(ids: Sequence[int], batch: int, context: int) -> Tensor:
    """(B, L) of one text, repeated where it is too short; each row begins elsewhere."""
    text = torch.tensor(list(ids), dtype=torch.int64)
    start = torch.arange(batch)[:, None] * (len(text) // batch)
    return text[(start + torch.arange(context)) % len(text)]


def cpu_use(cells: Sequence[Cell]) -> CpuUse:
    """Processor use in percent of one core: over everything, and the busiest segment."""
    segments = [s for cell in cells for s in cell.samples]
    return CpuUse(
        mean_percent=100 * sum(s.cpu for s in segments) / sum(s.wall for s in segments),
        max_percent=100 * max(s.cpu / s.wall for s in segments),
    )


def cells_of(models: Sequence[LanguageModel], largest: int | None) -> list[tuple[int, int]]:
    """(batch, context) pairs that every model can read, up to ``largest`` tokens a cell."""
    longest = min(model.config.max_seq_len for model in models)
    contexts = [c for c in CONTEXTS if c <= longest] or [longest]
    pairs = [(batch, context) for context in contexts for batch in BATCHES]
    return [(b, c) for b, c in pairs if largest is None or b * c <= largest]


def cell_repeats(cell: tuple[int, int], repeats: int) -> int:
    """How often a cell is measured."""
    return min(repeats, QUICK_REPEATS) if cell[0] * cell[1] > LARGE_CELL else repeats


def find_peers(folders: Sequence[Path], device: str, threads: int, context: int) -> list[Candidate]:
    """Every other runtime that can be measured here, with every checkpoint.

    `transformers` loads the checkpoint; llama.cpp and the engine an F32 export of it.

    Args:
        folders: checkpoints.
        device: what the models run on.
        threads: processor threads; the engine reads a text with one.
        context: tokens that a text may have.
    """
    kinds = {TRANSFORMERS, LLAMA, ENGINE} - runtimes.missing(device).keys()
    found: list[Candidate] = []
    # Loaded models keep their files mapped: the folder may go before they are used.
    with tempfile.TemporaryDirectory() as scratch:
        for i, folder in enumerate(folders):
            path = Path(scratch) / f"{i}.gguf"
            loaded: dict[str, Runtime] = {}
            if TRANSFORMERS in kinds:
                loaded[TRANSFORMERS] = runtimes.Transformers(folder, device)
            if kinds & {LLAMA, ENGINE}:
                export_gguf(folder, "f32", path)
            if LLAMA in kinds:
                loaded[LLAMA] = runtimes.Llama(path, context, threads=threads)
            if ENGINE in kinds:
                loaded[ENGINE] = runtimes.Engine(path, context)
            name = folder_name(folder)
            found += [Candidate(f"{kind}:{name}", loaded[kind], i, kind) for kind in loaded]
    return found


def _default_threads(models: Sequence[LanguageModel]) -> int:
    largest = max(cost(model.config).params_total for model in models)
    return 1 if largest < ONE_THREAD_BELOW else default_threads()
