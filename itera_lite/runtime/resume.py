"""Where `itera score` writes: standard output, or a file that a stopped run can be gone on with."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from itera_lite.errors import DataError, UsageError
from itera_lite.runtime.lines import Line
from itera_lite.runtime.results import Score

TOLERANCE = 0.01  # of the nats of one line, between processors


class Output:
    """Results, a JSON object a line. The file is what remembers how far a run has come.

    Args:
        path: the file; None is standard output.
        resume: go on after the last whole line of the file.

    Raises:
        UsageError: the file holds something already, and ``resume`` isn't set.
    """

    def __init__(self, path: Path | None, resume: bool) -> None:
        self.path, self.resume = path, resume
        self.resumed_after = 0  # number of the input's line that was written last
        self._last: dict[str, object] = {}
        if path is None:
            return
        if not path.parent.is_dir():
            raise UsageError(f"there is no folder '{path.parent}' for the output: make it first")
        if path.is_dir():
            raise UsageError(f"the output '{path}' is a folder: expected the name of a file")
        if not resume and path.exists() and path.stat().st_size:
            raise UsageError(
                f"the output '{path}' is there already: add --resume to go on, or name another"
            )

    def __enter__(self) -> Output:
        if self.path is None:
            self._file: BinaryIO = sys.stdout.buffer
            return self
        self._file = self.path.open("a+b")
        if self.resume:
            self._cut_after_last_line()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.path is None:
            return
        self._file.close()
        if kind is KeyboardInterrupt:
            print(f"\n'{self.path}' has what was scored: go on with --resume", file=sys.stderr)

    def write(self, data: bytes) -> None:
        """Write whole lines, and let them out of the process."""
        self._file.write(data)
        self._file.flush()

    def unwritten(
        self, lines: Iterable[Line], score: Callable[[list[Line]], list[Score]]
    ) -> Iterator[Line]:
        """The lines that come after those of the file.

        The last one written is scored again: with another input, model or window the rest
        wouldn't belong to it.

        Raises:
            DataError: the file isn't what this run would have written.
        """
        found = not self.resumed_after
        for line in lines:
            if line.number > self.resumed_after:
                if not found:
                    break
                yield line
            elif line.number == self.resumed_after:
                self._check(score([line])[0])
                found = True
        if not found:
            raise DataError(
                f"{self.path}: its last result is of line {self.resumed_after:,}, where the input "
                "has no text. Give the input that it was made from, or another output"
            )

    def _check(self, again: Score) -> None:
        nats = self._last.get("nats")
        if (
            self._last.get("bytes") != again.bytes
            or not isinstance(nats, int | float)
            or abs(nats - again.nats) > TOLERANCE * max(1.0, again.nats)
        ):
            raise DataError(
                f"{self.path}: its last result, {nats} nats for line {self.resumed_after:,}, isn't "
                f"what this model gives for this input ({again.nats:.2f} nats). Resume with the "
                "same input, model and window, or name another output"
            )

    def _cut_after_last_line(self) -> None:
        """Drops a last line that was cut off; the one before it says how far the run had come."""
        end = self._line_end(self._file.seek(0, os.SEEK_END))
        self._file.truncate(end)
        if not end:
            return
        begin = self._line_end(end - 1)
        self._file.seek(begin)
        try:
            self._last = dict(json.loads(self._file.read(end - begin)))
            number = self._last["line"]
        except (ValueError, TypeError, KeyError):
            number = None
        if not isinstance(number, int) or number < 1:
            raise DataError(
                f"{self.path}: its last line is no result of `itera score`; name another output"
            )
        self.resumed_after = number

    def _line_end(self, before: int) -> int:
        """Where the last line that ends before this place ends; 0 if there is none."""
        while before > 0:
            begin = max(0, before - (1 << 16))
            self._file.seek(begin)
            at = self._file.read(before - begin).rfind(b"\n")
            if at >= 0:
                return begin + at + 1
            before = begin
        return 0
