"""Tensors that several processes hold a part of each: stored by all, read by any number of them.

PyTorch's distributed checkpoints (DCP), in safetensors files, a file a process. A file's header
has the place of each part in its tensor, so processes of another number read what they need. DCP's
own files hold a pickle, which can run code when it is read; these don't.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from itera_lite.checkpoint.weights import damaged
from itera_lite.errors import CheckpointError, OutputError
from itera_lite.files import reason_of, sha256_of

SHARD = r"shard-\d+-model-\d+-of-\d+\.safetensors"  # a file's name, as PyTorch gives it


def shard_hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file that `save_shards` wrote into ``folder``, by the file's name."""
    return {path.name: sha256_of(path) for path in sorted(folder.glob("shard-*.safetensors"))}


def verify_shards(folder: Path, expected: Mapping[str, str]) -> None:
    """Compare the files of `save_shards` with their hashes (`shard_hashes`) when they were written.

    Raises:
        CheckpointError: a file is missing or was changed; the message names it.
    """
    for name, wanted in expected.items():
        try:
            found = sha256_of(folder / name)
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            raise _unusable(folder, f"'{name}' can't be read: {reason_of(error)}") from None
        if found != wanted:
            raise CheckpointError(damaged(folder / name, found, str(wanted)))


def save_shards(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Store this process's parts in ``folder``, which every process calls and can write to.

    Args:
        tensors: DTensors, by the same names in every process.

    Raises:
        OutputError: in every process, where one of them can't write.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    try:
        with _quietly():
            writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
            save(dict(tensors), storage_writer=writer)
    except CheckpointException as error:  # which is no `Exception`
        raise OutputError(f"'{folder}' can't be written: {_first(error)}") from None


def load_shards(folder: Path, tensors: Mapping[str, Tensor], *, alone: bool = False) -> None:
    """Read tensors that `save_shards` stored into ``tensors``, of the same names and shapes.

    Args:
        tensors: DTensors, of which every process reads its part, or whole ones.
        alone: this process reads whole tensors, whatever others do.

    Raises:
        CheckpointError: files are missing, damaged, or of another model.
        RuntimeError: from PyTorch, where the connection to another process was lost.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    try:
        with _quietly():
            reader = HuggingFaceStorageReader(str(folder))
            load(dict(tensors), storage_reader=reader, no_dist=alone)
    except CheckpointException as error:
        raise _unusable(folder, _first(error)) from None
    except (SafetensorError, OSError, ValueError, KeyError, AssertionError) as error:
        raise _unusable(folder, str(error)) from None


def _unusable(folder: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"the parts of the optimizer in '{folder}' can't be used: {reason}. They are damaged, or "
        "of another training. Train anew with --overwrite, or another --name"
    )


def _first(error: BaseException) -> str:
    """The reason of the first process that failed."""
    failures = getattr(error, "failures", {})
    for rank in sorted(failures):
        return f"{reason_of(failures[rank][0])} (process {rank})"
    return reason_of(error)


@contextmanager
def _quietly() -> Iterator[None]:
    """Hide PyTorch's warning that there is only one process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)
        yield
