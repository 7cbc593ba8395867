"""The verb `bench`: speed, memory and energy of models, measured side by side."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from itera_lite.config import preset_of
from itera_lite.errors import UsageError
from itera_lite.files import check_writable, folder_name, write_json
from itera_lite.quantities import finite_number, threads_of, whole_number

if TYPE_CHECKING:
    from itera_lite.bench.measure import Cell, Runner
    from itera_lite.bench.peers import Peer
    from itera_lite.data.tokenizer import Tokenizer
    from itera_lite.model import LanguageModel

DEFAULT_CHECKPOINTS = (Path("checkpoints/itera_lite_tiny"), Path("checkpoints/transformer_tiny"))
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
class _Side:
    """Somebody who is measured, the text that it reads, and what was found."""

    runner: Runner
    prompt: list[int]
    peer: Peer | None = None
    cells: list[Cell] = field(default_factory=list)

    def takes(self, batch: int, context: int) -> bool:
        """Whether it is measured in this cell."""
        if self.peer is None:
            return True
        return batch * context <= PEER_CELL and (batch == 1 or self.peer.batches)


def bench(
    *checkpoints: Path,
    quick: bool = False,
    peers: bool = False,
    repeats: int | None = None,
    threads: int | None = None,
    watts: float | None = None,
    device: str = "cpu",
    results: Path = Path("results"),
) -> dict[str, dict[str, Any]]:
    """Measure speed, memory and energy.

    The models take turns in every measurement, after a warm-up, and every figure is a
    median with its spread. Writes NAME_benchmark.json for each.

    Args:
        checkpoints: Folders of the models; by default both tiny ones.
        quick: Three repeats and no batches of long prompts: under a minute for tiny models.
        peers: Also measure what others would use with the same weights.
        repeats: Times that everything is measured; by default 7 (batches of long prompts 3),
            or 3 with quick.
        threads: Processor threads; by default 1 below 10 million parameters, else all cores.
        watts: Power of a busy core, for the estimate where no energy counter can be read.
        device: What the models run on, cpu or cuda.
        results: Folder of the result files.
    """
    import torch

    from itera_lite import ops
    from itera_lite.bench.measure import IteraRunner, interleave
    from itera_lite.bench.table import print_table
    from itera_lite.machine.energy import find_meter

    folders = [Path(folder) for folder in checkpoints or DEFAULT_CHECKPOINTS]
    names = [folder_name(folder) for folder in folders]
    _check(names, repeats, threads, watts, device)
    for name in names:
        check_writable(Path(results) / f"{name}_benchmark.json")
    models = _load(folders, device)
    problem = ops.enable()
    threads = threads or _default_threads([model for model, _ in models])
    sides = [
        _Side(IteraRunner(name, model), prompt_ids(tokenizer))
        for name, (model, tokenizer) in zip(names, models, strict=True)
    ]
    left_out: dict[str, str] = {}
    if peers:
        found, left_out = _peers(folders, device, threads)
        sides += [_Side(peer.runner, sides[peer.of].prompt, peer) for peer in found]
    cells = _cells([model for model, _ in models], QUICK_CELL if quick else None)
    repeats = repeats or (QUICK_REPEATS if quick else REPEATS)
    meter = find_meter(device)

    plan = [([s for s in sides if s.takes(*cell)], _repeats(cell, repeats)) for cell in cells]
    rounds = sum((times + 1) * len(group) for group, times in plan) + repeats * len(names)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with tqdm(total=rounds, desc="bench", disable=None) as bar:

            def progress(what: str) -> None:
                bar.set_postfix_str(what, refresh=False)
                bar.update()

            for cell, (group, times) in zip(cells, plan, strict=True):
                measured = interleave(
                    [side.runner for side in group],
                    [side.prompt for side in group],
                    [cell],
                    repeats=times,
                    steps=QUICK_STEPS if quick else STEPS,
                    device=device,
                    meter=meter,
                    progress=progress,
                )
                for side, column in zip(group, measured, strict=True):
                    side.cells += column
            fresh = _fresh(folders, repeats, threads, device, progress)
        records = {
            name: _record(name, models[i][0], sides[i].cells, fresh[i], meter, watts)
            for i, name in enumerate(names)
        }
        origin = _provenance(device, [side.peer for side in sides if side.peer])
    finally:
        torch.set_num_threads(before)
    for side in sides:
        if side.peer is not None:
            row = _rows(side.cells) | ({} if side.peer.batches else {"note": ONE_TEXT})
            records[names[side.peer.of]].setdefault("peers", {})[side.peer.kind] = row
    for name, record in records.items():
        if left_out:
            record["peers_left_out"] = left_out
        record["interleaved_with"] = [s.runner.name for s in sides if s.runner.name != name]
        record["fused_kernels"] = problem is None
        record["provenance"] = origin
    plural = "s" if threads > 1 else ""
    print(f"\nMedians of {repeats} repeats, {threads} thread{plural}; the files hold the spread")
    print_table(records)
    for name, record in records.items():
        write_json(Path(results) / f"{name}_benchmark.json", record)
    print(f"Written to {Path(results) / 'NAME_benchmark.json'}")
    return records


def prompt_ids(tokenizer: Tokenizer) -> list[int]:
    """Real text that is on every machine: the source of Python's ``argparse``."""
    return tokenizer.encode(inspect.getsource(argparse))


