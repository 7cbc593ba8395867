"""Makes GGUF files that are wrong on purpose: ``python -m tests.native.hostile FOLDER``.

Each is one small change to a valid file, so that nothing but the change can be what refuses it.
With ``--seeds`` it writes the valid ones instead, and the names in them, for a fuzzer.
"""

from __future__ import annotations

import argparse
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.native.gguf_bytes import (
    ARRAY,
    BOOL,
    EXPERTS,
    F32,
    I8,
    I32,
    MERGES,
    STRING,
    U8,
    U16,
    U32,
    U64,
    D,
    F,
    Stored,
    array,
    encode,
    hybrid,
    llama,
    scalar,
    text,
    tokens,
)

EITHER = "*"  # a file that may load: then using it must end in success or in the one error
HUGE = [2**31, 2**32, 2**61, 2**62, 2**63, 2**64 - 1]


@dataclass(frozen=True)
class Hostile:
    """A file. ``message`` is a part of the error that must come, or `EITHER`."""

    name: str
    data: bytes
    message: str


def valid() -> dict[str, bytes]:
    """The files that must load."""
    files = {
        "hybrid-q8_0": hybrid(),
        "hybrid-q4_0": hybrid("q4_0", "am"),
        "hybrid-f32-dense": hybrid("f32", "ma", n_experts=0),
        "hybrid-bf16": hybrid("bf16", "a"),
        "llama-f32": llama(),
        "llama-f16": llama("f16", layers=2),
        "llama-q8_0-version-2": llama("q8_0"),
    }
    files["llama-q8_0-version-2"].version = 2
    return {name: draft.render() for name, draft in files.items()}


def hostile() -> list[Hostile]:
    """All the files that are wrong, each under its own name."""
    return [case for group in GROUPS.values() for case in group()]


def _framing() -> Iterator[Hostile]:
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


def _truncated() -> Iterator[Hostile]:
    for base, draft in (("hybrid", hybrid()), ("llama", llama("q8_0"))):
        data, borders = draft.sections()
        for border, offset in borders.items():
            for shift in (-1, 0, 1):
                if base == "hybrid" or shift == 0:
                    yield Hostile(f"{base}-cut-at-{border}{shift:+d}", data[: offset + shift], "")
        for offset in np.linspace(borders["data"] + 2, len(data) - 33, 16).astype(int):
            yield Hostile(f"{base}-cut-in-data-at-{offset}", data[:offset], "cut short")


def _metadata() -> Iterator[Hostile]:
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


def _tensors() -> Iterator[Hostile]:
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
    yield Hostile("tensors-of-one-value", extra.render(), EITHER)
    head = base.copy()
    head.tensors.append(("output.weight", encode(np.ones((D, D)), "f32")))
    yield Hostile("head-of-another-shape", head.render(), "output.weight")


