"""The smallest models that are valid, as `Draft`s of GGUF files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tests.native.gguf_bytes import BOOL, F32, I32, STRING, U32, Draft, array, encode, scalar

MERGES = ["h e", "Ġ t", "Ġt he"]


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


@dataclass(frozen=True)
class Shape:
    """Widths of a model; those left alone are the usual ones of the tests."""

    layers: str = "ma"  # a letter each: Mamba-2 or attention
    ff: int = 32  # of one expert, or of the dense feed-forward
    experts: int = 4  # 0: dense
    top_k: int = 2
    shared: int = 0  # width of the shared expert
    heads: int = 2
    kv_heads: int = 1
    state: int = 8
    ssm_heads: int = 2
    taps: int = 4
    context: int = 64


D = 32  # width of all the models
INNER = 2 * D


def _general(arch: str, s: Shape) -> list[tuple[str | bytes, bytes]]:
    return [
        ("general.architecture", scalar(STRING, arch)),
        ("general.file_type", scalar(U32, 0)),
        (arch + ".block_count", scalar(U32, len(s.layers))),
        (arch + ".context_length", scalar(U32, s.context)),
        (arch + ".embedding_length", scalar(U32, D)),
        (arch + ".feed_forward_length", scalar(U32, s.ff)),
        (arch + ".vocab_size", scalar(U32, len(tokens()))),
        (arch + ".attention.head_count", scalar(U32, s.heads)),
        (arch + ".attention.layer_norm_rms_epsilon", scalar(F32, 1e-5)),
        (arch + ".rope.dimension_count", scalar(U32, D // s.heads)),
        (arch + ".rope.freq_base", scalar(F32, 10000.0)),
    ]


def hybrid(kind: str = "q8_0", layers: str = "ma", **shape: int) -> Draft:
    """A `granitehybrid` model: Mamba-2, attention, and experts unless ``experts=0``."""
    s = Shape(layers, **shape)
    channels = INNER + 2 * s.state
    key = "granitehybrid."
    draft = Draft(_general("granitehybrid", s))
    draft.keys += [
        (key + "attention.head_count_kv", array(I32, [s.kv_heads * (c == "a") for c in layers])),
        (key + "attention.scale", scalar(F32, 0.25)),
        (key + "embedding_scale", scalar(F32, 1.0)),
        (key + "residual_scale", scalar(F32, 1.0)),
        (key + "logit_scale", scalar(F32, 1.0)),
        (key + "rope.scaling.finetuned", scalar(BOOL, False)),
        (key + "expert_count", scalar(U32, s.experts)),
        (key + "expert_used_count", scalar(U32, s.top_k if s.experts else 0)),
        (key + "expert_shared_feed_forward_length", scalar(U32, s.shared)),
        (key + "ssm.conv_kernel", scalar(U32, s.taps)),
        (key + "ssm.state_size", scalar(U32, s.state)),
        (key + "ssm.group_count", scalar(U32, 1)),
        (key + "ssm.inner_size", scalar(U32, INNER)),
        (key + "ssm.time_step_rank", scalar(U32, s.ssm_heads)),
        *_tokenizer(),
    ]
    w = _Weights(draft, kind)
    for blk, letter in _layers(w, s):
        if letter == "m":
            w.matrix(blk + "ssm_in.weight", INNER + channels + s.ssm_heads, D)
            w.plain(blk + "ssm_conv1d.weight", channels, s.taps)
            w.plain(blk + "ssm_conv1d.bias", channels)
            w.plain(blk + "ssm_dt.bias", s.ssm_heads)
            w.plain(blk + "ssm_a", s.ssm_heads, 1, mean=-1.0)
            w.plain(blk + "ssm_d", s.ssm_heads, 1, mean=1.0)
            w.norm(blk + "ssm_norm.weight", 1, INNER)
            w.matrix(blk + "ssm_out.weight", D, INNER)
        else:
            _attention(w, blk, s)
        if s.experts:
            w.plain(blk + "ffn_gate_inp.weight", s.experts, D)
            w.matrix(blk + "ffn_gate_exps.weight", s.experts, s.ff, D)
            w.matrix(blk + "ffn_up_exps.weight", s.experts, s.ff, D)
            w.matrix(blk + "ffn_down_exps.weight", s.experts, D, s.ff)
            if s.shared:
                _dense(w, blk, "_shexp", s.shared)
        else:
            _dense(w, blk, "", s.ff)
    return draft


def llama(kind: str = "f32", layers: str = "a", **shape: int) -> Draft:
    """A `llama` model: attention with RoPE and a dense feed-forward."""
    s = Shape(layers, **shape)
    draft = Draft(_general("llama", s))
    draft.keys += [("llama.attention.head_count_kv", scalar(U32, s.kv_heads)), *_tokenizer()]
    w = _Weights(draft, kind)
    for blk, _ in _layers(w, s):
        _attention(w, blk, s)
        _dense(w, blk, "", s.ff)
    return draft


def _layers(w: _Weights, s: Shape) -> Iterator[tuple[str, str]]:
    """Begins each layer, after what stands in front of them all."""
    w.matrix("token_embd.weight", len(tokens()), D)
    w.norm("output_norm.weight", D)
    for i, letter in enumerate(s.layers):
        blk = f"blk.{i}."
        w.norm(blk + "attn_norm.weight", D)
        w.norm(blk + "ffn_norm.weight", D)
        yield blk, letter


def _attention(w: _Weights, blk: str, s: Shape) -> None:
    kv = D // s.heads * s.kv_heads
    w.matrix(blk + "attn_q.weight", D, D)
    w.matrix(blk + "attn_k.weight", kv, D)
    w.matrix(blk + "attn_v.weight", kv, D)
    w.matrix(blk + "attn_output.weight", D, D)


def _dense(w: _Weights, blk: str, end: str, width: int) -> None:
    w.matrix(f"{blk}ffn_gate{end}.weight", width, D)
    w.matrix(f"{blk}ffn_up{end}.weight", width, D)
    w.matrix(f"{blk}ffn_down{end}.weight", D, width)
