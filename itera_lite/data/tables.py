"""Reads the documents of a table: JSON lines, JSON arrays, delimited text (CSV, TSV), Parquet.

A row is a document. The column of the text is found by name over all rows. A row that doesn't
have the table's form is an error that names the line.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from itera_lite.data.contents import Contents
from itera_lite.data.repairs import Repairs, without_surrogates
from itera_lite.errors import DataError, MissingExtra

# The value of a number is never needed, and Python refuses integers of many digits.
_JSON = json.JSONDecoder(parse_int=lambda digits: 0)
_DELIMITERS = (",", ";", "\t", "|")
_PARQUET_ROWS = 1000  # decoded at a time
_PARQUET_BUFFER = 1 << 20  # bytes of a column that are read ahead
_HEADER_CHARS = 80  # a longer "name" of a column is a text
_JSON_TYPES = {dict: "an object", list: "an array", str: "text", bool: "true or false"}
_JSON_TYPES |= dict.fromkeys((int, float), "a number")


@dataclass(frozen=True)
class Table:
    """A table, and what is known about its text.

    Attributes:
        contents: the file.
        kind: 'jsonl', 'json', 'csv', 'tsv' or 'parquet'.
        column: the column that the user named.
        data: what the user wrote to name the set, for the advice to name a column.
        repairs: counts what was repaired or left out.
        required: whether JSON that is no table is an error; else it is left out.
    """

    contents: Contents
    kind: str
    column: str | None
    data: str
    repairs: Repairs
    required: bool = True

    @property
    def path(self) -> str:
        return self.contents.shown

    @property
    def name(self) -> str:
        return self.contents.name

    def rows(self) -> Iterator[bytes]:
        """The text of each row, in order; a row without text is empty.

        The file is read from the start more than once where the column or the delimiter isn't
        clear before its end.

        Raises:
            DataError: the table can't be read, or its column of text isn't clear.
            MissingExtra: Parquet support isn't installed.
        """
        read = {"jsonl": _json_lines, "json": _json, "parquet": _parquet}.get(self.kind, _delimited)
        return read(self)

    def choose(self, names: list[str], texts: list[str], listed: str | None = None) -> str:
        """The column that holds the text: the one asked for, 'text', or the only one with strings.

        Args:
            names: all columns.
            texts: those that hold strings.
            listed: the columns as the message shows them.
        """
        listed = listed or ", ".join(names[:20]) + (", ..." if len(names) > 20 else "") or "none"
        if self.column is not None:
            chosen = self.column
            if chosen not in names:
                raise DataError(f"{self.path}: no column '{chosen}'. Its columns: {listed}")
        elif "text" in names:
            chosen = "text"
        elif len(texts) == 1:
            chosen = texts[0]
        else:
            example = texts[0] if texts else "COLUMN"
            raise DataError(
                f"{self.path}: which column holds the text? Its columns: {listed}. "
                f"Add one to the name, such as {self.data}:{example}"
            )
        if names.count(chosen) > 1:
            raise DataError(f"{self.path}: {names.count(chosen)} columns are called '{chosen}'")
        return chosen

    def texts(self, cells: Iterable[tuple[int, object]], unit: str = "line") -> Iterator[bytes]:
        """The cells in valid UTF-8; those without text are counted as blank."""
        for number, cell in cells:
            if isinstance(cell, str):
                cell, count = without_surrogates(cell)
                if count:
                    self.repairs.surrogates.add(f"{self.name}, {unit} {number}", count)
                text = cell.encode("utf-8")
            elif cell is None:
                text = b""
            else:
                found = _JSON_TYPES.get(type(cell), type(cell).__name__)
                raise DataError(
                    f"{self.path}: {unit} {number}: found {found}, expected a string or null. "
                    f"If another column holds the text, name it: {self.data}:COLUMN"
                )
            if not text.strip():
                self.repairs.blank_rows.add(f"{self.name}, {unit} {number}")
            yield text


def _json_lines(table: Table) -> Iterator[bytes]:
    def values(repairs: Repairs | None) -> Iterator[tuple[int, Any]]:
        for number, line in enumerate(table.contents.lines(repairs), 1):
            if line.strip():
                try:
                    yield number, _decode(line.decode("utf-8"))
                except ValueError as error:
                    raise DataError(
                        f"{table.path}: line {number} isn't JSON ({error}); expected one JSON "
                        f"object a line{_whole_file_advice(number, line)}"
                    ) from None

    return table.texts(_cells_of_objects(table, values))


def _json(table: Table) -> Iterator[bytes]:
    """A .json file: one array, an object a line, or a single object with the text."""
    lines = (line for line in table.contents.lines() if line.strip())
    first = next(lines, b"").decode("utf-8")
    try:
        value = _decode(first)
        alone = next(lines, None) is None
    except ValueError:
        value, alone = None, True
    if not alone:
        return _json_lines(table)
    text = b"".join(table.contents.chunks(table.repairs)).decode("utf-8")
    if value is None:
        try:
            value = _decode(text)
        except ValueError as error:
            if not table.required and not text.lstrip().startswith("["):
                return _no_table(table)  # such as settings with comments in them
            raise DataError(f"{table.path}: not readable as JSON ({error})") from None
    if _holds_texts(value, table.column or "text"):
        rows = list(enumerate(value if isinstance(value, list) else [value], 1))
        return table.texts(_cells_of_objects(table, lambda _: iter(rows)), "item")
    if not table.required:
        return _no_table(table)
    fields = f" with the fields {', '.join(list(value)[:8])}" if isinstance(value, dict) else ""
    found = _JSON_TYPES.get(type(value), type(value).__name__)
    raise DataError(
        f"{table.path}: JSON, but no table of texts: found {found}{fields}. Expected an array of "
        "objects (or an object a line) with the text in the field 'text', or an array of strings"
    )


def _holds_texts(value: object, column: str) -> bool:
    """Whether a JSON value is an array of strings or objects with strings, or one row with text."""
    if not isinstance(value, list):
        return isinstance(value, dict) and isinstance(value.get(column), str)
    cells = [list(row.values()) if isinstance(row, dict) else [row] for row in value]
    return all(isinstance(row, (dict, str, type(None))) for row in value) and any(
        isinstance(cell, str) for row in cells for cell in row
    )


def _no_table(table: Table) -> Iterator[bytes]:
    table.repairs.no_tables.add(table.name)
    return iter(())


def _cells_of_objects(
    table: Table, values: Callable[[Repairs | None], Iterator[tuple[int, Any]]]
) -> Iterator[tuple[int, object]]:
    """(number, text or None) of each row; a string is a row of its own.

    Args:
        values: gives the rows from the beginning, each time it is called, and counts what was
            repaired where it is given the `Repairs`.
    """
    names: dict[str, bool] = {}  # column -> whether it holds strings
    for _, value in values(None):
        if isinstance(value, dict):
            for name, cell in value.items():
                names[name] = names.get(name, False) or isinstance(cell, str)
            if names.get(table.column or "text"):
                break  # settled; rows that lack it count as empty
    chosen = None
    if names:
        texts = [name for name, is_text in names.items() if is_text]
        chosen = table.choose(list(names), texts)
    elif table.column is not None:
        raise DataError(f"{table.path}: no column '{table.column}'. Its rows have no columns")
    for number, value in values(table.repairs):
        yield number, value.get(chosen) if isinstance(value, dict) else value


def _decode(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it isn't JSON, or can't be read; the message says where.
    """
    try:
        return _JSON.decode(text)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text.strip() else ""
        raise ValueError(f"{error.msg}, {line}character {error.colno}") from None
    except RecursionError:
        raise ValueError("its brackets are nested too deep") from None


