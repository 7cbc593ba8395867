"""A GPT-2 model as Hugging Face has it: ``GPT2LMHeadModel``'s names, shapes and config."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from itera_lite.config import ModelConfig
from itera_lite.model import LanguageModel

_NAMES = {
    "mixer_norm": "ln_1",
    "ffn_norm": "ln_2",
    "mixer.o_proj": "attn.c_proj",
    "ffn.up": "mlp.c_fc",
    "ffn.down": "mlp.c_proj",
}
_TOP = {
    "embedding.weight": "transformer.wte.weight",
    "positions.weight": "transformer.wpe.weight",
    "norm.weight": "transformer.ln_f.weight",
    "norm.bias": "transformer.ln_f.bias",
}
_QKV = ("mixer.q_proj", "mixer.k_proj", "mixer.v_proj")


def to_hf_config(config: ModelConfig, eot_id: int) -> dict[str, Any]:
    """The ``config.json`` of a ``gpt2`` model."""
    c = config
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
        "resid_pdrop": c.dropout,
        "embd_pdrop": c.dropout,
        "attn_pdrop": 0.0,
        "tie_word_embeddings": True,
        "use_cache": True,
        "bos_token_id": eot_id,
        "eos_token_id": eot_id,
        "pad_token_id": eot_id,
        "dtype": "float32",
    }


def to_hf_weights(model: LanguageModel) -> dict[str, Tensor]:
    """Our parameters under GPT-2's names; its projections are stored (in, out)."""
    own = {name: value.detach().float() for name, value in model.state_dict().items()}
    weights = {_TOP[name]: value.contiguous() for name, value in own.items() if name in _TOP}
    for number in range(model.config.n_layers):
        mine, theirs = f"layers.{number}.", f"transformer.h.{number}."
        for part in ("weight", "bias"):
            parts = {name: own[f"{mine}{name}.{part}"] for name in _NAMES}
            parts["qkv"] = torch.cat([own[f"{mine}{name}.{part}"] for name in _QKV])
            for name, value in parts.items():
                value = value.T if value.dim() == 2 else value
                weights[f"{theirs}{_NAMES.get(name, 'attn.c_attn')}.{part}"] = value.contiguous()
    return weights


def from_hf_weights(model: LanguageModel, weights: dict[str, Tensor]) -> None:
    """Load GPT-2's tensors, of the names and shapes that `to_hf_weights` gives, into ``model``."""

    def take(target: Tensor, name: str, rows: slice = slice(None)) -> None:
        value = weights[name].float()
        value = value.T if value.dim() == 2 and name.startswith("transformer.h.") else value
        target.copy_(value[rows])

    for name, target in model.state_dict().items():
        if name in _TOP:
            take(target, _TOP[name])
            continue
        _, layer, rest = name.split(".", 2)
        module, part = rest.rsplit(".", 1)
        prefix = f"transformer.h.{layer}."
        if module in _QKV:
            start, d = _QKV.index(module) * target.shape[0], target.shape[0]
            take(target, f"{prefix}attn.c_attn.{part}", slice(start, start + d))
        else:
            take(target, f"{prefix}{_NAMES[module]}.{part}")
