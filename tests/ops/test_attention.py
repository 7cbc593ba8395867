"""Attention in float32 and bfloat16 against plain PyTorch."""

import pytest
import torch

from itera_lite.config import ModelConfig
from itera_lite.model.attention import rotary_table, rotate
from itera_lite.ops.attention import _Attention


def naive(qkv, config, cos, sin):
    """The whole scores at once, in the type of ``qkv``."""
    heads, kv = config.n_heads, config.n_kv_heads
    q, k, v = qkv.unflatten(-1, (-1, config.head_dim)).transpose(1, 2).split((heads, kv, kv), dim=1)
    if cos is not None:
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    k, v = (x.repeat_interleave(heads // kv, dim=1) for x in (k, v))
    scores = q @ k.mT * config.head_dim**-0.5
    hidden = torch.ones(scores.shape[-2:]).triu(1).bool()
    probabilities = scores.masked_fill(hidden, -torch.inf).softmax(dim=-1)
    return (probabilities @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "width", "length"),
    [(6, 6, 32, 256), (4, 1, 32, 130), (8, 2, 20, 49), (2, 1, 96, 70), (2, 2, 64, 1)],
)
def test_attention_is_as_exact_as_whole_scores(heads, kv_heads, width, length, positions, dtype):
    shape = {"head_dim": width, "n_kv_heads": kv_heads, "d_ff": 64}
    config = ModelConfig("transformer", "a", 256, heads * width, **shape)
    given = 1.5 * torch.randn(2, length, (heads + 2 * kv_heads) * width).to(dtype)
    tables = rotary_table(length, width, 10_000.0) if positions else (None, None)
    weight = torch.randn(2, length, heads * width)
    found = []
    for function, kind in ((_Attention.apply, dtype), (naive, dtype), (naive, torch.float64)):
        qkv = given.to(kind, copy=True).requires_grad_()
        y = function(qkv, config, *tables)
        (y * weight.to(kind)).sum().backward()
        parts = [heads * width, kv_heads * width, kv_heads * width]
        found.append((y.detach(), *qkv.grad.split(parts, dim=-1)))
    for fused, whole, exact in zip(*found, strict=True):
        error, expected = ((one.double() - exact).norm() for one in (fused, whole))
        # With one position the gradients of queries and keys are 0, up to the order of the sums.
        if dtype == torch.bfloat16:
            assert error <= 1.1 * expected + 1e-3 * exact.norm() + 1e-5
            assert error <= 0.02 * exact.norm() + 1e-5
        else:
            assert error <= 2 * expected + 1e-6 * exact.norm() + 1e-5
            assert error <= 1e-5 * exact.norm() + 1e-5
