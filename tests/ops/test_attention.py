"""Attention in bfloat16 against whole scores."""

import pytest
import torch

from itera_lite.config import ModelConfig
from itera_lite.model.attention import rotary_table
from itera_lite.ops.attention import _Attention, _WholeAttention

pytestmark = pytest.mark.usefixtures("fused")


@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "width", "length"),
    [(6, 6, 32, 256), (4, 1, 32, 130), (8, 2, 20, 49), (2, 1, 96, 70), (2, 2, 64, 1)],
)
def test_attention_in_bfloat16_is_as_exact_as_whole_scores(
    heads, kv_heads, width, length, positions
):
    shape = {"head_dim": width, "n_kv_heads": kv_heads, "d_ff": 64}
    config = ModelConfig("transformer", "a", 256, heads * width, **shape)
    given = 1.5 * torch.randn(2, length, (heads + 2 * kv_heads) * width).bfloat16()
    tables = rotary_table(length, width, 10_000.0) if positions else (None, None)
    weight = torch.randn(2, length, heads * width)
    found = []
    for function, dtype in (
        (_Attention, torch.bfloat16),
        (_WholeAttention, torch.bfloat16),
        (_WholeAttention, torch.float32),
    ):
        qkv = given.to(dtype, copy=True).requires_grad_()
        y = function.apply(qkv, config, *tables)
        (y.float() * weight).sum().backward()
        parts = [heads * width, kv_heads * width, kv_heads * width]
        found.append((y.detach(), *qkv.grad.split(parts, dim=-1)))
    for fused, whole, exact in zip(*found, strict=True):
        error, expected = ((one.float() - exact).norm() for one in (fused, whole))
        assert error <= 1.1 * expected + 1e-3 * exact.norm()
        assert error <= 0.02 * exact.norm() + 1e-6
