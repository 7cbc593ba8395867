"""Reads the result files of training, evaluation and benchmark: all the report knows.

Files are found by name (``NAME_summary.json`` ...). What a model is, its size and its family, is
read from the files, never from its name. Any file may be missing, and what is missing stays
missing: nothing is filled in.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from itera_lite.config import PRESETS, preset_of
from itera_lite.errors import IteraError
from itera_lite.files import exists, is_file, is_folder
from itera_lite.report.shapes import PROVENANCE, SHAPES, conform
from itera_lite.stats.comparison import is_number

Family = Literal["itera", "transformer"]
FAMILIES: tuple[Family, ...] = ("itera", "transformer")
MADE = {"compress": "compressed", "distillation": "distilled"}  # part of a summary -> in words
SAME_PARAMETERS = 0.05  # models of no preset are of one size within this
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
    def records(self) -> list[dict[str, Any]]:
        """The files that say what the model is, the training's first."""
        return [
            self.summary, self.benchmark, self.evaluation,
            self.training_speed, self.engine_decode, self.engine_scoring,
        ]  # fmt: skip

    @property
    def family(self) -> Family | None:
        """As a file says, or the config in one; None where neither does."""
        stated = {r.get("family") or get(r, "config", "family") for r in self.records}
        return next((family for family in FAMILIES if family in stated), None)

    @property
    def preset(self) -> str | None:
        """The preset that the model has the shape of, its vocabulary apart."""
        stated = next((r["preset"] for r in self.records if r.get("preset")), None)
        return stated or preset_of(self.summary.get("config") or {})

    @property
    def made(self) -> str:
        """How it was made, where not by a training like any other's."""
        return next((w for key, w in MADE.items() if self.summary.get(key)), "")

    @property
    def size(self) -> str | None:
        """What it is compared by: ``tiny``, ``tiny, compressed``, ``1.8 M``; None: unknown."""
        total = number(self.params, "total")
        words = self.preset or (None if total is None else f"{total / 1e6:.2g} M")
        return f"{words}, {self.made}" if words and self.made else words

    @property
    def rank(self) -> int:
        """Its place among the presets; after them, what has the shape of none."""
        order = list(PRESETS)
        return order.index(self.preset) if self.preset in order else len(order)

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
    notes: list[str] = field(default_factory=list)  # files, and parts of them, that are left out

    @property
    def pairs(self) -> list[tuple[ModelResults, ModelResults]]:
        """Itera and Transformer models of one size; two lone models also make a pair.

        Lone ones of two different presets don't: such a verdict would be on the size. Nor do a
        compressed model and one that isn't.
        """
        itera = [m for m in self.models if m.family == "itera"]
        transformer = [m for m in self.models if m.family == "transformer"]
        pairs = [(m, other) for m in itera if (other := _partner(m, transformer))]
        if not pairs and len(itera) == len(transformer) == 1:
            (one,), (other,) = itera, transformer
            if not (one.preset and other.preset) and one.made == other.made:
                pairs = [(one, other)]
        return pairs


def _partner(model: ModelResults, others: list[ModelResults]) -> ModelResults | None:
    """The one of another family that has the model's size: of the same text, if there is one."""
    same = [
        other
        for other in others
        if other.preset == model.preset and other.made == model.made and _near(model, other)
    ]
    text = get(model.summary, "dataset", "sha256")
    return min(same, key=lambda m: get(m.summary, "dataset", "sha256") != text, default=None)


