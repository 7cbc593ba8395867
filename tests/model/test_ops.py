"""Each fused operation against its naive oracle: values and gradients."""

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

from itera_lite import ops
from itera_lite.config import ModelConfig
from itera_lite.model import LanguageModel
from itera_lite.model.attention import Attention
from itera_lite.model.layers import Dropout, Linear, RMSNorm, gated_silu
from itera_lite.model.moe import experts_naive, experts_of_few
from itera_lite.model.ssd import Mamba2, ssd_chunked, ssd_recurrent
from itera_lite.ops.experts import _route

ITERA = ModelConfig("itera", "ma", 256, 64, n_experts=4, d_expert=32, d_ff=32, d_state=16)


@pytest.fixture(autouse=True)
def fused():
    torch.manual_seed(0)
    problem = ops.enable()
    assert problem is None, problem
    yield
    ops.disable()


def both(function, *inputs):
    """Results and gradients of ``function``, fused and in plain PyTorch."""
    found = []
    for switch in (ops.enable, ops.disable):
        switch()
        leaves = [x.detach().clone().requires_grad_(x.is_floating_point()) for x in inputs]
        y = function(*leaves)
        weight = torch.linspace(-1, 1, y.numel()).view_as(y)
        (y.float() * weight).sum().backward()
        found.append([y.detach(), *(x.grad for x in leaves if x.requires_grad)])
    return zip(*found, strict=True)


def close(pairs, tolerance):
    for fast, naive in pairs:
        assert fast.dtype == naive.dtype
        scale = naive.float().abs().max().clamp(min=1e-3)
        assert ((fast.float() - naive.float()).abs().max() / scale) < tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm(dtype):
    layer = RMSNorm(96, 1e-5)

    def run(x, weight):
        return torch.func.functional_call(layer, {"weight": weight}, (x, dtype))

    close(both(run, torch.randn(3, 70, 96), torch.rand(96)), 1e-5 if dtype.itemsize == 4 else 1e-2)


