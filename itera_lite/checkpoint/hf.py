"""A checkpoint as a Hugging Face folder: names and shapes of the tensors, saving and loading.

The Itera model is a ``GraniteMoeHybrid``, the Transformer a ``Llama``, the reference a ``GPT2``;
`transformers` loads them as they are, with no code of ours.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from itera_lite import __version__
from itera_lite.checkpoint.hf_config import from_hf_config, to_hf_config
from itera_lite.checkpoint.weights import WEIGHTS, read_weights, require_checkpoint, write_tensors
from itera_lite.config import Family, ModelConfig
from itera_lite.errors import CheckpointError, ConfigError
from itera_lite.files import read_json, write_json
from itera_lite.model import LanguageModel
from itera_lite.model.cost import cost
from itera_lite.sampling import DEFAULTS

CHECKED_FIRST = 10**8  # parameters

MADE_WITH = "made_with"  # a key of config.json that marks a checkpoint of this program

_ATTENTION = {
    "mixer_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "mixer.q_proj.weight": "self_attn.q_proj.weight",
    "mixer.k_proj.weight": "self_attn.k_proj.weight",
    "mixer.v_proj.weight": "self_attn.v_proj.weight",
    "mixer.o_proj.weight": "self_attn.o_proj.weight",
}
_GPT2 = {
    "mixer_norm": "ln_1",
    "mixer.q_proj": "attn.c_attn",
    "mixer.k_proj": "attn.c_attn",
    "mixer.v_proj": "attn.c_attn",
    "mixer.o_proj": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn.up": "mlp.c_fc",
    "ffn.down": "mlp.c_proj",
}
# The parameters of a layer under Hugging Face's names; of several with one name, its tensor is
# the concatenation.
_LAYER: dict[Family, dict[str, str]] = {
    "transformer": {**_ATTENTION, "ffn.down.weight": "mlp.down_proj.weight"},
    "itera": {
        **_ATTENTION,
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
    },
    "gpt2": {
        f"{ours}.{part}": f"{theirs}.{part}"
        for ours, theirs in _GPT2.items()
        for part in ("weight", "bias")
    },
}
_TOP = {"embedding.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight"}
_TOP_GPT2 = {
    "embedding.weight": "transformer.wte.weight",
    "positions.weight": "transformer.wpe.weight",
    "norm.weight": "transformer.ln_f.weight",
    "norm.bias": "transformer.ln_f.bias",
}


def _hf_views(model: LanguageModel) -> dict[str, list[Tensor]]:
    """Hugging Face's name of each tensor -> the views of our parameters that it consists of.

    Concatenated along the last axis, the views are Hugging Face's tensor; copying the tensor's
    parts into the views sets our parameters.
    """
    c = model.config
    gpt2 = c.family == "gpt2"
    top = _TOP_GPT2 if gpt2 else _TOP
    views: dict[str, list[Tensor]] = {}
    for name, value in model.state_dict().items():
        if name in top:
            views[top[name]] = [value]
            continue
        _, layer, rest = name.split(".", 2)
        prefix = f"transformer.h.{layer}." if gpt2 else f"model.layers.{layer}."
        if c.family == "transformer" and rest == "ffn.gate_up.weight":
            gate, up = value.chunk(2)
            views[prefix + "mlp.gate_proj.weight"] = [gate]
            views[prefix + "mlp.up_proj.weight"] = [up]
            continue
        if rest == "mixer.conv_weight":
            value = value[:, None]
        elif gpt2 and value.dim() == 2:
            value = value.T  # GPT-2 stores its projections as (in, out)
        views.setdefault(prefix + _LAYER[c.family][rest], []).append(value)
    if c.n_experts and not c.d_ff:  # transformers always has a shared expert, here an empty one
        for number in range(c.n_layers):
            prefix = f"model.layers.{number}.shared_mlp."
            views[prefix + "input_linear.weight"] = [torch.zeros(0, c.d_model)]
            views[prefix + "output_linear.weight"] = [torch.zeros(c.d_model, 0)]
    return views


def to_hf_weights(model: LanguageModel) -> dict[str, Tensor]:
    """Our parameters under Hugging Face's names and in its shapes (float32)."""
    return {
        name: torch.cat(views, dim=-1).float() if len(views) > 1 else views[0].float().contiguous()
        for name, views in _hf_views(model).items()
    }


def from_hf_weights(model: LanguageModel, weights: dict[str, Tensor]) -> None:
    """Load Hugging Face's tensors into ``model``.

    Args:
        weights: tensors of the names and shapes that `to_hf_weights` gives.
    """
    for name, views in _hf_views(model).items():
        parts = weights[name].split([view.shape[-1] for view in views], dim=-1)
        for view, part in zip(views, parts, strict=True):
            view.copy_(part)


def save_model(model: LanguageModel, folder: str | Path, eot_id: int) -> None:
    """Write generation_config.json, model.safetensors and, last, config.json into ``folder``."""
    folder = Path(folder)
    save_weights(model, folder, eot_id)
    save_config(model, folder, eot_id)


def save_weights(model: LanguageModel, folder: Path, eot_id: int, **facts: str) -> None:
    """Write all of a model's files but config.json, without which a folder is no checkpoint.

    Args:
        facts: of `write_tensors`; the shape is one too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generation = {
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), eot_id),
        "do_sample": True,
        "temperature": DEFAULTS.temperature,
        "top_p": DEFAULTS.top_p,
    }
    write_json(folder / "generation_config.json", generation)
    shape = from_hf_config(to_hf_config(model.config, eot_id))
    write_tensors(
        folder / WEIGHTS, to_hf_weights(model), shape=json.dumps(shape.to_dict()), **facts
    )


def save_config(model: LanguageModel, folder: Path, eot_id: int) -> None:
    """Write config.json: the last file, with which a folder is a whole checkpoint."""
    config = to_hf_config(model.config, eot_id)
    write_json(folder / "config.json", config | {MADE_WITH: f"itera-lite {__version__}"})


def load_model(folder: str | Path) -> LanguageModel:
    """Read a Hugging Face folder of any of the families into a `LanguageModel` (eval mode).

    The weights may be in several files, with an index in model.safetensors.index.json.

    Raises:
        CheckpointError: the folder is missing, incomplete, damaged or no checkpoint.
        ConfigError: a model that `ModelConfig` can't describe.
    """
    folder = Path(folder)
    config = read_config(folder)
    # A config may name a model that is far too large for its files, so such a model gets no memory
    # before they are checked. For others that would only import PyTorch's compiler, for a second.
    large = cost(config).params_total > CHECKED_FIRST
    with torch.device("meta" if large else "cpu"):
        model = LanguageModel(config)
    weights = read_weights(folder, to_hf_weights(model))
    if large:
        model = LanguageModel(config)
    with torch.no_grad():
        from_hf_weights(model, weights)
    return model.eval()


def read_config(folder: Path) -> ModelConfig:
    """The shape of the model in a checkpoint folder.

    Raises:
        CheckpointError: the folder is missing, is no checkpoint, or its config.json is damaged.
        ConfigError: a model that `ModelConfig` can't describe.
    """
    require_checkpoint(folder)
    path = folder / "config.json"
    raw = read_json(path, CheckpointError)
    try:
        return from_hf_config(raw)
    except (CheckpointError, ConfigError) as error:
        raise type(error)(f"'{path}': {error}") from None
