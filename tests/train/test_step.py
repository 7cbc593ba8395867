"""The gradient of a batch: that of plain PyTorch, and the same bits with any number of workers."""

import random
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from torch import Tensor

from itera_lite import ops
from itera_lite.compress.qat import Rounded
from itera_lite.compress.rounding import kinds_of, rounded
from itera_lite.config import ModelConfig, TrainConfig
from itera_lite.distill.objective import Distillation
from itera_lite.export.types import SCHEMES
from itera_lite.model import LanguageModel
from itera_lite.train import step as step_module
from itera_lite.train.distributed import World
from itera_lite.train.objective import Objective
from itera_lite.train.optim import Optimizer
from itera_lite.train.step import BatchGradient
from itera_lite.workers import Workers

VOCABULARY, ROWS, LENGTH = 300, 10, 32
SHAPES = {
    "itera": ModelConfig("itera", "ma", VOCABULARY, 64, n_experts=6, d_expert=32, d_state=8),
    "transformer": ModelConfig("transformer", "aa", VOCABULARY, 64, d_ff=96),
    "gpt2": ModelConfig("gpt2", "aa", VOCABULARY, 64, d_ff=96, n_kv_heads=2),
}


class Targets:
    """A teacher's distributions over three tokens, made up from the position."""

    vocab_size = VOCABULARY

    def fill_at(self, positions, workers):
        pass

    def at(self, positions):
        ids = (positions.reshape(-1, 1) + np.array([1, 2, 3])) % VOCABULARY
        return torch.from_numpy(ids), torch.tensor([[0.5, 0.3, 0.1]]).expand(len(ids), 3)


def model_of(family: str) -> LanguageModel:
    torch.manual_seed(0)
    model = LanguageModel(SHAPES[family]).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


def objective_of(name: str, model: LanguageModel) -> Objective:
    inner = Distillation(Targets(), 1.0, 0.5) if "distilled" in name else Objective()
    return Rounded(kinds_of(model, SCHEMES["q4_0"]), inner) if "rounded" in name else inner


