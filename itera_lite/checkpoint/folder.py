"""Checkpoint folders: a Hugging Face model, and beside it the state of its training.

    FOLDER/config.json model.safetensors tokenizer.json ...   loads in transformers
    FOLDER/training_state/state.json tensors.safetensors      to resume the training
    FOLDER/training_state/shard-*.safetensors                 the optimizer's parts, one a process

No pickle: safetensors and JSON. A folder is written under another name and then renamed, so an
interrupted save leaves the older checkpoint. Only a folder that this program wrote is replaced, and
only a checkpoint's files in it: other files stay.

config.json is written last and removed last: a folder without it is no checkpoint. state.json, and
the headers of model.safetensors and tensors.safetensors, hold the SHA-256 of their content; that of
the weights also holds the tokenizer's hash and the model's shape. state.json holds the SHA-256 of
the shards, too. All is compared when it is read.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
import warnings
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from itera_lite.checkpoint.hf import MADE_WITH, load_model, save_config, save_weights
from itera_lite.checkpoint.shards import SHARD, shard_hashes, verify_shards
from itera_lite.checkpoint.weights import damaged, verified, weights_facts, write_tensors
from itera_lite.data.tokenizer import Tokenizer
from itera_lite.errors import CheckpointError, DataError, IteraWarning, OutputError
from itera_lite.files import (
    TEMPORARY,
    is_folder,
    named_in_utf8,
    output_errors,
    read_object,
    reason_of,
    sync_folder,
    write_json,
)
from itera_lite.locks import is_locked
from itera_lite.model import LanguageModel

PADDINGS = (8, 16, 32, 64, 128, 256, 512)  # other programs round a vocabulary up to a multiple
_STATE_PARTS = ("identity", "state", "loader", "window")  # of state.json
_ADVICE = "Train anew with --overwrite, or another --name"
LAST = "-last"  # ending of the folder that a run resumes from
STATE = "training_state"
# Of state.json; raise it where an older state has to be changed to be gone on with (`_migrated`).
# 0: before 1 was written there, and the same otherwise.
STATE_VERSION = 1
# How long a reader waits at most while a folder is away between the two renames of a save: a busy
# machine may hold up the writer there. Seconds of a look at it, and how many looks.
SETTLE_SECONDS, SETTLE_TIMES = 0.05, 1200
SHARDS = "shards"  # key of state.json: the SHA-256 of each file that processes hold a part in
_VERSION, _SHA256 = "version", "sha256"  # keys of state.json
_TOKENIZER = "tokenizer_sha256"  # in the header of model.safetensors
_OWN = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config)\.json|model\.safetensors"
    r"|model-(f32|f16|bf16|q8_0|q4_0|mixed|auto)\.gguf(\.gz)?"  # as `itera export` names them
    rf"|{STATE}/(state\.json|tensors\.safetensors|{SHARD})"
    rf"|{TEMPORARY}"  # of an export that was killed
)


def save_checkpoint(
    folder: str | Path,
    model: LanguageModel,
    tokenizer: Tokenizer,
    training_state: dict[str, Any] | None = None,
    tensors: dict[str, Tensor] | None = None,
) -> Path:
    """Write a checkpoint folder; an older one is replaced when the new one is complete.

    A symbolic link stays one. Other files in the folder stay.

    Raises:
        OutputError: the folder holds something that this program didn't write, or it can't be
            written; what was there is still there.
    """
    with writing_checkpoint(folder, model, tokenizer, training_state, tensors):
        pass
    return Path(folder)


@contextlib.contextmanager
def writing_checkpoint(
    folder: str | Path,
    model: LanguageModel,
    tokenizer: Tokenizer,
    training_state: dict[str, Any] | None = None,
    tensors: dict[str, Tensor] | None = None,
) -> Iterator[Path]:
    """`save_checkpoint` whose block may write more of the training state.

    Yields:
        The folder of the training state, in the checkpoint that isn't complete.
    """
    target = Path(os.path.realpath(folder))
    if target.exists() and not is_own(target) and (not target.is_dir() or any(target.iterdir())):
        raise OutputError(
            f"'{folder}' wasn't written by Itera-Lite and isn't replaced: give another folder"
        )
    fresh = target.with_name(f".{target.name}.{os.getpid()}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    with output_errors(folder):
        try:
            save_weights(model, fresh, tokenizer.eot_id, **{_TOKENIZER: tokenizer.sha256})
            tokenizer.save(fresh)
            if training_state is not None:
                write_tensors(fresh / STATE / "tensors.safetensors", tensors or {})
            yield fresh / STATE
            if training_state is not None:  # after the block, which may have written shards
                shards = shard_hashes(fresh / STATE)
                state = {**training_state, SHARDS: shards} if shards else training_state
                write_json(fresh / STATE / "state.json", _signed(state))
            save_config(model, fresh, tokenizer.eot_id)
            _swap(fresh, target)
        except OutputError as error:
            raise OutputError(
                f"'{folder}' can't be written: {reason_of(error.__cause__ or error)}"
            ) from error
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


def is_own(folder: Path) -> bool:
    """Whether this program wrote the config.json in ``folder``."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and MADE_WITH in config


