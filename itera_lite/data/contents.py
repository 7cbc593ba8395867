"""The contents of a file, some at a time: decompressed, as valid UTF-8, from the start again.

Memory stays the same whatever the size of the file. `valid_utf8` does the same for text that is in
memory, and the tests hold the two equal.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from itera_lite.data.compression import SUFFIXES, decompressed
from itera_lite.data.repairs import Repairs
from itera_lite.errors import DataError

CHUNK_BYTES = 1 << 20  # read at a time

_MAGIC = {
    b"%PDF": "a PDF file",
    b"PK\3\4": "a zip file (.docx, .xlsx, .odt and .epub are such)",
    b"\x1f\x8b": "a gzip file, whose name has to end in .gz",
    b"\x28\xb5\x2f\xfd": "a Zstandard file, whose name has to end in .zst",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"PAR1": "a Parquet file, whose name has to end in .parquet",
}
_BOM = b"\xef\xbb\xbf"
_MOST_INVALID = 0.3  # share of the characters; what holds more isn't text in UTF-8
_HEAD_BYTES = 4000  # by which text in UTF-16 is recognised


class Contents:
    """What a file holds.

    Attributes:
        path: where it lies.
        shown: its name in messages, which decides the compression by its ending.
        position: bytes read so far, as they are stored.
    """

    def __init__(self, path: Path, shown: str | None = None) -> None:
        self.path, self.shown = path, shown or str(path)
        self.position = 0
        self._replaced = self._characters = 0
        self._head = b""

    @property
    def name(self) -> str:
        return Path(self.shown).name

    @property
    def is_compressed(self) -> bool:
        return self.shown.lower().endswith(SUFFIXES)

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The bytes, decompressed.

        Raises:
            DataError: the file can't be read, or is damaged.
            MissingExtra: Zstandard support isn't installed.
        """
        try:
            raw = self.path.open("rb")
        except OSError as error:
            raise DataError(f"{self.shown}: can't be read ({error.strerror or error})") from error
        with raw, decompressed(raw, Path(self.shown), self.shown) as file:
            self._raw = raw
            yield file
        self.position = 0

    def is_empty(self) -> bool:
        """Whether the file holds no byte, decompressed."""
        with self.open() as file:
            return not file.read(1)

    def whole(self) -> bytes:
        """All bytes at once."""
        with self.open() as file:
            return file.read()

    def chunks(self, repairs: Repairs | None = None) -> Iterator[bytes]:
        """The text as valid UTF-8, in chunks of whole characters, without byte-order mark.

        Args:
            repairs: counts what was replaced, when the end is reached.

        Raises:
            DataError: the bytes aren't text in UTF-8 at all.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._replaced = self._characters = 0
        offset = lines = 0
        with self.open() as file:
            while chunk := file.read(CHUNK_BYTES):
                self.position = self._raw.tell()
                if not offset:
                    self._head = chunk[:_HEAD_BYTES]
                    _refuse_utf16(chunk, self.shown)
                if b"\0" in chunk:
                    first = chunk.index(0)
                    line = lines + chunk.count(10, 0, first) + 1
                    raise DataError(_binary(self._head, self.shown, offset + first, line))
                lines += chunk.count(10)
                text = chunk.removeprefix(_BOM) if not offset else chunk
                offset += len(chunk)
                if valid := self._valid(decoder, text):
                    yield valid
        if rest := self._valid(decoder, b"", final=True):
            yield rest
        self.check()
        if repairs is not None and self._replaced:
            repairs.invalid.add(self.name, self._replaced)

    def lines(self, repairs: Repairs | None = None) -> Iterator[bytes]:
        """The lines, without the line end ``\\n``; raises as `chunks`."""
        begun: list[bytes] = []
        for chunk in self.chunks(repairs):
            first, *others = chunk.split(b"\n")
            begun.append(first)
            if others:
                yield b"".join(begun)
                *whole, last = others
                yield from whole
                begun = [last]
        yield b"".join(begun)

    def text(self, repairs: Repairs | None = None) -> io.TextIOWrapper:
        """The text as a file whose line ends stay as they are; raises as `chunks`."""
        stream = io.BufferedReader(_Chunks(self.chunks(repairs)))
        return io.TextIOWrapper(stream, encoding="utf-8", newline="")

    def check(self) -> None:
        """Raises `DataError` if too much of what was read last isn't UTF-8 to be text."""
        if self._replaced > self._characters * _MOST_INVALID:
            raise DataError(_no_utf8(self.shown, self._replaced, self._characters, self._head))

    def _valid(
        self, decoder: codecs.IncrementalDecoder, chunk: bytes, final: bool = False
    ) -> bytes:
        raw = decoder.getstate()[0] + chunk
        text = decoder.decode(chunk, final)
        rest = decoder.getstate()[0]  # the first bytes of a character
        raw = raw[: len(raw) - len(rest)]
        replaced = text.count("\ufffd") - raw.count(b"\xef\xbf\xbd")
        self._characters += len(text)
        self._replaced += replaced
        return text.encode("utf-8") if replaced else raw


