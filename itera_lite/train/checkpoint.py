"""Checkpoint folders: a Hugging Face model, and what only training needs beside it.

    FOLDER/config.json model.safetensors tokenizer.json ...   loads in transformers
    FOLDER/training_state/state.json tensors.safetensors      to go on training

No pickle: safetensors and JSON. A folder is written aside and then renamed,
so an interrupted save leaves the one before it.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from itera_lite.data.tokenizer import Tokenizer
from itera_lite.errors import CheckpointError
from itera_lite.export.hf import load_model, save_model
from itera_lite.files import named_in_utf8, write_json
from itera_lite.model import LanguageModel


def save_checkpoint(
    folder: str | Path,
    model: LanguageModel,
    tokenizer: Tokenizer,
    training_state: dict[str, Any] | None = None,
    tensors: dict[str, Tensor] | None = None,
) -> Path:
    """Write a checkpoint folder, replacing an older one only when the new one is whole."""
    folder = Path(folder)
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    save_model(model, fresh, tokenizer.eot_id)
    tokenizer.save(fresh)
    if training_state is not None:
        write_json(fresh / "training_state" / "state.json", training_state)
        save_file(tensors or {}, fresh / "training_state" / "tensors.safetensors")
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def _recover(folder: Path) -> None:
    """A save that was cut off between its two renames left the old folder aside."""
    folder = Path(os.path.realpath(folder))  # `.` and `/` have no name
    old = folder.with_name(f".{folder.name}.old")
    if old.exists() and not folder.exists():
        os.replace(old, folder)


def load_checkpoint(folder: str | Path) -> tuple[LanguageModel, Tokenizer]:
    """A checkpoint folder -> its model (float32, eval mode) and its tokenizer.

    Raises:
        CheckpointError: missing, incomplete or damaged, or a tokenizer whose
            size differs from the model's vocabulary.
    """
    folder = Path(folder)
    _recover(folder)
    model = load_model(folder)
    with named_in_utf8(folder) as source:
        tokenizer = Tokenizer.load(source)
    if tokenizer.vocab_size != model.config.vocab_size:
        raise CheckpointError(
            f"'{folder}': the tokenizer has {tokenizer.vocab_size} tokens, the model "
            f"{model.config.vocab_size}: they don't belong together"
        )
    return model, tokenizer


def load_training_state(folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What training needs to go on from ``folder``: its state and its tensors.

    Raises:
        CheckpointError: where there is none, or it is damaged.
    """
    folder = Path(folder)
    _recover(folder)
    inner = folder / "training_state"
    if not inner.is_dir():
        raise CheckpointError(
            f"'{folder}' has nothing to resume from: expected {inner}. Start without --resume"
        )
    try:
        state = json.loads((inner / "state.json").read_text(encoding="utf-8"))
        with named_in_utf8(inner) as source:
            return state, load_file(source / "tensors.safetensors")
    except (OSError, json.JSONDecodeError, SafetensorError) as error:
        raise CheckpointError(f"the training state in '{inner}' is damaged: {error}") from None
