"""The optimizer: orthogonal updates, every parameter served, state that can be restored."""

import copy

import pytest
import torch
from torch import Tensor

from itera_lite import ops
from itera_lite.config import NAMES, TrainConfig, preset
from itera_lite.model import LanguageModel
from itera_lite.train import optim
from itera_lite.train.optim import Optimizer, orthogonalize
from itera_lite.workers import Workers

FAMILIES = [(family, "tiny") for family in NAMES] + [("gpt2", "reference_small")]


@pytest.fixture
def fused():
    problem = ops.enable()
    assert problem is None, problem
    yield
    ops.disable()


def random_gradients(model: LanguageModel, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(p.shape, generator=generator) for p in model.parameters()]


def exactly_orthogonalize(matrices: Tensor) -> Tensor:
    """`orthogonalize` in float64."""
    x = matrices.double()
    square = x @ x.mT
    scale = square.norm(dim=(1, 2), keepdim=True).sqrt()
    x, square = x / scale, square / scale**2
    for a, b, c in optim.COEFFICIENTS:
        x = a * x + (b * square + c * square @ square) @ x
        square = x @ x.mT
    return x.float()


def test_orthogonalize_keeps_the_directions_and_evens_the_lengths():
    torch.manual_seed(0)
    for shape in ((200, 32, 96), (100, 96, 32), (10, 128, 192)):
        matrices = torch.randn(shape)
        made = orthogonalize(matrices).float()
        values = torch.linalg.svdvals(made)
        assert values.min() > 0.5
        assert values.max() < 1.1
        u, _, v = torch.linalg.svd(matrices, full_matrices=False)
        ideal = u @ v
        cosine = torch.nn.functional.cosine_similarity(made.flatten(1), ideal.flatten(1))
        assert cosine.min() > 0.9


@pytest.mark.parametrize("has_products", [False, True])
def test_the_iteration_is_in_a_type_that_the_processor_multiplies(has_products, monkeypatch):
    monkeypatch.setattr(optim, "multiplies_bfloat16", lambda: has_products)
    torch.manual_seed(0)
    matrices = torch.randn(3, 40, 100)
    made, exact = orthogonalize(matrices), exactly_orthogonalize(matrices)
    assert made.dtype == (torch.bfloat16 if has_products else torch.float32)
    error = (made.float() - exact).norm() / exact.norm()
    assert error < (0.05 if has_products else 1e-4)


@pytest.mark.parametrize(
    "shape", [(3, 32, 128), (2, 128, 32), (4, 8, 24), (2, 100, 70), (2, 70, 99), (2, 192, 352)]
)
@pytest.mark.parametrize("keeps", [0.8, 0.95])
def test_the_fused_step_of_muon_is_that_of_pytorch(shape, keeps, fused, monkeypatch):
    torch.manual_seed(0)
    matrices = torch.randn(shape) * torch.logspace(-1, 0, shape[2])
    matrices[0] = 0  # as an expert's that nobody used
    weight, momentum = torch.randn(shape), torch.randn(shape)
    momentum[0] = 0
    config = TrainConfig(lr_matrix=0.1, momentum=keeps)
    found = []
    for fuses in (True, False):
        monkeypatch.setattr(ops, "usable", lambda x, fuses=fuses: fuses)
        w, m = weight.clone(), momentum.clone()
        task = optim._Muon.of(config, [w], [(0, slice(None), slice(None))], m)
        task.step([matrices.clone()], optim.Scale(clip=0.5, factor=0.8))
        found.append((w, m))
    (fast, fast_momentum), (naive, naive_momentum) = found
    assert torch.allclose(fast_momentum, naive_momentum, atol=1e-6)
    assert torch.allclose(fast[0], naive[0], atol=1e-6)
    assert torch.allclose(fast[0], weight[0] * (1 - 0.08 * 0.1), atol=1e-6)
    exact = weight[1:] * (1 - 0.08 * 0.1)
    combined = 0.5 * matrices + config.momentum * (naive_momentum - 0.5 * matrices)
    exact -= 0.08 * max(1.0, shape[1] / shape[2]) ** 0.5 * exactly_orthogonalize(combined[1:])
    error, expected = ((w[1:] - exact).norm() for w in (fast, naive))  # of bfloat16
    assert error < 1.1 * expected + 1e-5 * exact.norm()  # of the order of sums
    assert expected < 0.1 * (exact - weight[1:]).norm()


