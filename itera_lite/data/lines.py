"""Reads documents, a line each, from files of any size: plain text or JSON lines, also compressed.

`itera score` reads its input so, a line at a time, and writes back the fields of each line as they
were. `itera_lite.data.rows` reads CSV and Parquet for it; `itera_lite.data.tables` reads whole
tables for training.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from itera_lite.data.compression import decompressed, uncompressed_name
from itera_lite.data.repairs import without_surrogates
from itera_lite.errors import DataError, UsageError

KINDS = {".txt": "text", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl"}
_SPACE = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True)
class Line:
    """One document.

    Attributes:
        number: of its line, from 1.
        text: the document.
        fields: the members of a JSON object, without braces: those of the line, character for
            character; for plain text, one member with the text. Results are appended to them.
    """

    number: int
    text: str
    fields: str


class LineReader:
    """Reads documents one by one; blank lines are left out.

    Args:
        path: ``.txt`` (a document a line) or ``.jsonl``, ``.ndjson``, ``.json`` (an object a
            line), also with ``.gz`` or ``.zst``; ``-`` is standard input, JSON lines if its first
            line begins with ``{``. A pipe with another name is read like standard input.
        text_field: field of an object that holds the text.
        keep_text: leave the text in `Line.fields`.
        reserved: names of the results' fields, which a line mustn't have.
    """

    def __init__(
        self,
        path: Path,
        text_field: str = "text",
        *,
        keep_text: bool = True,
        reserved: Sequence[str] = (),
    ) -> None:
        self.path, self.text_field = path, text_field
        self.keep_text, self.reserved = keep_text, frozenset(reserved)
        self.is_stdin = str(path) == "-"
        self.name = "standard input" if self.is_stdin else str(path)
        self.repaired = 0  # lines in which something wasn't UTF-8
        self.halves = 0  # texts with half of a surrogate pair, which no Unicode text has
        self.size: int | None = None  # of a regular file, in bytes as it is stored
        self._kind: str | None = None
        self._raw: BinaryIO | None = None
        if self.is_stdin:
            return
        try:
            pipe = path.exists() and not path.is_file() and not path.is_dir()
            self._kind = _kind(path, pipe)
            if not pipe:
                path.open("rb").close()
                self.size = path.stat().st_size
        except OSError as error:
            raise DataError(f"{path}: can't be read ({error.strerror or error})") from error

    @property
    def is_text(self) -> bool:
        """Whether it is plain text; on standard input and pipes, after the first line."""
        return self._kind == "text"

    def is_file(self, other: os.stat_result) -> bool:
        """Whether the input is this regular file, under whatever name."""
        if not stat.S_ISREG(other.st_mode):
            return False
        try:
            mine = os.fstat(sys.stdin.fileno()) if self.is_stdin else self.path.stat()
        except (OSError, ValueError, AttributeError):
            return False
        return os.path.samestat(mine, other)

    def position(self) -> int:
        """Bytes read so far of the file as it is stored; 0 on standard input and pipes."""
        if self._raw is None or self.size is None:
            return 0
        return self.size if self._raw.closed else self._raw.tell()

    def __iter__(self) -> Iterator[Line]:
        """Yields the documents.

        Raises:
            DataError: the file can't be read, or a line isn't what it should be.
            MissingExtra: Zstandard support isn't installed.
        """
        with self._open() as file:
            for number, raw in enumerate(file, 1):
                line = self.parse(raw, number)
                if line is not None:
                    yield line

    def parse(self, raw: bytes, number: int) -> Line | None:
        """The document of one line; None where it is blank.

        Raises:
            DataError: the line isn't what it should be.
        """
        text = self._decode(raw, number)
        return self._line(text, number) if text.strip() else None

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        if self.is_stdin:
            if sys.stdin is None:
                raise DataError("standard input is closed")
            try:
                yield sys.stdin.buffer
            except OSError as error:
                raise DataError(
                    f"standard input can't be read ({error.strerror or error})"
                ) from error
            return
        with self.path.open("rb") as self._raw, decompressed(self._raw, self.path) as file:
            yield file
            if self.size is not None and os.fstat(self._raw.fileno()).st_size < self._raw.tell():
                raise DataError(f"{self.path}: it became shorter while it was read")

    def _decode(self, raw: bytes, number: int) -> str:
        if b"\0" in raw:
            raise DataError(
                f"{self.name}: line {number} holds NUL bytes: a binary file, or text in UTF-16. "
                "Expected UTF-8; convert it first"
            )
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        raw = raw.removesuffix(b"\n").removesuffix(b"\r")
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            self.repaired += 1
            return raw.decode("utf-8", "replace")

    def _line(self, text: str, number: int) -> Line:
        guessed = self._kind is None
        if self._kind is None:
            self._kind = "jsonl" if text.lstrip().startswith("{") else "text"
        if self._kind == "text":
            kept = f"{_quoted(self.text_field)}: {_quoted(text)}" if self.keep_text else ""
            return Line(number, text, kept)
        quick = self._quick(text, number) if self.keep_text else None
        if quick is not None:
            return quick
        where = f"{self.name}: line {number}"
        try:
            members = _members(text)
        except RecursionError as error:
            raise DataError(
                f"{where} isn't JSON that can be read: it is nested too deeply"
            ) from error
        except ValueError as error:
            advice = "; give plain text as a file whose name ends in .txt" if guessed else ""
            reason = str(error)
            if isinstance(error, json.JSONDecodeError):  # its own words count lines in this line
                reason = f"{error.msg} at character {error.pos + 1:,}"
            raise DataError(
                f"{where} isn't JSON ({reason}); expected an object a line{advice}"
            ) from error
        if members is None:
            raise DataError(f"{where} is JSON, but no object: expected {{...}}")
        return self._document(text, members, number, where)

    def _quick(self, text: str, number: int) -> Line | None:
        """The document of a line with nothing amiss, in one call of the decoder; None of others.

        `_members` and `_document`, which find out what is wrong and where, take twice the time of
        all else that is done with a short line.
        """
        inner = text.strip(_JSON_SPACE)
        if not inner.startswith("{"):
            return None
        try:
            values = dict(_PAIRS.decode(inner))
        except (ValueError, RecursionError):
            return None
        document = values.get(self.text_field)
        if not isinstance(document, str) or not self.reserved.isdisjoint(values):
            return None
        whole, surrogates = without_surrogates(document)
        self.halves += surrogates > 0
        return Line(number, whole, inner[1:-1].strip(_JSON_SPACE))

    def _leave_out(self) -> str:
        """Advice: how to remove the lines that have no text."""
        field = json.dumps(self.text_field)
        return f"To leave such lines out: jq -c 'select(.[{field}] | type == \"string\")' FILE"

    def _document(self, text: str, members: list[_Member], number: int, where: str) -> Line:
        values = {member.name: member.value for member in members}
        if self.text_field not in values:
            raise DataError(
                f"{where} has no field '{self.text_field}'. Its fields: "
                f"{', '.join(values) or 'none'}. Name the one with the text with --text-field. "
                + self._leave_out()
            )
        taken = [name for name in values if name in self.reserved]
        if taken:
            raise DataError(
                f"{where} has a field '{taken[0]}' already, where a result is to be written. Give "
                "the results other names with --prefix, such as --prefix score_"
            )
        document = values[self.text_field]
        if not isinstance(document, str):
            raise DataError(
                f"{where}: the field '{self.text_field}' is {_TYPES[type(document)]}, "
                "expected a string. " + self._leave_out()
            )
        if self.keep_text:
            kept = text[members[0].begin : members[-1].end]
        else:
            others = [member for member in members if member.name != self.text_field]
            kept = ", ".join(text[member.begin : member.end] for member in others)
        whole, surrogates = without_surrogates(document)
        self.halves += surrogates > 0
        return Line(number, whole, kept)


@dataclass(frozen=True)
class _Member:
    """A name and a value of an object, and their positions in its text."""

    name: str
    value: Any
    begin: int
    end: int


_TYPES = {bool: "true or false", type(None): "null", dict: "an object", list: "an array"}
_TYPES |= {int: "a number"}


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


# Numbers aren't converted: they stay as they are written, whatever their size.
_NUMBERS: dict[str, Any] = {
    "parse_int": lambda _: 0,
    "parse_float": lambda _: 0,
    "parse_constant": _no_constant,
}
_DECODER = json.JSONDecoder(**_NUMBERS)
_PAIRS = json.JSONDecoder(object_pairs_hook=list, **_NUMBERS)
_JSON_SPACE = " \t\n\r"

_ENCODER = json.JSONEncoder(ensure_ascii=False)  # json.dumps would make one for every text


def _members(text: str) -> list[_Member] | None:
    """The members of the object that ``text`` is; None where it is another JSON value.

    Raises:
        ValueError: it is no JSON.
        RecursionError: it is nested too deeply.
    """
    at = _space(text, 0)
    if not text.startswith("{", at):
        _DECODER.decode(text)
        return None
    members: list[_Member] = []
    at = _space(text, at + 1)
    while members or not text.startswith("}", at):
        if not text.startswith('"', at):
            raise json.JSONDecodeError("expected a name in double quotes", text, at)
        name, colon = _DECODER.raw_decode(text, at)
        colon = _space(text, colon)
        if not text.startswith(":", colon):
            raise json.JSONDecodeError("expected ':'", text, colon)
        value, end = _DECODER.raw_decode(text, _space(text, colon + 1))
        members.append(_Member(name, value, at, end))
        at = _space(text, end)
        if text.startswith("}", at):
            break
        if not text.startswith(",", at):
            raise json.JSONDecodeError("expected ',' or '}'", text, at)
        at = _space(text, at + 1)
    after = _space(text, at + 1)
    if after != len(text):
        raise json.JSONDecodeError("more after the object", text, after)
    return members


def _space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _quoted(text: str) -> str:
    return _ENCODER.encode(text)


def _kind(path: Path, pipe: bool) -> str | None:
    kind = KINDS.get(Path(uncompressed_name(path)).suffix)
    if kind is None and not pipe:
        raise UsageError(
            f"'{path}': expected .txt (a document a line), .jsonl (an object a line) or .csv, also "
            "with .gz or .zst, or .parquet, or - for standard input"
        )
    return kind