def has_training_state(folder: Path) -> bool:
    """Whether a training can be resumed from ``folder``."""
    _settle(folder)
    return (folder / STATE / "state.json").is_file()


def remove_checkpoint(folder: Path) -> None:
    """Remove the files of a checkpoint, and the folder if it is empty then."""
    if not folder.is_dir():
        return
    own = [
        path
        for path in [*folder.iterdir(), *(folder / STATE).glob("*")]
        if _OWN.fullmatch(path.relative_to(folder).as_posix())
    ]
    for path in sorted(own, key=lambda path: path.name == "config.json"):
        path.unlink()  # config.json last: `is_own` reads it
    for emptied in (folder / STATE, folder):
        with contextlib.suppress(OSError):  # it holds other files, or it is a link
            emptied.rmdir()


def move_checkpoint(source: Path, folder: Path) -> None:
    """Replace the checkpoint in ``folder`` by the one in ``source``, on the same disk.

    Other files in ``folder`` stay.

    Raises:
        OutputError: it can't be moved.
    """
    with output_errors(folder):
        _swap(source, Path(os.path.realpath(folder)))


def lock_path(folder: Path) -> Path:
    """The file that a run locks while it writes ``folder``: the same for both of its folders."""
    if not folder.name:  # `.` and `/`
        folder = folder.resolve()
    return folder.with_name(f".{folder.name.removesuffix(LAST)}.lock")


def _old(folder: Path) -> Path:
    """The name of a folder between the two renames that replace it."""
    return folder.with_name(f".{folder.name}.old")


def _swap(fresh: Path, folder: Path) -> None:
    """Replace ``folder`` by ``fresh``; other files in ``folder`` stay."""
    tidy(folder)
    if folder.exists():
        os.replace(folder, _old(folder))
    os.replace(fresh, folder)
    sync_folder(folder.parent)
    tidy(folder)


def sweep(folder: Path) -> None:
    """Remove the unfinished copies that killed saves into ``folder`` have left beside it."""
    target = Path(os.path.realpath(folder))
    left = re.compile(rf"\.{re.escape(target.name)}\.\d+\.new")
    for path in target.parent.iterdir() if target.parent.is_dir() else ():
        if left.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def tidy(folder: Path) -> None:
    """Finish an interrupted replacement of ``folder``, or undo it."""
    folder = Path(os.path.realpath(folder))
    old = _old(folder)
    if not old.is_dir():
        return
    if not folder.exists():
        os.replace(old, folder)
        return
    if is_own(old):
        remove_checkpoint(old)
    if old.is_dir():  # it holds other files, which stay in the folder
        _move_contents(old, folder)


def _move_contents(source: Path, target: Path) -> None:
    """Move the files of ``source`` to ``target``, except for names that exist there."""
    for path in source.iterdir():
        there = target / path.name
        if path.is_dir() and not path.is_symlink() and there.is_dir():
            _move_contents(path, there)
        elif not os.path.lexists(there):
            os.replace(path, there)
    with contextlib.suppress(OSError):
        source.rmdir()


def _settle(folder: Path) -> None:
    """`tidy` for a reader, which first waits for a save by another process."""
    if not _old(Path(os.path.realpath(folder))).is_dir():
        return
    for _ in range(SETTLE_TIMES):
        if folder.is_dir() or not is_locked(lock_path(folder)):
            break
        time.sleep(SETTLE_SECONDS)
    if not is_locked(lock_path(folder)):
        tidy(folder)


def load_checkpoint(folder: str | Path) -> tuple[LanguageModel, Tokenizer]:
    """The model (float32, eval mode) and the tokenizer of a checkpoint folder.

    Raises:
        CheckpointError: missing, incomplete or damaged, no checkpoint at all, or a tokenizer
            that isn't the model's.
        ConfigError: a model that `ModelConfig` can't describe.
    """
    folder = Path(folder)
    _settle(folder)
    model = load_model(folder)
    try:
        tokenizer = Tokenizer.load(folder)
    except DataError as error:
        raise CheckpointError(f"the checkpoint '{folder}' can't be used: {error}") from None
    _compare_with_header(folder, model, tokenizer)
    return _without_padding(folder, model, tokenizer), tokenizer


