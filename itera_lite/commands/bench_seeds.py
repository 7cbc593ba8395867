"""The verb `bench seeds`: both models again and again, for the spread of their quality."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from itera_lite.checkpoint.folder import lock_path
from itera_lite.config import DEFAULT_VOCABULARY, NAMES, Family
from itera_lite.data.tokenizer import MAX_VOCAB, MIN_VOCAB
from itera_lite.errors import DataError, UsageError
from itera_lite.files import check_writable, write_json
from itera_lite.machine.provenance import provenance
from itera_lite.quantities import minutes_of, number_of, seed_of, threads_of, whole_number
from itera_lite.train.recipe import Budget
from itera_lite.train.run_files import locked

MOST_RUNS = 10_000


def bench_seeds(
    data: str = "python",
    *,
    config: str = "tiny",
    seeds: int = 3,
    first_seed: int = 0,
    minutes: float | None = None,
    tokens: str | None = None,
    equal_time: bool = False,
    vocab_size: int = DEFAULT_VOCABULARY,
    threads: int | None = None,
    results: Path = Path("results"),
) -> dict[str, Any]:
    """Train both models with several seeds.

    Each run has the same budget: equal tokens, or equal training time. Adds to seeds.json,
    which the report reads; a run that is there already (same name, seed, budget and vocabulary)
    is kept.

    With ``equal_time``, both training speeds are measured first, in turns, and the faster
    model is also trained on the tokens that it reads while the slower one reads ``tokens``:
    equal time that other programs on the machine don't disturb.

    Args:
        data: Set or path.
        config: Size: tiny, small or base.
        seeds: How many; at least 2.
        first_seed: The first of them.
        minutes: Training time of each run.
        tokens: Tokens of each run instead, such as 3M.
        equal_time: With tokens: add runs of equal time, by the two measured speeds.
        vocab_size: Size of the tokenizer.
        threads: Processor threads; by default one a core.
        results: Folder of the result files.

    Returns:
        What seeds.json holds: ``runs``, ``speeds`` (where measured) and ``provenance``.
    """
    if whole_number("seeds", seeds, most=MOST_RUNS) < 2:
        raise UsageError(f"--seeds {seeds}: expected 2 or more, a spread needs that")
    seed_of(seed_of(first_seed, "first_seed") + seeds - 1, "first_seed")
    if minutes is not None:
        minutes_of(minutes)
    if tokens is not None:
        number_of("tokens", tokens)
    whole_number("vocab_size", vocab_size, least=MIN_VOCAB, most=MAX_VOCAB)
    if threads is not None:
        threads_of(threads)
    if (minutes is None) == (tokens is None):
        raise UsageError("give each run a budget: either --minutes or --tokens")
    if equal_time and tokens is None:
        raise UsageError("--equal-time adds to runs of equal --tokens; --minutes is equal time")
    path = Path(results) / "seeds.json"
    check_writable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(lock_path(path), path.name):
        return _run(
            *(path, data, config, range(first_seed, first_seed + seeds), minutes, tokens),
            *(equal_time, vocab_size, threads),
        )


def _run(
    path: Path,
    data: str,
    config: str,
    seeds: range,
    minutes: float | None,
    tokens: str | None,
    equal_time: bool,
    vocab_size: int,
    threads: int | None,
) -> dict[str, Any]:
    """The runs that the file at ``path`` lacks, which nobody else writes meanwhile."""
    record: dict[str, Any] = _read(path) if path.exists() else {"runs": []}
    mark = {"data": data, "amount": tokens or minutes, "vocab_size": vocab_size}
    options: dict[str, Any] = {"config": config, "vocab_size": vocab_size, "threads": threads}
    speeds: dict[Family, float] = {}
    if equal_time:
        batch = Budget("tokens", number_of("tokens", tokens or "")).batch_size
        options["batch_size"] = batch  # the longer runs keep to the batch of the measured speeds
        speeds = _speeds(record, path, config, vocab_size, batch, threads)

    def add(family: Family, seed: int, budget: str, wanted: str | None) -> None:
        """Train once, unless seeds.json has the run."""
        run = {"name": f"{NAMES[family]}_{config}", "seed": seed, "budget": budget, **mark}
        if not any(run.items() <= _marked(old).items() for old in record["runs"]):
            made = _train(data, family, seed, minutes, wanted, options)
            _write(record, path, run | made)

    for seed in seeds:
        for family in NAMES:
            add(family, seed, "tokens" if tokens else "time", tokens)
        if speeds:
            faster, slower = sorted(speeds, key=lambda family: -speeds[family])
            more = number_of("tokens", tokens or "") * speeds[faster] / speeds[slower]
            add(faster, seed, "time", str(round(more)))
            _copy(record, path, f"{NAMES[slower]}_{config}", seed, mark)
    return record


def _marked(run: dict[str, Any]) -> dict[str, Any]:
    """A run with its vocabulary, which older files don't say: it was the default one."""
    return {"vocab_size": DEFAULT_VOCABULARY, **run}


