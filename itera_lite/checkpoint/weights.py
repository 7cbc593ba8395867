"""Reads the weights of a checkpoint folder, after checking that they are those of its model.

Names, shapes and number types are compared with the model's before anything is loaded, so that a
config.json of a much larger model costs no memory. A file that `write_tensors` wrote has the
SHA-256 of its numbers in its header, beside ``format``: a file in which a bit has flipped is named.
Another program that writes the file again leaves the checksum out, and nothing is compared then.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from itera_lite.errors import CheckpointError
from itera_lite.files import (
    begins_with,
    exists,
    is_file,
    is_folder,
    named_in_utf8,
    read_object,
    sha256_of,
    write_bytes,
)

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_OLD = (".pt", ".pth", ".ckpt")  # endings of pickled checkpoints
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # bytes of a number
# Tensors that older versions of transformers saved, which follow from the config.
_DERIVED = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
_HEAD = "lm_head.weight"  # in some files, a copy of the embedding
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight")
_LISTED = 5  # names in a message
_SHA256 = "sha256"  # key of the checksum in a file's header
_MOST_HEADER = 100_000_000  # bytes, as safetensors has it
_EXPECTED = "expected a folder with config.json and model.safetensors, as `itera train` writes it"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], **facts: str) -> Path:
    """Write a safetensors file, whole or not at all, with the permissions of the umask.

    Args:
        facts: what else stands in its header, beside the checksum of its numbers; see `verified`.
    """
    raw = memoryview(save(dict(tensors)))
    begin = 8 + int.from_bytes(raw[:8], "little")  # of the numbers: see safetensors' format
    about = {"format": "pt", _SHA256: hashlib.sha256(raw[begin:]).hexdigest(), **facts}
    # The library gives the keys of this object another order in each process.
    header = json.dumps({"__metadata__": about, **json.loads(bytes(raw[8:begin]))}).encode()
    header += b" " * (-len(header) % 8)
    return write_bytes(path, b"".join([len(header).to_bytes(8, "little"), header, raw[begin:]]))


def verified(path: Path) -> dict[str, str]:
    """Read a safetensors file's header, and compare the file with its checksum.

    Returns:
        The facts of `write_tensors`, as far as they are there.

    Raises:
        CheckpointError: the numbers aren't those that were written.
        OSError: the file can't be read.
    """
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = file.read(min(size, _MOST_HEADER))
    try:
        about = json.loads(header).get("__metadata__", {})
        about = {str(key): str(value) for key, value in about.items()}
    except (ValueError, AttributeError, RecursionError):
        raise CheckpointError(f"'{path}' is damaged: its header isn't JSON") from None
    expected = about.pop(_SHA256, None)
    if expected is not None and (found := sha256_of(path, 8 + size)) != expected:
        raise CheckpointError(damaged(path, found, expected))
    return about


def damaged(path: Path, found: str, expected: str) -> str:
    """The message for a file of a checkpoint whose content isn't what was written."""
    return (
        f"'{path}' is damaged: its content has the SHA-256 {found[:16]}..., and "
        f"{expected[:16]}... was written. The disk or a copy changed it: take another copy of the "
        "checkpoint, or train anew"
    )


def require_checkpoint(folder: Path) -> None:
    """Check that ``folder`` is a checkpoint.

    Raises:
        CheckpointError: it isn't, or may not be read; says what it is instead.
    """
    with _read_errors(folder):
        if not exists(folder):
            raise CheckpointError(
                f"no checkpoint at '{folder}': {_EXPECTED}. Train one with: itera train"
            )
        if not is_folder(folder):
            raise CheckpointError(_not_a_folder(folder))
        if not exists(folder / "config.json"):
            raise CheckpointError(_no_config(folder))


@contextmanager
def _read_errors(folder: Path) -> Iterator[None]:
    """Turns an error of reading in the block into a `CheckpointError` that names the file."""
    try:
        yield
    except SafetensorError as error:
        raise CheckpointError(f"the weights in '{folder}' are damaged: {error}") from None
    except OSError as error:
        path = error.filename or folder
        raise CheckpointError(f"'{path}' can't be read: {error.strerror or error}") from None


