"""Reads CSV and Parquet files of any size in pieces, with all columns, for `itera score`.

The column of the text has a known name, and what is read can be written again as it was: a row of
CSV character for character, a Parquet file with its schema, its metadata and its compression.
`itera_lite.data.tables` reads whole tables for training and finds the column by itself.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from itera_lite.data.compression import decompressed
from itera_lite.errors import DataError, MissingExtra
from itera_lite.files import in_utf8

DELIMITERS = (",", ";", "\t", "|")
MOST_CELL = 1 << 27  # characters; a quote that is never closed must not take all memory
MOST_ROWS = 4096  # of Parquet that are decoded at a time
PAGE_BUFFER = 1 << 20  # bytes of a column that are read ahead


@dataclass(frozen=True)
class CsvRow:
    """A row of CSV.

    Attributes:
        number: of the line on which it begins, from 1.
        text: the document.
        cells: all of its cells.
        raw: the row as it stands, without the end of its last line.
    """

    number: int
    text: str
    cells: list[str]
    raw: str


class CsvReader:
    """Reads the rows of a CSV file with a header; blank lines are left out.

    The delimiter is the one of `DELIMITERS` by which the header has the column of the text.

    Args:
        path: ``.csv``, also with ``.gz`` or ``.zst``.
        text_field: column that holds the text.
        reserved: names of the results, which no column may have.

    Attributes:
        header: the header as it stands, with a line ``sep=`` before it where there is one.
        names: of the columns.
        delimiter: between two cells.
        line_end: what ends the header's line.
        repaired: rows in which something wasn't UTF-8.

    Raises:
        DataError: the file can't be read, or its header lacks the column.
    """

    def __init__(self, path: Path, text_field: str, reserved: Sequence[str] = ()) -> None:
        self.path, self.text_field = path, text_field
        self.size = _size_of(path)
        self.repaired = 0
        self._raw: BinaryIO | None = None
        self._begin = 0  # lines up to the header's end
        self.header, self.line_end, self.delimiter, self.names = "", "\n", ",", list[str]()
        self._read_header()
        self.column = self.names.index(text_field)
        if self.names.count(text_field) > 1:
            raise DataError(
                f"{path}: {self.names.count(text_field)} columns are called '{text_field}'"
            )
        check_names(path, self.names, reserved)

    def position(self) -> int:
        """Bytes read so far of the file as it is stored."""
        if self._raw is None:
            return 0
        return self.size if self._raw.closed else self._raw.tell()

    def __iter__(self) -> Iterator[CsvRow]:
        """Yields the rows after the header.

        Raises:
            DataError: a row has another number of cells than the header, or a stray quote.
        """
        csv.field_size_limit(MOST_CELL)
        taken: list[str] = []  # the lines of the row that is being read
        with self.path.open("rb") as self._raw, decompressed(self._raw, self.path) as file:
            lines = self._lines(file, taken)
            for _ in range(self._begin):
                next(lines, None)
            taken.clear()
            begin = self._begin + 1
            rows = csv.reader(lines, delimiter=self.delimiter, strict=True)
            try:
                for cells in rows:
                    number, begin = begin, begin + len(taken)
                    raw = "".join(taken).removesuffix("\n").removesuffix("\r")
                    taken.clear()
                    if any(cell.strip() for cell in cells) or len(cells) == len(self.names):
                        if len(cells) != len(self.names):
                            raise DataError(self._other_width(number, cells))
                        yield CsvRow(number, cells[self.column], cells, raw)
            except csv.Error as error:
                raise DataError(
                    f"{self.path}: line {begin}: not a readable CSV row ({error}; the row goes up "
                    f"to line {begin + max(0, len(taken) - 1)}). A quote inside a quoted cell is "
                    'written twice: ""'
                ) from None

    def _lines(self, file: BinaryIO, taken: list[str]) -> Iterator[str]:
        """The lines with their ends, each of which is put into ``taken`` too."""
        for number, raw in enumerate(file, 1):
            if b"\0" in raw:
                raise DataError(
                    f"{self.path}: line {number} holds NUL bytes: a binary file, or text in "
                    "UTF-16. Expected UTF-8; convert it first"
                )
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError:
                self.repaired += 1
                line = raw.decode("utf-8", "replace")
            taken.append(line)
            yield line

    def _read_header(self) -> None:
        taken: list[str] = []
        with self.path.open("rb") as raw, decompressed(raw, self.path) as file:
            lines = self._lines(file, taken)
            line = next((line for line in lines if line.strip()), "")
            delimiters: Sequence[str] = DELIMITERS
            if line.startswith("sep=") and len(line.strip("\r\n")) == 5:  # as Excel writes it
                delimiters = (line[4],)
                line = next(lines, "")
        self.repaired = 0
        self._begin = len(taken)
        self.header = "".join(taken).removesuffix("\n").removesuffix("\r")
        self.line_end = "\r\n" if line.endswith("\r\n") else "\n"
        found: list[list[str]] = []
        broken: csv.Error | None = None
        csv.field_size_limit(MOST_CELL)
        for self.delimiter in delimiters:
            try:
                cells = next(csv.reader([line], delimiter=self.delimiter), [])
            except csv.Error as error:  # another delimiter may leave it in quotes
                broken = error
                continue
            self.names = [cell.strip() for cell in cells]
            if self.text_field in self.names:
                return
            found.append(self.names)
        where = f"{self.path}: line {max(1, self._begin)}"
        if not found:
            raise DataError(
                f"{where}: not a readable header ({broken}). Expected lines that end with a line "
                "feed, the names of the columns in the first"
            )
        names = max(found, key=len)
        raise DataError(
            f"{where} has no column '{self.text_field}'. Its columns: "
            f"{', '.join(names)[:300] or 'none'}. Name the one with the text with --text-field"
        )

    def _other_width(self, number: int, cells: list[str]) -> str:
        name = "tab" if self.delimiter == "\t" else f"'{self.delimiter}'"
        advice = (
            f"A text that holds the delimiter, {name}, stands in quotes"
            if len(cells) > len(self.names)
            else f"An empty cell needs its delimiter, {name}, too"
        )
        return (
            f"{self.path}: line {number}: found {len(cells)} cells, expected {len(self.names)} as "
            f"in the header ({', '.join(self.names)[:80]}). {advice}"
        )


class ParquetReader:
    """Reads a Parquet file a few rows at a time, whatever the size of its row groups.

    Args:
        path: the file.
        text_field: column that holds the text.
        reserved: names of the results, which no column may have.

    Attributes:
        schema: Arrow's, with the file's metadata.
        rows: number of rows.
        compression: of the text's column, by the name that pyarrow has for it.

    Raises:
        DataError: the file can't be read, or lacks the column, or it isn't one of strings.
        MissingExtra: Parquet support isn't installed.
    """

    def __init__(self, path: Path, text_field: str, reserved: Sequence[str] = ()) -> None:
        try:
            import pyarrow as arrow
            import pyarrow.parquet as parquet
        except ImportError as error:
            raise MissingExtra("pyarrow", "hub", f"Reading {path.name}") from error
        self.path, self.text_field = path, text_field
        self.size = _size_of(path)
        self._errors = (arrow.ArrowException, OSError)
        self._binary = (arrow.large_string(), arrow.large_binary())
        try:
            # pyarrow takes a name in UTF-8 alone, but an open file of any name.
            source = path if in_utf8(str(path)) == str(path) else path.open("rb")
            # Without a buffer, pyarrow reads a whole row group of a column at once.
            self._file = parquet.ParquetFile(source, buffer_size=PAGE_BUFFER, pre_buffer=False)
            self.schema = self._file.schema_arrow
        except self._errors as error:
            raise self._unreadable(error) from error
        self.rows = int(self._file.metadata.num_rows)
        self._done = 0
        self._check_column(arrow, reserved)
        self.compression = self._compression()

    def position(self) -> int:
        """About how many bytes of the file are read."""
        return self.size * self._done // self.rows if self.rows else self.size

    def batches(self, size: int) -> Iterator[tuple[int, Any, list[bytes]]]:
        """Groups of rows of about ``size`` bytes.

        Yields:
            The number of the first row, from 1; the rows as Arrow's record batch; their texts.
            Null is an empty text.

        Raises:
            DataError: the file is damaged.
        """
        number = 1
        for batch in self._record_batches(size):
            yield number, batch, self._texts(batch)
            number += batch.num_rows
            self._done = number - 1

    def texts_at(self, places: Sequence[tuple[int, int]]) -> list[bytes]:
        """The texts of some rows; no other column is read.

        Args:
            places: (first row from 0, row after the last one) in rising order.
        """
        found: list[bytes] = []
        begin = 0
        left = list(places)
        for group in range(self._file.num_row_groups):
            end = begin + self._file.metadata.row_group(group).num_rows
            wanted = [(max(a, begin), min(b, end)) for a, b in left if a < end and b > begin]
            if wanted:
                found += self._texts_of_group(group, begin, wanted)
            begin = end
        return found

    def mean_text_bytes(self) -> float:
        """Bytes of a text, about: as they are stored, decompressed."""
        meta = self._file.metadata
        column = self._column_number()
        total = sum(
            meta.row_group(group).column(column).total_uncompressed_size
            for group in range(meta.num_row_groups)
        )
        return float(total / self.rows) if self.rows else 0.0

    def _record_batches(self, size: int) -> Iterator[Any]:
        meta = self._file.metadata
        total = sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups))
        rows = max(1, min(MOST_ROWS, size * self.rows // max(1, total)))
        try:
            yield from self._file.iter_batches(batch_size=rows, use_threads=False)
        except self._errors as error:
            raise self._unreadable(error) from error

    def _texts_of_group(self, group: int, begin: int, wanted: list[tuple[int, int]]) -> list[bytes]:
        found: list[bytes] = []
        last = wanted[-1][1]
        try:
            for batch in self._file.iter_batches(
                batch_size=256, row_groups=[group], columns=[self.text_field], use_threads=False
            ):
                end = begin + batch.num_rows
                for a, b in wanted:
                    if a < end and b > begin:
                        part = batch.slice(max(a, begin) - begin, min(b, end) - max(a, begin))
                        found += self._texts(part)
                begin = end
                if begin >= last:
                    break
        except self._errors as error:
            raise self._unreadable(error) from error
        return found

    def _texts(self, batch: Any) -> list[bytes]:
        # As bytes, because the strings of a Parquet file may be invalid UTF-8.
        column = batch.column(self.text_field)
        for kind in self._binary:
            column = column.cast(kind)
        return [text or b"" for text in column.to_pylist()]

    def _check_column(self, arrow: Any, reserved: Sequence[str]) -> None:
        names = list(self.schema.names)
        listed = ", ".join(f"{item.name} ({item.type})" for item in self.schema)[:300]
        if self.text_field not in names:
            raise DataError(
                f"{self.path}: no column '{self.text_field}'. Its columns: {listed or 'none'}. "
                "Name the one with the text with --text-field"
            )
        if names.count(self.text_field) > 1:
            raise DataError(f"{self.path}: several columns are called '{self.text_field}'")
        kind = self.schema.field(self.text_field).type
        if arrow.types.is_dictionary(kind):
            kind = kind.value_type
        if not (
            arrow.types.is_string(kind)
            or arrow.types.is_large_string(kind)
            or arrow.types.is_string_view(kind)
        ):
            raise DataError(
                f"{self.path}: found {kind} in the column '{self.text_field}', expected strings. "
                f"Its columns: {listed}"
            )
        check_names(self.path, names, reserved)

    def _column_number(self) -> int:
        """Of the text, among the columns as Parquet counts them: one a leaf of the schema."""
        meta = self._file.metadata
        paths = [meta.schema.column(i).path for i in range(meta.num_columns)]
        return int(paths.index(self.text_field))

    def _compression(self) -> str:
        meta = self._file.metadata
        if not meta.num_row_groups:
            return "zstd"
        name = str(meta.row_group(0).column(self._column_number()).compression).lower()
        return {"uncompressed": "none", "lz4_raw": "lz4"}.get(name, name)

    def _unreadable(self, error: Exception) -> DataError:
        where = f" after row {self._done:,}" if getattr(self, "_done", 0) else ""
        return DataError(
            f"{self.path}: not a readable Parquet file{where} ({error}); copy it again"
        )


def check_names(path: Path, names: Sequence[str], reserved: Sequence[str]) -> None:
    """Check that no column has the name of a result.

    Raises:
        DataError: one has.
    """
    taken = [name for name in names if name in reserved]
    if taken:
        raise DataError(
            f"{path}: it has a column '{taken[0]}' already, where a result is to be written. Give "
            "the results other names with --prefix, such as --prefix score_"
        )


def _size_of(path: Path) -> int:
    try:
        path.open("rb").close()
        return path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror or error})") from error
