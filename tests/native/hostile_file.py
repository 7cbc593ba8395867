"""Hostile files whose framing, metadata or tensors' descriptions are wrong."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tests.native.gguf_bytes import (
    ARRAY,
    BOOL,
    F32,
    I32,
    STRING,
    U8,
    U32,
    U64,
    Stored,
    array,
    encode,
    scalar,
)
from tests.native.gguf_models import D, hybrid, llama

EITHER = "*"  # a file that may load: then using it must end in success or in the one error
HUGE = [2**31, 2**32, 2**61, 2**62, 2**63, 2**64 - 1]


@dataclass(frozen=True)
class Hostile:
    """A file. ``message`` is a part of the error that must come, or `EITHER`."""

    name: str
    data: bytes
    message: str


def framing() -> Iterator[Hostile]:
    def case(name: str, message: str, **fields: object) -> Hostile:
        draft = hybrid()
        for field, value in fields.items():
            setattr(draft, field, value)
        return Hostile(name, draft.render(), message)

    yield Hostile("empty", b"", "is empty")
    yield Hostile("one-byte", b"G", "GGUF")
    yield case("magic-wrong", "GGUF", magic=b"GGML")
    yield case("magic-reversed", "GGUF", magic=b"FUGG")
    yield case("version-0", "version 0", version=0)
    yield case("version-1", "version 1", version=1)
    yield case("version-4", "version 4", version=4)
    yield case("version-big-endian", "big-endian", version=3 << 24)
    yield case("zeros", "GGUF", magic=bytes(4), version=0)
    for count in (10**6, *HUGE):
        yield case(f"key-count-{count}", "metadata keys", n_keys=count)
        yield case(f"tensor-count-{count}", "number of tensors", n_tensors=count)
    yield case("key-count-0", EITHER, n_keys=0)
    yield case("tensor-count-0", EITHER, n_tensors=0)
    yield case("key-count-one-more", EITHER, n_keys=len(hybrid().keys) + 1)
    yield case("key-count-one-less", EITHER, n_keys=len(hybrid().keys) - 1)
    yield case("tensor-count-one-more", EITHER, n_tensors=len(hybrid().tensors) + 1)
    yield case("tensor-count-one-less", EITHER, n_tensors=len(hybrid().tensors) - 1)


def truncated() -> Iterator[Hostile]:
    for base, draft in (("hybrid", hybrid()), ("llama", llama("q8_0"))):
        data, borders = draft.sections()
        for border, offset in borders.items():
            for shift in (-1, 0, 1):
                if base == "hybrid" or shift == 0:
                    yield Hostile(f"{base}-cut-at-{border}{shift:+d}", data[: offset + shift], "")
        for offset in np.linspace(borders["data"] + 2, len(data) - 33, 16).astype(int):
            yield Hostile(f"{base}-cut-in-data-at-{offset}", data[:offset], "cut short")


def metadata() -> Iterator[Hostile]:
    base = hybrid()
    key = "granitehybrid.embedding_length"

    def raw(name: str, message: str, value: bytes, of: str = "test.key") -> Hostile:
        return Hostile(name, base.set(of, value).render(), message)

    yield raw("kind-13", "has type 13", struct.pack("<I", 13))
    yield raw("kind-huge", "has type 4294967295", struct.pack("<I", 2**32 - 1))
    yield raw(
        "array-of-arrays", "array of arrays", struct.pack("<IIQ", ARRAY, ARRAY, 1) + bytes(64)
    )
    deep = struct.pack("<I", ARRAY) + struct.pack("<IQ", ARRAY, 1) * 1000
    yield raw("array-of-arrays-deep", "array of arrays", deep)
    yield raw("array-kind-99", "has type 99", struct.pack("<IIQ", ARRAY, 99, 1))
    for count in HUGE:
        for kind in (U8, U64, STRING):
            head = struct.pack("<IIQ", ARRAY, kind, count)
            yield raw(f"array-of-{kind}-length-{count}", "bytes follow", head)
        yield raw(f"string-length-{count}", "follow", struct.pack("<IQ", STRING, count))
        bad_key = base.copy()
        bad_key.keys[3] = (base.keys[3][0], base.keys[3][1])
        data, borders = base.sections()
        at = borders["key_3"]
        patched = data[:at] + struct.pack("<Q", count) + data[at + 8 :]
        yield Hostile(f"key-length-{count}", patched, "")
    yield raw("bool-2", "boolean", struct.pack("<IB", BOOL, 2))
    yield raw("bool-255-in-array", "boolean", struct.pack("<IIQ3B", ARRAY, BOOL, 3, 1, 255, 0))
    yield raw("empty-key", "metadata key", scalar(U32, 1), of="")
    yield raw("long-key", "metadata key", scalar(U32, 1), of="k" * 65536)
    yield raw("strange-keys", EITHER, scalar(U32, 1), of=key + "\x1b[2J\0")

    twice = base.copy()
    twice.keys.append((key, scalar(U32, D)))
    yield Hostile("key-twice", twice.render(), "appears twice")
    twice = base.copy()
    twice.keys.append((b"\x1b[2J\xff", scalar(U32, 1)))
    twice.keys.append((b"\x1b[2J\xff", scalar(U32, 1)))
    yield Hostile("key-twice-with-control-bytes", twice.render(), r"'\x1b[2J\xff'")
    same = base.copy()
    same.keys += [("a" * 1000 + str(i), scalar(U32, i)) for i in range(2000)]
    yield Hostile("keys-with-one-long-beginning", same.render(), EITHER)

    for value in (0, 1, 4, 7, 24, 33, 2**21, 2**31, 2**32 - 1):
        yield raw(
            f"alignment-{value}", "general.alignment", scalar(U32, value), "general.alignment"
        )
    yield raw("alignment-u64", "general.alignment", scalar(U64, 32), "general.alignment")
    yield raw("alignment-text", "general.alignment", scalar(STRING, "32"), "general.alignment")
    yield raw("alignment-array", "general.alignment", array(U32, [32]), "general.alignment")
    yield raw("alignment-other-than-data", "", scalar(U32, 4096), "general.alignment")

    for base_name, draft in (("hybrid", base), ("llama", llama())):
        for name, value in draft.keys:
            assert isinstance(name, str)
            if name.startswith("general.file_type"):
                continue
            wrong = (
                scalar(F32, 1.5) if value[:4] == struct.pack("<I", STRING) else scalar(STRING, "")
            )
            yield Hostile(
                f"{base_name}-wrong-type-{name}",
                draft.set(name, wrong).render(),
                EITHER if _optional(name) else name.split(".")[-1],
            )
            yield Hostile(f"{base_name}-without-{name}", draft.without(name).render(), EITHER)
    yield raw("embedding-length-as-array", "embedding_length", array(U32, [D]), key)
    yield raw("embedding-length-bool", "embedding_length", scalar(BOOL, True), key)
    yield raw("embedding-length-negative", "embedding_length", scalar(I32, -32), key)
    yield raw(
        "architecture-unknown", "architecture", scalar(STRING, "gpt2"), "general.architecture"
    )
    yield raw("architecture-other", "", scalar(STRING, "llama"), "general.architecture")
    yield raw("architecture-long", "", scalar(STRING, "a" * 60000), "general.architecture")


def _optional(key: str) -> bool:
    """Whether an engine may never look at the key."""
    return key.endswith((".add_bos_token", ".bos_token_id", "rope.freq_base", "dimension_count"))


def tensors() -> Iterator[Hostile]:
    base, name = hybrid(), "blk.0.ssm_in.weight"
    size = len(base.render())

    def case(label: str, message: str, tensor: str = name, **fields: object) -> Hostile:
        return Hostile(f"tensor-{label}", base.change(tensor, **fields).render(), message)

    for n_dims in (0, 5, 2**31, 2**32 - 1):
        yield case(f"n-dims-{n_dims}", f"{n_dims} dimensions", n_dims=n_dims)
    yield case("n-dims-one-less", "", n_dims=1)
    yield case("dim-0", "dimension of 0", dims=(D, 0))
    yield case("row-0", "dimension of 0", dims=(0, D))
    for value in HUGE:
        yield case(f"dim-{value}", "bytes", dims=(D, value))
        yield case(f"row-{value}", "", dims=(value, D))
        yield case(f"dims-all-{value}", "", dims=(value, value, value, value))
        yield case(f"offset-{value}", "", offset=value)
    # 2^32 * 2^32 * 32 wraps to 0 bytes
    yield case("dims-wrap-to-0", "64 bits", dims=(32, 2**32, 2**32))
    yield case("dims-wrap-to-right-size", "64 bits", dims=(32, 2**63, 2), kind=0)
    yield case("row-not-whole-blocks", "multiple of 32", dims=(D - 1, 146))
    yield case("offset-unaligned", "multiple of general.alignment", offset=8)
    yield case("offset-at-the-end", "bytes of tensor data", offset=size // 32 * 32)
    yield case("offset-wraps", "bytes of tensor data", offset=2**64 - 32)
    yield case("overlaps", "overlap", offset=0)
    yield case("overlaps-by-one-block", "overlap", "output_norm.weight", offset=32)
    for kind in (3, 4, 6, 12, 14, 24, 35, 41, 255, 2**32 - 1):
        yield case(f"type-{kind}", f"'{name}' has type {kind}", kind=kind)
    for kind in (0, 1, 2, 30):
        yield case(f"type-{kind}-of-q8_0-data", EITHER, kind=kind)
    yield case("norm-in-q8_0", "", "output_norm.weight", kind=8)

    for label, renamed in {
        "empty": "",
        "long": "n" * 65,
        "very-long": "n" * 70000,
        "nul": "blk.0.ssm_in.weight\0",
        "not-utf-8": b"\xff\xfe",
    }.items():
        other = base.copy()
        other.tensors[0] = (renamed, other.tensors[0][1])
        yield Hostile(f"tensor-name-{label}", other.render(), "")
    twice = base.copy()
    twice.tensors.append(twice.tensors[0])
    yield Hostile("tensor-twice", twice.render(), "'token_embd.weight' appears twice")
    for tensor, _ in base.tensors:
        assert isinstance(tensor, str)
        yield Hostile(f"without-{tensor}", base.without(tensor).render(), tensor)
    for tensor, _ in llama().tensors:
        assert isinstance(tensor, str)
        yield Hostile(f"llama-without-{tensor}", llama().without(tensor).render(), tensor)
    extra = base.copy()
    extra.tensors += [(f"extra.{i}", Stored((1,), 0, bytes(4))) for i in range(500)]
    yield Hostile("tensors-of-one-value", extra.render(), "'extra.0'")
    head = base.copy()
    head.tensors.append(("output.weight", encode(np.ones((D, D)), "f32")))
    yield Hostile("head-of-another-shape", head.render(), "output.weight")


def gzipped() -> Iterator[Hostile]:
    """Wrong files in gzip's format; see also the tests of `itera_lite.files.gzipped`."""
    content = hybrid().render()
    good = gzip.compress(content, 9, mtime=0)
    header, trailer = good[:10], good[-8:]

    def case(name: str, message: str, data: bytes) -> Hostile:
        return Hostile(f"gzip-{name}", data, message)

    yield case("magic-alone", "cut short", good[:2])
    for size in (3, 9, 10, 11, 18, len(good) // 2, len(good) - 9, len(good) - 1):
        yield case(f"cut-at-{size}", "gzip file", good[:size])
    yield case("then-a-zero", "larger than its last four bytes state; of 4 GiB", good + b"\0")
    yield case("then-a-line", "1 bytes after its end", good + b"\n")
    yield case("then-another", f"{len(good)} bytes after its end", good + good)
    yield case("of-nothing", "is empty", gzip.compress(b""))
    yield case("of-text", "doesn't begin with 'GGUF'", gzip.compress(b"Once upon a time"))
    yield case("of-gzip", "doesn't begin with 'GGUF'", gzip.compress(good))
    yield case("of-a-cut-model", "cut short", gzip.compress(content[:-100]))
    yield case("method-7", "unknown compression method", good[:2] + b"\x07" + good[3:])
    yield case("reserved-flags", "unknown header flags", good[:3] + b"\xe0" + good[4:])
    yield case("checksum", "incorrect data check", good[:-8] + b"\0\0\0\0" + good[-4:])
    size = int.from_bytes(good[-4:], "little")
    for other in (0, 1, size - 1, size + 1, 2**31, 2**32 - 1):
        data = good[:-4] + struct.pack("<I", other)
        yield case(f"size-{other}", "damaged gzip file", data)
    yield case("bomb", "is no trained model", gzip.compress(bytes(100 * 2**20)))
    raw = zlib.compressobj(9, wbits=-15)
    stream = raw.compress(content) + raw.flush()
    yield case("without-trailer", "cut short", header + stream)
    yield case("block-type-3", "invalid block type", header + b"\x07" + trailer)
    yield case("distance-before-the-start", "invalid distance", header + b"\x63\0\x02" + trailer)
    random = np.random.default_rng(4)
    for i in range(100):
        bad = bytearray(good)
        for at in random.integers(2, len(bad), 1 + i % 3):
            bad[at] ^= 1 << int(random.integers(8))
        yield case(f"flip-{i}", EITHER, bytes(bad))


def flips() -> Iterator[Hostile]:
    random = np.random.default_rng(3)
    for base_name, draft in (("hybrid", hybrid()), ("llama", llama("q8_0"))):
        data, borders = draft.sections()
        for i in range(200):
            bad = bytearray(data)
            limit = borders["data"] if i % 4 else len(data)  # weights accept any bits
            for at in random.integers(0, limit, 1 + i % 3):
                bad[at] ^= 1 << int(random.integers(8))
            yield Hostile(f"{base_name}-flip-{i}", bytes(bad), EITHER)
