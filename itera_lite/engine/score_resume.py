"""Resumes a stopped `itera score` from its output and a record of how that was made.

The record is a hidden file beside the output (``.NAME.resume``) with the options, the model's hash
and the last line read of the input, which isn't in the output if --max-bits left it out.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from itera_lite.data.lines import Line
from itera_lite.errors import DataError
from itera_lite.files import write_json

TOLERANCE = 0.01  # relative difference of a line's nats between processors
SAVE_SECONDS = 5.0  # between two writes of the record
# The fields that may differ between processors
MEASURED = (
    "nats",
    "bits_per_byte",
    "perplexity",
    "bad_bits_per_byte",
    "difference",
    "surprise",
)

Format = Callable[[Line], bytes]  # a line of the input -> the line of the output


class Progress:
    """What the output holds and how far the input was read.

    Args:
        path: the output.
        options: the options that decide the results, by name.
        models: the folders or files that score.

    Attributes:
        threshold: of --keep, which a run that goes on takes from the record.
    """

    def __init__(self, path: Path, options: dict[str, Any], models: Sequence[Path]) -> None:
        self.path, self.options = path, options
        self.model = "-".join(map(hash_of_model, models))
        self.threshold: float | None = None
        self.record = path.with_name(f".{path.name}.resume")
        self.resumed_after = 0  # number of the last line of the input that is done
        self.size = 0  # of the output when it was looked at
        self._last = b""  # the last whole result in the output
        self._last_number = 0  # and the number of its line
        self._read: dict[str, Any] = {"line": 0, "sha256": "", "size": 0}
        self._line: Line | None = None  # the last line of the input that is written
        self._tail = b""  # a truncated result at the end of the output
        self._end = 0  # where the output's whole results end
        self._saved = time.monotonic()
        self._warned = False

    def look(self) -> None:
        """Read the output and its record; changes neither.

        Raises:
            DataError: the output isn't one of this command.
        """
        if not self.path.exists():
            return
        try:
            self._read_record()
        except DataError:
            if self.path.stat().st_size == 0:  # nothing to lose, and nothing of it counts
                self.threshold, self._read = None, {"line": 0, "sha256": "", "size": 0}
                return
            raise
        with self.path.open("rb") as file:
            size = self.size = file.seek(0, os.SEEK_END)
            self._end = _line_end(file, size)
            begin = _line_end(file, self._end - 1) if self._end else 0
            file.seek(begin)
            self._last = file.read(self._end - begin)
            self._tail = file.read()
        if self._last:
            self._last_number = self._number_of(self._last)
        if self._read["size"] > size:  # the output was truncated, and results are lost
            self._read["line"] = 0
        self.resumed_after = max(self._last_number, self._read["line"])

    def unwritten(self, lines: Iterable[Line], as_result: Format) -> Iterator[Line]:
        """The lines of the input that aren't done yet.

        The last result is computed again and compared, and so is the last line read: the input and
        the model must be the same.

        Raises:
            DataError: the output isn't what this run would have written.
        """
        open_checks = {self._last_number, self.resumed_after} - {0}
        for line in lines:
            if line.number > self.resumed_after:
                if open_checks:
                    break
                yield line
                continue
            if line.number == self._last_number:
                self._compare(self._last, as_result(line))
            if line.number == self._read["line"] and _hash(line) != self._read["sha256"]:
                break
            open_checks.discard(line.number)
        if open_checks:
            raise DataError(
                f"{self.path}: it was made from another input, which had other text in line "
                f"{min(open_checks):,}. Give that input, or name another output"
            )

    def cut(self, data: bytes) -> None:
        """Remove the truncated result at the end of the output, which ``data`` begins with.

        Raises:
            DataError: ``data`` begins with another result.
        """
        if not self._tail:
            return
        whole = data[: data.find(b"\n") + 1]
        if not _begins(whole, self._tail, self.options["prefix"]):
            raise self._foreign("what stands after its last line break")
        os.truncate(self.path, self._end)
        self._tail = b""

    def save(self, line: Line | None = None, *, now: bool = False) -> None:
        """Write the record, at most every few seconds unless ``now``.

        Args:
            line: the last line of the input whose results are written.
        """
        self._line = line or self._line
        if self._tail or not (now or time.monotonic() - self._saved > SAVE_SECONDS):
            return
        if self._line is not None:
            self._read = {"line": self._line.number, "sha256": _hash(self._line)}
            self._read["size"] = self.path.stat().st_size
        self._saved = time.monotonic()
        record: dict[str, Any] = {"options": self.options, "model": self.model, "read": self._read}
        if self.threshold is not None:
            record["threshold"] = self.threshold
        try:
            write_json(self.record, record)
        except OSError as error:
            if not self._warned:
                print(
                    f"note: --resume won't work for '{self.path}': '{self.record}' can't be "
                    f"written ({error.strerror or error})",
                    file=sys.stderr,
                )
            self._warned = True

    def finish(self) -> None:
        """Call it at the end of the input.

        Raises:
            DataError: the truncated result in the output wasn't computed again.
        """
        if self._tail:
            raise self._foreign("what stands after its last line break")

    def _read_record(self) -> None:
        try:
            made = json.loads(self.record.read_text(encoding="utf-8"))
            options, model, read = made["options"], made["model"], made["read"]
            self._read = {"line": int(read["line"]), "sha256": str(read["sha256"])}
            self._read["size"] = int(read["size"])
            if made.get("threshold") is not None:
                self.threshold = float(made["threshold"])
            options.items()
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise DataError(
                f"{self.path}: it isn't known how it was made, for '{self.record}', which "
                "`itera score` writes beside its output, isn't there. Name another output"
            ) from None
        for name, value in self.options.items():
            if options.get(name) != value:
                raise DataError(
                    f"{self.path}: it was made with {option_text(name, options.get(name))}, now it "
                    f"is {option_text(name, value)}. Resume with the same options, or name another "
                    "output"
                )
        if model != self.model:
            raise DataError(
                f"{self.path}: it was made with another model. Resume with the same input, model "
                "and window, or name another output"
            )

    def _number_of(self, result: bytes) -> int:
        try:
            number = dict(json.loads(result))[self.options["prefix"] + "line"]
        except (ValueError, TypeError, KeyError, RecursionError):
            number = None
        if not isinstance(number, int) or number < 1:
            raise self._foreign("its last line")
        return number

    def _compare(self, old: bytes, again: bytes) -> None:
        prefix = self.options["prefix"]
        if not _begins(again, old, prefix) or not _close(old, again, prefix):
            raise DataError(
                f"{self.path}: its last result isn't what this model gives for line "
                f"{self._last_number:,} of this input. Resume with the same input, model and "
                "window, or name another output"
            )

    def _foreign(self, what: str) -> DataError:
        return DataError(
            f"{self.path}: {what} is no result of `itera score` with this input and model; "
            "name another output"
        )


def option_text(name: str, value: object) -> str:
    option = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return option if value else f"--no-{name}"
    return f"no {option}" if value in (None, "") else f"{option} {value}"


def _measured(result: bytes, prefix: str) -> int:
    """Position of the fields that may differ between processors."""
    name = json.dumps(prefix + MEASURED[0], ensure_ascii=False).encode("utf-8") + b": "
    return result.rfind(name) + len(name)


def _begins(result: bytes, start: bytes, prefix: str) -> bool:
    """Whether the result begins with ``start``, apart from the measured fields."""
    same = min(_measured(result, prefix), len(start))
    return start[:same] == result[:same]


def _close(old: bytes, again: bytes, prefix: str) -> bool:
    try:
        before, now = json.loads(old), json.loads(again)
        names = [name for name in MEASURED if prefix + name in now]
        pairs = {name: (before[prefix + name], now[prefix + name]) for name in names}
    except (ValueError, KeyError, TypeError):
        return False
    if list(before) != list(now):
        return False
    if any((a is None) != (b is None) for a, b in pairs.values()):
        return False
    return all(
        isinstance(a, int | float) and abs(a - b) <= TOLERANCE * max(1.0, abs(b))
        for name, (a, b) in pairs.items()
        if b is not None and name != "perplexity"  # which follows from the nats
    )


def _hash(line: Line) -> str:
    return hashlib.sha256(f"{line.fields}\n{line.text}".encode("utf-8", "replace")).hexdigest()


def _line_end(file: Any, before: int) -> int:
    """End of the last line that ends before this position; 0 if there is none."""
    while before > 0:
        begin = max(0, before - (1 << 16))
        file.seek(begin)
        at = file.read(before - begin).rfind(b"\n")
        if at >= 0:
            return int(begin + at + 1)
        before = begin
    return 0


def hash_of_model(path: Path) -> str:
    """Hash of a GGUF file, or of the files of a checkpoint that decide its results."""
    files = [path]
    if path.is_dir():
        names = ("config.json", "tokenizer.json", "*.safetensors")
        files = sorted(file for name in names for file in path.glob(name))
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as data:
            digest.update(hashlib.file_digest(data, "sha256").digest())
    return digest.hexdigest()
