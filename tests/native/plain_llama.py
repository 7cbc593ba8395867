"""The slow, obvious `llama` model in numpy: the engine's logits are held against it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tests.native.gguf_bytes import Draft
from tests.native.gguf_models import D

Array = NDArray[np.float64]


def logits(
    draft: Draft, ids: Sequence[int], heads: int = 2, rope_factor: float | Array = 1.0
) -> Array:
    """Logits (L, V) of a `gguf_models.llama` in F32, with the biases that the draft has."""
    weights = {
        str(name): np.frombuffer(t.data, "<f4").reshape(t.dims[::-1]).astype(np.float64)
        for name, t in draft.tensors
    }

    def linear(name: str, x: Array) -> Array:
        y: Array = x @ weights[name + ".weight"].T
        return y + weights.get(name + ".bias", 0.0)

    def norm(name: str, x: Array) -> Array:
        mean: Array = np.mean(x * x, axis=-1, keepdims=True)
        return x / np.sqrt(mean + 1e-5) * weights[name + ".weight"]

    x: Array = weights["token_embd.weight"][list(ids)]
    width, n = D // heads, len(ids)
    angles = np.arange(n)[:, None] / rope_factor * 1e4 ** (-2 * np.arange(width // 2) / width)

    def rotated(x: Array) -> Array:
        """Neighbours are turned together (L, H, width)."""
        pairs = x[..., 0::2] + 1j * x[..., 1::2]
        turned = pairs * np.exp(1j * angles)[:, None]
        return np.stack([turned.real, turned.imag], -1).reshape(x.shape)

    layer = 0
    while (blk := f"blk.{layer}.") + "attn_q.weight" in weights:
        h = norm(blk + "attn_norm", x)
        q, k, v = (linear(f"{blk}attn_{c}", h).reshape(n, -1, width) for c in "qkv")
        q, k = rotated(q), rotated(k)
        k, v = (np.repeat(t, heads // t.shape[1], axis=1) for t in (k, v))
        scores = np.einsum("ihc,jhc->hij", q, k) / np.sqrt(width)
        scores[:, np.triu_indices(n, 1)[0], np.triu_indices(n, 1)[1]] = -np.inf
        p = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = np.einsum("hij,jhc->ihc", p / p.sum(-1, keepdims=True), v).reshape(n, D)
        x = x + linear(blk + "attn_output", mixed)
        h = norm(blk + "ffn_norm", x)
        gate = linear(blk + "ffn_gate", h)
        x = x + linear(blk + "ffn_down", gate / (1 + np.exp(-gate)) * linear(blk + "ffn_up", h))
        layer += 1
    return norm("output_norm", x) @ weights["token_embd.weight"].T
