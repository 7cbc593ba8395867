"""The head and its loss against float64 of the same rounded numbers."""

import pytest
import torch

from itera_lite import ops
from itera_lite.distill.objective import soft_cross_entropy


def inputs(rows: int, vocabulary: int, width: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    hidden = torch.randn(rows, width).to(dtype).requires_grad_()
    weight = (torch.randn(vocabulary, width) / 4).bfloat16().float().requires_grad_()
    return hidden, weight, torch.randint(vocabulary, (rows,))


def assert_gradients(hidden, weight, exact_hidden, exact_weight) -> None:
    """Within what the type leaves of the logits' gradients, of which each is a sum."""
    relative = 1e-2 if hidden.dtype == torch.bfloat16 else 2e-5
    for found, exact in ((hidden, exact_hidden), (weight, exact_weight)):
        error = (found.grad.double() - exact.grad).abs().max()
        assert error < relative * exact.grad.abs().max()


@pytest.mark.parametrize(
    ("rows", "vocabulary", "width"),
    [
        (1, 300, 32),
        (48, 257, 64),
        (49, 512, 128),
        (97, 2048, 96),
        (2200, 1000, 32),
        (600, 9000, 33),
    ],
)
@pytest.mark.parametrize("scaling", [1.0, 2.5])
def test_cross_entropy(rows, vocabulary, width, scaling, dtype):
    hidden, weight, targets = inputs(rows, vocabulary, width, dtype)
    loss = ops.linear_cross_entropy(hidden, weight, targets, scaling)
    (3 * loss).backward()
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    logits = exact[0] @ exact[1].T / scaling
    wanted = torch.nn.functional.cross_entropy(logits, targets)
    (3 * wanted).backward()
    assert abs(loss.item() - wanted.item()) < 1e-5 * wanted.item()
    assert_gradients(hidden, weight, *exact)


@pytest.mark.parametrize("rows", [1, 100])
@pytest.mark.parametrize(("temperature", "mix"), [(1.0, 0.5), (2.0, 0.7)])
def test_soft_cross_entropy(rows, temperature, mix, dtype):
    hidden, weight, targets = inputs(rows, 512, 64, dtype)
    teacher = (torch.randn(rows, 512) / temperature).softmax(dim=-1)
    probabilities, ids = teacher.topk(8, dim=-1)
    given = (targets, ids, probabilities, temperature, mix)
    loss, hard = ops.linear_soft_cross_entropy(hidden, weight, *given)
    loss.backward()
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    wanted, wanted_hard = soft_cross_entropy(exact[0] @ exact[1].T, *given)
    wanted.backward()
    assert abs(loss.item() - wanted.item()) < 1e-5 * abs(wanted.item())
    assert abs(hard.item() - wanted_hard.item()) < 1e-5 * wanted_hard.item()
    assert_gradients(hidden, weight, *exact)


def test_large_logits_and_their_differences(dtype):
    hidden = torch.eye(64).to(dtype).requires_grad_()
    weight = (300 * torch.randn(100, 64)).bfloat16().float().requires_grad_()
    targets = torch.arange(64)
    loss = ops.linear_cross_entropy(hidden, weight, targets)
    wanted = torch.nn.functional.cross_entropy(weight.detach().double().T, targets)
    assert abs(loss.item() - wanted.item()) < 1e-5 * wanted.item()
    loss.backward()
    assert hidden.grad.isfinite().all() and weight.grad.isfinite().all()


def test_without_gradients_the_losses_are_the_same(dtype):
    hidden, weight, targets = inputs(70, 400, 32, dtype)
    loss = ops.linear_cross_entropy(hidden, weight, targets)
    with torch.no_grad():
        assert ops.linear_cross_entropy(hidden, weight, targets) == loss
    frozen = ops.linear_cross_entropy(hidden, weight.detach(), targets)
    (grad,) = torch.autograd.grad(frozen, hidden)
    assert torch.equal(grad, torch.autograd.grad(loss, hidden)[0])
