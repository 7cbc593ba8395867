"""Reads the documents of a file: plain text or a table, also compressed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path

from itera_lite.data.compression import uncompressed_name
from itera_lite.data.contents import Contents, valid_utf8
from itera_lite.data.repairs import Repairs
from itera_lite.data.tables import Table
from itera_lite.errors import DataError

TEXT_SUFFIXES = (".txt", ".text", ".md", ".tokens")
TABLE_KINDS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}

_EOT_LINE = re.compile(rb"(?:\A|(?<=\n))<\|endoftext\|>[ \t]*\r?(?:\n|\Z)")
# The same where the text goes on, and at its end; a line end stands before it in any case
_EOT_WITHIN = re.compile(rb"(?<=\n)<\|endoftext\|>[ \t]*\r?\n")
_EOT_AT_END = re.compile(rb"(?<=\n)<\|endoftext\|>[ \t]*\r?(?:\n|\Z)")
_EOT = b"<|endoftext|>"
_PIECE_BYTES = 1 << 20  # a document that is longer than this is given in pieces
# The heading of a WikiText article, with the blank line before it: " = Title = "
_ARTICLE = re.compile(rb"(?:\A|(?<=\n)) ?\n(?= = [^=\n](?:[^\n]*[^=\n])? = \n ?\n)")


def kind_of(path: str | Path) -> str | None:
    """'text', or the kind of a table, by the ending of the file's name; None for others."""
    suffix = Path(uncompressed_name(path)).suffix
    return "text" if suffix in TEXT_SUFFIXES else TABLE_KINDS.get(suffix)


def read_documents(
    path: Path,
    repairs: Repairs,
    *,
    column: str | None = None,
    wikitext: bool = False,
    data: str | None = None,
    required: bool = True,
    kind: str | None = None,
    shown: str | None = None,
) -> list[bytes]:
    """The documents of one file as valid UTF-8, empty ones left out; all of them in memory.

    A text file is one document, or several that lines of only ``<|endoftext|>``
    separate. A row of a table is one document. With
    ``wikitext`` the file is cut at the headings of articles, and the
    documents together are its exact text.

    Args:
        path: the file.
        repairs: counts what was repaired or left out.
        column: of a table, where the user named one.
        wikitext: whether the text is cut at the headings of articles.
        data: what the user wrote to name the set, for the advice to name a column.
        required: whether a JSON file that is no table is an error; else it is left out.
        kind: as `kind_of` gives it, where the name doesn't show it.
        shown: the file's name in messages, where it isn't the path.

    Raises:
        DataError: the file can't be read, isn't text, or lacks the column.
        MissingExtra: Parquet or Zstandard support isn't installed.
    """
    contents = Contents(path, shown)
    kind = kind or kind_of(contents.shown) or "text"
    if kind == "text":
        raw = contents.whole()
        if not raw:
            repairs.empty_files += 1
            return []
        text = valid_utf8(raw, contents.shown, repairs)
        return split_articles(text) if wikitext else split_text(text)
    if contents.is_empty():
        repairs.empty_files += 1
        return []
    rows = _rows(contents, kind, repairs, column, data, required)
    if wikitext:  # rows are lines there, and a blank line is an empty row
        return split_articles(b"".join([row or b" \n" for row in rows]))
    return [row for row in rows if row.strip()]


def stream_documents(
    contents: Contents,
    repairs: Repairs,
    *,
    column: str | None = None,
    wikitext: bool = False,
    data: str | None = None,
    required: bool = True,
    kind: str | None = None,
) -> Iterator[tuple[bytes, bool]]:
    """The documents that `read_documents` gives, in pieces: (bytes, whether the document ends).

    Memory is that of some pieces of a mebibyte; of a table, that of its longest row, and of a
    ``.json`` file with one array, that of the whole. Arguments and errors are those of
    `read_documents`.
    """
    kind = kind or kind_of(contents.shown) or "text"
    if contents.is_empty():
        repairs.empty_files += 1
        return
    if kind == "text":
        chunks = contents.chunks(repairs)
        yield from stream_articles(chunks) if wikitext else stream_text(chunks)
        return
    rows = _rows(contents, kind, repairs, column, data, required)
    if wikitext:
        yield from stream_articles(row or b" \n" for row in rows)
    else:
        yield from ((row, True) for row in rows if row.strip())


