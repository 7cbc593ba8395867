"""gzip and Zstandard files, recognised by their endings."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from itera_lite.errors import DataError, MissingExtra

SUFFIXES = (".gz", ".zst")


def uncompressed_name(path: str | Path) -> str:
    """A file's name in lower case, without the ending of a compressed file."""
    name = Path(path).name.lower()
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def compressor(suffix: str, path: Path) -> Callable[[BinaryIO], Any]:
    """What opens a compressed file for writing on top of a raw one.

    Args:
        suffix: ``.gz`` or ``.zst``.
        path: the file, for the message.

    Raises:
        MissingExtra: Zstandard support isn't installed.
    """
    if suffix == ".gz":
        return lambda raw: gzip.GzipFile("", "wb", 6, fileobj=raw, mtime=0)  # as gzip itself
    zstandard = _zstandard(f"Writing {path.name}")
    return lambda raw: zstandard.ZstdCompressor().stream_writer(raw, closefd=False)


def _zstandard(purpose: str) -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise MissingExtra("zstandard", "hub", purpose) from error
    return zstandard


@contextmanager
def decompressed(raw: BinaryIO, path: Path, shown: str | None = None) -> Iterator[BinaryIO]:
    """The contents of ``raw``, decompressed if the name of ``path`` ends in .gz or .zst.

    Args:
        raw: the file as it is stored.
        path: its name.
        shown: its name in messages, where that is another.

    Raises:
        DataError: where reading fails, or the file is damaged or cut off.
        MissingExtra: Zstandard support isn't installed.
    """
    suffix, shown = path.suffix.lower(), shown or str(path)
    try:
        if suffix == ".gz":
            with gzip.open(raw) as file:
                yield file  # type: ignore[misc]
        elif suffix == ".zst":
            with _decompressed_zstandard(raw, shown) as file:
                yield file
        else:
            yield raw
    except (OSError, EOFError, zlib.error) as error:
        what = {".gz": "damaged gzip file", ".zst": "damaged Zstandard file"}.get(suffix)
        if what is None:
            raise DataError(f"{shown}: can't be read ({error})") from error
        raise DataError(f"{shown}: {what} ({error}); copy it again") from error


@contextmanager
def _decompressed_zstandard(raw: BinaryIO, shown: str) -> Iterator[BinaryIO]:
    zstandard = _zstandard(f"Reading {Path(shown).name}")
    try:
        # Large texts are often packed with `zstd --long=31`.
        decompressor = zstandard.ZstdDecompressor(max_window_size=2**31)
        with io.BufferedReader(_ZstandardReader(raw, decompressor)) as file:
            yield file
    except zstandard.ZstdError as error:
        raise DataError(f"{shown}: damaged Zstandard file ({error}); copy it again") from error


class _ZstandardReader(io.RawIOBase):
    """Decompresses a Zstandard file; unlike the library's own reader, it fails where the file is
    cut off."""

    def __init__(self, raw: BinaryIO, decompressor: Any) -> None:
        self._raw, self._decompressor = raw, decompressor
        self._frame: Any = None  # the one that has begun and not ended
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            chunk = self._raw.read(1 << 14)
            if not chunk:
                if self._frame is not None:
                    raise EOFError("it is cut off")
                return 0
            self._ready = memoryview(self._decompress(chunk))
        n = min(len(buffer), len(self._ready))
        buffer[:n] = self._ready[:n]
        self._ready = self._ready[n:]
        return n

    def _decompress(self, chunk: bytes) -> bytes:
        out = b""
        while chunk:
            if self._frame is None:
                self._frame = self._decompressor.decompressobj()
            out += self._frame.decompress(chunk)
            chunk = self._frame.unused_data
            if self._frame.eof:
                self._frame = None
        return out