def _not_a_folder(path: Path) -> str:
    """The message for a file instead of a checkpoint: what it is and what to give instead."""
    if begins_with(path, 4) == b"GGUF":
        return (
            f"'{path}' is a GGUF file, which can be run (itera generate, itera score) but not "
            "trained, compressed or exported again: give the checkpoint folder that it was "
            "exported from"
        )
    if exists(path.parent / "config.json"):
        return f"'{path}' is a file of a checkpoint: give its folder, '{path.parent}'"
    if path.suffix in _OLD:
        return (
            f"'{path}' is a pickle, as versions before 1.0 and other programs write it, which can "
            f"run code when it is read, so it isn't read: {_EXPECTED}. Train the model anew"
        )
    return f"'{path}' is a file: {_EXPECTED}"


def _no_config(folder: Path) -> str:
    """The message for a folder without config.json: what it is and what to give instead."""
    inside = sorted(folder.iterdir())
    if not inside:
        return f"'{folder}' is an empty folder: {_EXPECTED}"
    checkpoints = [path for path in inside if is_folder(path) and exists(path / "config.json")]
    if checkpoints:
        names = ", ".join(f"'{path}'" for path in checkpoints[:_LISTED])
        return f"'{folder}' is no checkpoint, but holds some: name one of them, such as {names}"
    return f"'{folder}' is no checkpoint, for it has no config.json: {_EXPECTED}"


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a checkpoint's weights.

    Raises:
        CheckpointError: as `read_weights`.
    """
    with _read_errors(folder):
        return sorted(set(_find(folder).values()))


def weights_sha256(folder: Path) -> str:
    """The SHA-256 of a checkpoint's shape and weights: of config.json and the files of weights.

    Raises:
        CheckpointError: as `read_weights`.
    """
    digest = hashlib.sha256()
    for file in (folder / "config.json", *weight_files(folder)):
        with _read_errors(folder):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def weights_facts(folder: Path) -> dict[str, str]:
    """What stands about the model in the header of a checkpoint's weights; see `write_tensors`.

    Raises:
        CheckpointError: as `read_weights`.
    """
    with _read_errors(folder):
        (first, *_) = sorted(set(_find(folder).values()))
        with named_in_utf8(first) as source, safe_open(source, "pt") as file:
            return dict(file.metadata() or {})


def stored_types(folder: Path) -> dict[str, tuple[int, int, int]]:
    """What is stored as which type: (tensors, numbers, bytes), by the type's name.

    Raises:
        CheckpointError: as `read_weights`.
    """
    found: dict[str, tuple[int, int, int]] = {}
    with _read_errors(folder):
        where = _find(folder)
        for path in sorted(set(where.values())):
            with named_in_utf8(path) as source, safe_open(source, "pt") as file:
                for name in list(file.keys()):
                    part = file.get_slice(name)
                    kind, numbers = part.get_dtype(), math.prod(part.get_shape())
                    tensors, weights, n_bytes = found.get(kind, (0, 0, 0))
                    size = _FLOATS.get(kind, 0) * numbers
                    found[kind] = (tensors + 1, weights + numbers, n_bytes + size)
    return found


def read_weights(folder: Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a checkpoint, in float32.

    Args:
        wanted: tensors of the names and shapes that the model has; their values aren't read.

    Raises:
        CheckpointError: there are none, they are damaged, or they aren't those of the model.
    """
    with _read_errors(folder):
        loaded = _load(folder, _find(folder), wanted)
    for name, value in loaded.items():
        if not torch.isfinite(value).all():
            raise CheckpointError(
                f"the tensor '{name}' in '{folder}' holds numbers that aren't finite: the file is "
                "damaged, or the training failed. Take an older checkpoint, or train anew"
            )
    return loaded