@pytest.mark.parametrize("share", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm_along_the_residual_stream(dtype, share):
    layer = RMSNorm(90, 1e-5)
    layer.dropout.drop = ops.Drop(share, 0xFEDCBA98)

    class After(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = layer

        def forward(self, x, add):
            stream, normed = self.norm.after(x, add, 0.7)
            return torch.cat([stream, normed.float()])

    def run(x, add, weight):
        return torch.func.functional_call(After(), {"norm.weight": weight}, (x, add))

    given = (torch.randn(3, 70, 90), torch.randn(3, 70, 90).to(dtype), torch.rand(90))
    close(both(run, *given), 1e-5 if dtype.itemsize == 4 else 1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout(dtype):
    layer = Dropout()
    x = torch.randn(3, 70, 90).to(dtype)
    assert layer(x) is x
    for share, key in ((0.1, 1), (0.5, 0xFFFFFFFF)):
        layer.drop = ops.Drop(share, key)
        pairs = list(both(layer, x))
        close(pairs, 1e-6 if dtype.itemsize == 4 else 1e-2)
        for fast, naive in pairs:
            assert torch.equal(fast == 0, naive == 0)
        assert torch.allclose(layer(x)[layer(x) != 0], (x / (1 - share))[layer(x) != 0], rtol=1e-2)


def test_what_is_dropped_is_a_random_share_anew_for_each_key():
    ones = torch.ones(512, 128)
    keys = np.random.default_rng(0).integers(0, 2**32, 20).tolist()
    kept = torch.stack([ops.dropout(ones, ops.Drop(0.2, key)) != 0 for key in keys]).float()
    assert kept.mean() == pytest.approx(0.8, abs=0.002)
    for means in (kept.mean((0, 1)), kept.mean((0, 2))):  # of the columns, of the rows
        expected = (0.8 * 0.2 * len(means) / kept.numel()) ** 0.5
        assert means.std() == pytest.approx(expected, rel=0.25)
    # Uncorrelated: between two keys, and between neighbours in a row and in a column
    flat = kept.flatten(1) - 0.8
    pairs = [(flat[:-1], flat[1:]), (flat[:, :-1], flat[:, 1:]), (flat[:, :-128], flat[:, 128:])]
    for one, other in pairs:
        assert abs((one * other).mean()) < 4 * 0.16 / one.numel() ** 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gated_silu(dtype):
    x = (4 * torch.randn(5, 37, 2 * 48)).to(dtype)
    close(both(gated_silu, x), 1e-6 if dtype.itemsize == 4 else 2e-2)


@pytest.mark.parametrize("family", ["itera", "transformer"])
def test_hooks_see_what_passes_through_every_module(family):
    """And the model's outputs are those without hooks."""
    config = ITERA
    if family == "transformer":
        config = ModelConfig("transformer", "aa", 256, 64, d_ff=96)
    model = LanguageModel(config).eval()
    ids = torch.randint(0, 256, (2, 70))
    seen = set()

    def watch(module, arguments):
        seen.add(module)

    with torch.no_grad():
        wanted = model.hidden(ids)
        modules = [m for m in model.modules() if isinstance(m, Linear)]
        for module in modules:
            module.register_forward_pre_hook(watch)
        found = model.hidden(ids)
    assert seen == set(modules)
    close([(found, wanted)], 1e-4)


def test_logits_that_are_not_finite_are_routed_somewhere():
    logits = torch.full((3, 5), float("nan"))
    logits[1] = -float("inf")
    logits[2, 2] = float("inf")
    routing = _route(logits, 2).routing
    assert sorted(routing.pair.tolist()) == list(range(6))
    assert routing.counts.sum() == 6


def test_experts_of_few():
    x, gates = torch.randn(3, 64), torch.rand(3, 2)
    index = torch.tensor([[0, 4], [4, 1], [2, 3]])
    up, down = torch.randn(5, 64, 64) / 8, torch.randn(5, 64, 32) / 6
    ops.disable()
    few, naive = (mix(x, index, gates, up, down) for mix in (experts_of_few, experts_naive))
    assert torch.allclose(few, naive, atol=1e-5)


@pytest.mark.parametrize("family", ["itera", "transformer"])
def test_attention(family):
    config = ITERA.replace(n_kv_heads=1)
    if family == "transformer":
        config = ModelConfig("transformer", "a", 256, 64, d_ff=64, n_kv_heads=2)
    layer = Attention(config)
    weights = [p.detach() for p in layer.parameters()]

    def run(x, *weights):
        names = dict(zip([n for n, _ in layer.named_parameters()], weights, strict=True))
        return torch.func.functional_call(layer, names, x)

    close(both(run, torch.randn(3, 77, 64), *weights), 1e-5)


@pytest.mark.parametrize("scaling", [1.0, 2.5])
def test_linear_cross_entropy(scaling):
    hidden, weight = torch.randn(1500, 32), torch.randn(300, 32)
    targets = torch.randint(0, 300, (1500,))

    def run(hidden, weight):
        if ops.usable(hidden):
            return ops.linear_cross_entropy(hidden, weight, targets, scaling)
        return torch.nn.functional.cross_entropy(hidden @ weight.T / scaling, targets)

    close(both(run, hidden, weight), 1e-5)


def test_chunked_ssd_equals_the_recurrence():
    x, dt, A = torch.randn(2, 150, 4, 16), torch.rand(2, 150, 4), -4 * torch.rand(4)
    B, C, state = torch.randn(2, 150, 8), torch.randn(2, 150, 8), torch.randn(2, 4, 16, 8)
    fast, naive = ssd_chunked(x, dt, A, B, C, state), ssd_recurrent(x, dt, A, B, C, state)
    close(zip(fast, naive, strict=True), 1e-5)


@pytest.mark.parametrize("d_state", [16, 24, 32])
@pytest.mark.parametrize("length", [1, 31, 32, 100])
def test_mamba2_values_and_every_gradient(d_state, length):
    config = ITERA.replace(d_state=d_state, ssm_head_dim=32)
    layer = Mamba2(config)
    torch.nn.init.normal_(layer.out_proj.weight, std=0.1)
    torch.nn.init.uniform_(layer.dt_bias, -3, 1)
    x = torch.randn(3, length, 64)
    found = []
    for switch in (ops.enable, ops.disable):
        switch()
        leaf = x.clone().requires_grad_()
        layer.zero_grad()
        y = layer(leaf)
        (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
        found.append([y.detach(), leaf.grad, *(p.grad.clone() for p in layer.parameters())])
    close(zip(*found, strict=True), 5e-4)  # sums over time that nearly cancel


@pytest.mark.parametrize("family", ["itera", "transformer"])
def test_a_whole_model_in_bfloat16_has_the_gradients_of_float32(family):
    config = ITERA
    if family == "transformer":
        config = ModelConfig("transformer", "aa", 256, 64, d_ff=96)
    model = LanguageModel(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.randint(0, 256, (4, 65))
    grads = []
    for dtype, switch in ((torch.bfloat16, ops.enable), (torch.float32, ops.disable)):
        switch()
        model.compute_dtype = dtype
        model.zero_grad()
        model.loss(ids[:, :-1], ids[:, 1:], balance_weight=0.0).total.backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    for fast, naive in zip(*grads, strict=True):
        cosine = torch.nn.functional.cosine_similarity(fast.flatten(), naive.flatten(), dim=0)
        assert cosine > 0.98


def test_threads_that_call_at_once_do_not_disturb_each_other():
    model = LanguageModel(ITERA)
    ids = torch.randint(0, 256, (6, 65))

    def gradients(_: int) -> list[Tensor]:
        replica = copy.deepcopy(model)
        total = replica.loss(ids[:, :-1], ids[:, 1:]).total
        return list(torch.autograd.grad(total, list(replica.parameters())))

    alone = gradients(0)
    with ThreadPoolExecutor(3) as pool:
        for found in pool.map(gradients, range(6)):
            for one, other in zip(alone, found, strict=True):
                assert torch.equal(one, other)