def batch(number: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(number)
    positions = draw.integers(0, 10**6, (ROWS, LENGTH + 1))
    return draw.integers(0, VOCABULARY, (ROWS, LENGTH + 1)), positions


def weights_after_steps(
    family: str, objective: str, count: int, dtype: torch.dtype, dropout: float
) -> Tensor:
    """All weights after three steps, in which the workers are held up at random."""
    model = model_of(family)
    model.compute_dtype = dtype
    config = TrainConfig(batch_size=ROWS, seq_len=LENGTH, balance_weight=0.1, dropout=dropout)
    with Workers(count) as workers:
        gradient = BatchGradient(model, config, objective_of(objective, model), workers, World())
        assert gradient.part_rows == 2
        compute, draw = gradient._part, random.Random(count)

        def held_up(*arguments):
            time.sleep(draw.random() * 0.01)
            return compute(*arguments)

        gradient._part = held_up
        optimizer = Optimizer(model, config)
        for number in range(3):
            losses = gradient(*batch(number), number)
            optimizer.step(gradient.gradients, 1.0, workers, losses.norm)
            assert losses.cross_entropy > 0
    return torch.cat([value.flatten() for value in model.state_dict().values()])


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(step_module, "MICRO_TOKENS", 2 * LENGTH)


@pytest.mark.parametrize(
    ("family", "objective", "dtype"),
    [
        ("itera", "plain", torch.bfloat16),
        ("itera", "plain", torch.float32),
        ("transformer", "plain", torch.bfloat16),
        ("gpt2", "dropout", torch.bfloat16),
        ("itera", "dropout", torch.bfloat16),
        ("transformer", "dropout", torch.float32),
        ("itera", "distilled", torch.bfloat16),
        ("transformer", "rounded", torch.bfloat16),
        ("itera", "rounded and distilled", torch.bfloat16),
    ],
)
def test_weights_are_the_same_bits_with_any_number_of_workers(family, objective, dtype):
    assert ops.enable() is None
    dropout = 0.2 if objective == "dropout" else 0.0
    one, *others = (
        weights_after_steps(family, objective, count, dtype, dropout) for count in (1, 2, 3)
    )
    assert all(torch.equal(one, other) for other in others)
    before = torch.cat([value.flatten() for value in model_of(family).state_dict().values()])
    assert not torch.equal(one, before)


@pytest.mark.parametrize("rows", [1, 2, 4, 10])
@pytest.mark.parametrize("family", ["itera", "transformer"])
def test_the_gradient_is_that_of_the_whole_batch(family, rows, monkeypatch):
    """Cut in any way: micro-batches add up to the batch, the balance of the experts included."""
    monkeypatch.setattr(step_module, "MICRO_TOKENS", rows * LENGTH)
    monkeypatch.setattr(step_module, "LEAST_PARTS", 1)
    model = model_of(family)
    loads = [torch.rand(moe.config.n_experts) for moe in model.mixtures]
    config = TrainConfig(batch_size=ROWS, seq_len=LENGTH, balance_weight=0.5)
    with Workers(2) as workers:
        gradient = BatchGradient(model, config, Objective(), workers, World())
        gradient.set_loads(loads)
        tokens, positions = batch(0)
        losses = gradient(tokens, positions, 0)
    whole = torch.from_numpy(tokens)
    oracle = model_of(family)
    oracle.set_loads(loads)
    expected = oracle.loss(whole[:, :-1], whole[:, 1:], 0.5)
    expected.total.backward()
    assert losses.total == pytest.approx(float(expected.total.detach()), rel=1e-5)
    assert losses.cross_entropy == pytest.approx(float(expected.cross_entropy.detach()), rel=1e-5)
    for found, parameter in zip(gradient.gradients, oracle.parameters(), strict=True):
        assert torch.allclose(found, parameter.grad, atol=1e-6, rtol=1e-4)
    whole_norm = torch.cat([parameter.grad.flatten() for parameter in oracle.parameters()]).norm()
    assert losses.norm == pytest.approx(float(whole_norm), rel=1e-4)
    for moe, other in zip(model.mixtures, oracle.mixtures, strict=True):
        assert torch.allclose(moe.load, other.counts / other.counts.sum())


def test_the_gradient_by_rounded_weights_moves_the_exact_ones():
    model = model_of("transformer")
    kinds = {**kinds_of(model, SCHEMES["q4_0"]), "token_embd.weight": Type.F32}
    objective = Rounded(kinds)
    config = TrainConfig(batch_size=ROWS, seq_len=LENGTH)
    tokens, positions = batch(0)
    with Workers(1) as workers:
        gradient = BatchGradient(model, config, objective, workers, World())
        for _ in range(2):  # the second time after the exact weights have moved
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter *= 1.1
            losses = gradient(tokens, positions, 0)
    oracle = rounded(model, kinds)
    whole = torch.from_numpy(tokens)
    expected = oracle.loss(whole[:, :-1], whole[:, 1:])
    expected.total.backward()
    assert losses.total == pytest.approx(float(expected.total.detach()), rel=1e-5)
    for found, parameter in zip(gradient.gradients, oracle.parameters(), strict=True):
        assert torch.allclose(found, parameter.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("family", SHAPES)
def test_dropout_differs_from_step_to_step_and_from_row_to_row(family):
    model = model_of(family)
    config = TrainConfig(batch_size=ROWS, seq_len=LENGTH, dropout=0.2, balance_weight=0)
    with Workers(2) as workers:
        gradient = BatchGradient(model, config, Objective(), workers, World())
        tokens, positions = batch(0)
        same = np.repeat(tokens[:1], ROWS, axis=0)
        first = gradient(same, positions, 0)
        assert gradient(same, positions, 0) == first
        assert gradient(same, positions, 1) != first
        parts = [gradient._part(same[:2], positions[:2], 0, row) for row in (0, 2)]
        assert parts[0].total != parts[1].total
        whole = BatchGradient(model, replace(config, dropout=0.0), Objective(), workers, World())
        assert whole(same, positions, 0) == whole(same, positions, 1) != first
    ids = torch.from_numpy(tokens)
    assert torch.equal(model(ids), model(ids))  # the model itself, in training too, drops nothing


@pytest.mark.parametrize("family", SHAPES)
def test_fused_dropout_is_the_plain_one(family):
    """And it follows from seed, step and row alone, whatever computes it."""
    config = TrainConfig(batch_size=ROWS, seq_len=LENGTH, dropout=0.2)
    found = []
    for switch in (ops.enable, ops.disable):
        switch()
        with Workers(1) as workers:
            gradient = BatchGradient(model_of(family), config, Objective(), workers, World())
            found.append((gradient(*batch(0), 3), gradient._flat.clone()))
    (fast, fast_gradient), (naive, naive_gradient) = found
    assert fast.total == pytest.approx(naive.total, rel=1e-5)
    assert torch.allclose(fast_gradient, naive_gradient, atol=1e-5 * float(naive.norm), rtol=1e-3)
