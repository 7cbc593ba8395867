"""Reads the result files of training, evaluation and benchmark: all the report knows.

Models are found by file name (``NAME_summary.json`` …), any file may be
missing, and what is missing stays missing: nothing is filled in.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from itera_lite.bench.compare import is_number
from itera_lite.errors import IteraError

Family = Literal["itera", "transformer"]
SIZES = {"tiny": 0, "small": 1, "base": 2}  # the presets, in this order
KINDS = {  # ending of the file's name -> field of `ModelResults`
    "metrics.csv": "metrics",
    "summary.json": "summary",
    "eval.json": "evaluation",
    "benchmark.json": "benchmark",
    "training_speed.json": "training_speed",
    "decode.json": "engine_decode",
    "scoring.json": "engine_scoring",
}


@dataclass
class ModelResults:
    """What is known about one model.

    Attributes:
        name: The run's name, such as ``itera_lite_tiny``.
        metrics: Columns of the training log; a cell is None where it was blank.
        summary: The training run's summary; empty where missing, as are the others.
        evaluation: Quality on held-out text.
        benchmark: Speed, memory and energy.
        training_speed: Whole training steps beside `transformers`.
        engine_decode: The native engine's decoding beside its peers.
        engine_scoring: The native engine's scoring beside its peers.
    """

    name: str
    metrics: dict[str, list[float | None]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    benchmark: dict[str, Any] = field(default_factory=dict)
    training_speed: dict[str, Any] = field(default_factory=dict)
    engine_decode: dict[str, Any] = field(default_factory=dict)
    engine_scoring: dict[str, Any] = field(default_factory=dict)

    @property
    def family(self) -> Family | None:
        """From the files, else from the name; None where neither tells."""
        records = [self.summary, self.benchmark, self.training_speed]
        records += [self.engine_decode, self.engine_scoring]
        stated = next((r["family"] for r in records if r.get("family")), None)
        families: tuple[Family, ...] = ("itera", "transformer")
        for family in families:
            if stated == family or (not stated and self.name.startswith(family)):
                return family
        return None

    @property
    def size(self) -> str:
        """The last part of the name: ``tiny`` of ``itera_lite_tiny``."""
        return self.name.rsplit("_", 1)[-1]

    @property
    def params(self) -> dict[str, Any]:
        return self.summary.get("params") or self.benchmark.get("params") or {}

    @property
    def flops(self) -> dict[str, Any]:
        """FLOPs a token: ``forward``, ``decode``, ``train``; the benchmark's first."""
        return {
            **(self.summary.get("flops_per_token") or {}),
            **(self.benchmark.get("flops_per_token") or {}),
        }

    def series(self, x: str, y: str) -> tuple[list[float], list[float]]:
        """Two columns of the training log, the rows where both were measured."""
        pairs = zip(self.metrics.get(x, ()), self.metrics.get(y, ()), strict=False)
        points = [(a, b) for a, b in pairs if a is not None and b is not None]
        return [a for a, _ in points], [b for _, b in points]


@dataclass
class Results:
    """Everything in a results folder; models in the order Itera, Transformer, by size."""

    folder: Path
    models: list[ModelResults]
    ladder: list[dict[str, Any]] = field(default_factory=list)  # its rungs
    ladder_targets: list[dict[str, Any]] = field(default_factory=list)
    ladder_references: list[dict[str, Any]] = field(default_factory=list)  # that were tried
    ladder_provenance: dict[str, Any] = field(default_factory=dict)
    seeds: list[dict[str, Any]] = field(default_factory=list)

    @property
    def pairs(self) -> list[tuple[ModelResults, ModelResults]]:
        """Itera and Transformer models of one size; two lone models also make a pair.

        Lone ones of two different preset sizes don't: such a verdict would be on the size.
        """
        itera = [m for m in self.models if m.family == "itera"]
        transformer = {m.size: m for m in self.models if m.family == "transformer"}
        pairs = [(m, transformer[m.size]) for m in itera if m.size in transformer]
        if not pairs and len(itera) == len(transformer) == 1:
            other = next(iter(transformer.values()))
            if not {itera[0].size, other.size} <= SIZES.keys():
                pairs = [(itera[0], other)]
        return pairs


