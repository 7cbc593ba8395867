"""Each field of a config.json is obeyed or refused by name: held against transformers' forward."""

import json
import math

import pytest
import torch

from itera_lite.checkpoint.hf import from_hf_weights, to_hf_weights
from itera_lite.checkpoint.hf_config import (
    ARCHITECTURES,
    FIXED,
    HARMLESS,
    HARMLESS_OF,
    USED,
    USED_OTHERS,
    from_hf_config,
    to_hf_config,
)
from itera_lite.config import ModelConfig
from itera_lite.errors import CheckpointError, ConfigError, IteraError
from itera_lite.model import LanguageModel
from tests.export.models import VOCAB, random_model

SHAPES = {
    "granitemoehybrid": ModelConfig(
        *("itera", "ma", VOCAB, 64), n_experts=4, d_expert=32, d_ff=32, d_state=8, n_kv_heads=2
    ),
    "llama": ModelConfig("transformer", "aa", VOCAB, 64, d_ff=96, n_kv_heads=2),
    "gpt2": ModelConfig("gpt2", "aa", VOCAB, 64, d_ff=96, n_kv_heads=2, max_seq_len=64),
}
FAMILIES = sorted(SHAPES)
# Other values for fields by kind; a damaged or refused one is as good a test as an obeyed one.
OTHERS = {bool: (True, False), int: (0, 1, 3, 16, 64), float: (0.5, 2.0), str: ("rope", "relu")}
# What else files of these families, and of their relatives, say.
RELATIVES = {
    "rope_scaling": {"rope_type": "linear", "factor": 2.0},
    "rope_parameters": {"rope_type": "default", "rope_theta": 77.0},
    "rope_theta": 55.0,
    "partial_rotary_factor": 0.5,
    "mlp_bias": True,
    "sliding_window": 4,
    "head_dim": 16,
    "logits_scaling": 3.0,
    "embedding_multiplier": 3.0,
    "normalization_function": "layernorm",
    "time_step_limit": [0.001, 0.01],
    "time_step_floor": 0.1,
    "qk_norm": True,
    "quantization_config": {"bits": 4},
    "scale_attn_weights": False,
    "scale_attn_by_inverse_layer_idx": True,
    "layer_types": ["attention", "mamba"],
    "mamba_d_head": "auto",
    "mamba_n_heads": 8,
}


def raw_config(family: str) -> dict:
    return to_hf_config(SHAPES[family], 256)


@torch.no_grad()
def their_logits(raw: dict, weights: dict, ids: torch.Tensor) -> torch.Tensor | None:
    """What transformers computes; None where it takes no such config, or not these weights."""
    transformers = pytest.importorskip("transformers")
    try:
        config = transformers.AutoConfig.for_model(**raw)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        missing, extra = model.load_state_dict(renamed(weights, model), strict=False)
        if extra or set(missing) - {"lm_head.weight"}:
            return None
        model.tie_weights()
        return model(ids, use_cache=False).logits
    except Exception:
        return None


def renamed(weights: dict, model: torch.nn.Module) -> dict:
    """The names inside transformers' module, which differ from those in its files."""
    names = {
        "block_sparse_moe.router.layer.weight": "block_sparse_moe.router.weight",
        "block_sparse_moe.input_linear.weight": "block_sparse_moe.experts.gate_up_proj",
        "block_sparse_moe.output_linear.weight": "block_sparse_moe.experts.down_proj",
    }
    own = model.state_dict()
    found = {}
    for name, value in weights.items():
        for theirs, inside in names.items():
            if name.endswith(theirs) and name not in own:
                name = name.removesuffix(theirs) + inside
        found[name] = value
    return found


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_changed_field_gives_transformers_numbers_or_is_refused(family):
    pytest.importorskip("transformers")
    model = random_model(SHAPES[family])
    weights, raw = to_hf_weights(model), raw_config(family)
    ids = torch.randint(0, VOCAB, (1, 20))
    theirs = their_logits(raw, weights, ids)
    assert theirs is not None and (theirs - model(ids)).abs().max() < 1e-4
    obeyed = refused = 0
    changes = [
        (name, other)
        for name, value in raw.items()
        for other in OTHERS.get(type(value), ())
        if other != value and name not in ("architectures", "model_type", "dtype")
    ]
    for name, other in [*changes, *RELATIVES.items()]:
        changed = {**raw, name: other}
        try:
            config = from_hf_config(changed)
            ours = LanguageModel(config).eval()
            shapes = {n: v.shape for n, v in to_hf_weights(ours).items()}
            if shapes != {n: v.shape for n, v in weights.items()}:
                refused += 1  # `read_weights` says so
                continue
            from_hf_weights(ours, weights)
        except IteraError:
            refused += 1
            continue
        theirs = their_logits(changed, weights, ids)
        if theirs is None:  # transformers has checks of its own
            continue
        assert (theirs - ours(ids)).abs().max() < 1e-4, f"{name}={other!r} isn't obeyed"
        obeyed += 1
    assert obeyed > 5 and refused > 5


