"""Lines of a stream, or of a file that another program writes, as soon as they are complete.

A log is followed through its rotation, as by ``tail -F``: renamed and made anew, truncated in place
(logrotate's ``copytruncate``), or not there yet. The files are polled, which also works on network
and overlay file systems, where notifications of changes are missing.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from itera_lite.errors import DataError
from itera_lite.files import is_special

MOST_LINE = 1 << 16  # bytes of a line that are kept; the rest of it is dropped
POLL_SECONDS = 0.1  # between two looks at files that hold nothing new
QUIET_SECONDS = 5.0  # after which a file that was renamed is taken to be written no more


class LineSplitter:
    """Cuts pieces of a text into lines, in memory for one line of `MOST_LINE` bytes."""

    def __init__(self) -> None:
        self._begun = b""  # of the line that isn't complete yet

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that ``data`` completes, without their ends.

        A line of more than `MOST_LINE` bytes is cut to one byte more, so that it can be recognised.
        """
        first, *more = data.split(b"\n")
        self._begun = (self._begun + first)[: MOST_LINE + 1]
        if not more:
            return []
        lines = [self._begun, *(line[: MOST_LINE + 1] for line in more[:-1])]
        self._begun = more[-1][: MOST_LINE + 1]
        return lines

    def end(self) -> list[bytes]:
        """The last line, where no line break ends it."""
        line, self._begun = self._begun, b""
        return [line] if line else []


def stream_lines(descriptor: int, size: int) -> Iterator[list[bytes]]:
    """The lines of a pipe or the like until its end: those that wait to be read, together.

    Args:
        descriptor: open for reading.
        size: bytes read at a time, at most.
    """
    splitter = LineSplitter()
    while data := os.read(descriptor, size):
        if lines := splitter.feed(data):
            yield lines
    if lines := splitter.end():
        yield lines


class _File:
    """A file that is followed.

    Args:
        from_end: skip the lines that it holds already.

    Raises:
        OSError: it can't be opened or read.
    """

    def __init__(self, path: Path, from_end: bool) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.status = os.fstat(self._descriptor)
            self._at = _last_line(self._descriptor, self.status.st_size) if from_end else 0
        except OSError:
            os.close(self._descriptor)
            raise
        self._splitter = LineSplitter()
        self.quiet_since = time.monotonic()

    def read(self, size: int) -> tuple[list[bytes], int]:
        """Lines that are complete now, and how many bytes were read."""
        begun: list[bytes] = []
        if os.fstat(self._descriptor).st_size < self._at:  # truncated: it begins anew
            begun, self._at = self._splitter.end(), 0
        data = os.pread(self._descriptor, size, self._at)
        self._at += len(data)
        if data:
            self.quiet_since = time.monotonic()
        return begun + self._splitter.feed(data), len(data)

    def close(self) -> list[bytes]:
        """Close it; gives the line that no line break ended."""
        os.close(self._descriptor)
        return self._splitter.end()


def follow(
    path: Path,
    size: int,
    *,
    note: Callable[[str], None],
    wait: Callable[[], None] = lambda: time.sleep(POLL_SECONDS),
) -> Iterator[list[bytes]]:
    """The lines that are written to a file from now on, without end.

    A file that is there at the beginning is read from its end, one that comes later from its
    beginning. One that was renamed is read on until nothing was written to it for `QUIET_SECONDS`,
    because its writer may still have it open. Three limits, which ``tail`` has too: what is written
    between the last look at a file and its truncation is lost, a file that has grown beyond its old
    size by the next look isn't recognised as truncated, and one that came and went between two
    looks isn't seen.

    Args:
        path: of the file.
        size: bytes read at a time, at most.
        note: is called with a sentence when the file is missing or can't be read, once each time.
        wait: is called when there is nothing new.

    Raises:
        DataError: the file is a folder, or can't be read at the beginning.
    """
    files: list[_File] = []  # the last one is at `path`, the ones before it were there
    noted = ""
    try:
        while True:
            try:
                status = os.stat(path)
                if not files or not os.path.samestat(status, files[-1].status):
                    if stat.S_ISDIR(status.st_mode):
                        raise IsADirectoryError(0, "it is a folder")
                    new = _File(path, from_end=not files and not noted)
                    for old in files:  # a writer that was quiet may not have noticed yet
                        old.quiet_since = new.quiet_since
                    files.append(new)
                noted = ""
            except OSError as error:
                missing = isinstance(error, FileNotFoundError)
                if not missing and not files and not noted:
                    raise DataError(f"{path}: can't be read ({error.strerror or error})") from error
                reason = "isn't there" if missing else f"can't be read ({error.strerror or error})"
                if reason != noted:
                    note(f"{path} {reason}: waiting for it")
                noted = reason
            lines, found = _read(files, size)
            if lines:
                yield lines
            if not found:
                wait()
    finally:
        for file in files:
            file.close()


def _read(files: list[_File], size: int) -> tuple[list[bytes], bool]:
    """New lines of all files, and whether anything was read; closes those that nobody writes.

    A file is read only where the ones before it are read to their ends, so lines keep their order.
    """
    lines: list[bytes] = []
    total = 0
    for file in list(files):
        new, n = file.read(size)
        lines += new
        total += n
        if n == size:
            break
        quiet = time.monotonic() - file.quiet_since
        if not n and quiet > QUIET_SECONDS and file is not files[-1]:
            lines += file.close()
            files.remove(file)
    return lines, total > 0


def _last_line(descriptor: int, size: int) -> int:
    """Where the line begins that isn't complete yet; the end of the file where there is none."""
    begin = max(0, size - MOST_LINE)
    return begin + os.pread(descriptor, size - begin, begin).rfind(b"\n") + 1


def lines_of(path: Path | None, size: int, note: Callable[[str], None]) -> Iterator[list[bytes]]:
    """The lines of standard input (None), of a pipe, or of a file that is followed.

    Raises:
        DataError: it can't be read.
    """
    if path is None:
        try:
            descriptor = sys.stdin.fileno()
        except (AttributeError, OSError, ValueError):
            raise DataError("standard input is closed") from None
        yield from stream_lines(descriptor, size)
    elif is_special(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield from stream_lines(descriptor, size)
        finally:
            os.close(descriptor)
    else:
        yield from follow(path, size, note=note)
