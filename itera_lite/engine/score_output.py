"""The output of `itera score`: standard output, a file, also compressed, a device or a pipe."""

from __future__ import annotations

import fcntl
import io
import os
import re
import stat
import sys
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from itera_lite.data.compression import SUFFIXES, compressor
from itera_lite.data.lines import Line, LineReader
from itera_lite.engine.score_resume import Progress
from itera_lite.errors import IteraError, UsageError
from itera_lite.files import check_output_file

_DESCRIPTORS = {"/dev/stdout": 1, "/dev/stderr": 2}
_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/(\d{1,4})")


class Output:
    """Writes results, a JSON object a line. A file is made with the first results.

    Args:
        path: a file, gzip or Zstandard by its ending; a device or a pipe; None or ``-`` is
            standard output.
        reader: the input, which must be another file.

    Attributes:
        name: the output's name in messages.
        resumable: whether it is an uncompressed file, there already or not.

    Raises:
        UsageError: the output is the input, or can't be made.
    """

    def __init__(self, path: Path | None, reader: LineReader) -> None:
        self.path = Path("/dev/stdout") if path is None or str(path) == "-" else path
        self._descriptor = _descriptor(self.path)
        self.name = "standard output" if self._descriptor == 1 else f"'{self.path}'"
        self._found = _stat_of(self.path if self._descriptor is None else self._descriptor)
        self._compression = self.path.suffix.lower() if self._descriptor is None else ""
        if self._compression not in SUFFIXES:
            self._compression = ""
        if self._descriptor is None:
            check_output_file(self.path)
        if self._found is not None and reader.is_file(self._found):
            raise UsageError(f"the output {self.name} is the input: name another file")
        self._regular = self._descriptor is None and (
            self._found is None or stat.S_ISREG(self._found.st_mode)
        )
        self.resumable = self._regular and not self._compression
        self._progress: Progress | None = None
        self._claimed: BinaryIO | None = None  # a regular file that nobody else writes to
        self._file: BinaryIO | None = None
        self._open = ExitStack()

    @property
    def on_terminal(self) -> bool:
        """Whether the results appear on a terminal."""
        if self._descriptor is not None:
            return os.isatty(self._descriptor)
        return self.path == Path("/dev/tty")

    def refuse_content(self) -> None:
        """Refuse to overwrite results.

        Raises:
            UsageError: the file holds something.
        """
        if self._regular and self._found is not None and self._found.st_size:
            advice = "add --resume to go on, or name another" if self.resumable else "name another"
            raise UsageError(f"the output {self.name} is there already: {advice}")

    def begin(self, progress: Progress | None) -> Output:
        """Set the record from which a later run resumes, or None."""
        self._progress = progress
        return self

    def __enter__(self) -> Output:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is None:
            self._open.close()
            return
        try:
            if self._progress and error is not None:
                self._progress.save(now=True)
            self._open.close()
        except OSError as failed:
            if error is None:  # else the first error is the one to report
                raise self._failed(failed) from failed
        if error is not None and self._regular and not isinstance(error, OSError):
            advice = ": go on with --resume" if self.resumable else ""
            print(f"\n{self.name} has what was scored{advice}", file=sys.stderr)

    def write(self, data: bytes, last: Line) -> None:
        """Write whole lines and flush them.

        Args:
            data: results.
            last: the last line of the input that they cover.

        Raises:
            IteraError: the disk is full, or the like.
        """
        try:
            self._claim()
            if self._progress and data:
                self._progress.cut(data)
            file = self._file or self._opened()
            _write(file, data)
            if not self._compression:  # each flush makes a compressed file larger
                file.flush()
            if self._progress:
                self._progress.save(last)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise self._failed(error) from error

    def finish(self) -> None:
        """Call it when all of the input was scored."""
        if self._progress:
            self._progress.finish()
        try:
            self._claim()
            if self._file is None:
                self._opened()
        except OSError as error:
            raise self._failed(error) from error
        if self._progress:
            self._progress.save(now=True)

    def _opened(self) -> BinaryIO:
        if self._descriptor == 1:
            self._file = sys.stdout.buffer
        elif self._descriptor is not None:
            self._file = self._open.enter_context(os.fdopen(os.dup(self._descriptor), "wb"))
        else:
            compress = compressor(self._compression, self.path) if self._compression else None
            # A device or a pipe can't be appended to.
            raw = self._claimed or self._open.enter_context(self.path.open("wb"))
            self._file = self._open.enter_context(compress(raw)) if compress else raw
        if self._progress:
            self._progress.save(now=True)  # before the first result, which can't be resumed without
        return self._file

    def _claim(self) -> None:
        """Open the file and lock it against other processes until it is closed.

        Raises:
            UsageError: another process writes to it, or has written since its size was read.
        """
        if self._claimed is not None or not self._regular:
            return
        self._claimed = self._open.enter_context(self.path.open("ab"))
        busy = False
        try:
            fcntl.flock(self._claimed, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            busy = True
        except OSError:  # a file system without locks
            pass
        expected = self._progress.size if self._progress else 0
        if busy or os.fstat(self._claimed.fileno()).st_size != expected:
            raise UsageError(
                f"another process writes to the output {self.name}, or has just done so: let it "
                "end, or name another output"
            )

    def _failed(self, error: OSError) -> IteraError:
        return IteraError(f"{self.name} can't be written: {error.strerror or error}")


def _write(file: Any, data: bytes) -> None:
    """Write all of the data, also to a raw standard output, which may take a part at a time."""
    if not isinstance(file, io.RawIOBase):
        file.write(data)
        return
    left = memoryview(data)
    while left:
        left = left[file.write(left) or 0 :]


def _descriptor(path: Path) -> int | None:
    """The descriptor that a name such as /dev/stdout means. Opening the name would truncate a file
    that standard output was redirected to."""
    found = _DESCRIPTOR.fullmatch(str(path))
    return int(found[1]) if found else _DESCRIPTORS.get(str(path))


def _stat_of(file: Path | int) -> os.stat_result | None:
    try:
        return os.stat(file)
    except OSError:
        return None