def _compare_with_header(folder: Path, model: LanguageModel, tokenizer: Tokenizer) -> None:
    """Compare tokenizer and shape with those that the weights were saved with, if they name them.

    Another context length is no change of the model. Another scale may be meant by whoever edits
    config.json, so that is a warning.

    Raises:
        CheckpointError: another tokenizer, whose tokens mean something else to this model.
    """
    facts = weights_facts(folder)
    if (saved := facts.get(_TOKENIZER)) not in (None, tokenizer.sha256):
        raise CheckpointError(
            f"'{folder / 'tokenizer.json'}' isn't the tokenizer that the weights were saved with: "
            f"its hash is {tokenizer.sha256[:16]}..., expected {str(saved)[:16]}.... It is damaged "
            "or another model's: take another copy of the checkpoint"
        )
    try:
        shape = dict(json.loads(facts.get("shape", "{}")))
    except (ValueError, TypeError, RecursionError):
        raise CheckpointError(f"the header of the weights in '{folder}' is damaged") from None
    now = model.config.to_dict()
    changed = [
        f"{name}={now[name]!r} (saved with {shape[name]!r})"
        for name in now
        if name in shape and shape[name] != now[name] and name != "max_seq_len"
    ]
    if changed:
        warnings.warn(
            f"'{folder / 'config.json'}' was changed after the weights were saved: "
            f"{', '.join(changed)}. If you didn't change it, take another copy",
            IteraWarning,
            stacklevel=3,
        )


def _without_padding(folder: Path, model: LanguageModel, tokenizer: Tokenizer) -> LanguageModel:
    """The model with as many tokens as the tokenizer has.

    Other programs round a vocabulary up to a multiple of 8 to 512. The tokenizer never gives the
    added tokens and they stand for no bytes, so their rows are removed.

    Raises:
        CheckpointError: the difference is no such padding.
    """
    found, wanted = tokenizer.vocab_size, model.config.vocab_size
    if found == wanted:
        return model
    if wanted not in {-(-found // step) * step for step in PADDINGS}:
        raise CheckpointError(
            f"'{folder}': the tokenizer has {found} tokens, the model {wanted}: they don't belong "
            "together"
        )
    smaller = LanguageModel(model.config.replace(vocab_size=found))
    rows = model.embedding.weight.detach()[:found]
    smaller.load_state_dict({**model.state_dict(), "embedding.weight": rows})
    return smaller.eval()


def load_training_state(folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The contents of state.json, and the tensors, with which a training is resumed.

    Shards are compared with their hashes, and not read: see `load_shards`.

    Raises:
        CheckpointError: where there is none, or it is damaged.
    """
    folder = Path(folder)
    _settle(folder)
    inner = folder / STATE
    if not is_folder(inner):
        raise CheckpointError(
            f"'{folder}' has nothing to resume from: expected {inner}. Start without --resume"
        )
    path, tensors = inner / "state.json", inner / "tensors.safetensors"
    state = _migrated(read_object(path, CheckpointError), path)
    lacking = [name for name in _STATE_PARTS if not isinstance(state.get(name), dict)]
    if lacking:
        raise CheckpointError(
            f"'{path}' can't be used: it lacks {', '.join(lacking)}. It is damaged, or another "
            f"version of this program saved it. {_ADVICE}"
        )
    try:
        with open(tensors, "rb"), named_in_utf8(tensors) as source:
            loaded = load_file(source)  # load_file reports files that it can't open as missing
        verified(tensors)
    except OSError as error:
        raise CheckpointError(f"'{tensors}' can't be read: {error.strerror or error}") from None
    except SafetensorError as error:
        raise CheckpointError(f"'{tensors}' is damaged: {error}. {_ADVICE}") from None
    if SHARDS in state:
        if not isinstance(state[SHARDS], dict):
            raise CheckpointError(f"'{path}' is damaged: '{SHARDS}' is no object. {_ADVICE}")
        verify_shards(inner, state[SHARDS])
    return state, loaded


def _signed(state: dict[str, Any]) -> dict[str, Any]:
    """A training state with its version and its checksum."""
    state = {_VERSION: STATE_VERSION, **state}
    return {_SHA256: _sha256_of_values(state), **state}


def _sha256_of_values(state: dict[str, Any]) -> str:
    """The hash of what a JSON file holds, however it is written there."""
    values = json.loads(json.dumps(state))  # as they are when they are read
    return sha256(json.dumps(values, sort_keys=True).encode("utf-8")).hexdigest()


def _migrated(state: dict[str, Any], path: Path) -> dict[str, Any]:
    """The contents of a state.json of any version so far, as this version writes it.

    Raises:
        CheckpointError: a newer version wrote it, or it is damaged.
    """
    expected = state.pop(_SHA256, None)
    if expected is not None and (found := _sha256_of_values(state)) != expected:
        raise CheckpointError(damaged(path, found, str(expected)))
    version = state.pop(_VERSION, 0)
    if version == STATE_VERSION and expected is None:
        raise CheckpointError(
            f"'{path}' is damaged: it has version {version}, but no {_SHA256}. {_ADVICE}"
        )
    if version in range(STATE_VERSION + 1):
        return state
    if isinstance(version, int) and version > STATE_VERSION:
        raise CheckpointError(
            f"'{path}' has version {version}, newer than {STATE_VERSION}, which is read here: "
            "update Itera-Lite to go on with it"
        )
    raise CheckpointError(f"'{path}' is damaged: its version is {version!r}. {_ADVICE}")