class _Chunks(io.RawIOBase):
    """A stream of the chunks of an iterator."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._ready = chunks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._ready = memoryview(chunk)
        n = min(len(buffer), len(self._ready))
        buffer[:n] = self._ready[:n]
        self._ready = self._ready[n:]
        return n


def valid_utf8(raw: bytes, origin: str, repairs: Repairs) -> bytes:
    """The text as valid UTF-8 without byte-order mark; what isn't UTF-8 is replaced and counted.

    Raises:
        DataError: the bytes aren't text in UTF-8 at all.
    """
    _refuse_utf16(raw, origin)
    if b"\0" in raw:
        first = raw.index(0)
        raise DataError(_binary(raw[:_HEAD_BYTES], origin, first, raw.count(10, 0, first) + 1))
    raw = raw.removeprefix(_BOM)
    try:
        raw.decode("utf-8")
        return raw
    except UnicodeDecodeError:
        text = raw.decode("utf-8", "replace")
    count = text.count("\ufffd") - raw.count(b"\xef\xbf\xbd")
    if count > len(text) * _MOST_INVALID:
        raise DataError(_no_utf8(origin, count, len(text), raw))
    repairs.invalid.add(Path(origin).name, count)
    return text.encode("utf-8")


def _refuse_utf16(begins: bytes, origin: str) -> None:
    if begins[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{origin}: text in UTF-16; expected UTF-8. {_convert(origin, 'UTF-16')}")


def _no_utf8(origin: str, count: int, characters: int, begins: bytes) -> str:
    return (
        f"{origin}: {count:,} of {characters:,} characters aren't valid UTF-8"
        f"{_looks_like(begins)}. It is a binary file or has another encoding. Convert it to "
        "UTF-8 first, such as with iconv -f ENCODING -t UTF-8"
    )


def _binary(head: bytes, origin: str, first: int, line: int) -> str:
    """The error message for a file with NUL bytes, the first at byte ``first`` in ``line``."""
    even, odd = head[0::2].count(0), head[1::2].count(0)
    for name, many, few in (("UTF-16LE", odd, even), ("UTF-16BE", even, odd)):
        if many >= 8 and many > 0.3 * len(head[0::2]) and few < 0.1 * many:
            return (
                f"{origin}: looks like text in {name} (it holds NUL bytes); expected UTF-8. "
                + _convert(origin, name)
            )
    return (
        f"{origin}: a binary file (it holds NUL bytes, the first in line {line}, at byte "
        f"{first:,}){_looks_like(head)}; expected text in UTF-8. If it is text, take them out: "
        "tr -d '\\0' < FILE > NEW"
    )


def _convert(origin: str, encoding: str) -> str:
    file = Path(origin).name if "/" in origin else "FILE"
    return f"Convert it first: iconv -f {encoding} -t UTF-8 {file} > NEW"


def _looks_like(begins: bytes) -> str:
    found = next((name for magic, name in _MAGIC.items() if begins.startswith(magic)), None)
    return f"; it begins like {found}" if found else ""
