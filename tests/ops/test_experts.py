"""A mixture of experts in one step against its parts in plain PyTorch."""

import copy

import pytest
import torch

from itera_lite import ops
from itera_lite.config import ModelConfig
from itera_lite.model.moe import MoE

ITERA = ModelConfig("itera", "ma", 256, 64, n_experts=4, d_expert=32, d_ff=32, d_state=16)


@pytest.mark.parametrize(
    ("width", "inner", "tokens", "k"), [(64, 32, 150, 2), (32, 24, 7, 3), (96, 80, 300, 2)]
)
def test_a_mixture_is_as_exact_as_its_parts(width, inner, tokens, k, dtype):
    """Its outputs, its balance loss and all gradients; the parts are exact in float64."""
    shape = {"n_experts": 5, "d_expert": inner, "d_ff": 0, "top_k": k}
    layer = MoE(ITERA.replace(d_model=width, head_dim=width // 2, **shape)).train()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    layer.load = torch.tensor([0.1, 0.4, 0.3, 0.0, 0.2])
    x = torch.randn(tokens, width)
    # Logits far from each other: that bfloat16 rounds x and the router changes no token's experts.
    # Nobody chooses the fourth.
    target = torch.randn(tokens, 5).argsort(dim=1).float() - 20 * torch.eye(5)[3]
    layer.router.weight.data = torch.linalg.lstsq(x[:width], target[:width]).solution.T * 0.1
    found, counts = [], []
    for kind, fused in ((dtype, True), (dtype, False), (torch.float64, False)):
        (ops.enable if fused else ops.disable)()
        part = copy.deepcopy(layer).to(torch.float64 if kind == torch.float64 else torch.float32)
        part.load = layer.load.to(part.down.dtype)
        leaf = x.to(dtype).to(kind).clone().requires_grad_()
        y = part(leaf)
        weight = torch.linspace(-1, 1, y.numel()).view_as(y)
        (part.balance_loss + (y.to(weight.dtype) * weight).sum()).backward()
        found.append((y.detach(), part.balance_loss.detach(), leaf.grad))
        found[-1] += tuple(p.grad for p in part.parameters())
        counts.append(part.counts)
    assert torch.equal(counts[0], counts[1]) and torch.equal(counts[0], counts[2])
    for one, other, truth in zip(*found, strict=True):
        assert one.dtype == other.dtype
        error, expected = ((result.double() - truth).norm() for result in (one, other))
        if dtype == torch.bfloat16:
            # Of a scalar, as the balance loss, the errors may cancel by chance.
            assert error <= 1.1 * expected + 1e-3 * truth.norm()
        assert error <= (0.03 if dtype == torch.bfloat16 else 1e-5) * truth.norm()
