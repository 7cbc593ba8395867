"""Files to documents: plain text, JSON lines, CSV and Parquet, also compressed."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from itera_lite.data.unpack import unpacked
from itera_lite.errors import DataError, MissingExtra

TEXT_SUFFIXES = (".txt", ".md", ".tokens")
TABLE_SUFFIXES = (".jsonl", ".csv", ".parquet")
PACKED_SUFFIXES = (".gz", ".zst")

_EOT_LINE = re.compile(rb"(?:\A|(?<=\n))<\|endoftext\|>[ \t]*\r?(?:\n|\Z)")
# The heading of a WikiText article, with the blank line before it: " = Title = "
_ARTICLE = re.compile(rb"(?:\A|(?<=\n)) ?\n(?= = [^=\n](?:[^\n]*[^=\n])? = \n ?\n)")


@dataclass
class Repairs:
    """What was put right while reading; `notes` says it, once."""

    replaced: int = 0
    files: list[str] = field(default_factory=list)
    empty_files: int = 0

    def notes(self) -> list[str]:
        said = []
        if self.replaced:
            where = self.files[0] if len(self.files) == 1 else f"{len(self.files)} files"
            said.append(
                f"{self.replaced:,} invalid UTF-8 sequences in {where} were replaced by U+FFFD"
            )
        if self.empty_files:
            said.append(f"{self.empty_files:,} empty files were left out")
        return said


def kind_of(path: str | Path) -> str | None:
    """'text', 'jsonl', 'csv' or 'parquet' by the file's name; None where it says nothing."""
    suffix = Path(_unpacked_name(path)).suffix
    if suffix in TEXT_SUFFIXES:
        return "text"
    return suffix[1:] if suffix in TABLE_SUFFIXES else None


def read_documents(
    path: Path, repairs: Repairs, *, column: str | None = None, wikitext: bool = False
) -> list[bytes]:
    """The documents of one file as valid UTF-8, empty ones left out.

    A text file is one document, or several where lines that hold only
    ``<|endoftext|>`` part them. A row of a table is one document. With
    ``wikitext`` the file is cut at the headings of articles, and the
    documents together are its exact text.

    Raises:
        DataError: the file can't be read, isn't text, or lacks the column.
        MissingExtra: Parquet or Zstandard support isn't installed.
    """
    raw = unpack(path)
    if not raw:
        repairs.empty_files += 1
        return []
    kind = kind_of(path) or "text"
    if kind == "parquet":
        rows = _parquet(raw, path, column, repairs)
    else:
        text = valid_utf8(raw, str(path), repairs)
        if kind == "text":
            return split_articles(text) if wikitext else split_text(text)
        read = _jsonl if kind == "jsonl" else _csv
        rows = read(text, path, column)
    if wikitext:  # rows are lines there, and a blank line is an empty row
        return split_articles(b"".join([row or b" \n" for row in rows]))
    return [row for row in rows if row.strip()]


def unpack(path: Path) -> bytes:
    """The file's bytes, decompressed by its name."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror or error})") from error
    with file, unpacked(file, path) as contents:
        return contents.read()


def valid_utf8(raw: bytes, origin: str, repairs: Repairs) -> bytes:
    """The text as valid UTF-8 without byte-order mark; what isn't UTF-8 is replaced and counted.

    Raises:
        DataError: the bytes aren't text in UTF-8 at all.
    """
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{origin}: text in UTF-16; expected UTF-8. Convert it first.")
    if b"\0" in raw:
        raise DataError(f"{origin}: a binary file (it holds NUL bytes); expected text in UTF-8")
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    try:
        raw.decode("utf-8")
        return raw
    except UnicodeDecodeError:
        text = raw.decode("utf-8", "replace")
    count = text.count("\ufffd") - raw.count(b"\xef\xbf\xbd")
    if count > len(text) * 0.3:
        raise DataError(
            f"{origin}: {count:,} of {len(text):,} characters aren't valid UTF-8. "
            "It is a binary file or has another encoding; convert it to UTF-8 first."
        )
    repairs.replaced += count
    repairs.files.append(Path(origin).name)
    return text.encode("utf-8")


def split_text(text: bytes) -> list[bytes]:
    """Documents between the lines that hold only ``<|endoftext|>``; else one document."""
    parts = _EOT_LINE.split(text)
    if len(parts) > 1:  # the line end before the mark belongs to the mark
        parts = [re.sub(rb"\r?\n\Z", b"", part) for part in parts]
    return [part for part in parts if part.strip()]


def split_articles(text: bytes) -> list[bytes]:
    """WikiText's articles; together they are the exact text."""
    cuts = [match.start() for match in _ARTICLE.finditer(text)]
    borders = [0, *[cut for cut in cuts if cut], len(text)]
    return [text[a:b] for a, b in pairwise(borders) if b > a]


def choose_column(names: list[str], texts: list[str], column: str | None, path: Path) -> str:
    """The column that holds the text: the one asked for, 'text', or the only one.

    Args:
        names: all columns.
        texts: those that hold strings.
        column: what the user asked for.
        path: the file, for the message.
    """
    listed = ", ".join(names) or "none"
    if column is not None:
        if column in names:
            return column
        raise DataError(f"{path.name}: no column '{column}'. Its columns: {listed}")
    if "text" in texts:
        return "text"
    if len(texts) == 1:
        return texts[0]
    example = texts[0] if texts else "COLUMN"
    raise DataError(
        f"{path.name}: which column holds the text? Its columns: {listed}. "
        f"Add one to the name, such as {path.name}:{example}"
    )


def _jsonl(text: bytes, path: Path, column: str | None) -> list[bytes]:
    rows: list[bytes] = []
    for number, line in enumerate(text.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise DataError(
                f"{path}: line {number} isn't JSON ({error}); expected one JSON object a line"
            ) from error
        if isinstance(value, dict):
            if column is None or column not in value:
                texts = [name for name, cell in value.items() if isinstance(cell, str)]
                column = choose_column(list(value), texts, column, path)
            value = value[column]
        rows.append(_cell(value, f"{path}: line {number}"))
    return rows


def _csv(text: bytes, path: Path, column: str | None) -> list[bytes]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        lines = csv.reader(io.StringIO(text.decode("utf-8"), newline=""), strict=True)
        names = next(lines, [])
        place = names.index(choose_column(names, names, column, path))
        return [_cell(row[place] if place < len(row) else None, str(path)) for row in lines]
    except csv.Error as error:
        raise DataError(f"{path}: not a readable CSV file ({error})") from error


def _parquet(raw: bytes, path: Path, column: str | None, repairs: Repairs) -> list[bytes]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtra("pyarrow", "hub", f"Reading {path.name}") from error
    try:
        file = parquet.ParquetFile(arrow.BufferReader(raw))
        schema = file.schema_arrow
        texts = [
            item.name
            for item in schema
            if arrow.types.is_string(item.type) or arrow.types.is_large_string(item.type)
        ]
        chosen = choose_column(list(schema.names), texts, column, path)
        cells: Iterable[Any] = file.read(columns=[chosen]).column(0).to_pylist()
    except arrow.ArrowException as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from error
    return [_cell(cell, f"{path}: column '{chosen}'") for cell in cells]


def _cell(value: object, origin: str) -> bytes:
    if value is None:
        return b""
    if not isinstance(value, str):
        raise DataError(f"{origin}: found {type(value).__name__}, expected a string")
    return value.encode("utf-8", "replace")


def _unpacked_name(path: str | Path) -> str:
    name = Path(path).name.lower()
    for suffix in PACKED_SUFFIXES:
        name = name.removesuffix(suffix)
    return name