def _read(path: Path) -> dict[str, Any]:
    """The runs that are there already.

    Raises:
        DataError: the file is damaged.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if all(isinstance(run, dict) for run in record["runs"]):
            return dict(record)
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise DataError(f"{path}: expected the runs that `itera bench seeds` wrote; move it away")


def _train(
    data: str,
    family: Family,
    seed: int,
    minutes: float | None,
    tokens: str | None,
    options: dict[str, Any],
) -> dict[str, Any]:
    """One training, of which only the numbers are kept."""
    from itera_lite.commands.train import train

    with tempfile.TemporaryDirectory() as folder:
        options = options | {"checkpoints": Path(folder), "results": Path(folder)}
        (summary,) = train(
            data,
            model=family,  # type: ignore[arg-type]  # one of the pair
            minutes=minutes,
            tokens=tokens,
            seed=seed,
            evaluations=1,  # only the end counts
            **options,
        ).values()
    return {
        "valid_bpb": summary["valid"]["bpb"],
        "minutes": summary["train"]["seconds"] / 60,
        "tokens": summary["train"]["tokens"],
        "tokens_per_second": summary["train"]["tokens_per_second"],
        "threads": summary["train"]["threads"],
        "batch_size": summary["train"]["batch_size"],
        "precision": summary["train"]["precision"],
        "git_commit": summary["provenance"].get("git_commit"),
        "dataset_sha256": summary["dataset"]["sha256"],
    }


def _copy(record: dict[str, Any], path: Path, name: str, seed: int, mark: dict[str, Any]) -> None:
    """The slower model's run of equal tokens is its run of equal time as well."""
    run = {"name": name, "seed": seed, **mark}
    known = [old for old in record["runs"] if run.items() <= _marked(old).items()]
    found = {old["budget"]: old for old in known}
    if "time" not in found:
        _write(record, path, found["tokens"] | {"budget": "time"})


def _write(record: dict[str, Any], path: Path, run: dict[str, Any]) -> None:
    record["runs"].append(run)
    record["provenance"] = provenance(seeds=[run["seed"] for run in record["runs"]])
    write_json(path, record)


def _speeds(
    record: dict[str, Any],
    path: Path,
    config: str,
    vocab_size: int,
    batch_size: int,
    threads: int | None,
) -> dict[Family, float]:
    """Training tokens/s of both models, measured once: later runs keep to the same ratio."""
    from itera_lite.bench.training import training_speeds

    known, key = record.setdefault("speeds", {}), f"{config}, batch {batch_size}"
    if vocab_size != DEFAULT_VOCABULARY:
        key += f", vocabulary {vocab_size}"
    if key not in known:
        found = training_speeds(config, vocab_size, batch_size, threads)
        known[key] = msgspec.to_builtins(found)
        write_json(path, record)
    return {
        family: known[key][f"{NAMES[family]}_{config}"]["tokens_per_second"]["median"]
        for family in NAMES
    }
