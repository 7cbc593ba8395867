"""The verb `bench train`: training speed, against the processor's peak and `transformers`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from itera_lite import ops
from itera_lite.bench.peers import load_transformers, peer_versions
from itera_lite.bench.steps import Contender, our_step, peer_step, seconds_of, short, take_turns
from itera_lite.checkpoint.hf import load_model, save_model
from itera_lite.config import NAMES, Family, TrainConfig, preset
from itera_lite.files import check_writable, write_json
from itera_lite.machine.provenance import default_threads, provenance
from itera_lite.model import LanguageModel
from itera_lite.model.cost import cost
from itera_lite.quantities import threads_of, whole_number
from itera_lite.train.precision import Precision, choose

MOST_VOCABULARY = 1 << 20


def bench_training(
    *,
    model: Literal["itera", "transformer", "both"] = "both",
    config: str = "tiny",
    vocab_size: int = 2048,
    batch_size: int | None = None,
    seq_len: int | None = None,
    precision: Precision = "auto",
    threads: int | None = None,
    repeats: int = 7,
    steps: int = 4,
    peers: bool = True,
    results: Path = Path("results"),
) -> dict[str, dict[str, Any]]:
    """Measure training speed.

    Whole steps (forward, backward, clipping, optimizer) on random tokens: ours with all
    threads and with one, and `transformers` with the same weights, batch and threads at
    the precision that is faster for it, in turns. Writes NAME_training_speed.json.

    Args:
        model: Which of the two to measure.
        config: Size: tiny, small or base.
        vocab_size: Size of the vocabulary.
        batch_size: Sequences a step; by default that of the training.
        seq_len: Tokens a sequence; by default that of the training.
        precision: Of our matrix products; auto measures what this processor is fast at.
        threads: Processor threads; by default one a core.
        repeats: Times that everything is measured.
        steps: Steps a repeat.
        peers: Also measure transformers, where it is installed.
        results: Folder of the result files.
    """
    for option, value in (
        *(("batch_size", batch_size), ("seq_len", seq_len)),
        *(("repeats", repeats), ("steps", steps)),
    ):
        if value is not None:
            whole_number(option, value)
    if threads is not None:
        threads_of(threads)
    whole_number("vocab_size", vocab_size, most=MOST_VOCABULARY)
    defaults = TrainConfig()
    train = TrainConfig(
        batch_size=batch_size or defaults.batch_size, seq_len=seq_len or defaults.seq_len
    )
    families: list[Family] = ["itera", "transformer"] if model == "both" else [model]
    for family in families:
        check_writable(Path(results) / f"{NAMES[family]}_{config}_training_speed.json")
    before = torch.get_num_threads()
    threads = threads or default_threads()
    torch.set_num_threads(threads)
    try:
        problem = ops.enable()
        choice = choose(precision, "cpu")
        records = {}
        for family in families:
            name = f"{NAMES[family]}_{config}"
            torch.manual_seed(0)
            built = LanguageModel(preset(family, config, vocab_size))
            with tempfile.TemporaryDirectory() as folder:
                save_model(built, folder, eot_id=0)
                contenders = _contenders(folder, train, choice.dtype, threads, peers)
            peaks = take_turns(name, contenders, built.config.vocab_size, train, repeats, steps)
            record = _record(name, built, train, contenders, peaks)
            record["fused_kernels"] = problem is None
            record["provenance"] = provenance(seed=0)
            record["provenance"]["versions"] |= peer_versions() if peers else {}
            _print(record)
            write_json(Path(results) / f"{name}_training_speed.json", record)
            records[name] = record
    finally:
        torch.set_num_threads(before)
    print(f"Written to {Path(results) / 'NAME_training_speed.json'}")
    return records


def _contenders(
    folder: str, config: TrainConfig, dtype: torch.dtype, threads: int, peers: bool
) -> list[Contender]:
    """Everybody loads the same weights, which a learning rate of zero keeps the same."""

    def ours(n: int) -> Contender:
        model = load_model(folder).train()
        model.compute_dtype = dtype
        return Contender(f"itera-lite, {_threads(n)}", our_step(model, config), n, short(dtype))

    found = [ours(n) for n in dict.fromkeys((threads, 1))]
    if peers:
        peer = load_transformers(Path(folder), attention="sdpa").train()
        best = _best_precision(peer, config)
        found.append(
            Contender(
                f"transformers, {_threads(threads)}",
                peer_step(peer, config, best),
                threads,
                short(best),
            )
        )
    return found


def _best_precision(model: nn.Module, config: TrainConfig) -> torch.dtype:
    """The faster of float32 and bfloat16 autocast for ``model``; the better of two each."""
    batch = torch.zeros(config.batch_size, config.seq_len + 1, dtype=torch.int64)
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        step = peer_step(model, config, dtype)
        step(batch)
        seconds[dtype] = min(seconds_of(step, batch) for _ in range(2))
    return min(seconds, key=lambda dtype: seconds[dtype])


def _record(
    name: str,
    model: LanguageModel,
    config: TrainConfig,
    contenders: Sequence[Contender],
    peaks: dict[tuple[str, int], list[float]],
) -> dict[str, Any]:
    """Shares of the peak, and ratios of medians: above 1 means that the first one is faster."""
    flops = cost(model.config, config.seq_len).flops_train
    rows = {}
    for one in contenders:
        peak = max(peaks[one.precision, one.threads])
        row = one.record() | {"peak_gflops": peak / 1e9}
        row["share_of_peak"] = row["tokens_per_second"]["median"] * flops / peak
        rows[one.label] = row
    median = {label: row["tokens_per_second"]["median"] for label, row in rows.items()}
    first = contenders[0].label
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


def _print(record: dict[str, Any]) -> None:
    print(
        f"\n{record['name']}: {record['params']:,} parameters, batch {record['batch_size']} x "
        f"{record['seq_len']}, whole training steps"
    )
    for label, row in record["contenders"].items():
        speed = row["tokens_per_second"]
        print(
            f"  {label:26} {row['precision']}  {speed['median']:9,.0f} tokens/s "
            f"(spread {speed['spread']:,.0f}), {row['share_of_peak']:.0%} of "
            f"{row['peak_gflops']:,.0f} GFLOP/s"
        )
    for label, ratio in record["speedup_of_first"].items():
        first = next(iter(record["contenders"]))
        print(f"  {first}: {ratio:.2f} times as fast as {label}")


def _threads(n: int) -> str:
    return f"{n} thread{'s' if n > 1 else ''}"