def _rows(
    contents: Contents,
    kind: str,
    repairs: Repairs,
    column: str | None,
    data: str | None,
    required: bool,
) -> Iterator[bytes]:
    table = Table(contents, kind, column, data or contents.shown, repairs, required)
    try:
        yield from table.rows()
    except DataError:
        if kind != "parquet":
            contents.check()  # of another encoding: the better message
        raise


def split_text(text: bytes) -> list[bytes]:
    """The documents of a text, which lines that hold only ``<|endoftext|>`` separate."""
    parts = _EOT_LINE.split(text)
    if len(parts) > 1:  # the line end before such a line belongs to it
        parts = [re.sub(rb"\r?\n\Z", b"", part) for part in parts]
    return [part for part in parts if part.strip()]


def split_articles(text: bytes) -> list[bytes]:
    """The articles of a WikiText file; joined, they are the exact text."""
    cuts = [match.start() for match in _ARTICLE.finditer(text)]
    borders = [0, *[cut for cut in cuts if cut], len(text)]
    return [text[a:b] for a, b in pairwise(borders) if b > a]


def stream_text(chunks: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """The documents of `split_text`, in pieces: (bytes, whether the document ends)."""
    yield from _not_blank(_split_stream(chunks, _EOT_WITHIN, _EOT_AT_END, _undecided_line, True))


def stream_articles(chunks: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """The articles of `split_articles`, in pieces: (bytes, whether the article ends)."""
    yield from _split_stream(chunks, _ARTICLE, _ARTICLE, _undecided_heading, False)


def _split_stream(
    chunks: Iterable[bytes],
    within: re.Pattern[bytes],
    at_end: re.Pattern[bytes],
    undecided: Callable[[bytes], int],
    separators: bool,
) -> Iterator[tuple[bytes, bool]]:
    """Cut a text at the matches of a pattern; (bytes, whether the document ends).

    Args:
        chunks: the text.
        within: the pattern while the text goes on. A match is a match whatever follows.
        at_end: the pattern in the last part of the text.
        undecided: the place in a part of a text from which on more text may bring a match.
        separators: whether matches part documents, and the line end before one is left out as
            it is; else a document begins with a match.
    """
    buffer = b"\n"  # the byte before the text, then what isn't given yet
    begun = found = False  # a document of which a piece was given; a separator
    following = iter(chunks)
    final = False
    while not final:
        chunk = next(following, None)
        final = chunk is None
        buffer += chunk or b""
        start = 1
        for match in (at_end if final else within).finditer(buffer, 1):
            if separators:
                found = True
                yield _without_line_end(buffer[start : match.start()]), True
                start, begun = match.end(), False
            elif begun or match.start() > start:
                yield buffer[start : match.start()], True
                start, begun = match.start(), False
        if final:
            rest = buffer[start:]
            if begun or rest:
                yield _without_line_end(rest) if found else rest, True
            return
        held = max(start, undecided(buffer) - 2)  # with the line end before a separator
        if held - start >= _PIECE_BYTES:
            while buffer[held] & 0xC0 == 0x80:  # inside a character
                held -= 1
            yield buffer[start:held], False
            start, begun = held, True
        buffer = buffer[start - 1 :]


def _undecided_line(buffer: bytes) -> int:
    """Where the last line begins, if it may become a separator; else the end."""
    begin = buffer.rfind(b"\n") + 1
    line = buffer[begin : begin + 1000]
    is_open = _EOT.startswith(line) or (line.startswith(_EOT) and not line[13:].strip(b" \t\r"))
    return begin if is_open else len(buffer)


def _undecided_heading(buffer: bytes) -> int:
    """Where the last three lines begin: a heading has a blank line before and after it."""
    at = len(buffer)
    for _ in range(3):
        at = buffer.rfind(b"\n", 0, at)
        if at < 0:
            return 0
    return at + 1


def _without_line_end(text: bytes) -> bytes:
    return text[:-1].removesuffix(b"\r") if text.endswith(b"\n") else text


def _not_blank(pieces: Iterable[tuple[bytes, bool]]) -> Iterator[tuple[bytes, bool]]:
    """The pieces without the documents of white space alone."""
    blank: list[bytes] | None = []  # what the document begins with; None: more came
    for piece, ends in pieces:
        if blank is not None:
            blank.append(piece)
            if piece.strip():
                yield b"".join(blank), ends
                blank = None
        else:
            yield piece, ends
        if ends:
            blank = []