def _find(folder: Path) -> dict[str, Path]:
    """The file that each tensor is in."""
    if exists(folder / WEIGHTS):
        return dict.fromkeys(_names(folder / WEIGHTS), folder / WEIGHTS)
    if exists(folder / INDEX):
        return _shards(folder)
    if any(exists(folder / name) for name in _PICKLES):
        raise CheckpointError(
            f"the weights in '{folder}' are a pickle (pytorch_model.bin), which can run code "
            f"when it is read: expected {WEIGHTS}. Convert it, if you trust it, in Python: "
            f"transformers.AutoModelForCausalLM.from_pretrained('{folder}')"
            ".save_pretrained('NEW_FOLDER'), and copy tokenizer.json there"
        )
    raise CheckpointError(f"'{folder}' has no {WEIGHTS}: it isn't a whole checkpoint")


def _names(path: Path) -> list[str]:
    """The tensors of a safetensors file."""
    with open(path, "rb") as file:  # safetensors reports files that it can't open as missing
        begins = file.read(64)
    if begins.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"'{path}' is a Git LFS pointer, not the weights: fetch them with `git lfs pull`"
        )
    try:
        with named_in_utf8(path) as source, safe_open(source, "pt") as file:
            return list(file.keys())
    except SafetensorError as error:
        raise CheckpointError(f"'{path}' is damaged: {error}") from None


def _shards(folder: Path) -> dict[str, Path]:
    """Maps each tensor's name to its file, for weights that are split into several files."""
    path = folder / INDEX
    files = read_object(path, CheckpointError).get("weight_map")
    if not isinstance(files, dict) or not all(
        isinstance(file, str) and Path(file).name == file for file in files.values()
    ):
        raise CheckpointError(
            f"'{path}' is damaged: expected 'weight_map', an object with the file of each tensor"
        )
    where: dict[str, Path] = {}
    for name in sorted(set(files.values())):
        file = folder / name
        if not is_file(file):
            raise CheckpointError(f"'{path}' names '{name}', which '{folder}' doesn't have")
        where |= dict.fromkeys(_names(file), file)
    for tensor, name in files.items():
        if where.get(tensor) != folder / name:
            raise CheckpointError(f"'{path}' says that '{name}' holds '{tensor}': it doesn't")
    return where


def _load(
    folder: Path, where: Mapping[str, Path], wanted: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    extra = {name for name in where if name not in wanted and not name.endswith(_DERIVED)}
    for names, what in (
        ([n for n, value in wanted.items() if value.numel() and n not in where], "lacks"),
        (sorted(extra - {_HEAD}), "has besides"),
    ):
        if names:
            raise CheckpointError(
                f"'{folder}' doesn't hold the model that its config.json describes: it {what} "
                f"{_listed(names)}"
            )
    loaded: dict[str, Tensor] = {}
    for path in dict.fromkeys(where.values()):
        inside = [name for name in where if where[name] == path and name in {*wanted, *extra}]
        with named_in_utf8(path) as source, safe_open(source, "pt") as file:
            for name in inside:
                part = file.get_slice(name)
                _compare(path, name, part.get_shape(), part.get_dtype(), wanted.get(name))
            for name in inside:
                loaded[name] = file.get_tensor(name).float()
        verified(path)
    head = loaded.pop(_HEAD, None)
    embedding = next(value for name, value in loaded.items() if name.endswith(_EMBEDDINGS))
    if head is not None and not torch.equal(head, embedding):
        raise CheckpointError(
            f"'{folder}': '{_HEAD}' differs from the embedding, and only a model whose head is "
            "the embedding (tie_word_embeddings) is supported"
        )
    return {name: loaded.get(name, torch.zeros(value.shape)) for name, value in wanted.items()}


def _compare(path: Path, name: str, shape: list[int], kind: str, wanted: Tensor | None) -> None:
    """Raises `CheckpointError` for a tensor that isn't the model's."""
    if wanted is not None and list(shape) != list(wanted.shape):
        raise CheckpointError(
            f"'{path}': the tensor '{name}' has the shape {tuple(shape)}, expected "
            f"{tuple(wanted.shape)} after config.json"
        )
    if kind not in _FLOATS:
        raise CheckpointError(
            f"'{path}': the tensor '{name}' is stored as {kind}, expected one of "
            f"{', '.join(sorted(_FLOATS))}: quantised weights aren't read"
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(f"'{name}'" for name in names[:_LISTED]) + more
