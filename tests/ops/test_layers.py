"""Layers that are one step of autograd against their operations, one by one: the same bits."""

import pytest
import torch

from itera_lite.config import ModelConfig
from itera_lite.model.attention import Attention
from itera_lite.model.layers import SwiGLU, gated_silu
from itera_lite.model.ssd import Mamba2
from itera_lite.ops.attention import _Attention
from itera_lite.ops.mamba2 import _Mamba2

ITERA = ModelConfig("itera", "ma", 256, 64, n_experts=4, d_expert=32, d_ff=32, d_state=16)
TRANSFORMER = ModelConfig("transformer", "a", 256, 64, d_ff=64, n_kv_heads=2)
GPT2 = ModelConfig("gpt2", "a", 256, 64, d_ff=64, n_kv_heads=2)


def by_operations(layer, x):
    """The layer's output, an operation of autograd at a time."""
    if isinstance(layer, SwiGLU):
        return layer.down(gated_silu(layer.gate_up(x)))
    if isinstance(layer, Attention):
        angles = layer._angles(0, x.shape[1])
        return layer.o_proj(_Attention.apply(layer._project(x), layer.config, *angles))
    weights = layer.conv_weight, layer.conv_bias, layer.dt_bias, layer.A_log, layer.D
    return layer.out_proj(
        _Mamba2.apply(layer.in_proj(x), layer.config, *weights, layer.norm.weight)
    )


@pytest.mark.parametrize(
    "layer",
    [SwiGLU(64, 96), Attention(ITERA), Attention(TRANSFORMER), Attention(GPT2), Mamba2(ITERA)],
    ids=["swiglu", "itera", "transformer", "gpt2", "mamba2"],
)
@pytest.mark.parametrize("frozen", [False, True])
def test_values_and_gradients_are_the_same(layer, frozen, dtype):
    for parameter in layer.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.1)
        parameter.requires_grad_(not frozen)
    x = torch.randn(3, 40, 64).to(dtype)
    found = []
    for run in (layer, lambda leaf: by_operations(layer, leaf)):
        leaf = x.clone().requires_grad_()
        wanted = [leaf, *(p for p in layer.parameters() if p.requires_grad)]
        y = run(leaf)
        weight = torch.linspace(-1, 1, y.numel()).view_as(y)
        grads = torch.autograd.grad((y.float() * weight).sum(), wanted)
        with torch.no_grad():
            assert torch.equal(run(leaf), y)
        found.append([y.detach(), *grads])
    assert len(found[0][1:]) == (1 if frozen else 1 + len(list(layer.parameters())))
    assert all(map(torch.equal, *found))
