"""Hostile files that are valid GGUF, but no model: shapes, numbers, tokenizers."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from tests.native.gguf_bytes import (
    ARRAY,
    BOOL,
    F32,
    I8,
    I32,
    STRING,
    U16,
    U32,
    U64,
    Stored,
    array,
    scalar,
    text,
)
from tests.native.gguf_models import MERGES, hybrid, llama, tokens
from tests.native.hostile_file import EITHER, HUGE, Hostile


def shapes() -> Iterator[Hostile]:
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

    for value in (0, 5, 2**32 - 1):
        yield case(f"expert-used-{value}", "expert_used_count", scalar(U32, value))
    for value in (2, 4, 2**31):
        yield case(f"ssm-groups-{value}", "ssm.group_count", scalar(U32, value))
    narrow = hybrid(ssm_heads=8).render()
    yield Hostile("ssm-heads-of-8-channels", narrow, "multiple of 16")
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
        "shared-expert-missing", "expert_shared_feed_forward_length", scalar(U32, 32), "shexp"
    )
    for width in (1, 7, 8, 1024):
        yield case(f"key-length-{width}", "attention.key_length", scalar(U32, width), "")


def unknown() -> Iterator[Hostile]:
    """Tensors and keys that an engine would have to leave out, and parts of what it obeys."""
    for base_name, base in (("hybrid", hybrid("f32", "ma", experts=0)), ("llama", llama())):
        arch = "granitehybrid." if base_name == "hybrid" else "llama."
        with_rope = base.set(arch + "rope.scaling.finetuned", scalar(BOOL, True))

        def tensor(label: str, tensor: str, stored: Stored, message: str | None = None) -> Hostile:
            draft = with_rope.copy()  # noqa: B023
            draft.tensors.append((tensor, stored))
            name = f"{base_name}-{label}"  # noqa: B023
            return Hostile(name, draft.render(), tensor if message is None else message)

        plain = Stored((16,), 0, bytes(64))
        for name in ("blk.0.attn_q_norm.weight", "blk.0.ffn_gate_exps.bias", "blk.99.x", "\x1b[2J"):
            message = r"'\x1b[2J'" if name.startswith("\x1b") else name
            yield tensor(f"unused-{name!r}", name, plain, message)
        last = len("ma" if base_name == "hybrid" else "a") - 1
        bias = f"blk.{last}.attn_q.bias"
        for label, stored in {
            "short": plain,
            "matrix": Stored((32, 2), 0, bytes(256)),
            "q8_0": Stored((32,), 8, bytes(34)),
            "nan": Stored((32,), 0, struct.pack("<I", 0x7FC00000) * 32),
        }.items():
            yield tensor(f"bias-{label}", bias, stored)
        yield tensor("bias-f16", bias, Stored((32,), 1, bytes(64)), EITHER)
        for label, factor in {"0": 0.0, "nan": float("nan"), "minus-1": -1.0}.items():
            stored = Stored((8,), 0, struct.pack("<f", factor) * 8)
            yield tensor(f"rope-factors-{label}", "rope_freqs.weight", stored)
        yield tensor("rope-factors-short", "rope_freqs.weight", Stored((4,), 0, bytes(16)))
        yield tensor("rope-factors-f16", "rope_freqs.weight", Stored((8,), 1, bytes(16)))

        for key, value in {
            arch + "later": scalar(U32, 1),
            arch + "attention.sliding_window": scalar(U64, 2**64 - 1),
            arch + "rope.scaling.type": scalar(STRING, "\x1b[2J"),
            arch + "rope.scaling.factor": scalar(F32, -1.0),
            arch + "rope.scaling.attn_factor": scalar(F32, float("nan")),
            arch + "attention.causal": scalar(BOOL, False),
            arch + "pooling_type": scalar(STRING, "mean"),
            "tokenizer.ggml.later": array(STRING, ["x"] * 999),
            "tokenizer.ggml.add_eos_token": scalar(STRING, "yes"),
            "tokenizer.ggml.add_bos_token": scalar(U32, 1),
            "tokenizer.ggml.bos_token_id": scalar(U64, 2**64 - 1),
            "tokenizer.ggml.eot_token_id": scalar(U32, 2**32 - 1),
            "split.count": scalar(U64, 2**63 - 1),
            "general.type": scalar(STRING, "\x1b[2J"),
            "general.sampling.top_k": scalar(F32, 1.0),
            "general.sampling.sequence": scalar(U32, 1),
            "general.sampling.penalty_repeat": scalar(F32, 0.0),
        }.items():
            message = "split" if key == "split.count" else key
            label = f"{base_name}-key-{key}"
            yield Hostile(label, with_rope.set(key, value).render(), message)
        begins = with_rope.set("tokenizer.ggml.add_bos_token", scalar(BOOL, True))
        for token in (0, 65, 259):
            draft = begins.set("tokenizer.ggml.bos_token_id", scalar(U32, token))
            yield Hostile(f"{base_name}-begins-with-{token}", draft.render(), EITHER)
        without = begins.without("tokenizer.ggml.bos_token_id")
        yield Hostile(f"{base_name}-begins-with-nothing", without.render(), "bos_token_id")
        for key in ("sequence", "xtc_threshold", "\x1b[2J"):
            for value in (";" * 999, "top_k;\x1b[2J;top_p", ""):
                draft = base.set("general.sampling." + key, scalar(STRING, value))
                yield Hostile(f"{base_name}-advice-{key!r}-{len(value)}", draft.render(), EITHER)


def values() -> Iterator[Hostile]:
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


def tokenizer() -> Iterator[Hostile]:
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
