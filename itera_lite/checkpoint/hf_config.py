"""Hugging Face's ``config.json`` and our `ModelConfig`, both ways; unknown fields are refused.

A field of a family is in one of three tables: `USED` sets a field of our model, `FIXED` has the
only values that our model supports, `HARMLESS` doesn't change the result of a forward pass. A field
in none of them is refused unless it is null, false or empty: it might ask for another computation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from itera_lite.config import ModelConfig
from itera_lite.errors import CheckpointError, ConfigError


@dataclass(frozen=True)
class Number:
    """The type and range of a number in the file, and whether it must be there."""

    kind: type
    low: float
    high: float
    needed: bool = True

    def read(self, name: str, value: Any) -> Any:
        """The value, checked; None where the file may lack it and does.

        Raises:
            CheckpointError: it isn't such a number.
        """
        if value is None:
            if self.needed:
                raise CheckpointError(f"the file lacks '{name}': is it a whole checkpoint?")
            return None
        kinds = (int, float) if self.kind is float else int
        good = isinstance(value, kinds) and not isinstance(value, bool)
        if not good or not self.low <= value <= self.high:
            word = "whole number" if self.kind is int else "number"
            raise CheckpointError(
                f"{name}={_short(value)}: expected a {word} from {self.low:g} to {self.high:g}"
            )
        return self.kind(value)


def _whole(high: int = 2**20, low: int = 1, needed: bool = True) -> Number:
    return Number(int, low, high, needed)


SCALE = Number(float, 1e-9, 1e9)
EPSILON = Number(float, 1e-12, 1.0)
LENGTH = _whole(2**31)
WIDTH = _whole(2**16)

_COMMON = {
    "vocab_size": _whole(),
    "hidden_size": WIDTH,
    "num_hidden_layers": _whole(1024),
    "num_attention_heads": WIDTH,
    "num_key_value_heads": _whole(2**16, needed=False),
    "head_dim": _whole(2**16, needed=False),
    "max_position_embeddings": LENGTH,
    "rms_norm_eps": EPSILON,
}
USED: dict[str, dict[str, Number]] = {
    "gpt2": {
        "vocab_size": _whole(),
        "n_embd": WIDTH,
        "n_layer": _whole(1024),
        "n_head": WIDTH,
        "n_inner": _whole(needed=False),
        "n_positions": LENGTH,
        "layer_norm_epsilon": EPSILON,
    },
    "llama": _COMMON
    | {
        "intermediate_size": _whole(),
        "rope_theta": Number(float, 1e-6, 1e12, needed=False),
    },
    "granitemoehybrid": _COMMON
    | {
        "intermediate_size": _whole(),
        "shared_intermediate_size": _whole(low=0),
        "num_local_experts": _whole(2**12, low=0),
        "num_experts_per_tok": _whole(2**12, low=0),
        "embedding_multiplier": SCALE,
        "residual_multiplier": SCALE,
        "logits_scaling": SCALE,
        "attention_multiplier": SCALE,
        "mamba_n_heads": _whole(needed=False),
        "mamba_d_state": WIDTH,
        "mamba_d_conv": _whole(),
    },
}
# Fields that aren't numbers, which the functions below read
USED_OTHERS = {
    "gpt2": {"model_type"},
    "llama": {"model_type", "rope_parameters", "rope_scaling"},
    "granitemoehybrid": {"model_type", "layer_types", "mamba_d_head"},
}

_NO_LIMIT = ([0.0, math.inf], [0.0, {"__float__": "Infinity"}])  # as JSON has it, both ways
# (value where the file lacks the field, values that are supported)
_FIXED: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "is_encoder_decoder": (False, (False,)),
    "add_cross_attention": (False, (False,)),
    "tie_encoder_decoder": (False, (False,)),
    "quantization_config": (None, (None,)),
    "auto_map": (None, (None,)),
    "sliding_window": (None, (None,)),
    "use_sliding_window": (False, (False,)),
}
_FIXED_COMMON: dict[str, tuple[Any, tuple[Any, ...]]] = _FIXED | {
    "tie_word_embeddings": (False, (True,)),
    "hidden_act": ("silu", ("silu", "swish")),
    "attention_bias": (False, (False,)),
    "partial_rotary_factor": (1.0, (1.0,)),
}
FIXED: dict[str, dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "gpt2": _FIXED
    | {
        "tie_word_embeddings": (True, (True,)),
        "activation_function": ("gelu_new", ("gelu_new",)),
        "scale_attn_weights": (True, (True,)),
        "scale_attn_by_inverse_layer_idx": (False, (False,)),
    },
    "llama": _FIXED_COMMON
    | {
        "mlp_bias": (False, (False,)),
        "embedding_multiplier": (1.0, (1.0,)),
        "residual_multiplier": (1.0, (1.0,)),
        "logits_scaling": (1.0, (1.0,)),
    },
    "granitemoehybrid": _FIXED_COMMON
    | {
        "mamba_n_groups": (1, (1,)),
        "mamba_expand": (2, (2,)),
        "mamba_conv_bias": (True, (True,)),
        "mamba_proj_bias": (False, (False,)),
        "position_embedding_type": ("nope", ("nope",)),  # transformers: any but "rope" is none
        "normalization_function": ("rmsnorm", ("rmsnorm",)),
        "time_step_limit": (_NO_LIMIT[0], _NO_LIMIT),
    },
}
ARCHITECTURES = {
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "granitemoehybrid": "GraniteMoeHybridForCausalLM",
}

_HARMLESS = """
    _name_or_path _attn_implementation _attn_implementation_autoset transformers_version
    dtype torch_dtype use_cache use_bfloat16 torchscript return_dict output_attentions
    output_hidden_states output_router_logits output_scores return_dict_in_generate
    chunk_size_feed_forward initializer_range init_method attention_dropout attn_pdrop embd_pdrop
    resid_pdrop
    router_aux_loss_coef pretraining_tp mamba_chunk_size reorder_and_upcast_attn n_ctx
    bos_token_id eos_token_id pad_token_id sep_token_id decoder_start_token_id
    tokenizer_class prefix id2label label2id num_labels problem_type finetuning_task
    task_specific_params tf_legacy_loss pruned_heads cross_attention_hidden_size is_decoder
    summary_type summary_use_proj summary_activation summary_proj_to_labels summary_first_dropout
    max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty
    temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size
    encoder_no_repeat_ngram_size bad_words_ids num_return_sequences forced_bos_token_id
    forced_eos_token_id remove_invalid_values exponential_decay_length_penalty suppress_tokens
    begin_suppress_tokens made_with
