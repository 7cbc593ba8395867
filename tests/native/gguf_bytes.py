"""GGUF files written byte by byte, so that every byte can be wrong on purpose.

A `Draft` holds what the file will say, and `Draft.render` makes the bytes without
checking anything.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
TENSOR_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 8, "bf16": 30}
_FORMATS = dict(zip((U8, I8, U16, I16, U32, I32, F32, BOOL), "BbHhIif?", strict=True))
_FORMATS |= {U64: "Q", I64: "q", F64: "d"}


def text(value: str | bytes) -> bytes:
    """A length and the bytes."""
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def scalar(kind: int, value: float | int | str | bytes) -> bytes:
    """A metadata value: its type and itself."""
    if kind == STRING:
        assert isinstance(value, str | bytes)
        return struct.pack("<I", STRING) + text(value)
    return struct.pack("<I" + _FORMATS[kind], kind, value)


def array(kind: int, values: Sequence[float | int | str | bytes]) -> bytes:
    """A metadata array: its type, its elements' type, their count and themselves."""
    head = struct.pack("<IIQ", ARRAY, kind, len(values))
    return head + b"".join(scalar(kind, value)[4:] for value in values)


@dataclass(frozen=True)
class Stored:
    """A tensor as the file describes it; `offset` None means where it lies."""

    dims: tuple[int, ...]  # as in the file: innermost first
    kind: int
    data: bytes
    offset: int | None = None
    n_dims: int | None = None


def encode(values: np.ndarray, kind: str) -> Stored:
    """A tensor in PyTorch's order, stored in one of `TENSOR_TYPES`."""
    dims = tuple(reversed(values.shape))
    flat = np.ascontiguousarray(values, dtype="<f4")
    if kind == "f32":
        raw = flat.tobytes()
    elif kind == "f16":
        raw = flat.astype("<f2").tobytes()
    elif kind == "bf16":
        raw = (flat.view("<u4") >> 16).astype("<u2").tobytes()
    else:
        blocks = flat.reshape(-1, 32)
        top = 127 if kind == "q8_0" else 7
        scale = np.abs(blocks).max(axis=1, keepdims=True) / top
        whole = np.rint(blocks / np.where(scale == 0, 1, scale)).astype(np.int8)
        if kind == "q8_0":
            payload = whole.view(np.uint8)
        else:
            nibbles = (whole + 8).astype(np.uint8)
            payload = nibbles[:, :16] | nibbles[:, 16:] << 4
        raw = np.concatenate([scale.astype("<f2").view(np.uint8), payload], axis=1).tobytes()
    return Stored(dims, TENSOR_TYPES[kind], raw)


@dataclass
class Draft:
    """What a file will say. The counts are the true ones unless they are given."""

    keys: list[tuple[str | bytes, bytes]] = field(default_factory=list)
    tensors: list[tuple[str | bytes, Stored]] = field(default_factory=list)
    magic: bytes = b"GGUF"
    version: int = 3
    n_keys: int | None = None
    n_tensors: int | None = None
    alignment: int = 32

    def copy(self) -> Draft:
        return replace(self, keys=list(self.keys), tensors=list(self.tensors))

    def set(self, key: str, value: bytes) -> Draft:
        """A copy in which the key has this value; a new key comes last."""
        other = self.copy()
        if key in dict(self.keys):
            other.keys = [(name, value if name == key else old) for name, old in self.keys]
        else:
            other.keys.append((key, value))
        return other

    def without(self, name: str) -> Draft:
        """A copy that lacks a key or a tensor."""
        other = self.copy()
        other.keys = [pair for pair in self.keys if pair[0] != name]
        other.tensors = [pair for pair in self.tensors if pair[0] != name]
        assert len(other.keys) + len(other.tensors) < len(self.keys) + len(self.tensors), name
        return other

    def tensor(self, name: str) -> Stored:
        return dict(self.tensors)[name]

    def put(self, name: str, stored: Stored) -> Draft:
        """A copy in which a tensor that is there is stored like this."""
        assert name in dict(self.tensors), name
        other = self.copy()
        other.tensors = [(old, stored if old == name else what) for old, what in self.tensors]
        return other

    def change(self, name: str, **fields: object) -> Draft:
        """A copy in which the description of a tensor has other fields."""
        return self.put(name, replace(self.tensor(name), **fields))  # type: ignore[arg-type]

    def aligned(self, alignment: int) -> Draft:
        """A copy that says and keeps another alignment."""
        return replace(self.set("general.alignment", scalar(U32, alignment)), alignment=alignment)

    def render(self) -> bytes:
        return self.sections()[0]

    def sections(self) -> tuple[bytes, dict[str, int]]:
        """The bytes, and where each section begins."""
        borders: dict[str, int] = {"version": 4}
        head = self.magic + struct.pack("<I", self.version)
        borders["counts"] = len(head)
        head += struct.pack("<Q", len(self.tensors) if self.n_tensors is None else self.n_tensors)
        borders["key_count"] = len(head)
        head += struct.pack("<Q", len(self.keys) if self.n_keys is None else self.n_keys)
        for i, (key, value) in enumerate(self.keys):
            borders[f"key_{i}"] = len(head)
            head += text(key) + value
            borders[f"value_{i}"] = len(head) - len(value)
        data = b""
        for i, (name, stored) in enumerate(self.tensors):
            borders[f"description_{i}"] = len(head)
            n_dims = len(stored.dims) if stored.n_dims is None else stored.n_dims
            offset = len(data) if stored.offset is None else stored.offset
            head += text(name) + struct.pack("<I", n_dims)
            head += b"".join(struct.pack("<Q", dim) for dim in stored.dims)
            head += struct.pack("<IQ", stored.kind, offset)
            data += stored.data + bytes(-len(stored.data) % self.alignment)
        borders["padding"] = len(head)
        head += bytes(-len(head) % self.alignment)
        borders["data"] = len(head)
        return head + data, borders
