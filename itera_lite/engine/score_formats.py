"""Reads a file's documents and writes them with their scores, each kind of file as what it was.

JSON lines stay JSON lines, CSV stays CSV, Parquet stays Parquet, compressed as before. Order and
fields are kept. A line of plain text has no fields, so with scores it becomes an object.
"""

from __future__ import annotations

import csv
import io
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from itera_lite.data.compression import SUFFIXES, compressor, uncompressed_name
from itera_lite.data.lines import KINDS, Line, LineReader
from itera_lite.data.rows import CsvReader, CsvRow, ParquetReader
from itera_lite.engine.score_fields import WHOLE, Fields
from itera_lite.engine.scorer import Scored
from itera_lite.errors import IteraError
from itera_lite.files import output_errors, sync_folder

BATCH_LINES = 4096
ROW_GROUP_BYTES = 32 << 20  # of Parquet's rows in memory, before they are written as a group
ROW_GROUP_ROWS = 1 << 17
CSV, PARQUET = ".csv", ".parquet"
T = TypeVar("T")
Row = TypeVar("Row")


@dataclass(frozen=True)
class Batch:
    """Documents that are scored together.

    Attributes:
        texts: of the documents.
        numbers: of their lines, or rows, in the input.
        rows: what the format writes them from.
    """

    texts: Sequence[str | bytes]
    numbers: Sequence[int]
    rows: Any


Write = Callable[[Batch, Sequence[Scored], Sequence[bool]], None]


class Format(ABC):
    """A file that is read, and written again with scores.

    Args:
        source: the file.
        fields: what is written of a text.

    Raises:
        DataError: the file can't be read.
    """

    repaired = 0  # lines or rows in which something wasn't UTF-8
    halves = 0  # texts with half of a surrogate pair

    def __init__(self, source: Path, fields: Fields) -> None:
        self.source, self.fields = source, fields

    @abstractmethod
    def batches(self, size: int) -> Iterator[Batch]:
        """Groups of documents that hold about ``size`` bytes.

        Raises:
            DataError: a line or row can't be used. What comes before it is given first.
        """

    @abstractmethod
    def position(self) -> int:
        """Bytes read so far of the file as it is stored."""

    @abstractmethod
    def writing(self, path: Path, target: Path) -> AbstractContextManager[Write]:
        """A context in which documents are written to a new file.

        Args:
            path: the file, which may have a temporary name.
            target: its name in the end, by which it is compressed.

        Raises:
            OutputError: the file can't be written.
        """


class Lines(Format):
    """Plain text, a document a line, and JSON lines."""

    def __init__(self, source: Path, fields: Fields) -> None:
        super().__init__(source, fields)
        self._reader = LineReader(
            source, fields.text_field, keep_text=fields.text, reserved=fields.names
        )
        self._is_text = is_text(source)

    def batches(self, size: int) -> Iterator[Batch]:
        for lines in grouped(self._reader, size, held_by):
            yield Batch([line.text for line in lines], [line.number for line in lines], lines)
        self.repaired, self.halves = self._reader.repaired, self._reader.halves

    def position(self) -> int:
        return self._reader.position()

    @contextmanager
    def writing(self, path: Path, target: Path) -> Iterator[Write]:
        with _bytes_file(path, target) as file:

            def write(batch: Batch, scored: Sequence[Scored], kept: Sequence[bool]) -> None:
                lines: list[Line] = batch.rows
                file.write(
                    b"".join(
                        self.fields.as_line(line, each, is_text=self._is_text)
                        for line, each, keep in zip(lines, scored, kept, strict=True)
                        if keep
                    )
                )

            yield write


class Csv(Format):
    """CSV with a header. A row is copied as it stands, and its results are appended."""

    def __init__(self, source: Path, fields: Fields) -> None:
        super().__init__(source, fields)
        self._reader = CsvReader(source, fields.text_field, fields.names)

    def batches(self, size: int) -> Iterator[Batch]:
        for rows in grouped(self._reader, size, lambda row: len(row.raw)):
            yield Batch([row.text for row in rows], [row.number for row in rows], rows)
        self.repaired = self._reader.repaired

    def position(self) -> int:
        return self._reader.position()

    @contextmanager
    def writing(self, path: Path, target: Path) -> Iterator[Write]:
        reader = self._reader
        with _bytes_file(path, target) as file:
            header = reader.header
            if not self.fields.text:
                before, line_end, _ = header.rpartition(reader.line_end)
                header = before + line_end + self._cells(self._others(reader.names))
            file.write(self._joined(header, self.fields.names))

            def write(batch: Batch, scored: Sequence[Scored], kept: Sequence[bool]) -> None:
                rows: list[CsvRow] = batch.rows
                each = zip(rows, scored, kept, strict=True)
                file.write(b"".join(self._row(row, score) for row, score, keep in each if keep))

            yield write

    def _row(self, row: CsvRow, scored: Scored) -> bytes:
        raw = row.raw if self.fields.text else self._cells(self._others(row.cells))
        values = self.fields.values(row.number, scored)
        return self._joined(raw, ["" if value is None else repr(value) for value in values])

    def _joined(self, raw: str, added: Sequence[str]) -> bytes:
        results = self.delimiter + self._cells(added) if added else ""
        if not raw and results:  # all columns were left out
            results = results[1:]
        return f"{raw}{results}{self._reader.line_end}".encode()

    def _others(self, cells: Sequence[str]) -> list[str]:
        column = self._reader.column
        return [*cells[:column], *cells[column + 1 :]]

    def _cells(self, cells: Sequence[str]) -> str:
        out = io.StringIO()
        csv.writer(out, delimiter=self.delimiter, lineterminator="").writerow(cells)
        return out.getvalue() if cells else ""

    @property
    def delimiter(self) -> str:
        return self._reader.delimiter


