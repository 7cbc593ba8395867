"""Linear layers in float32 and bfloat16 against exact products of the same numbers."""

import gc
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from itera_lite import ops
from itera_lite.ops import products


def rounded(*shape: int) -> torch.Tensor:
    """Random float32 numbers that bfloat16 has too."""
    return torch.randn(*shape).bfloat16().float()


def assert_close(found: torch.Tensor, exact: torch.Tensor) -> None:
    """Equal to the exact result, rounded once to the type of ``found``."""
    relative = 2.0**-8 if found.dtype == torch.bfloat16 else 1e-6
    error = (found.double() - exact).abs()
    assert (error <= relative * exact.abs() + 2e-6 * exact.abs().max()).all()


SIZES = [
    *[(rows, 128, 64) for rows in (1, 2, 3, 4, 5, 6, 7, 11, 97, 512)],
    *[(37, n, 48) for n in (1, 15, 16, 17, 24, 33, 64, 65, 100, 130, 536)],
    *[(33, 70, k) for k in (1, 2, 3, 31, 32, 33, 34, 352, 1023)],
    (1500, 200, 130),
]


@pytest.mark.parametrize(("rows", "n", "k"), SIZES)
@pytest.mark.parametrize("with_bias", [False, True])
def test_values_and_gradients_are_those_of_exact_products(rows, n, k, with_bias, dtype):
    x = rounded(rows, k).to(dtype).requires_grad_()
    weight, bias = rounded(n, k).requires_grad_(), rounded(n).requires_grad_()
    y = ops.linear(x, [weight], [bias] if with_bias else [])
    dy = rounded(rows, n).to(dtype)
    y.backward(dy)
    exact = x.double() @ weight.double().T + with_bias * bias.double()
    assert_close(y.detach(), exact.detach())
    assert_close(x.grad, dy.double() @ weight.detach().double())
    assert_close(weight.grad, dy.double().T @ x.detach().double())
    if with_bias:
        assert_close(bias.grad, dy.double().sum(dim=0))
    assert (y.dtype, x.grad.dtype, weight.grad.dtype) == (
        dtype,
        dtype,
        torch.float32,
    )


def test_several_weights_make_one_product_and_get_gradients_of_their_own(dtype):
    x = rounded(3, 20, 64).to(dtype).requires_grad_()
    weights = [rounded(n, 64).requires_grad_() for n in (64, 10, 7)]
    biases = [rounded(n).requires_grad_() for n in (64, 10, 7)]
    y = ops.linear(x, weights, biases)
    dy = rounded(3, 20, 81).to(dtype)
    y.backward(dy)
    exact = [x.double() @ w.double().T + b.double() for w, b in zip(weights, biases, strict=True)]
    assert_close(y.detach(), torch.cat(exact, dim=-1).detach())
    parts = dy.double().flatten(0, 1).split((64, 10, 7), dim=1)
    assert_close(
        x.grad,
        sum(p @ w.detach().double() for p, w in zip(parts, weights, strict=True)).view(3, 20, 64),
    )
    for part, weight, bias in zip(parts, weights, biases, strict=True):
        assert_close(weight.grad, part.T @ x.detach().double().flatten(0, 1))
        assert_close(bias.grad, part.sum(dim=0))


def test_weights_are_rounded_to_the_nearest_as_pytorch_does(dtype):
    x, weight = torch.eye(64).to(dtype), torch.randn(48, 64)
    assert torch.equal(ops.linear(x, [weight]), weight.to(dtype).T)


def test_a_row_does_not_depend_on_the_other_rows(dtype):
    x, weight = torch.randn(50, 96).to(dtype), torch.randn(80, 96)
    together = ops.linear(x, [weight])
    for i in range(50):
        assert torch.equal(together[i : i + 1], ops.linear(x[i : i + 1], [weight]))


def test_an_infinite_or_undefined_number_stays_in_its_row(dtype):
    x, weight = torch.randn(9, 33).to(dtype), torch.randn(20, 33)
    x[4, 7], x[5, 0] = torch.inf, torch.nan
    y = ops.linear(x, [weight])
    assert y[:4].isfinite().all() and y[6:].isfinite().all()
    assert not y[4:6].isfinite().any()


def packings(monkeypatch) -> list[int]:
    """A list that grows by one with each packing."""
    seen, real = [], products._pack

    def count(weights, dtype, both):
        seen.append(len(weights))
        return real(weights, dtype, both)

    monkeypatch.setattr(products, "_pack", count)
    return seen


def test_a_leaf_is_packed_once_for_each_of_its_versions(monkeypatch, dtype):
    seen = packings(monkeypatch)
    weight, x = torch.randn(32, 32).requires_grad_(), torch.randn(4, 32).to(dtype)
    products.packed((weight,), dtype, True)
    for _ in range(3):
        ops.linear(x, [weight])
    assert len(seen) == 1
    with torch.no_grad():
        weight.mul_(2)
    y = ops.linear(x, [weight])
    assert len(seen) == 2
    assert_close(y.detach(), (x.double() @ weight.to(dtype).double().T).detach())


def test_the_order_for_gradients_is_made_where_one_is_wanted(monkeypatch, dtype):
    seen = packings(monkeypatch)
    weight, x = torch.randn(32, 48), torch.randn(4, 48).to(dtype)
    ops.linear(x, [weight])
    assert products.packed((weight,), dtype, False).backward is None
    leaf = x.clone().requires_grad_()
    ops.linear(leaf, [weight]).backward(torch.ones(4, 32).to(dtype))
    assert_close(leaf.grad, weight.to(dtype).double().sum(dim=0).expand(4, 48))
    ops.linear(x, [weight])
    assert len(seen) == 2


def test_backward_takes_the_weight_of_its_forward(dtype):
    weight, x = rounded(32, 32).requires_grad_(), rounded(4, 32).to(dtype).requires_grad_()
    y, before = ops.linear(x, [weight]), weight.detach().double().clone()
    with torch.no_grad():
        weight.mul_(2)
    ops.linear(x, [weight])
    y.backward(torch.ones_like(y))
    assert_close(x.grad, torch.ones(4, 32).double() @ before)


def test_what_is_computed_of_a_weight_is_packed_anew(monkeypatch, dtype):
    seen = packings(monkeypatch)
    leaf, x = rounded(16, 32).requires_grad_(), rounded(4, 32).to(dtype)
    for factor in (1.0, 2.0):
        weight = leaf * factor
        y = ops.linear(x, [weight])
        assert_close(y.detach(), x.double() @ (leaf.detach() * factor).double().T)
        leaf.grad = None
        y.backward(torch.ones_like(y))
        assert_close(leaf.grad, factor * x.double().sum(dim=0).expand(16, 32))
    assert len(seen) == 2


def test_what_was_packed_is_gone_with_its_weight(dtype):
    gc.collect()
    before = len(products._cache)
    weight = torch.randn(16, 16)
    products.packed((weight,), dtype, True)
    assert len(products._cache) == before + 1
    del weight
    gc.collect()
    assert len(products._cache) == before


def test_threads_at_once_get_what_one_gets(dtype):
    weights = [torch.randn(96, 80).requires_grad_() for _ in range(4)]
    x = torch.randn(700, 80).to(dtype)

    def grads(_: int) -> list[torch.Tensor]:
        leaf = x.clone().requires_grad_()
        y = sum(ops.linear(leaf, [weight]) for weight in weights)
        return list(torch.autograd.grad(y.float().square().sum(), [leaf, *weights]))

    first = grads(0)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(grads, range(12)):
            assert all(map(torch.equal, first, found))
