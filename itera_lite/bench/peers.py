"""What users would pick instead, with the same weights: `transformers`, and llama.cpp."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from itera_lite.errors import MissingExtra


def load_transformers(folder: Path, attention: str = "eager") -> nn.Module:
    """A checkpoint folder as the `transformers` model of its kind, float32, on the CPU.

    Args:
        folder: checkpoint, as ours.
        attention: ``eager`` or ``sdpa``.

    Raises:
        MissingExtra: where the package isn't installed.
    """
    if find_spec("transformers") is None:
        raise MissingExtra("transformers", "peers", "measuring peers")
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()  # it advises CUDA kernels, at each load
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
        model: nn.Module = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation=attention, local_files_only=True
        )
    return model


class TransformersRunner:
    """The same checkpoint folder in `transformers`: eager attention, its own cache, float32."""

    def __init__(self, name: str, folder: Path, device: str = "cpu") -> None:
        self.name = name
        self._model = load_transformers(folder).eval().to(device)

    def prefill(self, ids: Tensor) -> tuple[Tensor, Any]:
        out = self._model(input_ids=ids, use_cache=True, logits_to_keep=1)
        return out.logits[:, -1], out.past_key_values

    def step(self, ids: Tensor, state: Any) -> tuple[Tensor, Any]:
        out = self._model(input_ids=ids[:, None], past_key_values=state, use_cache=True)
        return out.logits[:, -1], out.past_key_values


def unavailable_peers() -> dict[str, str]:
    """Peers that `itera bench --peers` can't measure here -> the reason."""
    if find_spec("itera_lite.export.gguf") is None:
        return {"llama.cpp": "it reads GGUF files, which this version can't write yet"}
    return {}


def peer_versions() -> dict[str, str]:
    """Versions of the packages that peers run on."""
    from importlib import metadata

    return {"transformers": metadata.version("transformers")}
