"""Downloads a model from the Hugging Face Hub: whole and checked, or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from itera_lite.checkpoint.folder import is_own, move_checkpoint
from itera_lite.checkpoint.hf import read_config
from itera_lite.engine.check import Checked, check
from itera_lite.errors import HubError, IteraError, UsageError
from itera_lite.files import output_errors, sync_folder
from itera_lite.hub.client import hub_errors, is_of_model

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

_READ = 1 << 20  # bytes hashed at a time


def pull(
    repository: str, revision: str | None, folder: Path, *, overwrite: bool
) -> tuple[str, list[Checked]]:
    """Download the files of a model into a folder.

    They are collected beside it, in a folder for the commit, where an interrupted pull goes on;
    each is compared with its hash on the Hub. The folder gets its name only
    when all are there and `check` has read them.

    Returns:
        The commit, and the results of `check`: one of the checkpoint, or one of each GGUF file
        where the repository has no checkpoint.

    Raises:
        UsageError: something lies there already.
        HubError: no such model or revision, no right, no network, or a file whose hash isn't the
            one that the Hub lists.
        CheckpointError, ConfigError, ModelFileError: the model isn't one of ours, or isn't whole.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.hf_api import RepoFile

    if not folder.name.strip("."):  # as of "." and ".."
        folder = folder.resolve()
    _refuse_place(folder, overwrite)
    with hub_errors(repository, revision):
        api = HfApi()
        commit = str(api.model_info(repository, revision=revision).sha)
        tree = api.list_repo_tree(repository, recursive=True, revision=commit)
        files = sorted(
            (item for item in tree if isinstance(item, RepoFile) and is_of_model(item.path)),
            # config.json first: a model of another family is refused before its weights are loaded
            key=lambda item: (item.path != "config.json", item.path),
        )
    names = [file.path for file in files]
    if "config.json" not in names and not any(".gguf" in name for name in names):
        raise HubError(
            f"'{repository}' holds neither a config.json nor a GGUF file: expected a model"
        )
    work = folder.with_name(f".{folder.name}.{commit[:12]}.pull")
    with output_errors(work):
        work.mkdir(parents=True, exist_ok=True)
    for file in files:
        with hub_errors(repository, revision):
            hf_hub_download(repository, file.path, revision=commit, local_dir=work)
        try:
            _compare(work / file.path, file, repository)
            if file.path == "config.json":
                read_config(work)
        except IteraError as error:
            _discard(work)
            raise _named(error, work, repository) from None
    shutil.rmtree(work / ".cache", ignore_errors=True)
    try:
        found = _check(work, names)
    except IteraError as error:
        _discard(work)
        raise _named(error, work, repository) from None
    with output_errors(folder):
        is_empty = folder.exists() and not folder.is_symlink() and not any(folder.iterdir())
        if is_empty and folder.samefile("."):  # a shell that is in it would be left in no folder
            for path in sorted(work.iterdir(), key=lambda path: path.name == "config.json"):
                os.replace(path, folder / path.name)
            work.rmdir()
            sync_folder(folder)
        elif folder.exists() and not is_empty:
            move_checkpoint(work, folder)
        else:
            if is_empty:
                folder.rmdir()
            os.replace(work, folder)
            sync_folder(folder.parent)
    of_this = re.compile(rf"\.{re.escape(folder.name)}\.[0-9a-f]{{12}}\.pull")
    with suppress(OSError):  # a folder that may be written, but not listed
        for left in folder.parent.iterdir():
            if of_this.fullmatch(left.name):  # of a commit that wasn't finished
                _discard(left)
    return commit, found


def _refuse_place(folder: Path, overwrite: bool) -> None:
    """Raises `UsageError` where the folder is taken."""
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise UsageError(f"'{folder}' is a file: name another folder with --out")
    if not any(folder.iterdir()):
        return
    if not is_own(folder):
        raise UsageError(
            f"'{folder}' holds something that Itera-Lite didn't write, which isn't touched: name "
            "another folder with --out"
        )
    if not overwrite:
        raise UsageError(
            f"'{folder}' holds a model already: --overwrite replaces it, --out names another folder"
        )


def _compare(path: Path, file: RepoFile, repository: str) -> None:
    """Raises `HubError` where a file's content hasn't the hash that the Hub lists."""
    size = path.stat().st_size
    if file.lfs is not None:
        expected, digest = file.lfs.sha256, hashlib.sha256()
    else:  # git's own, of a header and the content
        expected, digest = file.blob_id, hashlib.sha1(f"blob {size}\0".encode())
    with open(path, "rb") as content:
        while part := content.read(_READ):
            digest.update(part)
    if digest.hexdigest() != expected:
        raise HubError(
            f"'{file.path}' of '{repository}' didn't arrive as the Hub lists it ({size:,} bytes, "
            f"hash {digest.hexdigest()[:12]}..., expected {file.size:,} bytes, "
            f"{expected[:12]}...). It was removed: run the command again"
        )


def _check(work: Path, names: Sequence[str]) -> list[Checked]:
    if "config.json" in names:
        return [check(work)]
    return [check(work / name) for name in names if ".gguf" in name]


def _discard(work: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)


def _named(error: IteraError, work: Path, repository: str) -> IteraError:
    """The error with the repository instead of a folder that isn't there any more."""
    return type(error)(str(error).replace(str(work), repository))
