"""Any shape that can be built becomes a config.json that is read as the same shape."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itera_lite.checkpoint.hf_config import from_hf_config, to_hf_config
from itera_lite.config import ModelConfig, TrainConfig, preset_of
from itera_lite.errors import CheckpointError, ConfigError, IteraError
from itera_lite.model.cost import cost

# Fields of config.json that ours has no use for in a family, so that they come back as defaults
UNUSED = {
    "itera": {"rope_theta"},
    "transformer": {"d_state", "ssm_head_dim", "d_conv", "top_k", "d_expert"},
    "gpt2": {"d_state", "ssm_head_dim", "d_conv", "top_k", "d_expert", "rope_theta"},
}
scales = st.floats(0.01, 100.0, allow_nan=False)


@st.composite
def shapes(draw: st.DrawFn) -> ModelConfig:
    """A shape of any family; most are odd, and all can be built."""
    family = draw(st.sampled_from(["itera", "transformer", "gpt2"]))
    d_model = 32 * draw(st.integers(1, 8))
    head_dim = draw(st.sampled_from([n for n in range(2, d_model + 1, 2) if d_model % n == 0]))
    heads = d_model // head_dim
    layers = draw(st.integers(1, 6))
    options = {"vocab_size": draw(st.integers(256, 5000)), "d_model": d_model}
    options |= {"head_dim": head_dim, "d_ff": draw(st.integers(1, 300))}
    options |= {"max_seq_len": draw(st.integers(1, 10_000)), "norm_eps": draw(st.floats(1e-8, 0.1))}
    kv = draw(st.sampled_from([n for n in range(1, heads + 1) if heads % n == 0]))
    options["n_kv_heads"] = heads if family == "gpt2" else kv
    pattern = "a" * layers
    if family == "transformer":
        options["rope_theta"] = draw(st.floats(1.0, 1e6))
    if family == "itera":
        pattern = draw(st.text("ma", min_size=1, max_size=6).filter(lambda text: "a" in text))
        inner = 2 * d_model
        options |= {"d_state": draw(st.integers(1, 64)), "d_conv": draw(st.integers(2, 4))}
        options["ssm_head_dim"] = draw(st.sampled_from([8, 16, 32]).filter(lambda n: not inner % n))
        for name in ("embedding_multiplier", "residual_multiplier", "logits_scaling"):
            options[name] = draw(scales)
        experts = draw(st.integers(2, 12))
        if draw(st.booleans()):
            options |= {"n_experts": experts, "d_expert": draw(st.integers(1, 64))}
            options["top_k"] = draw(st.integers(2, experts))
            options["d_ff"] = draw(st.sampled_from([0, 64]))
    return ModelConfig(family, pattern, **options)


@given(shapes())
@settings(max_examples=200, deadline=None)
def test_a_shape_comes_back_from_config_json(shape: ModelConfig) -> None:
    file = json.loads(json.dumps(to_hf_config(shape, eot_id=0)))
    found = from_hf_config(file).to_dict()
    wanted = shape.to_dict()
    if not shape.n_experts:
        wanted |= {name: found[name] for name in ("top_k", "d_expert")}
    unused = UNUSED[shape.family]
    if "m" not in shape.pattern:
        unused = unused | {"d_state", "ssm_head_dim", "d_conv"}
    assert {k: v for k, v in found.items() if k not in unused} == {
        k: v for k, v in wanted.items() if k not in unused
    }
    assert cost(shape).params_total == cost(from_hf_config(file)).params_total > 0
    assert preset_of(found) in (None, *_names())


def _names() -> list[str]:
    from itera_lite.config import PRESETS

    return list(PRESETS)


values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just([]),
    st.lists(st.integers(), max_size=2), st.dictionaries(st.text(max_size=3), st.integers()),
)  # fmt: skip


@given(shapes(), st.data())
@settings(max_examples=300, deadline=None)
def test_any_value_of_any_field_is_read_or_refused_with_our_error(
    shape: ModelConfig, data: st.DataObject
) -> None:
    file = to_hf_config(shape, eot_id=0)
    name = data.draw(st.sampled_from([*file, "another"]))
    file[name] = data.draw(values)
    try:
        found = from_hf_config(file)
    except (CheckpointError, ConfigError) as error:
        assert len(str(error)) < 1000
    else:
        assert isinstance(found, ModelConfig)


@given(st.sampled_from(sorted(TrainConfig.__dataclass_fields__)), st.floats() | st.integers())
@settings(max_examples=300, deadline=None)
def test_a_recipe_is_finite_or_refused(name: str, value: float) -> None:
    try:
        config = TrainConfig(**{name: value})
    except IteraError as error:
        assert name in str(error)
        return
    for progress in (0.0, 0.01, 0.5, 1.0, 2.0):
        assert 0 <= config.factor(progress) <= 1
    assert all(math.isfinite(number) for number in vars(config).values())


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_the_factor_of_a_schedule_without_ends_is_1(progress: float) -> None:
    assert TrainConfig(warmup=0, decay=0).factor(progress) == 1
