"""What every model promises: causality, steps equal to the whole pass, a true distribution."""

import pytest
import torch

from itera_lite import ops
from itera_lite.config import PRESETS, ModelConfig, preset
from itera_lite.errors import ConfigError
from itera_lite.model import LanguageModel
from itera_lite.model.attention import Attention, rotary_table
from itera_lite.model.moe import MoE

ALL = [(family, size) for size, families in PRESETS.items() for family in families]


def randomised(config: ModelConfig) -> LanguageModel:
    """A model in which every part does something (new blocks begin as the identity)."""
    torch.manual_seed(0)
    model = LanguageModel(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.08)
    return model


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("family", "size"), ALL)
@torch.no_grad()
def test_steps_and_prefill_equal_the_whole_pass(family, size, fused):
    model = randomised(preset(family, size, 300))
    ids = torch.randint(0, 300, (2, 40))
    whole = model(ids)
    if fused:
        assert ops.enable() is None
    try:
        state = model.initial_state(2)
        found = [model.prefill(ids[:, :2], state), model.prefill(ids[:, 2:7], state)]
        found += [model.prefill(ids[:, 7:25], state)]
        found += [model.step(ids[:, t], state) for t in range(25, 40)]
    finally:
        ops.disable()
    found = found[1:]
    expected = whole[:, [6, *range(24, 40)]]
    assert torch.allclose(torch.stack(found, dim=1), expected, atol=1e-4)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("family", ["itera", "transformer"])
@torch.no_grad()
def test_no_future_token_reaches_a_past_logit(family, fused):
    model = randomised(preset(family, "tiny", 300))
    ids = torch.randint(0, 300, (1, 60))
    changed = ids.clone()
    changed[0, 37] = (ids[0, 37] + 1) % 300
    if fused:
        ops.enable()
    try:
        difference = (model(ids) - model(changed)).abs().amax(dim=-1)[0]
    finally:
        ops.disable()
    assert difference[:37].max() < 1e-5
    assert difference[37:].min() > 1e-4


@pytest.mark.parametrize("family", ["itera", "transformer"])
@torch.no_grad()
def test_the_probabilities_of_the_next_token_sum_to_one(family):
    model = randomised(preset(family, "tiny", 300))
    total = model(torch.randint(0, 300, (2, 20))).softmax(dim=-1).sum(dim=-1)
    assert torch.allclose(total, torch.ones_like(total), atol=1e-5)


def test_the_loss_is_that_of_the_logits():
    model = randomised(preset("itera", "tiny", 300))
    ids = torch.randint(0, 300, (2, 33))
    expected = torch.nn.functional.cross_entropy(
        model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()
    )
    assert torch.allclose(model.loss(ids[:, :-1], ids[:, 1:]).cross_entropy, expected, atol=1e-5)


def test_the_balance_loss_evens_out_the_experts():
    """A router that sends nearly all to one expert is brought back by the balance loss alone."""
    torch.manual_seed(0)
    config = ModelConfig("itera", "a", 256, 64, n_experts=8, d_expert=32)
    layer = MoE(config).train()
    x = torch.randn(2000, 64) + 1.0
    with torch.no_grad():
        layer.router.weight[0] += 0.1
    optimizer = torch.optim.SGD([layer.router.weight], lr=0.1)
    shares = []
    for _ in range(100):
        layer(x)
        layer.load = layer.counts / layer.counts.sum()
        shares.append(float(layer.load.max() * 8))
        layer(x)
        layer.balance_loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert shares[0] > 3.5
    assert shares[-1] < 1.6


def test_every_expert_and_the_router_get_a_gradient():
    model = randomised(preset("itera", "tiny", 300)).train()
    ids = torch.randint(0, 300, (8, 65))
    model.loss(ids[:, :-1], ids[:, 1:], balance_weight=0.0).total.backward()
    for block in model.blocks:
        assert (block.ffn.down.grad.flatten(1).norm(dim=1) > 0).all()
        assert (block.ffn.router.weight.grad.norm(dim=1) > 0).all()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"pattern": "mm"}, "pattern"),
        ({"pattern": "mxa"}, "pattern"),
        ({"top_k": 1}, "top_k"),
        ({"top_k": 99}, "top_k"),
        ({"d_model": 80}, "d_model"),
        ({"head_dim": 48}, "head_dim"),
        ({"vocab_size": 3}, "vocab_size"),
        ({"d_expert": 0}, "d_expert"),
        ({"ssm_head_dim": 48}, "ssm_head_dim"),
    ],
)
def test_an_impossible_shape_is_refused_by_name(change, word):
    with pytest.raises(ConfigError, match=f"{word}=.*expected"):
        preset("itera", "tiny", 300).replace(**change)


def test_rotary_angles_do_not_depend_on_another_thread():
    """It puts a shorter table in place between the moments when this one writes and reads."""

    class Overtaken(Attention):
        @property
        def _rotary(self):
            return None

        @_rotary.setter
        def _rotary(self, table):
            pass

    config = preset("transformer", "tiny", 300)
    cos, sin = Overtaken(config)._angles(0, 400)
    expected = rotary_table(400, config.head_dim, config.rope_theta)
    assert torch.equal(cos, expected[0]) and torch.equal(sin, expected[1])
