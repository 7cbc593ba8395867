"""Reads the result files: all that the report knows.

What a model is called, its size and its family are fields of the records, never parts of a file's
name. Any record may be missing, and what is missing stays missing: nothing is filled in.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from itera_lite.config import PRESETS
from itera_lite.errors import IteraError
from itera_lite.files import exists, is_file, is_folder
from itera_lite.records import (
    Benchmark,
    DatasetDescription,
    Decode,
    Evaluation,
    Flops,
    Ladder,
    ModelDescription,
    ModelRecord,
    Params,
    Record,
    Run,
    Scoring,
    SeedRun,
    Seeds,
    Summary,
    TrainingRun,
    TrainingSpeed,
    ValidScore,
    read_any,
)
from itera_lite.stats.comparison import is_number

Family = Literal["itera", "transformer"]
FAMILIES: tuple[Family, ...] = ("itera", "transformer")
SAME_PARAMETERS = 0.05  # models of no preset are of one size within this
MAIN_STUDY = "models"  # of several studies in a folder, the one that the report is about
PARTS: dict[type[ModelRecord], str] = {  # field of `ModelResults` that holds it
    Summary: "summary",
    Evaluation: "evaluation",
    Benchmark: "benchmark",
    TrainingSpeed: "training_speed",
    Decode: "decode",
    Scoring: "scoring",
}
Log = dict[str, list[float | None]]  # columns of a training log; None: the cell was blank


@dataclass
class ModelResults:
    """What is known about one model; None where a record is missing.

    Attributes:
        name: of the run, such as ``itera_lite_tiny``.
        metrics: the training log.
        files: field -> the file that it was read from, and which part of it.
    """

    name: str
    metrics: Log = field(default_factory=dict)
    summary: Summary | None = None
    evaluation: Evaluation | None = None
    benchmark: Benchmark | None = None
    training_speed: TrainingSpeed | None = None
    decode: Decode | None = None
    scoring: Scoring | None = None
    files: dict[str, str] = field(default_factory=dict)

    @property
    def records(self) -> dict[str, ModelRecord]:
        """The records that there are, by their field."""
        found = {part: getattr(self, part) for part in PARTS.values()}
        return {part: record for part, record in found.items() if record is not None}

    @property
    def model(self) -> ModelDescription | None:
        """As the training describes it, else as what was measured does."""
        return next((record.model for record in self.records.values()), None)

    @property
    def family(self) -> Family | None:
        """None where no record says it, or it is another one."""
        return next((f for f in FAMILIES if self.model and self.model.family == f), None)

    @property
    def preset(self) -> str | None:
        """The preset that the model has the shape of, its vocabulary apart."""
        return self.model and self.model.size

    @property
    def made(self) -> str:
        """How it was made, where not by a training like any other's."""
        made = self.model and self.model.made
        return "" if made in (None, "trained") else str(made)

    @property
    def size(self) -> str | None:
        """What it is compared by: ``tiny``, ``tiny, compressed``, ``1.8 M``; None: unknown."""
        words = self.preset or (self.params and f"{self.params.total / 1e6:.2g} M")
        return f"{words}, {self.made}" if words and self.made else words

    @property
    def rank(self) -> int:
        """Its position among the presets; after them, what has the shape of none."""
        order = list(PRESETS)
        return order.index(self.preset) if self.preset in order else len(order)

    @property
    def params(self) -> Params | None:
        """Of the training or the benchmark; what `bench train` times may be another shape."""
        record = self.summary or self.benchmark
        return record and record.model.params

    @property
    def flops(self) -> Flops | None:
        """FLOPs a token; the benchmark's, which has the most, else the training's."""
        record = self.benchmark or self.summary
        return record and record.flops_per_token

    @property
    def training(self) -> TrainingRun | None:
        return self.summary and self.summary.training

    @property
    def dataset(self) -> DatasetDescription | None:
        return self.summary and self.summary.dataset

    @property
    def quality(self) -> Evaluation | ValidScore | None:
        """From the evaluation, else from the end of training, on validation text."""
        return self.evaluation or (self.summary and self.summary.valid)

    def series(self, x: str, y: str) -> tuple[list[float], list[float]]:
        """Two columns of the training log, the rows where both were measured."""
        pairs = zip(self.metrics.get(x, ()), self.metrics.get(y, ()), strict=False)
        points = [(a, b) for a, b in pairs if a is not None and b is not None]
        return [a for a, _ in points], [b for _, b in points]

    def last(self, column: str) -> float | None:
        """The last number in a column of the training log."""
        values = [v for v in self.metrics.get(column, ()) if v is not None]
        return values[-1] if values else None


@dataclass
class Results:
    """Everything in a results folder; models in the order Itera, Transformer, by size.

    ``left_out``: files that can't be used, each with the reason.
    """

    folder: Path
    models: list[ModelResults]
    ladder: Ladder | None = None
    seed_study: Seeds | None = None
    left_out: list[str] = field(default_factory=list)

    @property
    def seeds(self) -> list[SeedRun]:
        """The trainings with several seeds."""
        return self.seed_study.runs if self.seed_study else []

    @property
    def pairs(self) -> list[tuple[ModelResults, ModelResults]]:
        """Itera and Transformer models of one size; two lone models also make a pair.

        Lone ones of two different presets don't: such a verdict would be on the size. Nor do a
        compressed model and one that isn't.
        """
        ours = [m for m in self.models if m.family == "itera"]
        others = [m for m in self.models if m.family == "transformer"]
        pairs = [(m, other) for m in ours if (other := _partner(m, others))]
        if not pairs and len(ours) == len(others) == 1:
            (one,), (other,) = ours, others
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
    text = model.dataset and model.dataset.sha256
    return min(same, key=lambda m: (m.dataset and m.dataset.sha256) != text, default=None)