def _near(a: ModelResults, b: ModelResults) -> bool:
    """Whether two models are of one preset, or of about as many parameters."""
    if a.preset is not None:
        return True
    x, y = (number(m.params, "total") for m in (a, b))
    return x is not None and y is not None and max(x, y) <= (1 + SAME_PARAMETERS) * min(x, y)


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

    Other files beside them, and parts that aren't what they must be, are left out; ``notes`` says
    which.

    Raises:
        IteraError: where the folder is missing, holds no result, or a file is damaged.
    """
    folder = Path(folder)
    if not is_folder(folder):
        raise IteraError(
            f"results folder '{folder}' doesn't exist; expected the folder that `itera train` "
            "and `itera bench` write. Run `itera demo`, or name the folder with --results."
        )
    models: dict[str, ModelResults] = {}
    notes: list[str] = []
    for path in _files(folder):
        ending = next((kind for kind in KINDS if path.name.endswith(f"_{kind}")), None)
        if ending is None:
            continue
        name, attribute = path.name.removesuffix(f"_{ending}"), KINDS[ending]
        found: Any
        if ending == "metrics.csv":
            found = _read_metrics(path, notes)
        else:
            found = _read_record(path, attribute, notes)
        if found is not None:
            setattr(models.setdefault(name, ModelResults(name)), attribute, found)
    ladder = folder / "ladder.json"
    if not models and not exists(ladder):
        raise IteraError(
            f"no result files in '{folder}'; expected NAME_summary.json, NAME_metrics.csv, "
            "NAME_eval.json, NAME_benchmark.json, NAME_training_speed.json, NAME_decode.json, "
            "NAME_scoring.json or ladder.json. "
            "Run `itera demo` to make them." + "".join(f"\nLeft out: {note}" for note in notes)
        )
    order = {"itera": 0, "transformer": 1, None: 2}
    ordered = sorted(models.values(), key=lambda m: (m.rank, m.size or "", order[m.family], m.name))
    return Results(
        folder,
        ordered,
        ladder=_read_list(ladder, "rungs", notes, "rung"),
        ladder_targets=_read_list(ladder, "targets", notes, "target", needed=False),
        ladder_references=_read_list(ladder, "references", notes, "reference", needed=False),
        ladder_provenance=_provenance(ladder, notes),
        seeds=_read_list(folder / "seeds.json", "runs", notes, "run"),
        notes=notes,
    )


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if is_file(path))
    except OSError as error:
        raise IteraError(f"'{folder}' can't be read: {error.strerror}") from None


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise IteraError(f"'{path}' can't be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise IteraError(
            f"'{path}' can't be read as JSON ({error}). Delete it and run the command that made it."
        ) from error


def _read_record(path: Path, kind: str, notes: list[str]) -> dict[str, Any] | None:
    """A result, without the parts that it can't have; None for another program's file."""
    value = _read_json(path)
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        notes.append(f"'{path}' isn't a result of Itera-Lite: it has no 'name'")
        return None
    return dict(_conformed(path, value, kind, notes))


def _conformed(path: Path, value: Any, kind: str, notes: list[str]) -> Any:
    left_out: list[str] = []
    value = conform(value, SHAPES[kind], left_out)
    if left_out:
        shown = ", ".join(left_out[:3]) + (", ..." if len(left_out) > 3 else "")
        notes.append(f"in '{path}' what isn't of the kind it must be: {shown}")
    return value


def _read_list(
    path: Path, key: str, notes: list[str], kind: str, needed: bool = True
) -> list[dict[str, Any]]:
    """A list of objects, bare or under ``key``; empty where the file doesn't exist."""
    if not exists(path):
        return []
    value = _read_json(path)
    if isinstance(value, dict):
        value = value.get(key, None if needed else [])
    elif not needed:
        value = []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise IteraError(f"'{path}': expected a list of objects, bare or under '{key}'.")
    return [_conformed(path, item, kind, notes) for item in value]


def _provenance(path: Path, notes: list[str]) -> dict[str, Any]:
    """Where a file's numbers came from; empty where it doesn't say, or isn't there."""
    value = _read_json(path) if exists(path) else {}
    found = value.get("provenance") if isinstance(value, dict) else None
    left_out: list[str] = []
    return conform(found, PROVENANCE, left_out) or {}


def _read_metrics(path: Path, notes: list[str]) -> dict[str, list[float | None]] | None:
    """The columns of a training log; None for another program's table."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            columns: dict[str, list[float | None]] = {n: [] for n in reader.fieldnames or ()}
            if "step" not in columns:
                notes.append(f"'{path}' isn't a training log of Itera-Lite: it has no 'step'")
                return None
            for row in reader:
                for name in columns:
                    cell = (row[name] or "").strip()
                    value = float(cell) if cell else None
                    columns[name].append(value if is_number(value) else None)
    except OSError as error:
        raise IteraError(f"'{path}' can't be read: {error.strerror}") from None
    except (ValueError, csv.Error) as error:
        raise IteraError(
            f"'{path}' isn't a table of numbers ({error}). Train again, or delete it."
        ) from error
    return columns