class Parquet(Format):
    """Parquet: the same columns, types, metadata and compression, and a column a result."""

    def __init__(self, source: Path, fields: Fields) -> None:
        super().__init__(source, fields)
        self._reader = ParquetReader(source, fields.text_field, fields.names)

    def batches(self, size: int) -> Iterator[Batch]:
        for first, rows, texts in self._reader.batches(size):
            yield Batch(texts, range(first, first + len(texts)), rows)

    def position(self) -> int:
        return self._reader.position()

    @contextmanager
    def writing(self, path: Path, target: Path) -> Iterator[Write]:
        import pyarrow as arrow
        import pyarrow.parquet as parquet

        kinds = [
            arrow.int64() if name.removeprefix(self.fields.prefix) in WHOLE else arrow.float64()
            for name in self.fields.names
        ]
        schema = self._reader.schema
        if not self.fields.text:
            schema = schema.remove(schema.get_field_index(self.fields.text_field))
        for name, kind in zip(self.fields.names, kinds, strict=True):
            schema = schema.append(arrow.field(name, kind))
        held: list[Any] = []
        with (
            output_errors(target),
            path.open("wb") as raw,  # pyarrow takes a name in UTF-8 alone
            parquet.ParquetWriter(raw, schema, compression=self._reader.compression) as file,
        ):

            def flush() -> None:
                if held:
                    table = arrow.Table.from_batches(held, schema)
                    file.write_table(table, row_group_size=max(1, table.num_rows))
                    held.clear()

            def write(batch: Batch, scored: Sequence[Scored], kept: Sequence[bool]) -> None:
                rows = batch.rows
                if not self.fields.text:
                    rows = rows.drop_columns([self.fields.text_field])
                each = zip(batch.numbers, scored, strict=True)
                values = [self.fields.values(number, score) for number, score in each]
                columns = zip(*values, strict=True) if kinds and values else [()] * len(kinds)
                added = [
                    arrow.array(column, kind) for column, kind in zip(columns, kinds, strict=True)
                ]
                whole = arrow.RecordBatch.from_arrays([*rows.columns, *added], schema=schema)
                whole = whole.filter(arrow.array(kept, arrow.bool_()))
                if whole.num_rows:
                    held.append(whole)
                rows_held = sum(part.num_rows for part in held)
                bytes_held = sum(part.nbytes for part in held)
                if rows_held >= ROW_GROUP_ROWS or bytes_held >= ROW_GROUP_BYTES:
                    flush()

            yield write
            flush()


def format_of(source: Path, fields: Fields) -> Format:
    """The format of a file by the ending of its name.

    Raises:
        UsageError: it has another ending.
        DataError: the file can't be read.
        MissingExtra: Parquet support isn't installed.
    """
    kind = table_kind(source)
    if kind is None:
        return Lines(source, fields)
    return Parquet(source, fields) if kind == PARQUET else Csv(source, fields)


def is_read(path: Path) -> bool:
    """Whether `itera score` reads files of such a name."""
    return table_kind(path) is not None or Path(uncompressed_name(path)).suffix in KINDS


def is_text(path: Path) -> bool:
    """Whether each line of the file is a document, by the ending of its name."""
    return KINDS.get(Path(uncompressed_name(path)).suffix) == "text"


def table_kind(path: Path) -> str | None:
    """`CSV`, which may be compressed, or `PARQUET`, by the file's name; None for others."""
    if path.suffix.lower() == PARQUET:
        return PARQUET
    return CSV if Path(uncompressed_name(path)).suffix == CSV else None


def unit_of(path: Path) -> str:
    """What a document of the file is: a line of plain text, else a document."""
    return "line" if is_text(path) else "document"


def output_name(source: str, fields: Fields) -> str:
    """The name of a file's output: its own; plain text with scores gets .jsonl.

    Args:
        source: the file's name, which may have folders before it.
    """
    if not is_text(Path(source)) or not fields.scores:
        return source
    packed = next((end for end in SUFFIXES if source.lower().endswith(end)), "")
    stem = source[: len(source) - len(packed)]
    return f"{stem}.jsonl{source[len(stem) :]}"


@contextmanager
def written(target: Path, temporary: Path) -> Iterator[Path]:
    """``temporary`` to write to, on the same disk, which becomes ``target`` at the end.

    Where the block fails, nothing is left of it.

    Raises:
        OutputError: the file can't be written.
    """
    try:
        yield temporary
        with output_errors(target):
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary, target)
            sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _bytes_file(path: Path, target: Path) -> Iterator[Any]:
    """A new file to write bytes to, compressed by the name of ``target``, which errors name."""
    packed = target.suffix.lower()
    compress = compressor(packed, target) if packed in SUFFIXES else None
    with output_errors(target), path.open("wb") as raw:
        if compress is None:
            yield raw
        else:
            with compress(raw) as file:
                yield file


def held_by(line: Line) -> int:
    """About the bytes that a line holds: of its text or, where they are more, of its fields."""
    return max(len(line.text), len(line.fields))


def grouped(items: Iterable[T], size: int, length: Callable[[T], int]) -> Iterator[list[T]]:
    """Groups of about ``size`` bytes: a corpus of any length is never held as a whole.

    Where an item is bad, those before it are given first, so that their results aren't lost.
    """
    batch: list[T] = []
    held = 0
    try:
        for item in items:
            batch.append(item)
            held += length(item)
            if held >= size or len(batch) == BATCH_LINES:
                yield batch
                batch, held = [], 0
    except IteraError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch
