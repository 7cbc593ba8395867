"""GGUF files written byte by byte, so that every byte can be wrong on purpose.

`hybrid` and `llama` give the smallest models that are valid; a `Draft` holds what
the file will say, and `Draft.render` makes the bytes without checking anything.
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

MERGES = ["h e", "Ġ t", "Ġt he"]


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


def byte_characters() -> list[str]:
    """GPT-2's printable character for each byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spare = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]


def tokens() -> list[str]:
    """The 256 bytes, <|endoftext|> and what `MERGES` make."""
    return [*byte_characters(), "<|endoftext|>", "he", "Ġt", "Ġthe"]


def _tokenizer() -> list[tuple[str | bytes, bytes]]:
    names = tokens()
    return [
        ("tokenizer.ggml.model", scalar(STRING, "gpt2")),
        ("tokenizer.ggml.pre", scalar(STRING, "gpt-2")),
        ("tokenizer.ggml.tokens", array(STRING, names)),
        (
            "tokenizer.ggml.token_type",
            array(I32, [3 if i == 256 else 1 for i in range(len(names))]),
        ),
        ("tokenizer.ggml.merges", array(STRING, MERGES)),
        ("tokenizer.ggml.bos_token_id", scalar(U32, 256)),
        ("tokenizer.ggml.eos_token_id", scalar(U32, 256)),
        ("tokenizer.ggml.add_bos_token", scalar(BOOL, False)),
    ]


class _Weights:
    """Draws the tensors; matrices are stored in `kind`, everything else in F32."""

    def __init__(self, draft: Draft, kind: str) -> None:
        self.draft, self.kind = draft, kind
        self.random = np.random.default_rng(0)

    def matrix(self, name: str, *shape: int) -> None:
        values = self.random.normal(0, shape[-1] ** -0.5, shape)
        self.draft.tensors.append((name, encode(values, self.kind)))

    def plain(self, name: str, *shape: int, mean: float = 0.0, spread: float = 0.1) -> None:
        values = self.random.normal(mean, spread, shape)
        self.draft.tensors.append((name, encode(values, "f32")))

    def norm(self, name: str, *shape: int) -> None:
        self.plain(name, *shape, mean=1.0)


D, F, STATE, HEADS, EXPERTS = 32, 32, 8, 2, 4  # widths of both models


def hybrid(kind: str = "q8_0", pattern: str = "ma", n_experts: int = EXPERTS) -> Draft:
    """A `granitehybrid` model: Mamba-2, attention and, unless 0, experts; 32 wide."""
    draft = Draft()
    inner, channels, layers = 2 * D, 2 * D + 2 * STATE, len(pattern)
    key = "granitehybrid."
    draft.keys += [
        ("general.architecture", scalar(STRING, "granitehybrid")),
        ("general.file_type", scalar(U32, 0)),
        (key + "block_count", scalar(U32, layers)),
        (key + "context_length", scalar(U32, 64)),
        (key + "embedding_length", scalar(U32, D)),
        (key + "feed_forward_length", scalar(U32, F)),
        (key + "vocab_size", scalar(U32, len(tokens()))),
        (key + "attention.head_count", scalar(U32, HEADS)),
        (key + "attention.head_count_kv", array(I32, [int(c == "a") for c in pattern])),
        (key + "attention.layer_norm_rms_epsilon", scalar(F32, 1e-5)),
        (key + "attention.scale", scalar(F32, 0.25)),
        (key + "embedding_scale", scalar(F32, 1.0)),
        (key + "residual_scale", scalar(F32, 1.0)),
        (key + "logit_scale", scalar(F32, 1.0)),
        (key + "rope.dimension_count", scalar(U32, D // HEADS)),
        (key + "rope.freq_base", scalar(F32, 10000.0)),
        (key + "rope.scaling.finetuned", scalar(BOOL, False)),
        (key + "expert_count", scalar(U32, n_experts)),
        (key + "expert_used_count", scalar(U32, 2 if n_experts else 0)),
        (key + "expert_shared_feed_forward_length", scalar(U32, 0)),
        (key + "ssm.conv_kernel", scalar(U32, 4)),
        (key + "ssm.state_size", scalar(U32, STATE)),
        (key + "ssm.group_count", scalar(U32, 1)),
        (key + "ssm.inner_size", scalar(U32, inner)),
        (key + "ssm.time_step_rank", scalar(U32, HEADS)),
        *_tokenizer(),
    ]
    w = _Weights(draft, kind)
    w.matrix("token_embd.weight", len(tokens()), D)
    w.norm("output_norm.weight", D)
    for i, letter in enumerate(pattern):
        blk = f"blk.{i}."
        w.norm(blk + "attn_norm.weight", D)
        w.norm(blk + "ffn_norm.weight", D)
        if letter == "m":
            w.matrix(blk + "ssm_in.weight", inner + channels + HEADS, D)
            w.plain(blk + "ssm_conv1d.weight", channels, 4)
            w.plain(blk + "ssm_conv1d.bias", channels)
            w.plain(blk + "ssm_dt.bias", HEADS)
            w.plain(blk + "ssm_a", HEADS, 1, mean=-1.0)
            w.plain(blk + "ssm_d", HEADS, 1, mean=1.0)
            w.norm(blk + "ssm_norm.weight", 1, inner)
            w.matrix(blk + "ssm_out.weight", D, inner)
        else:
            _attention(w, blk)
        if n_experts:
            w.plain(blk + "ffn_gate_inp.weight", n_experts, D)
            w.matrix(blk + "ffn_gate_exps.weight", n_experts, F, D)
            w.matrix(blk + "ffn_up_exps.weight", n_experts, F, D)
            w.matrix(blk + "ffn_down_exps.weight", n_experts, D, F)
        else:
            _dense(w, blk)
    return draft


def llama(kind: str = "f32", layers: int = 1) -> Draft:
    """A `llama` model with RoPE and a dense feed-forward; 32 wide."""
    draft = Draft()
    draft.keys += [
        ("general.architecture", scalar(STRING, "llama")),
        ("general.file_type", scalar(U32, 0)),
        ("llama.block_count", scalar(U32, layers)),
        ("llama.context_length", scalar(U32, 64)),
        ("llama.embedding_length", scalar(U32, D)),
        ("llama.feed_forward_length", scalar(U32, F)),
        ("llama.vocab_size", scalar(U32, len(tokens()))),
        ("llama.attention.head_count", scalar(U32, HEADS)),
        ("llama.attention.head_count_kv", scalar(U32, 1)),
        ("llama.attention.layer_norm_rms_epsilon", scalar(F32, 1e-5)),
        ("llama.rope.dimension_count", scalar(U32, D // HEADS)),
        ("llama.rope.freq_base", scalar(F32, 10000.0)),
        *_tokenizer(),
    ]
    w = _Weights(draft, kind)
    w.matrix("token_embd.weight", len(tokens()), D)
    w.norm("output_norm.weight", D)
    for i in range(layers):
        blk = f"blk.{i}."
        w.norm(blk + "attn_norm.weight", D)
        w.norm(blk + "ffn_norm.weight", D)
        _attention(w, blk)
        _dense(w, blk)
    return draft


def _attention(w: _Weights, blk: str) -> None:
    w.matrix(blk + "attn_q.weight", D, D)
    w.matrix(blk + "attn_k.weight", D // HEADS, D)
    w.matrix(blk + "attn_v.weight", D // HEADS, D)
    w.matrix(blk + "attn_output.weight", D, D)


def _dense(w: _Weights, blk: str) -> None:
    w.matrix(blk + "ffn_gate.weight", F, D)
    w.matrix(blk + "ffn_up.weight", F, D)
    w.matrix(blk + "ffn_down.weight", D, F)
