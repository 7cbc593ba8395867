"""The model's tensors under GGUF's names and in its shapes.

llama.cpp's ``gpt2`` has one tensor for the queries, keys and values of a layer. `gguf_tensors`
joins them; `gguf_names` is for the architectures that the engine runs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from itera_lite.model import LanguageModel

_TOP = {
    "embedding.weight": "token_embd.weight",
    "positions.weight": "position_embd.weight",
    "norm.weight": "output_norm.weight",
    "norm.bias": "output_norm.bias",
}
_LAYER = {
    "mixer_norm.weight": "attn_norm.weight",
    "ffn_norm.weight": "ffn_norm.weight",
    "mixer.q_proj.weight": "attn_q.weight",
    "mixer.k_proj.weight": "attn_k.weight",
    "mixer.v_proj.weight": "attn_v.weight",
    "mixer.o_proj.weight": "attn_output.weight",
    "mixer.in_proj.weight": "ssm_in.weight",
    "mixer.conv_weight": "ssm_conv1d.weight",
    "mixer.conv_bias": "ssm_conv1d.bias",
    "mixer.dt_bias": "ssm_dt.bias",
    "mixer.A_log": "ssm_a",
    "mixer.D": "ssm_d",
    "mixer.norm.weight": "ssm_norm.weight",
    "mixer.out_proj.weight": "ssm_out.weight",
    "ffn.router.weight": "ffn_gate_inp.weight",
    "ffn.down": "ffn_down_exps.weight",
    "ffn.shared.down.weight": "ffn_down_shexp.weight",
    "ffn.down.weight": "ffn_down.weight",
    # only GPT-2's
    "mixer_norm.bias": "attn_norm.bias",
    "ffn_norm.bias": "ffn_norm.bias",
    "mixer.o_proj.bias": "attn_output.bias",
    "ffn.up.weight": "ffn_up.weight",
    "ffn.up.bias": "ffn_up.bias",
    "ffn.down.bias": "ffn_down.bias",
}
_GATE_UP = {  # one tensor of ours, two of GGUF's
    "ffn.gate_up": "_exps.weight",
    "ffn.shared.gate_up.weight": "_shexp.weight",
    "ffn.gate_up.weight": ".weight",
}


def gguf_names(parameter: str) -> tuple[str, ...]:
    """GGUF's names of one of our parameters: one, or two for the halves gate and up.

    The halves are taken on the last axis but one. Rows are never cut or joined, so the blocks of
    a row are the same in both.
    """
    if parameter in _TOP:
        return (_TOP[parameter],)
    _, layer, name = parameter.split(".", 2)
    prefix = f"blk.{layer}."
    if name in _GATE_UP:
        return tuple(f"{prefix}ffn_{half}{_GATE_UP[name]}" for half in ("gate", "up"))
    return (prefix + _LAYER[name],)


def gguf_tensors(model: LanguageModel) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The model's weights in float32, under GGUF's names and in its shapes, layer by layer."""
    rotary = model.config.parts.positions == "rotary"
    joined = model.config.parts.gguf == "gpt2"
    state = model.state_dict()
    for parameter, value in state.items():
        weights = value.detach().float().contiguous().numpy()
        if joined and ".q_proj." in parameter:
            parts = [state[parameter.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            _, layer, _, _, kind = parameter.split(".")
            yield f"blk.{layer}.attn_qkv.{kind}", torch.cat(parts).float().numpy()
            continue
        if joined and (".k_proj." in parameter or ".v_proj." in parameter):
            continue
        names = gguf_names(parameter)
        if len(names) == 2:
            for name, half in zip(names, np.split(weights, 2, axis=-2), strict=True):
                yield name, np.ascontiguousarray(half)
            continue
        if parameter.endswith("mixer.A_log"):
            weights = -np.exp(weights)[:, None]
        elif parameter.endswith("mixer.D"):
            weights = weights[:, None]
        elif parameter.endswith("mixer.norm.weight"):
            weights = weights[None]  # (groups, d_inner / groups)
        elif rotary and parameter.endswith(("mixer.q_proj.weight", "mixer.k_proj.weight")):
            weights = _interleave_halves(weights, model.config.head_dim)
        yield names[0], weights


def _interleave_halves(weights: NDArray[np.float32], head_dim: int) -> NDArray[np.float32]:
    """Rows of each head from (first half, second half) to pairs: what ``llama`` rotates."""
    halves = weights.reshape(-1, 2, head_dim // 2, weights.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weights.shape)
