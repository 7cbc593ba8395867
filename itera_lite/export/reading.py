"""Opens a GGUF file for Python's reader, which takes no compressed one and trusts every count."""

from __future__ import annotations

import gzip
import math
import struct
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from itera_lite.errors import ModelFileError
from itera_lite.files import named_in_utf8

# A compressed file may hold so many times its own size and so many bytes more, as in the engine.
MOST_INFLATION, MORE_INFLATION = 64, 1 << 20
_READ = 1 << 20  # bytes at a time
_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_NUMBERS = {  # bytes of a value
    GGUFValueType.UINT8: 1,
    GGUFValueType.INT8: 1,
    GGUFValueType.BOOL: 1,
    GGUFValueType.UINT16: 2,
    GGUFValueType.INT16: 2,
    GGUFValueType.UINT32: 4,
    GGUFValueType.INT32: 4,
    GGUFValueType.FLOAT32: 4,
    GGUFValueType.UINT64: 8,
    GGUFValueType.INT64: 8,
    GGUFValueType.FLOAT64: 8,
}
_MOST_DIMENSIONS = 4
_ALIGNMENT = "general.alignment"


def is_gzip(path: Path) -> bool:
    """Whether a file is compressed. Its content decides, not its name, as in the engine."""
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


@contextmanager
def inflated(path: Path) -> Iterator[Path]:
    """A path to the GGUF file without compression, while the block runs.

    Raises:
        ModelFileError: the compressed data are damaged, or hold more than the engine takes.
    """
    if not is_gzip(path):
        with named_in_utf8(path) as named:
            yield named
        return
    with tempfile.TemporaryDirectory(prefix="itera-") as folder:
        plain = Path(folder) / "model.gguf"
        most = path.stat().st_size * MOST_INFLATION + MORE_INFLATION
        try:
            with gzip.open(path, "rb") as source, open(plain, "wb") as sink:
                while data := source.read(_READ):
                    sink.write(data)
                    if sink.tell() > most:
                        raise ModelFileError(
                            f"{path}: it holds more than {MOST_INFLATION} times its size, which no "
                            "model does: it isn't read"
                        )
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ModelFileError(
                f"{path}: its compressed data are damaged ({error}). Export it again, or fetch it "
                "again"
            ) from None
        yield plain


def check_structure(path: Path, name: Path) -> None:
    """Check a GGUF file that the engine doesn't read, before Python's reader takes it.

    Every count, length, type and place is compared with the file's size, so that the reader's time
    and memory are in proportion to it.

    Args:
        path: the file without compression; ``name``: the file as the user named it.

    Raises:
        ModelFileError: it isn't a whole GGUF file; the message has what is wrong.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        try:
            _Structure(file, size).check()
        except (_Wrong, struct.error) as error:
            what = str(error) if isinstance(error, _Wrong) else "it ends too early"
            raise ModelFileError(
                f"{name}: no whole GGUF file: {what}. Export it again, or fetch it again"
            ) from None


class _Wrong(Exception):
    """What is wrong with a file."""


class _Structure:
    """Walks over the header of a GGUF file.

    Args:
        file: open, at its beginning.
        size: of the file in bytes.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self._alignment = 32

    def check(self) -> None:
        if self._bytes(4) != _MAGIC:
            raise _Wrong("it doesn't begin with GGUF")
        if (version := self._number("<I")) not in _VERSIONS:
            raise _Wrong(f"version {version}, expected 2 or 3")
        tensors, keys = self._number("<Q"), self._number("<Q")
        if tensors > self._left() // 24 or keys > self._left() // 12:
            raise _Wrong(f"{tensors:,} tensors and {keys:,} keys don't fit into it")
        names = [self._key() for _ in range(keys)]
        ends = [self._tensor(names) for _ in range(tensors)]
        if len(set(names)) < len(names):
            raise _Wrong("a name stands twice")
        begin = -(-self._file.tell() // self._alignment) * self._alignment
        if max(ends, default=0) > self._size - begin:
            raise _Wrong("a tensor goes beyond its end")

    def _key(self) -> str:
        name, kind = self._text(), self._kind()
        if kind is GGUFValueType.ARRAY:
            kind, count = self._kind(), self._number("<Q")
            if kind is GGUFValueType.ARRAY:
                raise _Wrong(f"'{_shown(name)}' is an array of arrays")
            if count > self._left() // _NUMBERS.get(kind, 8):
                raise _Wrong(f"'{_shown(name)}' has {count:,} values, which don't fit into it")
            self._values(kind, count)
        elif name == _ALIGNMENT:
            self._alignment = self._number("<I") if kind is GGUFValueType.UINT32 else 0
            if self._alignment < 1 or self._alignment & (self._alignment - 1):
                raise _Wrong(f"'{_ALIGNMENT}' is no power of two")
        else:
            self._values(kind, 1)
        return name

    def _tensor(self, names: list[str]) -> int:
        """Read a tensor's entry. Gives where its numbers end, counted from where all numbers begin.

        Args:
            names: gets the tensor's name.
        """
        name = self._text()
        names.append(f"tensor {name}")
        dimensions = self._number("<I")
        if not 1 <= dimensions <= _MOST_DIMENSIONS:
            raise _Wrong(f"'{_shown(name)}' has {dimensions} dimensions")
        shape = [self._number("<Q") for _ in range(dimensions)]
        number, offset = self._number("<I"), self._number("<Q")
        try:
            block, n_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(number)]
        except (ValueError, KeyError):
            raise _Wrong(f"'{_shown(name)}' has the unknown type {number}") from None
        if min(shape) < 1 or shape[0] % block:
            raise _Wrong(f"'{_shown(name)}' has the shape {shape}")
        if offset % self._alignment:
            raise _Wrong(f"'{_shown(name)}' begins at {offset}, which isn't aligned")
        return offset + math.prod(shape) // block * n_bytes

    def _values(self, kind: GGUFValueType, count: int) -> None:
        if kind is GGUFValueType.STRING:
            for _ in range(count):
                self._text()
        else:
            self._bytes(_NUMBERS[kind] * count)

    def _kind(self) -> GGUFValueType:
        number = self._number("<I")
        try:
            return GGUFValueType(number)
        except ValueError:
            raise _Wrong(f"the unknown type {number} of a value") from None

    def _text(self) -> str:
        length = self._number("<Q")
        if length > self._left():
            raise _Wrong(f"a text of {length:,} bytes doesn't fit into it")
        try:
            return self._bytes(length).decode("utf-8")
        except UnicodeDecodeError:
            raise _Wrong("a text isn't UTF-8") from None

    def _number(self, form: str) -> int:
        (number,) = struct.unpack(form, self._file.read(struct.calcsize(form)))
        return int(number)

    def _bytes(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) != count:
            raise _Wrong("it ends too early")
        return data

    def _left(self) -> int:
        return self._size - self._file.tell()


def _shown(name: str) -> str:
    return ascii(name[:60])[1:-1]
