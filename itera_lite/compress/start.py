"""What every way to compress shares: the loaded checkpoint, the options of the training that may
follow, and the files of the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from gguf import GGMLQuantizationType as Type

from itera_lite.checkpoint.folder import load_checkpoint, move_checkpoint, save_checkpoint
from itera_lite.config import TrainConfig
from itera_lite.data.prepare import Dataset
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
from itera_lite.train.train import run_training


@dataclass(frozen=True)
class Start:
    """The checkpoint that a compression begins from, loaded."""

    folder: Path
    model: LanguageModel
    tokenizer: Tokenizer

    @classmethod
    def load(cls, checkpoint: str | Path) -> Start:
        """Load a checkpoint's folder.

        Raises:
            CheckpointError: it isn't one, or is damaged.
        """
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

    def score(self, documents: Sequence[bytes]) -> Score:
        return validation_score(self.model, self.tokenizer, documents)

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
        data: set or path.
        minutes, tokens: budget of the training, of which one may be given; 0 minutes for none.
        seed: of the order of the text.
        resume: go on where the training was stopped.

    Raises:
        UsageError: both budgets are given, or a number is out of its range.
    """

    data: str
    minutes: float | None = None
    tokens: str | None = None
    seed: int = 0
    resume: bool = False

    def __post_init__(self) -> None:
        check_numbers(seed=self.seed, tokens=self.tokens)
        if self.minutes is not None:
            minutes_of(self.minutes, or_none=True)
            if self.tokens is not None:
                raise UsageError("--minutes and --tokens are each a budget: give one of them")

    def budget(self, dataset: Dataset, default_minutes: float, files: RunFiles) -> Budget | None:
        """The training's budget; None for no training. A resumed one keeps that which it had."""
        saved = files.saved_budget() if self.resume and files.resumable else None
        minutes = self.minutes
        if minutes is None and self.tokens is None and saved is None:
            minutes = default_minutes
        return None if minutes == 0 else budget_of(dataset, None, minutes, self.tokens, saved)


def train_or_save(
    model: LanguageModel,
    dataset: Dataset,
    files: RunFiles,
    compute: Compute,
    text: TextOptions,
    budget: Budget | None,
    rate: float,
    valid: Score,
    record: Callable[[float | None], AnyCompression],
) -> Summary:
    """Train a compressed model further and write it, or write it as it is.

    Args:
        budget: of the training; None: the model is written as it is.
        rate: of a new model's learning rates.
        valid: score of the model as it is.
        record: gives how the model was made, from the bits per byte after the training; None:
            there was none.

    Returns:
        The summary, as it is written.
    """
    if budget is None:
        return save_untrained(model, dataset, files, valid, text, lambda: record(None))
    return run_training(
        *(model.config, gentle(model.config, budget, rate, text.seed), dataset, budget, files),
        compute,
        source=text.data,
        initial=model,
        resume=text.resume and files.resumable,
        patience=0,
        compression=record,
    )


def save_untrained(
    model: LanguageModel,
    dataset: Dataset,
    files: RunFiles,
    valid: Score,
    text: TextOptions,
    record: Callable[[], AnyCompression],
) -> Summary:
    """Write a model that wasn't trained further, and its summary.

    Args:
        record: gives how the model was made; the checkpoint is written then.
    """
    files.forget()
    save_checkpoint(files.best, model, dataset.tokenizer)
    summary = model_summary(
        *(files.name, model.config, valid, TrainConfig().seq_len, dataset, text.data, text.seed),
        compression=record(),
    )
    summary.write(files.summary)
    return summary


@contextmanager
def trial_folders(files: RunFiles) -> Iterator[tuple[Path, Path]]:
    """Folders beside the result, for checkpoints and result files that may be rejected.

    What is accepted gets the result's name by `adopt`. The folders go when they are empty.
    """
    folders = [folder / f"{files.name}-tried" for folder in (files.checkpoints, files.results)]
    try:
        yield folders[0], folders[1]
    finally:
        for folder in folders:
            with suppress(OSError):  # where something lies in it, it stays
                folder.rmdir()


def adopt(trial: RunFiles, files: RunFiles, summary: Summary) -> None:
    """Move a trial that was accepted to the result's files, with its summary.

    Args:
        summary: what is written there; the name in it becomes the result's.
    """
    files.forget()
    move_checkpoint(trial.best, files.best)
    if trial.metrics.exists():
        write_text(files.metrics, trial.metrics.read_text(encoding="utf-8"))
    summary.model.name = files.name
    if isinstance(summary.compression, Quantization):
        summary.compression.file = str(files.best / Path(summary.compression.file).name)
    summary.write(files.summary)
