"""How far a long `itera score` is: a bar on a terminal, else a line a minute, as for a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

LINE_SECONDS = 60.0  # between two lines where there is no terminal


class Meter:
    """Shows how many bytes and files are done, the rate and the time that is left.

    Args:
        what: stands before it.
        total: bytes of all files as they are stored.
        files: number of the files.
    """

    def __init__(self, what: str, total: int, files: int) -> None:
        self._what, self._total, self._files = what, total, files
        self._done = self._files_done = 0
        self._begin = self._shown = time.monotonic()
        self._is_terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=total, unit="B", unit_scale=True, desc=what, disable=not self._is_terminal
        )

    def __enter__(self) -> Meter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    def tick(self, done: int) -> None:
        """Show that so many bytes are done."""
        self._done = done
        self._bar.update(done - self._bar.n)
        if not self._is_terminal and time.monotonic() - self._shown > LINE_SECONDS:
            self._shown = time.monotonic()
            print(self.line(time.monotonic() - self._begin), file=sys.stderr, flush=True)

    def file_done(self) -> None:
        """Count a file."""
        self._files_done += 1
        files = f"{self._files_done:,} of {self._files:,} files"
        self._bar.set_postfix_str(files, refresh=False)

    def note(self, text: str) -> None:
        """Print a line."""
        tqdm.write(text, file=sys.stderr)

    def line(self, seconds: float) -> str:
        """The line after so many seconds."""
        rate = self._done / max(seconds, 1e-9)
        left = (self._total - self._done) / rate / 60 if rate else 0.0
        return (
            f"{self._what}: {self._files_done:,} of {self._files:,} files, "
            f"{100 * self._done / max(1, self._total):.1f} % of {self._total / 1e6:,.0f} MB, "
            f"{rate / 1e6:,.2f} MB/s, {int(left // 60)} h {int(left % 60)} min left"
        )