@pytest.mark.parametrize("family", FAMILIES)
def test_every_field_of_transformers_stands_in_the_tables(family):
    transformers = pytest.importorskip("transformers")
    known = {*USED[family], *USED_OTHERS[family], *FIXED[family], *HARMLESS, *HARMLESS_OF[family]}
    theirs = transformers.AutoConfig.for_model(family).to_dict()
    assert set(theirs) <= known | {"architectures"}
    assert set(raw_config(family)) <= known | {"architectures"}
    assert not (set(USED[family]) | set(FIXED[family])) & HARMLESS


@pytest.mark.parametrize("family", FAMILIES)
def test_a_field_that_ours_cannot_obey_is_refused_by_name(family):
    raw = raw_config(family)
    for name, (_, allowed) in FIXED[family].items():
        other = not allowed[0] if isinstance(allowed[0], bool) else [7.5, "other"]
        with pytest.raises(ConfigError, match=f"^{name}="):
            from_hf_config({**raw, name: other})
    with pytest.raises(ConfigError, match=r"^soft_cap=30.*doesn't know the field"):
        from_hf_config({**raw, "soft_cap": 30})
    from_hf_config({**raw, "soft_cap": None, "_own": None})
    with pytest.raises(ConfigError, match="SequenceClassification"):
        from_hf_config({**raw, "architectures": ["LlamaForSequenceClassification"]})


@pytest.mark.parametrize("family", FAMILIES)
def test_damaged_values_are_named(family):
    raw = raw_config(family)
    for name, number in USED[family].items():
        for bad in ("2", math.nan, math.inf, -3, 1e300, True, [2], {}, 10**40):
            with pytest.raises(CheckpointError, match=f"^{name}=.*expected a"):
                from_hf_config({**raw, name: bad})
        lacking = {key: value for key, value in raw.items() if key != name}
        if number.needed:
            with pytest.raises(CheckpointError, match=f"lacks '{name}'"):
                from_hf_config(lacking)
        else:
            from_hf_config(lacking)
    for whole in ([raw], "text", None, 3):
        with pytest.raises(CheckpointError, match="expected an object"):
            from_hf_config(whole)
    for kind in (None, "t5", ["llama"], 3):
        with pytest.raises(ConfigError, match="model_type"):
            from_hf_config({**raw, "model_type": kind})


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("llama", {"head_dim": 24}, "head_dim=24: only .*=32"),
        ("llama", {"head_dim": 48}, "head_dim=48"),
        ("llama", {"num_attention_heads": 3}, "num_attention_heads=3: expected a divisor of hidd"),
        ("llama", {"num_key_value_heads": 3}, "n_kv_heads=3"),
        ("llama", {"rope_scaling": {"type": "yarn", "factor": 2}}, "rope scaling 'yarn'"),
        ("llama", {"rope_parameters": {"factor": 2.0}}, "factor=2.0"),
        ("llama", {"rope_parameters": [1]}, "rope_parameters=.*object"),
        ("llama", {"rope_parameters": {"rope_theta": "x"}}, "rope_theta='x'"),
        ("gpt2", {"n_head": 5}, "n_head=5: expected a divisor of n_embd=64"),
        ("granitemoehybrid", {"layer_types": ["mamba"]}, "1 layers: expected num_hidden_layers=2"),
        ("granitemoehybrid", {"layer_types": ["mamba", "moe"]}, "layer_types="),
        ("granitemoehybrid", {"layer_types": 3}, "layer_types=3"),
        ("granitemoehybrid", {"mamba_n_heads": 3}, "mamba_n_heads=3"),
        ("granitemoehybrid", {"mamba_d_head": "auto", "mamba_n_heads": 3}, "mamba_n_heads=3"),
        ("granitemoehybrid", {"attention_multiplier": 1.0}, "attention_multiplier=1.0"),
        ("granitemoehybrid", {"num_experts_per_tok": 9}, "top_k=9"),
    ],
)
def test_fields_that_do_not_fit_together_are_named(family, change, message):
    with pytest.raises((CheckpointError, ConfigError), match=message):
        from_hf_config({**raw_config(family), **change})


def test_old_and_new_ways_to_say_the_base_of_the_rotary_positions():
    raw = {k: v for k, v in raw_config("llama").items() if not k.startswith("rope_")}
    assert from_hf_config(raw).rope_theta == 10_000
    assert from_hf_config({**raw, "rope_theta": 5}).rope_theta == 5
    new = {"rope_theta": 7, "rope_type": "default"}
    assert from_hf_config({**raw, "rope_theta": 5, "rope_parameters": new}).rope_theta == 7
    assert from_hf_config({**raw, "rope_scaling": None, "rope_theta": 5}).rope_theta == 5
    assert ARCHITECTURES["llama"] == raw["architectures"][0]
    assert json.loads(json.dumps(raw)) == raw