def _check(
    names: Sequence[str],
    repeats: int | None,
    threads: int | None,
    watts: float | None,
    device: str,
) -> None:
    import torch

    if repeats is not None:
        whole_number("repeats", repeats)
    if threads is not None:
        threads_of(threads)
    if watts is not None:
        finite_number("watts", watts, above=0)
    if len(set(names)) < len(names):
        raise UsageError(
            f"checkpoints {', '.join(names)}: two folders have one name, and their results would "
            "go to one file; rename one"
        )
    if device != "cpu" and not (device.partition(":")[0] == "cuda" and torch.cuda.is_available()):
        raise UsageError(f"device={device!r}: expected 'cpu', or 'cuda' where PyTorch finds a GPU")


def _load(folders: Sequence[Path], device: str) -> list[tuple[LanguageModel, Tokenizer]]:
    from itera_lite.checkpoint.folder import load_checkpoint

    models = [load_checkpoint(folder) for folder in folders]
    for model, _ in models:
        model.to(device).eval()
    return models


def _default_threads(models: Sequence[LanguageModel]) -> int:
    from itera_lite.machine.provenance import default_threads
    from itera_lite.model.cost import cost

    largest = max(cost(model.config).params_total for model in models)
    return 1 if largest < ONE_THREAD_BELOW else default_threads()


def _cells(models: Sequence[LanguageModel], largest: int | None) -> list[tuple[int, int]]:
    """(batch, context) pairs that every model can read, up to ``largest`` tokens a cell."""
    longest = min(model.config.max_seq_len for model in models)
    contexts = [c for c in CONTEXTS if c <= longest] or [longest]
    pairs = [(batch, context) for context in contexts for batch in BATCHES]
    return [(b, c) for b, c in pairs if largest is None or b * c <= largest]


def _repeats(cell: tuple[int, int], repeats: int) -> int:
    """How often a cell is measured."""
    return min(repeats, QUICK_REPEATS) if cell[0] * cell[1] > LARGE_CELL else repeats


def _peers(folders: Sequence[Path], device: str, threads: int) -> tuple[list[Peer], dict[str, str]]:
    """Peers with the checkpoints; says which are left out, and why."""
    from itera_lite.bench.peers import find_peers

    found, left_out = find_peers(folders, device=device, threads=threads, context=PEER_CELL + STEPS)
    for kind, reason in left_out.items():
        print(f"{kind}: not measured, {reason}")
    for kind in dict.fromkeys(peer.kind for peer in found if not peer.batches):
        print(f"{kind}: {ONE_TEXT}")
    return found, left_out


def _fresh(
    folders: Sequence[Path], repeats: int, threads: int, device: str, progress: Any
) -> list[list[dict[str, float]]]:
    from itera_lite.bench.fresh import measure_fresh

    found: list[list[dict[str, float]]] = [[] for _ in folders]
    for _ in range(repeats):
        for folder, samples in zip(folders, found, strict=True):
            progress(f"{folder_name(folder)}, a fresh process")
            samples.append(measure_fresh(folder, threads=threads, device=device))
    return found


def _rows(cells: Sequence[Cell]) -> dict[str, Any]:
    return {
        "prefill": [cell.prefill_row() for cell in cells],
        "decode": [cell.decode_row() for cell in cells],
    }


def _record(
    name: str,
    model: LanguageModel,
    cells: Sequence[Cell],
    fresh: Sequence[dict[str, float]],
    meter: Any,
    watts: float | None,
) -> dict[str, Any]:
    from itera_lite.bench.measure import cpu_use
    from itera_lite.machine.energy import DEFAULT_WATTS, energy_record
    from itera_lite.model.cost import cost
    from itera_lite.stats.samples import stat

    costs = cost(model.config)
    process = {key: stat([sample[key] for sample in fresh]) for key in fresh[0]}
    single = cells[0]  # batch 1, shortest context: what a user who waits for text pays
    per_token = [segment.per_decoded_token(single.batch) for segment in single.segments]
    return {
        "name": name,
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
        **_rows(cells),
        "memory": {
            "weights_bytes": sum(p.numel() * p.element_size() for p in model.parameters()),
            "state_bytes": {str(c): costs.state_bytes(c) for c in CONTEXTS},
            "peak_rss_bytes": process["peak_rss_bytes"],
            "import_rss_bytes": process["import_rss_bytes"],
        },
        "cpu": cpu_use(cells),
        "energy": energy_record(per_token, meter, watts or DEFAULT_WATTS),
        "load_ms": process["load_ms"],
        "first_token_ms": process["first_token_ms"],
        "import_ms": process["import_ms"],
    }


def _provenance(device: str, peers: Sequence[Peer]) -> dict[str, Any]:
    from itera_lite.machine.provenance import provenance

    origin = provenance(device=device)
    if peers:
        from itera_lite.bench.peers import peer_versions

        origin["versions"] |= peer_versions(peer.kind for peer in peers)
    return origin
