"""The optimizer: orthogonal updates, every parameter served, state that can be restored."""

import torch

from itera_lite.config import NAMES, TrainConfig, preset
from itera_lite.model import LanguageModel
from itera_lite.train.optim import Optimizer, orthogonalize


def test_orthogonalize_keeps_the_directions_and_evens_the_lengths():
    torch.manual_seed(0)
    for shape in ((3, 32, 96), (2, 96, 32)):
        matrices = torch.randn(shape)
        made = orthogonalize(matrices).float()
        values = torch.linalg.svdvals(made)
        assert values.min() > 0.3
        assert values.max() < 1.4
        u, _, v = torch.linalg.svd(matrices, full_matrices=False)
        ideal = u @ v
        cosine = torch.nn.functional.cosine_similarity(made.flatten(1), ideal.flatten(1))
        assert cosine.min() > 0.9


def test_every_parameter_moves_and_every_matrix_is_taken_once():
    for family in NAMES:
        model = LanguageModel(preset(family, "tiny", 300))
        optimizer = Optimizer(model, TrainConfig())
        muon = sum(value.numel() for value in optimizer.momentum.values())
        adam = sum(p.numel() for group in optimizer.adam.param_groups for p in group["params"])
        assert muon + adam == sum(p.numel() for p in model.parameters())
        before = [p.detach().clone() for p in model.parameters()]
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step(1.0)
        for old, new in zip(before, model.parameters(), strict=True):
            assert not torch.equal(old, new)
            assert new.grad is None


def test_the_state_goes_through_tensors():
    torch.manual_seed(0)
    models = [LanguageModel(preset("itera", "tiny", 300)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    one, two = (Optimizer(model, TrainConfig()) for model in models)

    def step(model, optimizer, seed):
        torch.manual_seed(seed)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step(1.0)

    step(models[0], one, 1)
    models[1].load_state_dict(models[0].state_dict())
    two.load_tensors(one.tensors())
    for model, optimizer in zip(models, (one, two), strict=True):
        step(model, optimizer, 2)
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)
