"""The verb `bench seeds`: both models again and again, for the spread of their quality."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from itera_lite.bench.provenance import provenance
from itera_lite.errors import UsageError
from itera_lite.files import write_json


def bench_seeds(
    data: str = "python",
    *,
    config: str = "tiny",
    seeds: int = 3,
    first_seed: int = 0,
    minutes: float | None = None,
    tokens: str | None = None,
    vocab_size: int = 2048,
    threads: int | None = None,
    results: Path = Path("results"),
) -> dict[str, Any]:
    """Train both models with several seeds.

    Each run has the same budget: equal tokens, or equal training time. Adds to seeds.json,
    which the report reads; a run that is there already (same name, seed and budget) is kept.

    Args:
        data: Set or path.
        config: Size: tiny, small or base.
        seeds: How many; at least 2.
        first_seed: The first of them.
        minutes: Training time of each run.
        tokens: Tokens of each run instead, such as 3M.
        vocab_size: Size of the tokenizer.
        threads: Processor threads; by default one a core.
        results: Folder of the result files.

    Returns:
        What seeds.json holds: ``runs`` and ``provenance``.
    """
    if seeds < 2:
        raise UsageError(f"--seeds {seeds}: expected 2 or more, a spread needs that")
    if (minutes is None) == (tokens is None):
        raise UsageError("give each run a budget: either --minutes or --tokens")
    from itera_lite.config import NAMES
    from itera_lite.train.run import train

    path = Path(results) / "seeds.json"
    record: dict[str, Any] = {"runs": []}
    if path.exists():
        record = json.loads(path.read_text(encoding="utf-8"))
    wanted = {"budget": "tokens" if tokens else "time", "amount": tokens or minutes}
    for seed in range(first_seed, first_seed + seeds):
        for family in NAMES:
            mark = {"name": f"{NAMES[family]}_{config}", "seed": seed, "data": data, **wanted}
            if any(mark.items() <= run.items() for run in record["runs"]):
                continue
            with tempfile.TemporaryDirectory() as folder:
                (summary,) = train(
                    data,
                    model=family,
                    config=config,
                    minutes=minutes,
                    tokens=tokens,
                    vocab_size=vocab_size,
                    seed=seed,
                    threads=threads,
                    checkpoints=Path(folder),
                    results=Path(folder),
                ).values()
            record["runs"].append(
                {
                    **mark,
                    "valid_bpb": summary["valid"]["bpb"],
                    "minutes": summary["train"]["seconds"] / 60,
                    "tokens": summary["train"]["tokens"],
                    "tokens_per_second": summary["train"]["tokens_per_second"],
                    "threads": summary["train"]["threads"],
                    "dataset_sha256": summary["dataset"]["sha256"],
                }
            )
            record["provenance"] = provenance()
            write_json(path, record)
    return record
