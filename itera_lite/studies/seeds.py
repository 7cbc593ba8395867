"""Trains both models with several seeds, for the spread of their quality: seeds.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

from msgspec.structs import replace

from itera_lite.bench import training
from itera_lite.checkpoint.folder import lock_path
from itera_lite.config import NAMES, Family, preset
from itera_lite.data.prepare import Dataset, prepare
from itera_lite.errors import DataError, IteraError
from itera_lite.files import in_utf8
from itera_lite.locks import locked
from itera_lite.machine.peak import torch_threads
from itera_lite.machine.processor import cpu_name
from itera_lite.machine.provenance import Provenance
from itera_lite.quantities import number_of
from itera_lite.records import SeedRun, Seeds
from itera_lite.stats.load import Load
from itera_lite.studies.unfinished import train_for_numbers, unfinished
from itera_lite.train.compute import Compute
from itera_lite.train.recipe import Budget, budget_of, train_config
from itera_lite.train.run_files import RunFiles
from itera_lite.train.train import Training

Kind = Literal["time", "tokens"]  # what all models of a comparison have alike


@dataclass(frozen=True)
class Run:
    """A training of the study.

    Attributes:
        tokens: to train on, where they aren't those of the study.
    """

    family: Family
    seed: int
    kind: Kind
    tokens: str | None = None


@dataclass(frozen=True)
class SeedStudy:
    """Trainings of both models of a size that differ by their seed; those of a seed take turns.

    Each run has the same budget: equal tokens, or equal training time on one processor. With
    ``equal_time``, both training speeds are measured first, and the faster model is also trained
    on the tokens that it reads while the slower one reads ``tokens``.

    Attributes:
        path: of seeds.json. Runs are added; one that this processor made already is kept.
        source: set or path.
        sizes: a preset of each model.
        minutes, tokens: budget of a run, of which one is given.
    """

    path: Path
    source: str
    sizes: Mapping[Family, str]
    vocab_size: int
    minutes: float | None
    tokens: str | None
    equal_time: bool
    workers: int | None

    def run(self, seeds: range) -> Seeds:
        """Train the runs that the file lacks.

        Returns:
            The record, as it is written.

        Raises:
            DataError: the file is damaged.
            UsageError: another process writes it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with locked(lock_path(self.path), f"the name '{self.path.name}'"), torch_threads():
            record = self._read()
            compute = Compute.prepare(workers=self.workers)
            speeds = self._speeds(record, compute) if self.equal_time else {}
            for seed in seeds:
                kind: Kind = "tokens" if self.tokens else "time"
                runs = [Run(family, seed, kind) for family in NAMES]
                if speeds:
                    faster, slower = sorted(speeds, key=lambda family: -speeds[family])
                    more = number_of("tokens", self.tokens or "") * speeds[faster] / speeds[slower]
                    runs.append(Run(faster, seed, "time", str(round(more))))
                self._add(record, runs, compute)
                if speeds and self._find(record, Run(slower, seed, "time"), compute) is None:
                    # A run of equal tokens is one of equal time too.
                    made = self._find(record, Run(slower, seed, "tokens"), compute)
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
        load = Load.mean([run.load for run in record.runs])
        record.provenance = Provenance.now(
            seeds=[run.seed for run in record.runs], load_by_others=load and load.by_others
        )
        record.write(self.path)

    def _find(self, record: Seeds, run: Run, compute: Compute) -> SeedRun | None:
        """The run of this study that the record has already: on this text and from this processor,
        where these are known."""
        here = {(compute.precision.name, cpu_name()), (compute.precision.name, None), (None, None)}
        amount = self.tokens or self.minutes
        source = in_utf8(self.source)  # as the record has it
        wanted = (self._name(run), run.seed, run.kind, source, amount, self.vocab_size)
        text = (self._dataset.manifest["sha256"], None)  # None: an early version wrote it
        for made in record.runs:
            found = (made.name, made.seed, made.budget, made.source, made.amount, made.vocab_size)
            same = found == wanted and made.dataset_sha256 in text
            if same and (made.precision, made.cpu) in here:
                return made
        return None

    @cached_property
    def _dataset(self) -> Dataset:
        return prepare(self.source, vocab_size=self.vocab_size)

    def _name(self, run: Run) -> str:
        return f"{NAMES[run.family]}_{self.sizes[run.family]}"

    @property
    def _batch_size(self) -> int | None:
        """That of the measured speeds, which the longer runs keep to; None: as usual."""
        if not self.equal_time:
            return None
        return Budget("tokens", number_of("tokens", self.tokens or "")).batch_size

    @property
    def _settings(self) -> dict[str, object]:
        return {
            "--data": self.source,
            "--config": self.sizes["itera"],
            "--transformer": self.sizes["transformer"],
            "--vocab-size": self.vocab_size,
            "--minutes": self.minutes,
            "--tokens": self.tokens,
            "--equal-time": self.equal_time,
        }

    def _add(self, record: Seeds, runs: list[Run], compute: Compute) -> None:
        """Train, in turns, those that the record lacks. Only the numbers are kept."""
        missing = [run for run in runs if self._find(record, run, compute) is None]
        if not missing:
            return
        dataset = self._dataset

        def training(run: Run, files: RunFiles) -> Training:
            shape = preset(run.family, self.sizes[run.family], self.vocab_size)
            budget = budget_of(dataset, None, self.minutes, run.tokens or self.tokens)
            return Training(
                shape,
                train_config(shape, budget, {"batch_size": self._batch_size}, run.seed),
                *(dataset, budget, files, compute),
                source=self.source,
                evaluations=1,  # only the end counts
            )

        makers = {
            f"{self._name(run)}_{run.kind}_seed{run.seed}": partial(training, run)
            for run in missing
        }
        summaries = train_for_numbers(unfinished(self.path), self._settings, makers)
        for run, summary in zip(missing, summaries.values(), strict=True):
            made = summary.training
            assert made and summary.valid
            record.runs.append(
                SeedRun(
                    *(
                        self._name(run),
                        run.family,
                        self.sizes[run.family],
                        run.seed,
                        run.kind,
                        in_utf8(self.source),
                    ),
                    amount=self.tokens or self.minutes or 0,
                    vocab_size=self.vocab_size,
                    valid_bpb=summary.valid.bpb,
                    minutes=made.seconds / 60,
                    tokens=made.tokens,
                    tokens_per_second=made.tokens_per_second,
                    threads=made.threads,
                    batch_size=made.batch_size,
                    precision=made.precision,
                    git_commit=summary.provenance.git_commit,
                    dataset_sha256=dataset.manifest["sha256"],
                    flops_forward=summary.flops_per_token and summary.flops_per_token.forward,
                    load=summary.provenance.load,
                    cpu=cpu_name(),
                )
            )
        self._write(record)

    def _speeds(self, record: Seeds, compute: Compute) -> dict[Family, float]:
        """Tokens/s of both models, measured once on a processor with so many workers: later runs
        keep to the same ratio."""
        wanted = (self.sizes["itera"], self._batch_size or 0, self.vocab_size)
        here = cpu_name(), {compute.workers.count}
        for known in record.speeds:
            made = known.cpu, {model.threads for model in known.models.values()}
            if (known.size, known.batch_size, known.vocab_size) == wanted and made == here:
                break
        else:
            size, batch_size, vocab_size = wanted
            known = training.training_speeds(size, vocab_size, batch_size, self.workers)
            record.speeds.append(known)
            self._write(record)
        return {
            family: known.models[f"{name}_{wanted[0]}"].tokens_per_second.median
            for family, name in NAMES.items()
        }
