"""What users would pick instead of our PyTorch models, with the same weights in float32.

`transformers` loads the checkpoint; llama.cpp and our native engine an F32 export of it.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from itera_lite import _engine
from itera_lite.bench import llama
from itera_lite.errors import MissingExtra
from itera_lite.files import folder_name

if TYPE_CHECKING:
    from itera_lite.bench.measure import Runner

TRANSFORMERS, LLAMA, ENGINE = "transformers", "llama.cpp", "engine"


@dataclass(frozen=True)
class Peer:
    """A runtime with one of the checkpoints.

    Attributes:
        kind: ``transformers``, ``llama.cpp`` or ``engine``.
        of: index of the checkpoint.
        runner: what is measured.
        batches: whether it reads several texts at once.
    """

    kind: str
    of: int
    runner: Runner
    batches: bool


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


class LlamaRunner:
    """llama.cpp on a GGUF file, one text at a time; its logits are valid until the next call.

    Args:
        name: what progress and results call it.
        path: GGUF file.
        context: tokens that a text may have.
        threads: processor threads.
    """

    def __init__(self, name: str, path: Path, context: int, threads: int) -> None:
        self.name = name
        self._llama = llama.LlamaCpp(path, context=context, threads=threads)

    def prefill(self, ids: Tensor) -> tuple[Tensor, Any]:
        self._llama.clear()
        return self._read(_only_row(ids)), None

    def step(self, ids: Tensor, state: Any) -> tuple[Tensor, Any]:
        return self._read(ids.tolist()), state

    def _read(self, ids: Sequence[int]) -> Tensor:
        self._llama.read(ids)
        return torch.from_numpy(self._llama.logits())[None]


class EngineRunner:
    """The native engine on a GGUF file, one text at a time, a call from Python for each token.

    Args:
        name: what progress and results call it.
        path: GGUF file.
        context: tokens that a text may have.
    """

    def __init__(self, name: str, path: Path, context: int) -> None:
        self.name = name
        self._model = _engine.Model.load(str(path), context)

    def prefill(self, ids: Tensor) -> tuple[Tensor, Any]:
        state = self._model.state()
        return self._read(state, _only_row(ids)), state

    def step(self, ids: Tensor, state: Any) -> tuple[Tensor, Any]:
        return self._read(state, ids.tolist()), state

    def _read(self, state: _engine.State, ids: Sequence[int]) -> Tensor:
        return torch.from_numpy(self._model.read(state, ids, False))[None]


def find_peers(
    folders: Sequence[Path], *, device: str, threads: int, context: int
) -> tuple[list[Peer], dict[str, str]]:
    """Every peer that can be measured here, with every checkpoint.

    Args:
        folders: checkpoints.
        device: what the models run on.
        threads: processor threads; the engine reads a text with one.
        context: tokens that a text may have.

    Returns:
        The peers, and the reason for each that can't be measured.
    """
    missing = unavailable_peers(device)
    found: list[Peer] = []
    # Loaded models keep their files mapped: the folder may go before they are used.
    with tempfile.TemporaryDirectory() as scratch:
        for i, folder in enumerate(folders):
            name = folder_name(folder)
            if TRANSFORMERS not in missing:
                hf = TransformersRunner(f"{TRANSFORMERS}:{name}", folder, device)
                found.append(Peer(TRANSFORMERS, i, hf, batches=True))
            if {LLAMA, ENGINE} <= missing.keys():
                continue
            path = _exported(folder, Path(scratch) / f"{i}.gguf")
            if LLAMA not in missing:
                llama_cpp = LlamaRunner(f"{LLAMA}:{name}", path, context, threads)
                found.append(Peer(LLAMA, i, llama_cpp, batches=False))
            if ENGINE not in missing:
                engine = EngineRunner(f"{ENGINE}:{name}", path, context)
                found.append(Peer(ENGINE, i, engine, batches=False))
    return found, missing


def unavailable_peers(device: str = "cpu") -> dict[str, str]:
    """Peers that `itera bench --peers` can't measure here -> the reason."""
    missing = {}
    if find_spec("transformers") is None:
        missing[TRANSFORMERS] = "it isn't installed: pip install 'itera-lite[peers]'"
    if not llama.available():
        missing[LLAMA] = "llama-cpp-python isn't installed: pip install 'itera-lite[llama]'"
    if device != "cpu":
        for kind in (LLAMA, ENGINE):
            missing[kind] = f"it runs on the CPU here, and the models on {device}"
    return missing


def peer_versions(kinds: Iterable[str] = (TRANSFORMERS,)) -> dict[str, str]:
    """Versions of the packages that the given peers run on, and of what they are built for."""
    kinds, found = set(kinds), dict[str, str]()
    if TRANSFORMERS in kinds:
        found["transformers"] = metadata.version("transformers")
    if LLAMA in kinds:
        found |= llama.build_info()
    return found


def _only_row(ids: Tensor) -> list[int]:
    if len(ids) != 1:
        raise ValueError(f"{len(ids)} texts at once: expected one")
    row: list[int] = ids[0].tolist()
    return row


def _exported(folder: Path, path: Path) -> Path:
    from itera_lite.export.gguf import export_gguf

    export_gguf(folder, "f32", path)
    return path
