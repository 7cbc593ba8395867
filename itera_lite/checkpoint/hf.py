"""A checkpoint as a Hugging Face folder: the names and the config of each family.

The Itera model is a ``GraniteMoeHybrid``, the Transformer a ``Llama``, the reference a ``GPT2``;
`transformers` loads either as it is, with no code of ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from itera_lite import __version__
from itera_lite.checkpoint import gpt2
from itera_lite.checkpoint.hf_config import from_hf_config
from itera_lite.checkpoint.weights import WEIGHTS, read_weights, require_checkpoint, write_tensors
from itera_lite.config import ModelConfig
from itera_lite.errors import CheckpointError, ConfigError
from itera_lite.files import read_json, write_json
from itera_lite.model import LanguageModel

MADE_WITH = "made_with"  # a key of config.json that marks a checkpoint of this program's
_BOTH = {
    "mixer_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "mixer.q_proj.weight": "self_attn.q_proj.weight",
    "mixer.k_proj.weight": "self_attn.k_proj.weight",
    "mixer.v_proj.weight": "self_attn.v_proj.weight",
    "mixer.o_proj.weight": "self_attn.o_proj.weight",
}
_ITERA = _BOTH | {
    "mixer.in_proj.weight": "mamba.in_proj.weight",
    "mixer.conv_weight": "mamba.conv1d.weight",
    "mixer.conv_bias": "mamba.conv1d.bias",
    "mixer.dt_bias": "mamba.dt_bias",
    "mixer.A_log": "mamba.A_log",
    "mixer.D": "mamba.D",
    "mixer.norm.weight": "mamba.norm.weight",
    "mixer.out_proj.weight": "mamba.out_proj.weight",
    "ffn.router.weight": "block_sparse_moe.router.layer.weight",
    "ffn.gate_up": "block_sparse_moe.input_linear.weight",
    "ffn.down": "block_sparse_moe.output_linear.weight",
    "ffn.shared.gate_up.weight": "shared_mlp.input_linear.weight",
    "ffn.shared.down.weight": "shared_mlp.output_linear.weight",
    "ffn.gate_up.weight": "shared_mlp.input_linear.weight",
    "ffn.down.weight": "shared_mlp.output_linear.weight",
}
_TOP = {"embedding.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight"}


def to_hf_config(config: ModelConfig, eot_id: int) -> dict[str, Any]:
    """The ``config.json`` of a model: ``granitemoehybrid``, ``llama`` or ``gpt2``."""
    c = config
    if c.is_gpt2:
        return gpt2.to_hf_config(c, eot_id)
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
        "bos_token_id": eot_id,
        "eos_token_id": eot_id,
        "pad_token_id": eot_id,
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


def to_hf_weights(model: LanguageModel) -> dict[str, Tensor]:
    """Our parameters under Hugging Face's names and in its shapes (float32)."""
    c = model.config
    if c.is_gpt2:
        return gpt2.to_hf_weights(model)
    weights: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        value = value.detach().float().contiguous()
        if name in _TOP:
            weights[_TOP[name]] = value
            continue
        _, layer, rest = name.split(".", 2)
        prefix = f"model.layers.{layer}."
        if c.family == "transformer" and rest == "ffn.gate_up.weight":
            gate, up = value.chunk(2)
            weights[prefix + "mlp.gate_proj.weight"] = gate.contiguous()
            weights[prefix + "mlp.up_proj.weight"] = up.contiguous()
        elif c.family == "transformer" and rest == "ffn.down.weight":
            weights[prefix + "mlp.down_proj.weight"] = value
        else:
            value = value[:, None] if rest.endswith("conv_weight") else value
            weights[prefix + _ITERA[rest]] = value
    if c.n_experts and not c.d_ff:  # transformers always has a shared expert, here an empty one
        for number in range(c.n_layers):
            prefix = f"model.layers.{number}.shared_mlp."
            weights[prefix + "input_linear.weight"] = torch.zeros(0, c.d_model)
            weights[prefix + "output_linear.weight"] = torch.zeros(c.d_model, 0)
    return weights


def from_hf_weights(model: LanguageModel, weights: dict[str, Tensor]) -> None:
    """Load Hugging Face's tensors, of the names and shapes that `to_hf_weights` gives, into
    ``model``."""
    if model.config.is_gpt2:
        gpt2.from_hf_weights(model, weights)
        return
    for name, target in model.state_dict().items():
        if name in _TOP:
            target.copy_(weights[_TOP[name]])
            continue
        _, layer, rest = name.split(".", 2)
        prefix = f"model.layers.{layer}."
        if model.config.family == "transformer" and rest == "ffn.gate_up.weight":
            halves = [weights[f"{prefix}mlp.{half}_proj.weight"] for half in ("gate", "up")]
            target.copy_(torch.cat(halves))
        elif model.config.family == "transformer" and rest == "ffn.down.weight":
            target.copy_(weights[prefix + "mlp.down_proj.weight"])
        elif rest.endswith("conv_weight"):
            target.copy_(weights[prefix + _ITERA[rest]][:, 0])
        else:
            target.copy_(weights[prefix + _ITERA[rest]])


def save_model(model: LanguageModel, folder: str | Path, eot_id: int) -> None:
    """Write config.json, generation_config.json and model.safetensors into ``folder``."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = to_hf_config(model.config, eot_id)
    write_json(folder / "config.json", config | {MADE_WITH: f"itera-lite {__version__}"})
    write_json(
        folder / "generation_config.json",
        {
            "bos_token_id": eot_id,
            "eos_token_id": eot_id,
            "pad_token_id": eot_id,
            "do_sample": True,
            "temperature": 0.8,
            "top_p": 0.95,
        },
    )
    write_tensors(folder / WEIGHTS, to_hf_weights(model))


def load_model(folder: str | Path) -> LanguageModel:
    """Read a Hugging Face folder of any of the families into a `LanguageModel` (eval mode).

    The weights may be in several files, as model.safetensors.index.json says.

    Raises:
        CheckpointError: where the folder is missing, incomplete, damaged or no checkpoint.
        ConfigError: where the model is of a kind that ours can't be.
    """
    folder = Path(folder)
    config = read_config(folder)
    with torch.device("meta"):
        wanted = to_hf_weights(LanguageModel(config))
    weights = read_weights(folder, wanted)
    model = LanguageModel(config)
    with torch.no_grad():
        from_hf_weights(model, weights)
    return model.eval()


def read_config(folder: Path) -> ModelConfig:
    """The shape of the model in a checkpoint folder.

    Raises:
        CheckpointError: the folder is missing, is no checkpoint, or its config.json is damaged.
        ConfigError: the model is of a kind that ours can't be.
    """
    require_checkpoint(folder)
    path = folder / "config.json"
    raw = read_json(path, CheckpointError)
    try:
        return from_hf_config(raw)
    except (CheckpointError, ConfigError) as error:
        raise type(error)(f"'{path}': {error}") from None
