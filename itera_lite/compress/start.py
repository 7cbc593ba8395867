"""What every way to compress shares: the loaded checkpoint, the options of the training that may
follow, and the files of the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gguf import GGMLQuantizationType as Type

from itera_lite.checkpoint.folder import load_checkpoint, move_checkpoint, save_checkpoint
from itera_lite.config import TrainConfig
from itera_lite.data.prepare import Dataset, prepare
from itera_lite.data.tokenizer import Tokenizer
from itera_lite.errors import UsageError
from itera_lite.evaluate.bits import validation_score
from itera_lite.evaluate.score import Score
from itera_lite.export.gguf import file_bytes
from itera_lite.files import folder_name, write_text
from itera_lite.machine.peak import torch_threads
from itera_lite.model import LanguageModel
from itera_lite.model.cost import cost
from itera_lite.quantities import check_numbers, minutes_of
from itera_lite.records import Quantization, StartModel, Summary
from itera_lite.train.compute import Compute
from itera_lite.train.recipe import Budget, budget_of, gentle
from itera_lite.train.run_files import RunFiles, refuse_input
from itera_lite.train.summary import AnyCompression, model_summary
from itera_lite.train.train import Training
from itera_lite.workers import Workers


@dataclass(frozen=True)
class Start:
    """The checkpoint that a compression begins from, loaded."""

    folder: Path
    model: LanguageModel
    tokenizer: Tokenizer

    @classmethod
    def load(cls, checkpoint: str | Path) -> Start:
        folder = Path(checkpoint)
        return cls(folder, *load_checkpoint(folder))

    @property
    def name(self) -> str:
        return folder_name(self.folder)

    @contextmanager
    def claimed(
        self,
        name: str | None,
        default: str,
        checkpoints: Path,
        results: Path,
        *,
        resume: bool = False,
        overwrite: bool,
    ) -> Iterator[RunFiles]:
        """Hold the result's files for the length of the block; PyTorch's threads are put back.

        Raises:
            UsageError: the result would replace the checkpoint itself, or see
                `itera_lite.train.run_files.RunFiles.claimed`.
        """
        files = RunFiles(name or default, Path(checkpoints), Path(results))
        refuse_input(files, self.folder)
        with files.claimed(resume=resume, overwrite=overwrite), torch_threads():
            yield files

    def score(self, documents: Sequence[bytes], workers: Workers) -> Score:
        return validation_score(self.model, self.tokenizer, documents, workers)

    def file_bytes(self, kinds: Mapping[str, Type], folder: Path | None = None) -> int:
        """Size of the model's GGUF file in ``folder``, by default its own.

        See `itera_lite.export.gguf.file_bytes`.
        """
        return file_bytes(folder or self.folder, self.model, self.tokenizer, kinds)

    def record(self, before: Score) -> StartModel:
        """The summary's part about what a compression began from, with its score."""
        config = self.model.config
        return StartModel(
            name=self.name,
            params=cost(config).params_total,
            vocab_size=config.vocab_size,
            n_experts=config.n_experts,
            tokenizer_sha256=self.tokenizer.sha256,
            bpb=before.bpb,
            bytes_per_token=before.bytes / before.tokens,
        )


@dataclass(frozen=True)
class TextOptions:
    """The text of a compression, and the short training on it.

    Attributes:
        data: set or path; None where a compression does without.
        minutes, tokens: budget of the training, of which one may be given; 0 minutes for none.
        seed: of the order of the text.
        resume: go on where the training was stopped.
        overrides: fields of `TrainConfig`, where the recipe doesn't decide.

    Raises:
        UsageError: both budgets are given, or a number is out of its range.
    """

    data: str | None
    minutes: float | None = None
    tokens: str | None = None
    seed: int = 0
    resume: bool = False
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_numbers(seed=self.seed, tokens=self.tokens)
        if self.minutes is not None:
            minutes_of(self.minutes, or_none=True)
            if self.tokens is not None:
                raise UsageError("--minutes and --tokens are each a budget: give one of them")


