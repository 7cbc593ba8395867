"""A training's log for TensorBoard, beside the CSV: the same values, as event files."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itera_lite.errors import MissingExtra
from itera_lite.files import output_errors

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

PREFIX = "events.out.tfevents."  # of the names of event files
# Column of the CSV -> tag; tags with the same beginning share a section of the page.
TAGS = {
    "train_loss": "loss/train",
    "valid_loss": "loss/valid",
    "train_bpb": "bits_per_byte/train",
    "valid_bpb": "bits_per_byte/valid",
    "lr_matrix": "learning_rate/matrix",
    "lr_other": "learning_rate/other",
    "tokens_per_second": "speed/tokens_per_second",
    "grad_norm": "norm/gradient",
}


def check_tensorboard() -> None:
    """Raises `MissingExtra` where the package isn't installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise MissingExtra("tensorboard", "tensorboard", "--log tensorboard")


class Events:
    """Writes event files into a folder, which is made with the first value.

    Raises:
        MissingExtra: at the first value, where TensorBoard isn't installed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._purge: int | None = None
        self._writer: SummaryWriter | None = None

    def replace_after(self, step: int) -> None:
        """Mark what the folder holds of later steps as replaced, so that TensorBoard doesn't show
        it: the process that wrote it was killed before it saved them."""
        self._purge = step + 1

    def add(self, row: dict[str, Any]) -> None:
        """Write the values of a row of the log, at its step."""
        with output_errors(self.folder):
            writer = self._open()
            for column, tag in TAGS.items():
                if row.get(column) is not None:
                    writer.add_scalar(tag, row[column], row["step"])

    def flush(self) -> None:
        """Have what was added on disk, so that a saved run goes on after it."""
        if self._writer is not None:
            with output_errors(self.folder):
                self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            with output_errors(self.folder):
                self._writer.close()
            self._writer = None

    def _open(self) -> SummaryWriter:
        if self._writer is None:
            check_tensorboard()
            from torch.utils.tensorboard import SummaryWriter

            self._date_before(int(time.time()))
            self._writer = SummaryWriter(str(self.folder), purge_step=self._purge)
        return self._writer

    def _date_before(self, now: int) -> None:
        """Have the files of earlier processes before this one's in the order of their names, in
        which TensorBoard reads them: a name begins with a time in whole seconds, which two
        processes can share, and which is later where the clock was set back."""
        files = sorted(self.folder.glob(PREFIX + "*"))
        names = [file.name.removeprefix(PREFIX).partition(".") for file in files]
        if any(stamp >= f"{now:010d}" for stamp, _, _ in names):
            for index, (file, (_, _, rest)) in enumerate(zip(files, names, strict=True)):
                file.rename(self.folder / f"{PREFIX}{now - len(files) + index:010d}.{rest}")


def remove_events(folder: Path) -> None:
    """Remove a run's event files, and the folder if it is empty then."""
    if folder.is_symlink() or not folder.is_dir():
        return
    for file in folder.glob(PREFIX + "*"):
        file.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()
