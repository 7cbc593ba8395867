"""Compressed files, decompressed as they are read."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from itera_lite.errors import DataError, MissingExtra


@contextmanager
def unpacked(raw: BinaryIO, path: Path) -> Iterator[BinaryIO]:
    """The contents of ``raw``: by the name of ``path``, gzip, Zstandard or itself.

    Raises:
        DataError: where reading fails, or the file is damaged or cut off.
        MissingExtra: Zstandard support isn't installed.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".gz":
            with gzip.open(raw) as file:
                yield file  # type: ignore[misc]
        elif suffix == ".zst":
            with _zstandard(raw, path) as file:
                yield file
        else:
            yield raw
    except (OSError, EOFError, zlib.error) as error:
        what = {".gz": "damaged gzip file", ".zst": "damaged Zstandard file"}.get(suffix)
        if what is None:
            raise DataError(f"{path}: can't be read ({error})") from error
        raise DataError(f"{path}: {what} ({error}); copy it again") from error


@contextmanager
def _zstandard(raw: BinaryIO, path: Path) -> Iterator[BinaryIO]:
    try:
        import zstandard
    except ImportError as error:
        raise MissingExtra("zstandard", "hub", f"Reading {path.name}") from error
    try:
        # Large texts are often packed with `zstd --long=31`.
        decompressor = zstandard.ZstdDecompressor(max_window_size=2**31)
        with io.BufferedReader(_Zstandard(raw, decompressor)) as file:
            yield file
    except zstandard.ZstdError as error:
        raise DataError(f"{path}: damaged Zstandard file ({error}); copy it again") from error


class _Zstandard(io.RawIOBase):
    """The contents of a Zstandard file. zstandard's own reader is silent where one is cut off."""

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