def _shapes() -> Iterator[Hostile]:
    """Metadata that disagrees with the tensors, or with itself."""
    for base_name, base in (("hybrid", hybrid()), ("llama", llama())):
        prefix = "granitehybrid." if base_name == "hybrid" else "llama."
        for key in (
            "block_count",
            "embedding_length",
            "feed_forward_length",
            "vocab_size",
            "attention.head_count",
            "expert_count",
            "ssm.conv_kernel",
            "ssm.state_size",
            "ssm.inner_size",
            "ssm.time_step_rank",
        ):
            if prefix + key not in dict(base.keys):
                continue
            for value in (0, 1, 3, 31, 96, 10**9, *HUGE):
                kind = U64 if value >= 2**32 else U32
                draft = base.set(prefix + key, scalar(kind, value))
                # One layer, one head, no experts: smaller models may well be inside a larger.
                message = EITHER if value <= 1 or key == "attention.head_count" else ""
                yield Hostile(f"{base_name}-{key}-{value}", draft.render(), message)
        for value in (0, 1, 2**31, 2**32, 2**63, 2**64 - 1):
            for key in ("context_length", "rope.dimension_count", "rope.freq_base"):
                draft = base.set(prefix + key, scalar(U64, value))
                yield Hostile(f"{base_name}-{key}-{value}", draft.render(), EITHER)
        for value in (3, 18, 2**20):
            draft = base.set(prefix + "rope.dimension_count", scalar(U32, value))
            yield Hostile(f"{base_name}-rope.dimension_count-{value}", draft.render(), EITHER)
        for tensor in ("token_embd.weight", "output_norm.weight", "blk.0.attn_norm.weight"):
            stored = base.tensor(tensor)
            for dims in (
                (stored.dims[0] // 2, *stored.dims[1:]),
                (*stored.dims, 2),
                tuple(reversed((*stored.dims, 1))),
            ):
                raw = bytes(len(stored.data) * 2)
                draft = base.put(tensor, Stored(dims, 0, raw if stored.kind == 0 else raw * 4))
                yield Hostile(f"{base_name}-{tensor}-{list(dims)}", draft.render(), tensor)

    base, prefix = hybrid(), "granitehybrid."

    def case(label: str, key: str, value: bytes, message: str | None = None) -> Hostile:
        draft = base.set(prefix + key, value)
        return Hostile(label, draft.render(), key if message is None else message)

    for value in (0, EXPERTS + 1, 2**32 - 1):
        yield case(f"expert-used-{value}", "expert_used_count", scalar(U32, value))
    for value in (2, 4, 2**31):
        yield case(f"ssm-groups-{value}", "ssm.group_count", scalar(U32, value))
    key = "attention.head_count_kv"
    yield case("kv-heads-none-attention", key, array(I32, [0, 0]), "")
    yield case("kv-heads-none-mamba", key, array(I32, [1, 1]), "")
    yield case("kv-heads-negative", key, array(I32, [0, -1]))
    yield case("kv-heads-not-dividing", key, array(I32, [0, 3]))
    yield case("kv-heads-more-than-heads", key, array(I32, [0, 4]))
    yield case("kv-heads-empty", key, array(I32, []))
    yield case("kv-heads-one-number", key, array(I32, [0]), "")
    yield case("kv-heads-three-numbers", key, array(I32, [0, 1, 1]))
    yield case("kv-heads-million", key, array(I8, [1] * 10**6))
    yield case("kv-heads-int8", key, array(I8, [0, 1]), EITHER)
    yield case("kv-heads-uint16", key, array(U16, [0, 1]), EITHER)
    yield case("kv-heads-floats", key, array(F32, [0, 1]))
    yield case("kv-heads-bools", key, array(BOOL, [False, True]))
    yield case("kv-heads-texts", key, array(STRING, ["0", "1"]))
    yield case("kv-heads-uint64", key, array(U64, [0, 2**64 - 1]))
    yield case(
        "shared-expert-missing", "expert_shared_feed_forward_length", scalar(U32, F), "shexp"
    )
    for width in (1, 7, 8, 1024):
        yield case(f"key-length-{width}", "attention.key_length", scalar(U32, width), "")


def _values() -> Iterator[Hostile]:
    """Numbers that aren't numbers, in the metadata and in the weights."""
    nan, inf = float("nan"), float("inf")
    for base_name, base in (("hybrid", hybrid()), ("llama", llama())):
        prefix = "granitehybrid." if base_name == "hybrid" else "llama."
        for key in ("attention.layer_norm_rms_epsilon", "attention.scale", "logit_scale"):
            if prefix + key not in dict(base.keys):
                continue
            for label, value in {"nan": nan, "inf": inf, "minus-1": -1.0}.items():
                draft = base.set(prefix + key, scalar(F32, value))
                yield Hostile(f"{base_name}-{key}-{label}", draft.render(), key)
        for key in ("embedding_scale", "residual_scale", "logit_scale", "rope.freq_base"):
            for label, value in {"nan": nan, "inf": inf, "0": 0.0, "1e-45": 1e-45}.items():
                draft = base.set(prefix + key, scalar(F32, value))
                name = f"{base_name}-{key}-{label}-any"
                yield Hostile(name, draft.render(), EITHER)
        for key, value in (("temp", nan), ("temp", -1.0), ("top_p", nan), ("top_p", 0.0)):
            draft = base.set(f"general.sampling.{key}", scalar(F32, value))
            yield Hostile(f"{base_name}-sampling-{key}-{value}", draft.render(), EITHER)
    models = {"f32": hybrid("f32"), "q8_0": hybrid(), "q4_0": hybrid("q4_0"), "llama": llama()}
    for base_name, base in models.items():
        for label, bits in {"nan": 0x7FC00000, "inf": 0x7F800000, "max": 0x7F7FFFFF}.items():
            for tensor, stored in base.tensors:
                assert isinstance(tensor, str)
                draft = base.put(tensor, _filled(stored, bits))
                message = EITHER if label == "max" else f"'{tensor}' has"
                yield Hostile(f"{base_name}-{label}-in-{tensor}", draft.render(), message)


def _filled(stored: Stored, bits: int) -> Stored:
    """The tensor with this float in all of its weights, or scales where it is quantised."""
    if stored.kind == 0:
        data = struct.pack("<I", bits) * (len(stored.data) // 4)
    else:
        half = {0x7FC00000: 0x7E00, 0x7F800000: 0x7C00, 0x7F7FFFFF: 0x7BFF}[bits]
        step = {8: 34, 2: 18}[stored.kind]
        blocks = np.frombuffer(stored.data, np.uint8).reshape(-1, step).copy()
        blocks[:, :2] = np.frombuffer(struct.pack("<H", half), np.uint8)
        data = blocks.tobytes()
    return Stored(stored.dims, stored.kind, data)


def _tokenizer() -> Iterator[Hostile]:
    base, names = hybrid(), tokens()
    kinds = [3 if token == "<|endoftext|>" else 1 for token in names]

    def with_tokens(label: str, message: str, values: list[str | bytes]) -> Hostile:
        draft = base.set("tokenizer.ggml.tokens", array(STRING, values))
        return Hostile(f"tokens-{label}", draft.render(), message)

    def with_merges(label: str, message: str, values: list[str | bytes]) -> Hostile:
        draft = base.set("tokenizer.ggml.merges", array(STRING, values))
        return Hostile(f"merges-{label}", draft.render(), message)

    def with_key(label: str, key: str, value: bytes, message: str = "") -> Hostile:
        return Hostile(label, base.set("tokenizer.ggml." + key, value).render(), message)

    yield with_tokens("none", "token", [])
    yield with_tokens("one", "token", ["a"])
    yield with_tokens("one-less", "token", [*names[:-1]])
    yield with_tokens("one-more", "token", [*names, "hex"])
    yield with_tokens("twice", "'he'", [*names[:-1], "he"])
    yield with_tokens("empty", "token 259", [*names[:-1], ""])
    yield with_tokens("not-byte-level", "token 259", [*names[:-1], "a b"])
    yield with_tokens("not-byte-level-wide", "token 259", [*names[:-1], "日本"])
    yield with_tokens("not-utf-8", "token 259", [*names[:-1], b"\xff\xc4"])
    yield with_tokens("half-a-character", "token 259", [*names[:-1], b"a\xc4"])
    yield with_tokens("nul", "token 259", [*names[:-1], "a\0"])
    yield with_tokens("a-byte-missing", "byte", ["hh", *names[1:]])
    yield with_tokens("long", "", [*names[:-1], "a" * 10**6])
    fewer = {
        "tokens": array(STRING, [*names[:-1]]),
        "token_type": array(I32, kinds[:-1]),
        "merges": array(STRING, [*MERGES[:-1]]),
    }
    draft = base
    for key, value in fewer.items():
        draft = draft.set("tokenizer.ggml." + key, value)
    yield Hostile("tokenizer-smaller-than-embedding", draft.render(), "259")

    yield with_merges("of-nothing", "merge 0", [""])
    yield with_merges("without-space", "merge 0", ["he"])
    yield with_merges("two-spaces", "merge 0", ["h e "])
    yield with_merges("only-a-space", "merge 0", [" "])
    yield with_merges("of-an-unknown-part", "merge 0", ["x yz"])
    yield with_merges("to-an-unknown-token", "merge 0", ["x y"])
    yield with_merges("twice", "merge 3", [*MERGES, MERGES[0]])
    yield with_merges("with-end-of-text", "merge 0", ["<|endoftext|> h"])
    yield with_merges("not-utf-8", "merge 0", [b"\xff \xfe"])
    yield with_merges("long", "merge 0", ["a" * 10**6 + " " + "b" * 10**6])
    yield with_merges("out-of-order", EITHER, MERGES[::-1])
    yield with_merges("none", EITHER, [])

    for value in (len(names), 2**32 - 1):
        yield with_key(f"eos-{value}", "eos_token_id", scalar(U32, value), "eos_token_id")
    yield with_key("eos-another", "eos_token_id", scalar(U32, 0), "token")
    yield with_key("eos-negative", "eos_token_id", scalar(I32, -1), "eos_token_id")
    yield with_key("bos-huge", "bos_token_id", scalar(U32, 2**32 - 1), EITHER)
    yield with_key("model-llama", "model", scalar(STRING, "llama"), "'llama'")
    yield with_key("pre-unknown", "pre", scalar(STRING, "\x1b[2J"), "pre-tokenizer")
    yield with_key("token-types-short", "token_type", array(I32, kinds[:-1]), "token_type")
    yield with_key("token-types-long", "token_type", array(I32, [*kinds, 1]), "token_type")
    yield with_key("token-types-unknown", "token_type", array(I32, [-7] * len(names)), "token")
    yield with_key("token-types-all-control", "token_type", array(I32, [3] * len(names)), "token")
    yield with_key("tokens-of-numbers", "tokens", array(U32, [0] * len(names)), "tokens")
    head = struct.pack("<IIQ", ARRAY, STRING, len(names))
    yield with_key("token-length-huge", "tokens", head + struct.pack("<Q", 2**63), "follow")
    yield with_key("token-lengths-rise", "tokens", head + text("a") * 10, "")


def _flips() -> Iterator[Hostile]:
    random = np.random.default_rng(3)
    for base_name, draft in (("hybrid", hybrid()), ("llama", llama("q8_0"))):
        data, borders = draft.sections()
        for i in range(200):
            bad = bytearray(data)
            limit = borders["data"] if i % 4 else len(data)  # weights accept any bits
            for at in random.integers(0, limit, 1 + i % 3):
                bad[at] ^= 1 << int(random.integers(8))
            yield Hostile(f"{base_name}-flip-{i}", bytes(bad), EITHER)


GROUPS: dict[str, Callable[[], Iterator[Hostile]]] = {
    "framing": _framing,
    "truncated": _truncated,
    "metadata": _metadata,
    "tensors": _tensors,
    "shapes": _shapes,
    "values": _values,
    "tokenizer": _tokenizer,
    "flips": _flips,
}


def write(folder: Path, files: dict[str, bytes]) -> list[Path]:
    """Writes the files into the folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.gguf" for name in files]
    for path, data in zip(paths, files.values(), strict=True):
        path.write_bytes(data)
    return paths


def dictionary() -> str:
    """The names in the valid files, as libFuzzer wants them: a string in quotes a line."""
    names = [name for draft in (hybrid(), llama()) for name, _ in draft.keys + draft.tensors]
    return "".join(f'"{name}"\n' for name in dict.fromkeys(map(str, names)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Write GGUF files that are wrong on purpose.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", action="store_true", help="write what a fuzzer starts from")
    options = parser.parse_args()
    files = valid() if options.seeds else {case.name: case.data for case in hostile()}
    print(f"{len(write(options.folder, files))} files in {options.folder}")
    if options.seeds:
        (options.folder / "dictionary").write_text(dictionary())


if __name__ == "__main__":
    main()