def _near(a: ModelResults, b: ModelResults) -> bool:
    """Whether two models are of one preset, or of about as many parameters."""
    if a.preset is not None:
        return True
    if a.params is None or b.params is None:
        return False
    small, large = sorted((a.params.total, b.params.total))
    return large <= (1 + SAME_PARAMETERS) * small


def load_results(folder: str | Path = "results") -> Results:
    """Read the records of a folder, as the commands write them or as they are committed.

    Read are the files in the folder itself, and runs in ``STUDY/STAGE/SEED.json`` and
    ``STAGE/SEED.json`` below it. A file that can't be used is left out, see `Results`.

    Raises:
        IteraError: the folder is missing, holds no result, or may not be read.
    """
    folder = Path(folder)
    if not is_folder(folder):
        raise IteraError(
            f"results folder '{folder}' doesn't exist; expected the folder that `itera train` "
            "and `itera bench` write. Run `itera demo`, or name the folder with --results."
        )
    found = Results(folder, [])
    models: dict[str, ModelResults] = {}
    for path in _files(folder, ".json"):
        record = _read(path, found.left_out)
        if isinstance(record, Ladder):
            found.ladder = record
        elif isinstance(record, Seeds):
            found.seed_study = record
        elif isinstance(record, ModelRecord):
            name = record.model.name
            _add(models.setdefault(name, ModelResults(name)), path.name, record, found.left_out)
    for path in _files(folder, "_metrics.csv"):
        name = path.name.removesuffix("_metrics.csv")  # the one thing that says it
        if (log := _read_log(path, found.left_out)) is not None:
            models.setdefault(name, ModelResults(name)).metrics = log
    found.models = [*models.values(), *_runs(found)]
    if not found.models and not found.ladder:
        raise IteraError(
            f"no result files in '{folder}': expected what `itera train`, `itera eval`, "
            "`itera bench` or `itera ladder` write. Run `itera demo` to make them."
            + "".join(f"\nLeft out: {note}" for note in found.left_out)
        )
    order = {"itera": 0, "transformer": 1, None: 2}
    found.models.sort(key=lambda m: (m.rank, m.size or "", order[m.family], m.name))
    return found


def _runs(results: Results) -> Iterator[ModelResults]:
    """The models of the committed runs below a folder: of one study, where it has the main one."""
    runs = {}
    for pattern in ("*/[0-9]*.json", "*/*/[0-9]*.json"):
        for path in sorted(results.folder.glob(pattern)):
            if isinstance(run := _read(path, results.left_out), Run):
                runs[path] = run
    if any(run.study == MAIN_STUDY for run in runs.values()):
        runs = {path: run for path, run in runs.items() if run.study == MAIN_STUDY}
    stages = [run.stage for run in runs.values()]
    for path, run in runs.items():
        several = stages.count(run.stage) > 1
        model = ModelResults(f"{run.stage}, seed {run.seed}" if several else run.stage)
        file = path.relative_to(results.folder).as_posix()
        for part, record in run.parts.items():
            if isinstance(record, ModelRecord):
                _add(model, f"{file}: {part.replace('_', ' ')}", record, results.left_out)
        if exists(log := path.with_suffix(".csv")):
            model.metrics = _read_log(log, results.left_out) or {}
        yield model


def _add(model: ModelResults, file: str, record: ModelRecord, left_out: list[str]) -> None:
    """Put a record where it belongs, unless another file had one of its kind."""
    part = PARTS[type(record)]
    if part in model.files:
        left_out.append(f"'{file}' is about '{model.name}', as '{model.files[part]}' is already")
        return
    setattr(model, part, record)
    model.files[part] = file


def _files(folder: Path, ending: str) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.name.endswith(ending) and is_file(p))
    except OSError as error:
        raise IteraError(f"'{folder}' can't be read: {error.strerror}") from None


def _read(path: Path, left_out: list[str]) -> Record | None:
    """A record; None, with a note, for what isn't one. A file that may not be read is an error."""
    try:
        return read_any(path)
    except IteraError as error:
        if isinstance(error.__cause__, OSError):
            raise
        left_out.append(str(error))
        return None


def _read_log(path: Path, left_out: list[str]) -> Log | None:
    """The columns of a training log; None, with a note, for another table."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            columns: Log = {name: [] for name in reader.fieldnames or ()}
            if "step" not in columns:
                left_out.append(f"'{path}' isn't a training log of Itera-Lite: it has no 'step'")
                return None
            for row in reader:
                for name in columns:
                    cell = (row[name] or "").strip()
                    value = float(cell) if cell else None
                    columns[name].append(value if is_number(value) else None)
    except OSError as error:
        raise IteraError(f"'{path}' can't be read: {error.strerror}") from None
    except (ValueError, csv.Error) as error:
        left_out.append(f"'{path}' isn't a table of numbers ({error}): train again, or delete it")
        return None
    return columns