"""
# Fields about training, generation, the output of transformers, or the origin of the file
HARMLESS = frozenset(_HARMLESS.split())
# Fields about positions, which this family doesn't have
HARMLESS_OF = {
    "gpt2": frozenset(),
    "llama": frozenset(),
    "granitemoehybrid": frozenset({"rope_theta", "rope_parameters", "rope_scaling"}),
}
_LETTERS = {"mamba": "m", "linear_attention": "m", "attention": "a", "full_attention": "a"}


def to_hf_config(config: ModelConfig, eot_id: int) -> dict[str, Any]:
    """The contents of ``config.json`` for a model: ``granitemoehybrid``, ``llama`` or ``gpt2``.

    Args:
        eot_id: id of ``<|endoftext|>``.
    """
    c = config
    tokens = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), eot_id)
    if c.family == "gpt2":
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "vocab_size": c.vocab_size,
            "n_positions": c.max_seq_len,
            "n_embd": c.d_model,
            "n_layer": c.n_layers,
            "n_head": c.n_heads,
            "n_inner": c.d_ff,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": c.norm_eps,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            "tie_word_embeddings": True,
            "use_cache": True,
            **tokens,
            "dtype": "float32",
        }
    common: dict[str, Any] = {
        "vocab_size": c.vocab_size,
        "hidden_size": c.d_model,
        "num_hidden_layers": c.n_layers,
        "num_attention_heads": c.n_heads,
        "num_key_value_heads": c.n_kv_heads,
        "hidden_act": "silu",
        "max_position_embeddings": c.max_seq_len,
        "rms_norm_eps": c.norm_eps,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
        **tokens,
        "dtype": "float32",
    }
    if c.family == "transformer":
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "intermediate_size": c.d_ff,
            "head_dim": c.head_dim,
            "mlp_bias": False,
            "rope_theta": c.rope_theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_theta},
            **common,
        }
    return {
        "architectures": ["GraniteMoeHybridForCausalLM"],
        "model_type": "granitemoehybrid",
        # 'mamba' and 'attention' load in transformers 4 and 5 and in llama.cpp's tools.
        "layer_types": ["mamba" if kind == "m" else "attention" for kind in c.pattern],
        "position_embedding_type": None,
        "intermediate_size": c.d_expert or c.d_ff,
        "shared_intermediate_size": c.d_ff,
        "num_local_experts": c.n_experts,
        "num_experts_per_tok": c.top_k,
        "router_aux_loss_coef": 0.01,
        "output_router_logits": False,
        "embedding_multiplier": c.embedding_multiplier,
        "residual_multiplier": c.residual_multiplier,
        "logits_scaling": c.logits_scaling,
        "attention_multiplier": c.head_dim**-0.5,
        "mamba_n_heads": c.n_ssm_heads,
        "mamba_d_head": c.ssm_head_dim,
        "mamba_n_groups": 1,
        "mamba_d_state": c.d_state,
        "mamba_d_conv": c.d_conv,
        "mamba_expand": 2,
        "mamba_chunk_size": 64,
        "mamba_conv_bias": True,
        "mamba_proj_bias": False,
        **common,
    }


def from_hf_config(raw: Any) -> ModelConfig:
    """The `ModelConfig` of the value in a ``config.json``.

    Raises:
        CheckpointError: a field is missing or has a wrong type or range: a damaged file.
        ConfigError: another kind of model, or a feature that isn't supported.
    """
    if not isinstance(raw, dict):
        raise CheckpointError(f"it holds {_short(raw)}: expected an object {{...}}")
    family = raw.get("model_type")
    if not isinstance(family, str) or family not in USED:
        raise ConfigError(
            f"model_type={_short(family)}: expected 'granitemoehybrid', 'llama' or 'gpt2'"
        )
    _refuse(family, raw)
    values = {name: number.read(name, raw.get(name)) for name, number in USED[family].items()}
    return {"gpt2": _gpt2, "llama": _llama, "granitemoehybrid": _itera}[family](values, raw)


def _refuse(family: str, raw: dict[str, Any]) -> None:
    """Raises `ConfigError` for a field that asks for an unsupported feature."""
    for name, (default, allowed) in FIXED[family].items():
        value = default if raw.get(name) is None else raw[name]
        if value not in allowed:
            raise ConfigError(
                f"{name}={_short(raw.get(name, default))}: only {allowed[0]!r} is supported"
            )
    architectures = raw.get("architectures")
    if architectures and architectures != [ARCHITECTURES[family]]:
        raise ConfigError(
            f"architectures={_short(architectures)}: only {[ARCHITECTURES[family]]} is supported"
        )
    known = {*USED[family], *USED_OTHERS[family], *FIXED[family], "architectures"}
    known |= HARMLESS | HARMLESS_OF[family]
    for name, value in raw.items():
        if name not in known and value not in (None, False, "", [], {}):
            raise ConfigError(
                f"{name}={_short(value)}: this program doesn't know the field, so it can't tell "
                f"whether a {family} model computes something else with it. Take it out of "
                "config.json if it doesn't"
            )


def _gpt2(values: dict[str, Any], raw: dict[str, Any]) -> ModelConfig:
    width, heads = values["n_embd"], values["n_head"]
    _need_divisor("n_head", heads, "n_embd", width)
    return ModelConfig(
        family="gpt2",
        pattern="a" * values["n_layer"],
        vocab_size=values["vocab_size"],
        d_model=width,
        head_dim=width // heads,
        n_kv_heads=heads,
        d_ff=values["n_inner"] or 4 * width,
        max_seq_len=values["n_positions"],
        norm_eps=values["layer_norm_epsilon"],
    )


def _llama(values: dict[str, Any], raw: dict[str, Any]) -> ModelConfig:
    return ModelConfig(
        family="transformer",
        pattern="a" * values["num_hidden_layers"],
        d_ff=values["intermediate_size"],
        rope_theta=_rope_theta(values["rope_theta"], raw),
        **_common(values),
    )


def _itera(values: dict[str, Any], raw: dict[str, Any]) -> ModelConfig:
    common = _common(values)
    scale, expected = values["attention_multiplier"], common["head_dim"] ** -0.5
    if abs(scale - expected) > 1e-6:
        raise ConfigError(
            f"attention_multiplier={scale}: only head_dim**-0.5={expected:.6f} is supported"
        )
    experts = values["num_local_experts"]
    return ModelConfig(
        family="itera",
        pattern=_pattern(values["num_hidden_layers"], raw),
        d_ff=values["shared_intermediate_size"],
        n_experts=experts,
        top_k=values["num_experts_per_tok"] if experts else 2,
        d_expert=values["intermediate_size"] if experts else 0,
        d_state=values["mamba_d_state"],
        ssm_head_dim=_ssm_head_dim(values, raw),
        d_conv=values["mamba_d_conv"],
        embedding_multiplier=values["embedding_multiplier"],
        residual_multiplier=values["residual_multiplier"],
        logits_scaling=values["logits_scaling"],
        **common,
    )


def _common(values: dict[str, Any]) -> dict[str, Any]:
    """The fields with the same names in Llama and Granite."""
    width, heads = values["hidden_size"], values["num_attention_heads"]
    _need_divisor("num_attention_heads", heads, "hidden_size", width)
    head_dim = values["head_dim"] or width // heads
    if head_dim * heads != width:
        raise ConfigError(
            f"head_dim={head_dim}: only hidden_size / num_attention_heads={width // heads} is "
            "supported"
        )
    return {
        "vocab_size": values["vocab_size"],
        "d_model": width,
        "head_dim": head_dim,
        "n_kv_heads": values["num_key_value_heads"] or heads,
        "max_seq_len": values["max_position_embeddings"],
        "norm_eps": values["rms_norm_eps"],
    }


def _need_divisor(name: str, value: int, of: str, whole: int) -> None:
    if whole % value:
        raise ConfigError(f"{name}={value}: expected a divisor of {of}={whole}")


def _rope_theta(given: float | None, raw: dict[str, Any]) -> float:
    """The base of the rotary positions. As in transformers, ``rope_scaling`` has precedence over
    ``rope_parameters``, and both over the field ``rope_theta`` itself."""
    rope: Any = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise CheckpointError(f"rope_parameters={_short(rope)}: expected an object {{...}}")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise ConfigError(f"rope scaling {_short(kind)} is not supported: only 'default' is")
    for name, value in rope.items():
        allowed = {"partial_rotary_factor": (None, 1.0)}.get(name, (None,))
        if name not in ("rope_type", "type", "rope_theta") and value not in allowed:
            raise ConfigError(f"rope_parameters: {name}={_short(value)} is not supported")
    if rope.get("rope_theta") is not None:
        return float(USED["llama"]["rope_theta"].read("rope_theta", rope["rope_theta"]))
    return 10_000.0 if given is None else given


def _pattern(n_layers: int, raw: dict[str, Any]) -> str:
    types = raw.get("layer_types")
    if types is None:
        raise CheckpointError("the file lacks 'layer_types': is it a whole checkpoint?")
    if not isinstance(types, list) or not all(isinstance(t, str) and t in _LETTERS for t in types):
        raise ConfigError(
            f"layer_types={_short(types)}: expected a list of 'mamba' and 'attention'"
        )
    if len(types) != n_layers:
        raise CheckpointError(
            f"layer_types has {len(types)} layers: expected num_hidden_layers={n_layers}"
        )
    return "".join(_LETTERS[name] for name in types)


def _ssm_head_dim(values: dict[str, Any], raw: dict[str, Any]) -> int:
    """``mamba_d_head``, which may be "auto", checked against ``mamba_n_heads``."""
    inner, heads = 2 * values["hidden_size"], values["mamba_n_heads"]
    width = raw.get("mamba_d_head")
    if width in (None, "auto"):
        if heads is None:
            raise CheckpointError("the file lacks 'mamba_d_head': is it a whole checkpoint?")
        _need_divisor("mamba_n_heads", heads, "2 * hidden_size", inner)
        return int(inner // heads)
    width = int(WIDTH.read("mamba_d_head", width))
    if heads is not None and heads * width != inner:
        raise ConfigError(
            f"mamba_d_head={width} and mamba_n_heads={heads}: expected a product of "
            f"2 * hidden_size={inner}"
        )
    return width


def _short(value: Any) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
