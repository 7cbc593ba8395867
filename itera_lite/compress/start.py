"""What every way to compress shares: the loaded checkpoint, the options of the training that may
follow, and the files of the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGMLQuantizationType as Type

from itera_lite.checkpoint.folder import load_checkpoint, move_checkpoint, save_checkpoint
from itera_lite.config import TrainConfig
from itera_lite.data.prepare import Dataset
from itera_lite.data.tokenizer import Tokenizer
from itera_lite.errors import UsageError
from itera_lite.evaluate.bits import validation_score
from itera_lite.evaluate.score import Score
from itera_lite.export.gguf import file_bytes
from itera_lite.files import folder_name, write_json, write_text
from itera_lite.machine.provenance import provenance
from itera_lite.model import LanguageModel
from itera_lite.model.cost import cost
from itera_lite.quantities import check_numbers, minutes_of
from itera_lite.train.recipe import Budget, budget_of, gentle
from itera_lite.train.run_files import RunFiles, refuse_input
from itera_lite.train.session import Compute, description, run_training, threads_restored


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
        with files.claimed(resume=resume, overwrite=overwrite), threads_restored():
            yield files

    def score(self, documents: Sequence[bytes]) -> Score:
        return validation_score(self.model, self.tokenizer, documents)

    def file_bytes(self, kinds: Mapping[str, Type], folder: Path | None = None) -> int:
        """Size of the model's GGUF file in ``folder``, by default its own.

        See `itera_lite.export.gguf.file_bytes`.
        """
        return file_bytes(folder or self.folder, self.model, self.tokenizer, kinds)

    def record(self, before: Score) -> dict[str, Any]:
        """The summary's part about what a compression began from, with its score."""
        config = self.model.config
        return {
            "name": self.name,
            "params": cost(config).params_total,
            "vocab_size": config.vocab_size,
            "n_experts": config.n_experts,
            "tokenizer_sha256": self.tokenizer.sha256,
            "bpb": before.bpb,
            "bytes_per_token": before.bytes / before.tokens,
        }


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
    record: dict[str, Any],
    scored: Callable[[float], None],
) -> dict[str, Any]:
    """Train a compressed model further and write it, or write it as it is.

    Args:
        budget: of the training; None: it is written as it is.
        rate: of a new model's learning rates.
        valid: score of the model as it is.
        record: what the summary holds under ``compress``.
        scored: called with the trained model's bits per byte, before the summary is written; it
            may add to ``record``.

    Returns:
        The summary, as it is written.
    """
    if budget is None:
        return save_untrained(model, dataset, files, valid, text, record)
    return run_training(
        *(model.config, gentle(model.config, budget, rate, text.seed), dataset, budget, files),
        compute,
        source=text.data,
        initial=model,
        resume=text.resume and files.resumable,
        patience=0,
        notes={"compress": record},
        scored=scored,
    )


def save_untrained(
    model: LanguageModel,
    dataset: Dataset,
    files: RunFiles,
    valid: Score,
    text: TextOptions,
    record: dict[str, Any],
) -> dict[str, Any]:
    """Write a model that wasn't trained further.

    Its summary has all that a training would have written, but for the training itself.
    """
    files.forget()
    save_checkpoint(files.best, model, dataset.tokenizer)
    summary: dict[str, Any] = {
        **description(files.name, model.config, valid, TrainConfig().seq_len),
        "dataset": {**dataset.summary(), "spec": text.data},
        "provenance": provenance(seed=text.seed),
        "compress": record,
    }
    write_json(files.summary, summary)
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


def adopt(trial: RunFiles, files: RunFiles, summary: dict[str, Any]) -> None:
    """Move a trial that was accepted to the result's files, with its summary.

    Args:
        summary: what is written there; the name in it becomes the result's.
    """
    files.forget()
    move_checkpoint(trial.best, files.best)
    if trial.metrics.exists():
        write_text(files.metrics, trial.metrics.read_text(encoding="utf-8"))
    summary["name"] = files.name
    if "file" in summary["compress"]:
        summary["compress"]["file"] = str(files.best / Path(summary["compress"]["file"]).name)
    write_json(files.summary, summary)
