"""Trains both models with several seeds, for the spread of their quality: seeds.json."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itera_lite.bench import steps
from itera_lite.checkpoint.folder import lock_path
from itera_lite.config import DEFAULT_VOCABULARY, NAMES, Family, preset
from itera_lite.data.prepare import prepare
from itera_lite.errors import DataError
from itera_lite.files import write_json
from itera_lite.machine.provenance import provenance
from itera_lite.quantities import number_of
from itera_lite.train.recipe import Budget, budget_of, train_config
from itera_lite.train.resume import RunFiles
from itera_lite.train.run_files import locked
from itera_lite.train.session import Compute, run_training, threads_restored


@dataclass(frozen=True)
class SeedStudy:
    """Trainings of both models of a size that differ by their seed.

    Each run has the same budget: equal tokens, or equal training time. With ``equal_time``, both
    training speeds are measured first, and the faster model is also trained on the tokens that
    it reads while the slower one reads ``tokens``.

    Attributes:
        path: of seeds.json. Runs are added; one that is there already is kept.
        config: a preset of both models.
        minutes, tokens: budget of a run, of which one is given.
    """

    path: Path
    data: str
    config: str
    vocab_size: int
    minutes: float | None
    tokens: str | None
    equal_time: bool
    threads: int | None

    def run(self, seeds: range) -> dict[str, Any]:
        """Train the runs that the file lacks.

        Returns:
            What the file holds: ``runs``, ``speeds`` (where measured) and ``provenance``.

        Raises:
            DataError: the file is damaged.
            UsageError: another process writes it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with locked(lock_path(self.path), self.path.name), threads_restored():
            record = _read(self.path) if self.path.exists() else {"runs": []}
            speeds = self._speeds(record) if self.equal_time else {}
            for seed in seeds:
                for family in NAMES:
                    kind = "tokens" if self.tokens else "time"
                    self._add(record, family, seed, kind, self.tokens)
                if speeds:
                    faster, slower = sorted(speeds, key=lambda family: -speeds[family])
                    more = number_of("tokens", self.tokens or "") * speeds[faster] / speeds[slower]
                    self._add(record, faster, seed, "time", str(round(more)))
                    self._copy(record, slower, seed)
        return record

    def _identity(self, family: Family, seed: int) -> dict[str, Any]:
        """What a run is known by, but for its kind of budget."""
        return {
            "name": f"{NAMES[family]}_{self.config}",
            "seed": seed,
            "data": self.data,
            "amount": self.tokens or self.minutes,
            "vocab_size": self.vocab_size,
        }

    @property
    def _batch(self) -> int | None:
        """The batch of the measured speeds, which the longer runs keep to; None: as usual."""
        if not self.equal_time:
            return None
        return Budget("tokens", number_of("tokens", self.tokens or "")).batch_size

    def _add(
        self, record: dict[str, Any], family: Family, seed: int, budget: str, tokens: str | None
    ) -> None:
        """Train once, unless the file has the run."""
        run = {**self._identity(family, seed), "budget": budget}
        if not _known(record, run):
            self._write(record, run | self._train(family, seed, tokens))

    def _train(self, family: Family, seed: int, tokens: str | None) -> dict[str, Any]:
        """One training, of which only the numbers are kept."""
        compute = Compute.prepare(threads=self.threads)
        shape = preset(family, self.config, self.vocab_size)
        dataset = prepare(self.data, vocab_size=self.vocab_size)
        budget = budget_of(dataset, None, self.minutes, tokens)
        config = train_config(shape, budget, {"batch_size": self._batch}, seed)
        name = f"{NAMES[family]}_{self.config}"
        with tempfile.TemporaryDirectory() as folder:
            summary = run_training(
                *(shape, config, dataset, budget),
                *(RunFiles(name, Path(folder), Path(folder)), compute),
                source=self.data,
                evaluations=1,  # only the end counts
            )
        train = summary["train"]
        return {
            "valid_bpb": summary["valid"]["bpb"],
            "minutes": train["seconds"] / 60,
            "tokens": train["tokens"],
            "tokens_per_second": train["tokens_per_second"],
            "threads": train["threads"],
            "batch_size": train["batch_size"],
            "precision": train["precision"],
            "git_commit": summary["provenance"].get("git_commit"),
            "dataset_sha256": summary["dataset"]["sha256"],
        }

    def _copy(self, record: dict[str, Any], family: Family, seed: int) -> None:
        """The slower model's run of equal tokens is its run of equal time as well."""
        run = self._identity(family, seed)
        if not _known(record, run | {"budget": "time"}):
            made = _known(record, run | {"budget": "tokens"})[-1]
            self._write(record, made | {"budget": "time"})

    def _write(self, record: dict[str, Any], run: dict[str, Any]) -> None:
        record["runs"].append(run)
        record["provenance"] = provenance(seeds=[run["seed"] for run in record["runs"]])
        write_json(self.path, record)

    def _speeds(self, record: dict[str, Any]) -> dict[Family, float]:
        """Tokens/s of both models, measured once: later runs keep to the same ratio."""
        batch = self._batch or 0
        known, key = record.setdefault("speeds", {}), f"{self.config}, batch {batch}"
        if self.vocab_size != DEFAULT_VOCABULARY:
            key += f", vocabulary {self.vocab_size}"
        if key not in known:
            known[key] = steps.training_speeds(self.config, self.vocab_size, batch, self.threads)
            write_json(self.path, record)
        return {
            family: known[key][f"{NAMES[family]}_{self.config}"]["tokens_per_second"]["median"]
            for family in NAMES
        }


def _known(record: dict[str, Any], run: dict[str, Any]) -> list[dict[str, Any]]:
    """The record's runs that are of this identity."""
    return [old for old in record["runs"] if run.items() <= _with_vocabulary(old).items()]


def _with_vocabulary(run: dict[str, Any]) -> dict[str, Any]:
    """A run with its vocabulary, which older files lack: it was the default one."""
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