@dataclass(frozen=True)
class Job:
    """A compression to do: of which checkpoint, on which text, into which files.

    The caller has claimed the files.
    """

    start: Start
    text: TextOptions
    compute: Compute
    files: RunFiles

    @property
    def workers(self) -> Workers:
        return self.compute.workers

    @property
    def resume(self) -> bool:
        """Whether a stopped training goes on."""
        return self.text.resume and self.files.resumable

    def prepare(self, vocab_size: int | None = None) -> Dataset:
        """The text in the model's tokens; with a size, in those of a tokenizer made for it."""
        assert self.text.data is not None
        if vocab_size is not None:
            unit = self.start.tokenizer.unit
            return prepare(
                self.text.data, vocab_size=vocab_size, unit=unit, quiet=self.compute.quiet
            )
        return prepare(self.text.data, tokenizer=self.start.tokenizer, quiet=self.compute.quiet)

    def budget(self, dataset: Dataset, default_minutes: float) -> Budget | None:
        """The training's budget; None for no training. A resumed one keeps that which it had."""
        saved = self.files.saved_budget() if self.resume else None
        minutes, tokens = self.text.minutes, self.text.tokens
        if minutes is None and tokens is None and saved is None:
            minutes = default_minutes
        return None if minutes == 0 else budget_of(dataset, None, minutes, tokens, saved)

    def train_or_save(
        self,
        model: LanguageModel,
        dataset: Dataset,
        valid: Score,
        default_minutes: float,
        rate: float,
        record: Callable[[float | None], AnyCompression],
    ) -> Summary:
        """Train a compressed model further and write it, or write it as it is.

        Args:
            valid: score of the model as it is.
            rate: of a new model's learning rates.
            record: gives how the model was made, from the bits per byte after the training; None:
                there was none.
        """
        budget = self.budget(dataset, default_minutes)
        if budget is None:
            return self.save(model, dataset, valid, lambda: record(None))

        def trained(bpb: float) -> AnyCompression:
            made = record(bpb)
            made.learning_rate_factor = rate
            return made

        config = gentle(model.config, budget, rate, self.text.seed, self.text.overrides)
        return Training(
            *(model.config, config, dataset, budget, self.files, self.compute),
            source=str(self.text.data),
            initial=model,
            resume=self.resume,
            patience=0,
            compression=trained,
        ).run()

    def save(
        self,
        model: LanguageModel,
        dataset: Dataset,
        valid: Score,
        record: Callable[[], AnyCompression],
    ) -> Summary:
        """Write a model that isn't trained further.

        Args:
            record: gives how the model was made; the checkpoint is written then.
        """
        self.files.forget()
        save_checkpoint(self.files.best, model, dataset.tokenizer)
        source, seed = str(self.text.data), self.text.seed
        summary = model_summary(
            *(self.files.name, model.config, valid, TrainConfig().seq_len, dataset, source, seed),
            compression=record(),
        )
        summary.write(self.files.summary)
        return summary

    def trial(self, name: str) -> Job:
        """The same job with files beside the result's, for what may be rejected; see `adopt`."""
        tried = f"{self.files.name}-tried"
        files = RunFiles(name, self.files.checkpoints / tried, self.files.results / tried)
        compute = self.compute.in_precision(files.precision(self.text.resume))
        return replace(self, files=files, compute=compute)

    def adopt(self, trial: RunFiles, summary: Summary) -> None:
        """Move a trial that is accepted to the result's files.

        Args:
            summary: what is written there; the name in it becomes the result's.
        """
        files = self.files
        files.forget()
        move_checkpoint(trial.best, files.best)
        if trial.metrics.exists():
            write_text(files.metrics, trial.metrics.read_text(encoding="utf-8"))
        summary.model.name = files.name
        if isinstance(summary.compression, Quantization):
            summary.compression.file = str(files.best / Path(summary.compression.file).name)
        summary.write(files.summary)


def remove_folders(trial: RunFiles) -> None:
    """Remove the folders of a trial (`Job.trial`) unless something lies in them."""
    for folder in (trial.checkpoints, trial.results):
        with suppress(OSError):
            folder.rmdir()
