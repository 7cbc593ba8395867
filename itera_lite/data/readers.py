"""Reads the documents of a file: plain text or a table, also compressed."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

from itera_lite.data.compression import decompressed, uncompressed_name
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

_MAGIC = {
    b"%PDF": "a PDF file",
    b"PK\3\4": "a zip file (.docx, .xlsx, .odt and .epub are such)",
    b"\x1f\x8b": "a gzip file, whose name has to end in .gz",
    b"\x28\xb5\x2f\xfd": "a Zstandard file, whose name has to end in .zst",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"PAR1": "a Parquet file, whose name has to end in .parquet",
}
_EOT_LINE = re.compile(rb"(?:\A|(?<=\n))<\|endoftext\|>[ \t]*\r?(?:\n|\Z)")
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
) -> list[bytes]:
    """The documents of one file as valid UTF-8, empty ones left out.

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

    Raises:
        DataError: the file can't be read, isn't text, or lacks the column.
        MissingExtra: Parquet or Zstandard support isn't installed.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror or error})") from error
    with file, decompressed(file, path) as contents:
        raw = contents.read()
    if not raw:
        repairs.empty_files += 1
        return []
    kind = kind_of(path) or "text"
    text = raw if kind == "parquet" else valid_utf8(raw, str(path), repairs)
    if kind == "text":
        return split_articles(text) if wikitext else split_text(text)
    rows = Table(path, text, kind, column, data or str(path), repairs, required).documents()
    if wikitext:  # rows are lines there, and a blank line is an empty row
        return split_articles(b"".join([row or b" \n" for row in rows]))
    return [row for row in rows if row.strip()]


def valid_utf8(raw: bytes, origin: str, repairs: Repairs) -> bytes:
    """The text as valid UTF-8 without byte-order mark; what isn't UTF-8 is replaced and counted.

    Raises:
        DataError: the bytes aren't text in UTF-8 at all.
    """
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{origin}: text in UTF-16; expected UTF-8. {_convert(origin, 'UTF-16')}")
    if b"\0" in raw:
        raise DataError(_binary(raw, origin))
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    try:
        raw.decode("utf-8")
        return raw
    except UnicodeDecodeError:
        text = raw.decode("utf-8", "replace")
    count = text.count("\ufffd") - raw.count(b"\xef\xbf\xbd")
    if count > len(text) * 0.3:
        raise DataError(
            f"{origin}: {count:,} of {len(text):,} characters aren't valid UTF-8"
            f"{_looks_like(raw)}. It is a binary file or has another encoding. Convert it to "
            "UTF-8 first, such as with iconv -f ENCODING -t UTF-8"
        )
    repairs.invalid.add(Path(origin).name, count)
    return text.encode("utf-8")


def _binary(raw: bytes, origin: str) -> str:
    """The error message for a file with NUL bytes."""
    even, odd = raw[0:4000:2].count(0), raw[1:4000:2].count(0)
    for name, many, few in (("UTF-16LE", odd, even), ("UTF-16BE", even, odd)):
        if many >= 8 and many > 0.3 * len(raw[0:4000:2]) and few < 0.1 * many:
            return (
                f"{origin}: looks like text in {name} (it holds NUL bytes); expected UTF-8. "
                + _convert(origin, name)
            )
    first = raw.index(0)
    return (
        f"{origin}: a binary file (it holds NUL bytes, the first in line "
        f"{raw.count(10, 0, first) + 1}, at byte {first:,}){_looks_like(raw)}; expected text in "
        "UTF-8. If it is text, take them out: tr -d '\\0' < FILE > NEW"
    )


def _convert(origin: str, encoding: str) -> str:
    file = Path(origin).name if "/" in origin else "FILE"
    return f"Convert it first: iconv -f {encoding} -t UTF-8 {file} > NEW"


def _looks_like(raw: bytes) -> str:
    found = next((name for magic, name in _MAGIC.items() if raw.startswith(magic)), None)
    return f"; it begins like {found}" if found else ""


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