def _whole_file_advice(number: int, line: bytes) -> str:
    if number == 1 and line.lstrip()[:1] in (b"[", b"{"):
        return ". If the whole file is one JSON array or object, let its name end in .json"
    return ""


def _delimited(table: Table) -> Iterator[bytes]:
    rows = _delimited_table(table.contents, table.kind).rows(table.repairs)
    number, header = next(rows, (1, []))
    names = [name.strip() for name in header]
    try:
        chosen = names.index(table.choose(names, names))
    except DataError:
        for _ in rows:  # raises for a damaged row, which is the better message
            pass
        raise
    if table.column is None and names[chosen] != "text":
        _check_header(table, number, names[chosen])
    return table.texts((number, row[chosen]) for number, row in rows)


def _check_header(table: Table, number: int, name: str) -> None:
    """The first row of a table of one column may be a text.

    Raises:
        DataError: it looks like one.
    """
    if len(name) > _HEADER_CHARS or "\n" in name or re.search(r"\s.*[.!?]\W*$", name):
        short = name if len(name) <= 60 else name[:57] + "..."
        raise DataError(
            f"{table.path}: line {number} looks like a text, expected the names of the columns: "
            f"{short!r}. Put a line with the name of the column above it, such as: text"
        )
    table.repairs.assumed.append(
        f"the first line of {table.name}, {name!r}, was taken for the name of its column; "
        "if it is a text, put the line 'text' above it"
    )


