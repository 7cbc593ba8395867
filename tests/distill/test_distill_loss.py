"""What distillation minimises: against brute force, and the fused operation against its oracle."""

import pytest
import torch

from itera_lite import ops
from itera_lite.config import ModelConfig
from itera_lite.distill.objective import Distillation, soft_cross_entropy, tempered
from itera_lite.model import LanguageModel


@pytest.fixture(autouse=True)
def plain():
    yield
    ops.disable()


def some(n=400, v=300, k=16, spread=1.0):
    """Logits, targets, and a teacher that says nothing in every seventh row."""
    torch.manual_seed(0)
    logits = spread * torch.randn(n, v)
    top, ids = (2 * torch.randn(n, v)).softmax(-1).topk(k)
    top = top.half().float()
    top[::7] = 0
    return logits, torch.randint(0, v, (n,)), ids, top


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_with_all_tokens_it_is_the_divergence_as_defined(temperature):
    logits, targets, _, _ = some(v=50)
    teacher = 2 * torch.randn(400, 50)
    top, ids = teacher.softmax(-1).topk(49)
    soft = tempered(top, temperature, 50)
    # One token is left over, so that its share is known: to a rounding, of which a root is taken.
    near = 1e-6 if temperature == 1 else 1e-3
    wanted = (teacher / temperature).softmax(-1).gather(1, ids)
    assert torch.allclose(soft, wanted, atol=near)
    p, log_q = (teacher / temperature).softmax(-1), (logits / temperature).log_softmax(-1)
    divergence = (p * (p.log() - log_q)).sum(-1).mean()
    hard = torch.nn.functional.cross_entropy(logits, targets)
    mixed, alone = soft_cross_entropy(logits, targets, ids, soft, temperature, 0.3)
    expected = 0.7 * hard + 0.3 * temperature**2 * divergence
    assert torch.allclose(mixed, expected, atol=10 * near)
    assert torch.allclose(alone, hard)


def test_a_student_that_says_what_the_teacher_says_has_nothing_to_learn():
    teacher = torch.randn(100, 60)
    logits = teacher.clone().requires_grad_()
    top, ids = teacher.softmax(-1).topk(8)
    loss, _ = soft_cross_entropy(logits, torch.zeros(100, dtype=torch.int64), ids, top, 1.0, 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad.abs().max() < 1e-7


def test_where_no_teacher_speaks_the_text_alone_counts():
    logits, targets, ids, top = some()
    loss, hard = soft_cross_entropy(logits, targets, ids, torch.zeros_like(top), 2.0, 0.9)
    assert torch.allclose(loss, hard)


@pytest.mark.parametrize("spread", [0.3, 3.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.7])
@pytest.mark.parametrize(("mix", "scaling"), [(0.5, 1.0), (1.0, 2.5)])
def test_the_fused_operation_equals_its_oracle(temperature, mix, scaling, spread):
    assert ops.enable() is None
    _, targets, ids, top = some(1500)
    hidden, weight = torch.randn(1500, 32), spread * torch.randn(300, 32)
    found = []
    for fused in (True, False):
        leaves = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        if fused:
            loss, hard = ops.linear_soft_cross_entropy(
                *leaves, targets, ids, top, temperature, mix, scaling
            )
        else:
            logits = leaves[0] @ leaves[1].T / scaling
            loss, hard = soft_cross_entropy(logits, targets, ids, top, temperature, mix)
        assert not hard.requires_grad
        (3 * loss).backward()
        found.append((loss.detach(), hard, *(leaf.grad for leaf in leaves)))
    for fast, naive in zip(*found, strict=True):
        assert (fast - naive).abs().max() <= 2e-5 * naive.abs().max()


class Said:
    """Targets that are known beforehand."""

    vocab_size = 300

    def __init__(self, ids, shares):
        self.ids, self.shares = ids, shares

    def at(self, places):
        return self.ids[places.ravel()], self.shares[places.ravel()]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("family", ["itera", "transformer"])
def test_the_objective_keeps_the_hard_loss_and_the_balance_loss(fused, family):
    _, _, ids, top = some()
    shape = {"d_ff": 64} if family == "transformer" else {"n_experts": 4, "d_expert": 32}
    torch.manual_seed(1)
    model = LanguageModel(ModelConfig(family, "a", 300, 64, **shape)).train()
    if fused:
        assert ops.enable() is None
    tokens, places = torch.randint(0, 300, (2, 33)), torch.randint(0, 400, (2, 33))
    plain = model.loss(tokens[:, :-1], tokens[:, 1:], 0.01)
    taught = Distillation(Said(ids, top), 1.0, 0.5).loss(model, tokens, places, 0.01)
    assert torch.allclose(taught.cross_entropy, plain.cross_entropy, atol=1e-5)
    assert torch.allclose(taught.balance, plain.balance)
    logits = model(tokens[:, :-1]).flatten(0, 1)
    at = places[:, 1:].flatten()
    mixed, _ = soft_cross_entropy(logits, tokens[:, 1:].flatten(), ids[at], top[at], 1.0, 0.5)
    assert torch.allclose(taught.total, mixed + 0.01 * taught.balance, atol=1e-5)
