"""Trains both models with several seeds, for the spread of their quality: seeds.json."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from msgspec.structs import replace

from itera_lite.bench import training
from itera_lite.checkpoint.folder import lock_path
from itera_lite.config import NAMES, Family, preset
from itera_lite.data.prepare import prepare
from itera_lite.errors import DataError, IteraError
from itera_lite.machine.peak import torch_threads
from itera_lite.machine.provenance import Provenance
from itera_lite.quantities import number_of
from itera_lite.records import SeedRun, Seeds, SpeedsOfSize
from itera_lite.train.compute import Compute
from itera_lite.train.recipe import Budget, budget_of, train_config
from itera_lite.train.run_files import RunFiles, locked
from itera_lite.train.train import run_training

Kind = Literal["time", "tokens"]  # what all models of a comparison have alike


@dataclass(frozen=True)
class SeedStudy:
    """Trainings of both models of a size that differ by their seed.

    Each run has the same budget: equal tokens, or equal training time. With ``equal_time``, both
    training speeds are measured first, and the faster model is also trained on the tokens that
    it reads while the slower one reads ``tokens``.

    Attributes:
        path: of seeds.json. Runs are added; one that is there already is kept.
        source: set or path.
        size: a preset of both models.
        minutes, tokens: budget of a run, of which one is given.
    """

    path: Path
    source: str
    size: str
    vocab_size: int
    minutes: float | None
    tokens: str | None
    equal_time: bool
    threads: int | None

    def run(self, seeds: range) -> Seeds:
        """Train the runs that the file lacks.

        Returns:
            The record, as it is written.

        Raises:
            DataError: the file is damaged.
            UsageError: another process writes it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with locked(lock_path(self.path), self.path.name), torch_threads():
            record = self._read()
            speeds = self._speeds(record) if self.equal_time else {}
            for seed in seeds:
                for family in NAMES:
                    self._add(record, family, seed, "tokens" if self.tokens else "time")
                if speeds:
                    faster, slower = sorted(speeds, key=lambda family: -speeds[family])
                    more = number_of("tokens", self.tokens or "") * speeds[faster] / speeds[slower]
                    self._add(record, faster, seed, "time", str(round(more)))
                    if self._find(record, slower, seed, "time") is None:  # equal tokens are both
                        made = self._find(record, slower, seed, "tokens")
                        assert made is not None
                        record.runs.append(replace(made, budget="time"))
                        self._write(record)
        return record

    def _read(self) -> Seeds:
        if not self.path.exists():
            return Seeds(runs=[], provenance=Provenance.now())
        try:
            return Seeds.read(self.path)
        except IteraError as error:
            raise DataError(
                f"{self.path}: expected the runs that `itera bench seeds` wrote; move it away "
                f"({error})"
            ) from None

    def _write(self, record: Seeds) -> None:
        record.provenance = Provenance.now(seeds=[run.seed for run in record.runs])
        record.write(self.path)

    def _find(self, record: Seeds, family: Family, seed: int, budget: Kind) -> SeedRun | None:
        """The run of this study that the record has already."""
        name, amount = f"{NAMES[family]}_{self.size}", self.tokens or self.minutes
        wanted = (name, seed, budget, self.source, amount, self.vocab_size)
        for run in record.runs:
            found = (run.name, run.seed, run.budget, run.source, run.amount, run.vocab_size)
            if found == wanted:
                return run
        return None

    @property
    def _batch_size(self) -> int | None:
        """That of the measured speeds, which the longer runs keep to; None: as usual."""
        if not self.equal_time:
            return None
        return Budget("tokens", number_of("tokens", self.tokens or "")).batch_size

    def _add(
        self, record: Seeds, family: Family, seed: int, kind: Kind, tokens: str | None = None
    ) -> None:
        """Train once, unless the record has the run. Only the numbers are kept.

        Args:
            tokens: to train on, where they aren't those of the study.
        """
        if self._find(record, family, seed, kind) is not None:
            return
        compute = Compute.prepare(workers=self.threads)
        name, shape = f"{NAMES[family]}_{self.size}", preset(family, self.size, self.vocab_size)
        dataset = prepare(self.source, vocab_size=self.vocab_size)
        budget = budget_of(dataset, None, self.minutes, tokens or self.tokens)
        config = train_config(shape, budget, {"batch_size": self._batch_size}, seed)
        with tempfile.TemporaryDirectory() as folder:
            summary = run_training(
                *(shape, config, dataset, budget),
                *(RunFiles(name, Path(folder), Path(folder)), compute),
                source=self.source,
                evaluations=1,  # only the end counts
            )
        run = summary.training
        assert run and summary.valid
        record.runs.append(
            SeedRun(
                *(name, family, self.size, seed, kind, self.source),
                amount=self.tokens or self.minutes or 0,
                vocab_size=self.vocab_size,
                valid_bpb=summary.valid.bpb,
                minutes=run.seconds / 60,
                tokens=run.tokens,
                tokens_per_second=run.tokens_per_second,
                threads=run.threads,
                batch_size=run.batch_size,
                precision=run.precision,
                git_commit=summary.provenance.git_commit,
                dataset_sha256=dataset.manifest["sha256"],
            )
        )
        self._write(record)

    def _speeds(self, record: Seeds) -> dict[Family, float]:
        """Tokens/s of both models, measured once: later runs keep to the same ratio."""
        wanted = (self.size, self._batch_size or 0, self.vocab_size)
        for known in record.speeds:
            if (known.size, known.batch_size, known.vocab_size) == wanted:
                break
        else:
            size, batch_size, vocab_size = wanted
            models = training.training_speeds(size, vocab_size, batch_size, self.threads)
            known = SpeedsOfSize(*wanted, models)
            record.speeds.append(known)
            self._write(record)
        return {
            family: known.models[f"{name}_{self.size}"].tokens_per_second.median
            for family, name in NAMES.items()
        }
