"""Fused operations for training on a CPU; `itera_lite.model` has each in plain PyTorch too.

They are off until `enable` is called; then the model calls them wherever `usable` is true.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from itera_lite.config import ModelConfig
from itera_lite.ops.dropout import Drop, dropout
from itera_lite.ops.experts import gated_silu, mixture
from itera_lite.ops.layers import attention_layer, mamba2_layer, swiglu
from itera_lite.ops.library import has_bf16, load_library
from itera_lite.ops.loss import linear_cross_entropy, linear_soft_cross_entropy
from itera_lite.ops.mamba2 import mamba2_from
from itera_lite.ops.muon import MuonStep, muon
from itera_lite.ops.norm import add_rms_norm, rms_norm
from itera_lite.ops.products import forget_packed, linear

__all__ = [
    "Drop",
    "MuonStep",
    "add_rms_norm",
    "attention_layer",
    "disable",
    "dropout",
    "enable",
    "forget_packed",
    "gated_silu",
    "linear",
    "linear_cross_entropy",
    "linear_soft_cross_entropy",
    "mamba2_from",
    "mamba2_layer",
    "mixture",
    "muon",
    "rms_norm",
    "swiglu",
    "usable",
]

_enabled = False
_warned: str | None = None  # the reason in the last warning


def enable() -> str | None:
    """Compile (once) and switch on. Returns None, or the reason why that failed.

    The reason is also printed to standard error, once: everything still works in plain PyTorch,
    but several times slower.
    """
    global _enabled, _warned
    try:
        load_library()
    except OSError as error:
        if str(error) != _warned:
            _warned = str(error)
            print(
                f"warning: without the fused operations, which makes this several times slower: "
                f"{_warned}",
                file=sys.stderr,
            )
        return _warned
    _enabled = True
    return None


def disable() -> None:
    """Back to plain PyTorch."""
    global _enabled
    _enabled = False


def usable(x: Tensor, mamba: ModelConfig | None = None, dtype: torch.dtype | None = None) -> bool:
    """Whether the fused operations take this tensor: float32, or bfloat16 on a processor that
    multiplies it.

    Args:
        mamba: for Mamba-2 of this shape.
        dtype: of the result, by default that of ``x``.
    """
    types = {x.dtype, dtype or x.dtype} - {torch.float32}
    if not (_enabled and x.device.type == "cpu") or types - {torch.bfloat16}:
        return False
    if types and not has_bf16():
        return False
    return mamba is None or (mamba.ssm_head_dim % 16 == 0 and mamba.d_state % 8 == 0)