@pytest.mark.parametrize("beta2", [0.95, 0.999])
def test_adam_is_that_of_pytorch(beta2):
    torch.manual_seed(0)
    config = TrainConfig(clip=0.7, beta2=beta2)
    model = LanguageModel(preset("gpt2", "reference_small", 3000))
    twin = copy.deepcopy(model)
    ours = Optimizer(model, config)
    decayed = [p for p in twin.parameters() if p.dim() == 2]
    plain = [p for p in twin.parameters() if p.dim() != 2]
    theirs = torch.optim.AdamW(
        [{"params": decayed}, {"params": plain, "weight_decay": 0.0}],
        lr=config.lr_other * 0.5,
        weight_decay=config.weight_decay,
        betas=(0.9, beta2),
    )
    for step in range(3):
        gradients = random_gradients(model, step)
        for parameter, gradient in zip(twin.parameters(), gradients, strict=True):
            parameter.grad = gradient.clone()
        expected = torch.nn.utils.clip_grad_norm_(twin.parameters(), config.clip)
        theirs.step()
        norm = ours.step(gradients, 0.5, Workers(1))
        assert norm == pytest.approx(float(expected), rel=1e-5)
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(one, other, atol=2e-6)


@pytest.mark.parametrize(("family", "size"), FAMILIES)
def test_every_parameter_moves_and_every_number_is_in_one_task(family, size):
    model = LanguageModel(preset(family, size, 300))
    optimizer = Optimizer(model, TrainConfig())
    muon = sum(value.numel() for value in optimizer.momentum.values())
    adam = sum(average.numel() for average, _ in optimizer.moments.values())
    assert muon + adam == sum(p.numel() for p in model.parameters())
    assert (muon == 0) == (family == "gpt2")
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step(random_gradients(model), 1.0, Workers(1))
    for old, new in zip(before, model.parameters(), strict=True):
        moved = old != new
        assert moved.float().mean() > 0.99


@pytest.mark.parametrize(("family", "size"), FAMILIES)
def test_the_weights_do_not_depend_on_the_number_of_workers(family, size, fused):
    torch.manual_seed(0)
    model = LanguageModel(preset(family, size, 2048))
    found = []
    for count in (1, 3):
        copied = copy.deepcopy(model)
        optimizer = Optimizer(copied, TrainConfig())
        with Workers(count) as workers:
            for step in range(2):
                optimizer.step(random_gradients(copied, step), 1.0, workers)
        found.append(list(copied.parameters()))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_a_step_has_enough_tasks_for_many_workers():
    for family, size in FAMILIES:
        optimizer = Optimizer(LanguageModel(preset(family, size, 2048)), TrainConfig())
        assert len(optimizer._tasks) >= 4


def test_the_state_goes_through_tensors():
    torch.manual_seed(0)
    models = [LanguageModel(preset("itera", "tiny", 300)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    one, two = (Optimizer(model, TrainConfig()) for model in models)
    one.step(random_gradients(models[0], 1), 1.0, Workers(1))
    models[1].load_state_dict(models[0].state_dict())
    two.load_tensors(one.tensors())
    for model, optimizer in zip(models, (one, two), strict=True):
        optimizer.step(random_gradients(model, 2), 1.0, Workers(1))
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_state_of_another_model_is_refused():
    one, two = (
        Optimizer(LanguageModel(preset("itera", size, 300)), TrainConfig())
        for size in ("tiny", "nano")
    )
    with pytest.raises((KeyError, ValueError)):
        two.load_tensors(one.tensors())
