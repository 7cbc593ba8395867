"""The cost model against the model itself and against PyTorch's own counter."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from itera_lite import ops
from itera_lite.config import NAMES, PRESETS, preset
from itera_lite.errors import ConfigError
from itera_lite.model import LanguageModel
from itera_lite.model.cost import cost
from itera_lite.train.recipe import fit_to

ALL = [(family, size) for size, families in PRESETS.items() for family in families]


@pytest.mark.parametrize(("family", "size"), ALL)
def test_parameters_are_those_of_the_model(family, size):
    config = preset(family, size, 512)
    model = LanguageModel(config)
    counted = cost(config)
    assert counted.params_total == sum(p.numel() for p in model.parameters())
    positions = 0 if model.positions is None else model.positions.weight.numel()
    assert counted.params_embedding == model.embedding.weight.numel() + positions
    assert counted.params_total == counted.params_embedding + counted.params_non_embedding


def test_the_tiny_pair_keeps_the_old_budgets():
    itera = cost(preset("itera", "tiny", 2048))
    transformer = cost(preset("transformer", "tiny", 2048))
    assert itera.params_total <= 1_886_496
    assert 1_700_000 <= transformer.params_total <= 1_829_120
    assert transformer.flops_forward / itera.flops_forward >= 2.4


@pytest.mark.parametrize("family", list(NAMES))
@torch.no_grad()
def test_flops_are_those_of_pytorchs_counter(family):
    """One decoding step: all products, with attention over the whole context."""
    ops.disable()  # of which the counter sees nothing
    config, context = preset(family, "tiny", 2048), 48
    model = LanguageModel(config).eval()
    state = model.initial_state(1)
    model.prefill(torch.randint(0, 2048, (1, context - 1)), state)
    counter = FlopCounterMode(display=False)
    with counter:
        model.step(torch.tensor([5]), state)
    counted = cost(config, context)
    parts = dict(counted.breakdown)
    # The counter sees neither the element-wise state update and convolution of a single
    # step nor (on a CPU) the attention scores; of the scan it sees the output product.
    scan = parts.pop("mamba scan", 0.0) * 2 / 5
    parts.pop("mamba convolution", None)
    parts.pop("attention scores")
    assert counter.get_total_flops() == pytest.approx(sum(parts.values()) + scan, rel=1e-6)


def test_decoding_at_the_end_of_a_context_costs_more_than_its_mean():
    counted = cost(preset("transformer", "tiny", 2048), 1024)
    grow = 4 * 192 * len(preset("transformer", "tiny", 2048).pattern)
    assert counted.flops_decode - counted.flops_forward == pytest.approx(grow * 1025 / 2)
    assert counted.flops_train == 3 * counted.flops_forward


@pytest.mark.parametrize("family", list(NAMES))
def test_the_state_is_as_large_as_counted(family):
    config = preset(family, "tiny", 300)
    model = LanguageModel(config).eval()
    state = model.initial_state(1)
    with torch.no_grad():
        model.prefill(torch.randint(0, 300, (1, 50)), state)
    numbers = 0
    for memory in state:
        if hasattr(memory, "ssm"):
            numbers += memory.ssm.numel() + memory.conv.numel()
        else:
            numbers += 2 * memory.keys[:, :, : memory.length].numel()
    assert cost(config).state_bytes(50) == 4 * numbers


@pytest.mark.parametrize("family", list(NAMES))
@pytest.mark.parametrize("wanted", [1e6, 3e6, 10e6])
def test_params_gives_a_model_just_below(family, wanted):
    total = cost(fit_to(family, wanted, 2048)).params_total
    assert 0.7 * wanted < total <= wanted


def test_params_too_small_says_how_small_it_gets():
    with pytest.raises(ConfigError, match="smallest itera model"):
        fit_to("itera", 1000, 2048)
