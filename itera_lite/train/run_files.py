"""The files of a run: where they lie, who may write them, and what a stopped run saved.

A run NAME owns CHECKPOINTS/NAME (the best model), CHECKPOINTS/NAME-last (to resume from),
RESULTS/NAME_metrics.csv, RESULTS/NAME_summary.json and the event files in RESULTS/NAME_tensorboard,
if it writes them. A run claims these before it does any work. The claim fails where a folder isn't
this program's, where it holds a model and nobody asked to replace it, or where another process has
claimed the name.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itera_lite.checkpoint.folder import (
    LAST,
    has_training_state,
    is_own,
    lock_path,
    remove_checkpoint,
    sweep,
    tidy,
)
from itera_lite.errors import CheckpointError, OutputError, UsageError
from itera_lite.files import in_utf8, output_errors
from itera_lite.locks import locked
from itera_lite.train.events import remove_events
from itera_lite.train.log import is_log
from itera_lite.train.precision import Precision
from itera_lite.train.recipe import Budget

_NAME = re.compile(r"\w[^/\\\x00-\x1f\x7f]*")
_LONGEST = 200  # bytes of a name; file systems take 255, and suffixes are added


def checked_name(name: str) -> str:
    """``name``, if a run may have it: one component of a path.

    Raises:
        UsageError: a run may not; says why.
    """
    problem = None
    if not _NAME.fullmatch(name):
        problem = "expected a letter, digit or underscore first, and no slash or control character"
    elif name.endswith(LAST):
        problem = f"'{LAST}' at the end is kept for the folder that another run goes on from"
    elif len(os.fsencode(name)) > _LONGEST:
        problem = f"expected at most {_LONGEST} bytes"
    if problem:
        raise UsageError(
            f"--name {name!r}: {problem}. A name is no path: give folders with --checkpoints and "
            "--results"
        )
    return name


@dataclass(frozen=True)
class RunFiles:
    """The paths of a run's files.

    Raises:
        UsageError: the name isn't one component of a path.
    """

    name: str
    checkpoints: Path
    results: Path

    def __post_init__(self) -> None:
        checked_name(self.name)

    @property
    def best(self) -> Path:
        return self.checkpoints / self.name

    @property
    def last(self) -> Path:
        return self.checkpoints / f"{self.name}{LAST}"

    @property
    def metrics(self) -> Path:
        return self.results / f"{self.name}_metrics.csv"

    @property
    def summary(self) -> Path:
        return self.results / f"{self.name}_summary.json"

    @property
    def events(self) -> Path:
        return self.results / f"{self.name}_tensorboard"

    @property
    def resumable(self) -> bool:
        """Whether a training of this name was saved and can be resumed."""
        return has_training_state(self.last)

    def saved_settings(self) -> dict[str, Any]:
        """The settings that the run was saved with, by ``model``, ``train``, ``budget``, ...

        Raises:
            CheckpointError: they can't be read.
        """
        path = self.last / "training_state" / "state.json"
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            settings: dict[str, Any] = saved["identity"]
            Budget(**settings["budget"])
            for part, key in (("train", "batch_size"), ("model", "vocab_size")):
                _ = settings[part][key]
            if settings["precision"] not in ("bf16", "fp32"):
                raise ValueError(f"precision {settings['precision']!r}")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise self.unusable_state(error) from None
        return settings

    def saved_budget(self) -> Budget:
        """The budget that the run was saved with.

        Raises:
            CheckpointError: it can't be read.
        """
        return Budget(**self.saved_settings()["budget"])

    def precision(self, resume: bool) -> Precision:
        """The precision of the saved run where that goes on: measured again, it may be another
        one, with which the run can't go on. Else `auto`.

        Raises:
            CheckpointError: it can't be read.
        """
        if not (resume and self.resumable):
            return "auto"
        saved: Precision = self.saved_settings()["precision"]
        return saved

    def unusable_state(self, error: BaseException) -> CheckpointError:
        """The error to raise where the saved training state can't be used because of ``error``."""
        reason = str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        return CheckpointError(
            f"the training state in '{self.last / 'training_state'}' can't be used ({reason}): it "
            "is damaged, or another program or version wrote it. Train anew with --overwrite, or "
            "another --name"
        )

    @contextmanager
    def claimed(self, *, resume: bool = False, overwrite: bool = False) -> Iterator[None]:
        """Hold the run's files for the length of the block.

        Args:
            resume: the run may go on from what it saved.
            overwrite: the run may replace a model that has its name.

        Raises:
            UsageError: the name is taken: by files of the user's, by a model that nobody asked to
                replace, or by another process. Nothing was touched.
            OutputError: a folder can't be made or written.
        """
        if resume and overwrite:
            raise UsageError("--resume goes on and --overwrite begins anew: give one of them")
        made = [*_make_folder(self.checkpoints), *_make_folder(self.results)]
        try:
            with ExitStack() as stack:
                for lock in self._locks():
                    stack.enter_context(locked(lock, f"the name '{self.name}'"))
                sweep(self.best)
                sweep(self.last)
                for folder in (self.best, self.last):
                    tidy(folder)
                    self._refuse_foreign(folder)
                    self._refuse_place(folder)
                self._refuse_results()
                if not overwrite:
                    self._refuse_model(resume)
                yield
        finally:
            for folder in reversed(made):  # what stayed empty goes again
                try:
                    folder.rmdir()
                except OSError:
                    break

    def _locks(self) -> list[Path]:
        """The lock files: one beside the checkpoints, and one beside the results, which may lie in
        a folder of their own that another run of this name has its results in."""
        both = lock_path(self.best), lock_path(self.results / self.name)
        return list({Path(os.path.realpath(lock)): lock for lock in both}.values())

    def discard(self) -> None:
        """Remove the run's own files, and nothing that lies beside them."""
        self.forget()
        if is_own(self.best):
            remove_checkpoint(self.best)

    def forget(self) -> None:
        """Remove the state, log and summary of a model that is about to be replaced."""
        if is_own(self.last):
            remove_checkpoint(self.last)
        for file in (self.metrics, self.summary):
            file.unlink(missing_ok=True)
        remove_events(self.events)

    def _refuse_foreign(self, folder: Path) -> None:
        if not os.path.lexists(folder) or is_own(folder):
            return
        if folder.is_symlink() and not folder.exists():
            what = f"a link to '{os.readlink(folder)}', which isn't there"
        elif not folder.is_dir():
            what = "a file"
        else:
            with output_errors(folder):
                names = sorted(os.listdir(folder))
            if not names:
                return
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            what = f"a folder that Itera-Lite didn't write: it holds {shown}"
        raise UsageError(
            f"the name '{self.name}' is taken: '{folder}' is {what}. Nothing in it is touched. "
            "Give another --name, or another folder with --checkpoints"
        )

    def _refuse_place(self, folder: Path) -> None:
        """Refuse a folder that a save can't replace by another one, which every save does."""
        place = Path(os.path.realpath(folder))
        if place in (here := Path.cwd(), *here.parents):
            raise UsageError(
                f"'{folder}' is the current folder, or holds it, and a save puts a new folder in "
                "its place: change to another one first"
            )
        if folder.is_symlink():
            _make_folder(place.parent)  # where the new one is written first

    def _refuse_results(self) -> None:
        """Refuse to replace a file that no run has written."""
        for file, is_ours in ((self.metrics, is_log), (self.summary, self._is_summary)):
            if file.is_dir():
                raise UsageError(f"'{file}' is a folder, where a result is to be written")
            if os.path.lexists(file) and not is_ours(file):
                raise UsageError(
                    f"'{file}', where a result is to be written, holds something that Itera-Lite "
                    "didn't write. It isn't touched: give another --name or --results"
                )
        if os.path.lexists(self.events) and not self.events.is_dir():
            raise UsageError(
                f"'{self.events}' is no folder, where the log for TensorBoard has its place: "
                "give another --name or --results"
            )

    def _is_summary(self, file: Path) -> bool:
        """Whether a file is a summary of this name, or empty: then a run may replace it."""
        try:
            text = file.read_text(encoding="utf-8")
            summary = json.loads(text or "{}")
            # Earlier versions wrote the name at the top, and one that isn't UTF-8 as it was.
            own = in_utf8(self.name)
            return not text or in_utf8(summary.get("model", summary)["name"]) == own
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return False

    def _refuse_model(self, resume: bool) -> None:
        """Refuse to replace a model, or the results of one, unless the run goes on with it."""
        if resume and self.resumable:
            return
        try:
            bpb = json.loads(self.summary.read_text(encoding="utf-8"))["valid"]["bpb"]
            score = f" ({bpb:.4f} bits per byte on its validation text)"
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            score = ""
        for folder in filter(is_own, (self.best, self.last)):
            going_on = "--resume goes on with it, " if self.resumable else ""
            if resume:
                going_on = "there is nothing to go on from, "
            raise UsageError(
                f"'{folder}' holds a model already{score}: {going_on}--overwrite replaces it, "
                "another name or folder leaves it as it is"
            )
        for file in filter(os.path.lexists, (self.summary, self.metrics, self.events)):
            raise UsageError(
                f"'{file}' is the result of another run of this name, whose model isn't in "
                f"'{self.checkpoints}'{score}: --overwrite replaces it, another name or folder for "
                "results leaves it as it is"
            )


def _make_folder(folder: Path) -> list[Path]:
    """Make a folder and check that files can be made in it. Returns the folders that were made."""
    missing = [part for part in (folder, *folder.parents) if not os.path.lexists(part)]
    if os.path.lexists(folder) and not folder.is_dir():
        raise UsageError(f"'{folder}' is no folder: expected one to write to, or none yet")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OutputError(
            f"nothing can be written to the folder '{folder}': {error.strerror or error}. Give "
            "another one with --checkpoints and --results"
        ) from error
    return missing[::-1]


def refuse_input(files: RunFiles, folder: Path) -> None:
    """Raise `UsageError` where a result would replace the checkpoint that it is made from."""
    if folder.resolve() in (files.best.resolve(), files.last.resolve()):
        raise UsageError(
            f"the result '{files.name}' would replace the checkpoint '{folder}' that it is made "
            "from: give another --name"
        )
