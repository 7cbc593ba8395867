"""What the ways to compress share: the model they begin from, their budget, and a result of
which nothing was trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itera_lite.checkpoint.folder import (
    load_checkpoint,
    move_checkpoint,
    save_checkpoint,
)
from itera_lite.config import TrainConfig
from itera_lite.data.prepare import Dataset
from itera_lite.data.tokenizer import Tokenizer
from itera_lite.errors import UsageError
from itera_lite.evaluate.bits import validation_score
from itera_lite.evaluate.score import Score
from itera_lite.files import folder_name, write_json, write_text
from itera_lite.machine.peak import torch_threads
from itera_lite.machine.provenance import provenance
from itera_lite.model import LanguageModel
from itera_lite.model.cost import cost
from itera_lite.quantities import finite_number, minutes_of, number_of, seed_of, threads_of
from itera_lite.train.recipe import Budget, budget_of
from itera_lite.train.run_files import RunFiles, refuse_input
from itera_lite.train.summary import description


@dataclass(frozen=True)
class Start:
    """The checkpoint that a compression begins from."""

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

    def files(self, name: str | None, default: str, checkpoints: Path, results: Path) -> RunFiles:
        """Where the result goes: never onto the checkpoint itself.

        Raises:
            UsageError: where it would, or the name isn't fit for a folder.
        """
        files = RunFiles(name or default, Path(checkpoints), Path(results))
        refuse_input(files, self.folder)
        return files

    @contextmanager
    def claimed(
        self,
        name: str | None,
        default: str,
        checkpoints: Path,
        results: Path,
        *,
        resume: bool,
        overwrite: bool,
    ) -> Iterator[RunFiles]:
        """Hold the result's files for the length of the block; PyTorch's threads are put back.

        Raises:
            UsageError: see `files` and `itera_lite.train.run_files.RunFiles.claimed`.
        """
        files = self.files(name, default, checkpoints, results)
        with files.claimed(resume=resume, overwrite=overwrite), torch_threads():
            yield files

    def score(self, documents: Sequence[bytes]) -> Score:
        return validation_score(self.model, self.tokenizer, documents)

    def record(self, before: Score) -> dict[str, Any]:
        """What the summary says about it."""
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


def budget_for(
    dataset: Dataset,
    minutes: float | None,
    tokens: str | None,
    default: float,
    going_on: RunFiles | None = None,
) -> Budget | None:
    """The budget of a short training after the compression; None for none at all.

    Args:
        default: minutes, where neither is given.
        going_on: the run that is resumed, whose budget it then is.

    Raises:
        UsageError: both are given, or one is below zero.
    """
    if minutes is not None and tokens is not None:
        raise UsageError("--minutes and --tokens are each a budget: give one of them")
    if minutes is None and tokens is None and going_on is not None and going_on.resumable:
        return going_on.saved_budget()
    if tokens is None:
        minutes = minutes_of(default if minutes is None else minutes, or_none=True)
        if minutes == 0:
            return None
    return budget_of(dataset, None, minutes, tokens)


def check_numbers(
    *,
    seed: int,
    threads: int | None,
    minutes: float | None = None,
    tokens: str | None = None,
    mix: float | None = None,
) -> None:
    """Refuse numbers that no way to compress can work with, before anything is loaded.

    Raises:
        UsageError: one is out of its range.
    """
    seed_of(seed)
    if threads is not None:
        threads_of(threads)
    if minutes is not None:
        minutes_of(minutes, or_none=True)
    if tokens is not None:
        number_of("tokens", tokens)
    if mix is not None:
        finite_number("mix", mix, above=0, most=1)  # of 0 the teacher has no say


@contextmanager
def trials(files: RunFiles) -> Iterator[tuple[Path, Path]]:
    """Folders beside the result for checkpoints and result files that may be rejected.

    Only what is accepted gets the result's name, by `adopt`.
    """
    folders = [folder / f"{files.name}-tried" for folder in (files.checkpoints, files.results)]
    try:
        yield folders[0], folders[1]
    finally:
        for folder in folders:
            with suppress(OSError):  # where something lies in it, it stays
                folder.rmdir()


def adopt(trial: RunFiles, files: RunFiles, summary: dict[str, Any]) -> None:
    """Move what was tried and accepted to the result's place, with its summary.

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


def save_untrained(
    model: LanguageModel,
    dataset: Dataset,
    files: RunFiles,
    valid: Score,
    *,
    source: str,
    seed: int,
    notes: dict[str, Any],
) -> dict[str, Any]:
    """Write a result that no training followed, with the summary that a training would have
    written, but for what is about training."""
    files.forget()
    save_checkpoint(files.best, model, dataset.tokenizer)
    summary: dict[str, Any] = {
        **description(files.name, model.config, valid, TrainConfig().seq_len),
        "dataset": {**dataset.summary(), "spec": source},
        "provenance": provenance(seed=seed),
        **notes,
    }
    write_json(files.summary, summary)
    return summary