@dataclass(frozen=True)
class _Delimited:
    """Delimited text, read with one delimiter, from ``begin`` on (in characters)."""

    contents: Contents
    delimiter: str
    quoted: bool = True
    begin: int = 0

    def rows(self, repairs: Repairs | None = None) -> Iterator[tuple[int, list[str]]]:
        """The rows, the header first: (number of the first line, cells).

        Args:
            repairs: counts what was repaired, when the last row is reached.

        Raises:
            DataError: a row has another number of cells than the header, or a stray quote.
        """
        csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
        text = self.contents.text(repairs)
        text.read(self.begin)
        lines = csv.reader(
            text,
            delimiter=self.delimiter,
            quoting=csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE,
            strict=True,
        )
        header: list[str] | None = None
        before = 1 if self.begin else 0  # the line `sep=`
        begin = before + 1
        try:
            for row in lines:
                # A blank line is no row, except where a cell is all there is.
                if any(cell.strip() for cell in row) or (header and len(row) == len(header)):
                    header = header or row
                    if len(row) != len(header):
                        raise DataError(self._other_width(begin, row, header))
                    yield begin, row
                begin = before + lines.line_num + 1
        except csv.Error as error:
            raise DataError(
                f"{self.contents.shown}: line {begin}: not a readable CSV row ({error}; the row "
                f"goes up to line {before + lines.line_num}). A quote inside a quoted cell is "
                'written twice: ""'
            ) from None

    def _other_width(self, line: int, row: list[str], header: list[str]) -> str:
        name = "tab" if self.delimiter == "\t" else f"'{self.delimiter}'"
        advice = (
            f"A text that holds the delimiter, {name}, stands in quotes"
            if len(row) > len(header)
            else f"An empty cell needs its delimiter, {name}, too"
        )
        return (
            f"{self.contents.shown}: line {line}: found {len(row)} cells, expected "
            f"{len(header)} as in the first line ({', '.join(header)[:80]}). {advice}"
        )

    def width(self) -> int:
        """Number of cells of the header; 0 if it can't be read."""
        try:
            return len(next(self.rows(), (0, []))[1])
        except DataError:
            return 0

    def size(self) -> int:
        """Number of rows, the header included; 0 if one can't be read."""
        try:
            return sum(1 for _ in self.rows())
        except DataError:
            return 0


def _delimited_table(contents: Contents, kind: str) -> _Delimited:
    """The table with the delimiter that gives rows of equal width."""
    if kind == "tsv":
        return _tab_separated(contents)
    if named := re.match(r"sep=(.)\r?\n", contents.text().read(7)):  # as Excel writes it
        return _Delimited(contents, named[1], begin=named.end())
    ways = [_Delimited(contents, delimiter) for delimiter in _DELIMITERS]
    ways = [way for way in ways if way.width() > 1] or ways[:1]
    if len(ways) == 1:
        return ways[0]
    return next((way for way in ways if way.size()), ways[0])


def _tab_separated(contents: Contents) -> _Delimited:
    """A tab-separated table, with or without quoting.

    Where each line is a row of its own, a quote that one line opens and a later one closes is a
    part of the text: quoting would make one row of several.
    """
    quoted, plain = (_Delimited(contents, "\t", way) for way in (True, False))
    lines = plain.size()
    rows = quoted.size() if lines else 0
    return plain if lines and (not rows or (rows < lines and plain.width() > 1)) else quoted


def _parquet(table: Table) -> Iterator[bytes]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtra("pyarrow", "hub", f"Reading {table.name}") from error

    def is_text(kind: Any) -> bool:
        if arrow.types.is_dictionary(kind):
            kind = kind.value_type
        return bool(
            arrow.types.is_string(kind)
            or arrow.types.is_large_string(kind)
            or arrow.types.is_string_view(kind)
        )

    def cells(source: Any) -> Iterator[bytes | None]:
        file = parquet.ParquetFile(source, buffer_size=_PARQUET_BUFFER, pre_buffer=False)
        schema = file.schema_arrow
        index = (schema.pandas_metadata or {}).get("index_columns", [])
        kinds = {item.name: item.type for item in schema}
        texts = [item.name for item in schema if is_text(item.type) and item.name not in index]
        listed = ", ".join(
            item.name if is_text(item.type) else f"{item.name} ({item.type})" for item in schema
        )
        chosen = table.choose(list(schema.names), texts, listed)
        if not is_text(kinds[chosen]):
            raise DataError(
                f"{table.path}: found {kinds[chosen]} in the column '{chosen}', expected strings. "
                f"Its columns: {listed}"
            )
        for batch in file.iter_batches(_PARQUET_ROWS, columns=[chosen], use_threads=False):
            column = batch.column(batch.schema.get_field_index(chosen))
            # As bytes, because the strings of a Parquet file may be invalid UTF-8.
            yield from column.cast(arrow.large_string()).cast(arrow.large_binary()).to_pylist()

    def readable() -> Iterator[bytes | None]:
        with table.contents.open() as raw:
            # A compressed file is read whole, because pages are read by their places.
            source = arrow.BufferReader(raw.read()) if table.contents.is_compressed else raw
            try:
                yield from cells(source)
            except (arrow.ArrowException, OSError) as error:
                raise DataError(f"{table.path}: not a readable Parquet file ({error})") from error

    return table.texts(((n, _string(cell, table)) for n, cell in enumerate(readable(), 1)), "row")


def _string(cell: bytes | None, table: Table) -> str | None:
    if cell is None:
        return None
    text = cell.decode("utf-8", "replace")
    if count := text.count("\ufffd") - cell.count(b"\xef\xbf\xbd"):
        table.repairs.invalid.add(table.name, count)
    return text