def get(record: Any, *path: str) -> Any:
    """The value at a path of keys in nested dicts; None where it isn't there."""
    for key in path:
        if not isinstance(record, Mapping):
            return None
        record = record.get(key)
    return record


def number(record: Any, *path: str) -> float | None:
    """The finite number at a path, or None."""
    value = get(record, *path)
    return value if is_number(value) else None


def load_results(folder: str | Path = "results") -> Results:
    """Read every result file of a folder.

    Raises:
        IteraError: where the folder is missing, holds no result, or a file is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise IteraError(
            f"results folder '{folder}' doesn't exist; expected the folder that `itera train` "
            "and `itera bench` write. Run `itera demo`, or name the folder with --results."
        )
    models: dict[str, ModelResults] = {}
    for kind, attribute in KINDS.items():
        for path in sorted(folder.glob(f"*_{kind}")):
            name = path.name.removesuffix(f"_{kind}")
            model = models.setdefault(name, ModelResults(name))
            read = _read_metrics if kind == "metrics.csv" else _read_object
            setattr(model, attribute, read(path))
    ladder = folder / "ladder.json"
    if not models and not ladder.exists():
        raise IteraError(
            f"no result files in '{folder}'; expected NAME_summary.json, NAME_metrics.csv, "
            "NAME_eval.json, NAME_benchmark.json, NAME_training_speed.json, NAME_decode.json, "
            "NAME_scoring.json or ladder.json. "
            "Run `itera demo` to make them."
        )
    order = {"itera": 0, "transformer": 1, None: 2}
    ordered = sorted(
        models.values(), key=lambda m: (SIZES.get(m.size, 3), m.size, order[m.family], m.name)
    )
    return Results(
        folder,
        ordered,
        ladder=_read_list(ladder, "rungs"),
        ladder_targets=_read_list(ladder, "targets", needed=False),
        ladder_references=_read_list(ladder, "references", needed=False),
        ladder_provenance=_provenance(ladder),
        seeds=_read_list(folder / "seeds.json", "runs"),
    )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise IteraError(
            f"'{path}' can't be read as JSON ({error}). Delete it and run the command that made it."
        ) from error


def _read_object(path: Path) -> dict[str, Any]:
    value = _read_json(path)
    if not isinstance(value, dict):
        raise IteraError(f"'{path}' holds a {type(value).__name__}; expected a JSON object.")
    return value


def _read_list(path: Path, key: str, needed: bool = True) -> list[dict[str, Any]]:
    """A list of objects, bare or under ``key``; empty where the file doesn't exist."""
    if not path.exists():
        return []
    value = _read_json(path)
    if isinstance(value, dict):
        value = value.get(key, None if needed else [])
    elif not needed:
        value = []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise IteraError(f"'{path}': expected a list of objects, bare or under '{key}'.")
    return value


def _provenance(path: Path) -> dict[str, Any]:
    """Where a file's numbers came from; empty where it doesn't say, or isn't there."""
    value = _read_json(path) if path.exists() else {}
    return (value.get("provenance") or {}) if isinstance(value, dict) else {}


def _read_metrics(path: Path) -> dict[str, list[float | None]]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            columns: dict[str, list[float | None]] = {n: [] for n in reader.fieldnames or ()}
            for row in reader:
                for name in columns:
                    cell = (row[name] or "").strip()
                    value = float(cell) if cell else None
                    columns[name].append(value if is_number(value) else None)
    except (ValueError, OSError, csv.Error) as error:
        raise IteraError(
            f"'{path}' isn't a table of numbers ({error}). Train again, or delete it."
        ) from error
    return columns
