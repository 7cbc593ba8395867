"""Chooses and downloads the files of a set on the Hugging Face Hub."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from itera_lite.data.compression import SUFFIXES
from itera_lite.data.readers import TABLE_KINDS, kind_of
from itera_lite.errors import DataError, MissingExtra
from itera_lite.files import expand_home

MAX_BYTES = 2 * 1024**3  # of one set, as stored

_SPLIT_NAME = re.compile(
    r"(?:wiki\.)?(?:partial-)?(train|training|valid|validation|val|dev|test)"
    r"(?:[-_.]?\d[\w.-]*)?(?:\.tokens)?"
)
_LAYOUT = (
    "Layout: $ITERA_DATA/{name}/train.txt and valid.txt (test.txt too, if there is one; .md, "
    ".jsonl, .csv, .parquet and .gz or .zst of them will do), with a line <|endoftext|> "
    "between documents"
)
_CANONICAL = {"training": "train", "validation": "valid", "val": "valid", "dev": "valid"}


@dataclass(frozen=True)
class HubSet:
    """A set on the Hub: the repository, and the folder in it ('' for all of it)."""

    repository: str
    folder: str = ""


def split_name(path: str) -> str | None:
    """'train', 'valid' or 'test' by the name of a file or of its folders; None for other names.

    Known are `train.txt`, `validation-00000-of-00004.parquet`,
    `wiki.test.tokens`, `test/0000.parquet` and the like.
    """
    parts = path.lower().split("/")
    stem = parts[-1]
    for suffix in (*SUFFIXES, ".txt", ".text", ".md", *TABLE_KINDS):
        stem = stem.removesuffix(suffix)
    for name in (stem, *reversed(parts[:-1])):
        if match := _SPLIT_NAME.fullmatch(name):
            return _CANONICAL.get(match[1], match[1])
    return None


def fetch(wanted: HubSet, name: str) -> tuple[dict[str, Path], str, list[str]]:
    """Download a set's data files: (path in the repository -> local file, revision, notes).

    Args:
        wanted: the set.
        name: the set's name in ITERA_DATA, for the message.

    Raises:
        MissingExtra: huggingface_hub isn't installed.
        DataError: the Hub can't be reached, or the set has no files that can be read.
    """
    here = data_folder()
    looked = f"$ITERA_DATA is {here}" if here else "$ITERA_DATA is not set"
    advice = (
        f"To use files of your own instead, set ITERA_DATA ({looked}). "
        f"{_LAYOUT.format(name=name)}; then give --data {name}"
    )
    try:
        return _fetch(wanted)
    except MissingExtra as error:
        error.args = (f"{error}. {advice}",)
        raise
    except DataError as error:
        raise DataError(f"{error}. {advice}") from error


def data_folder() -> Path | None:
    """$ITERA_DATA, where named sets are looked for first; None where it isn't set."""
    value = os.environ.get("ITERA_DATA")
    return Path(expand_home(value)) if value else None


def _fetch(wanted: HubSet) -> tuple[dict[str, Path], str, list[str]]:
    try:
        from huggingface_hub import HfApi, hf_hub_download
    except ImportError as error:
        raise MissingExtra(
            "huggingface_hub", "hub", f"Fetching {wanted.repository} from the Hub"
        ) from error
    try:
        revision = None
        chosen: list[str] = []
        notes: list[str] = []
        # The Hub keeps a Parquet copy of sets in other formats on the second branch.
        for branch in (None, "refs/convert/parquet"):
            info = HfApi().dataset_info(wanted.repository, revision=branch, files_metadata=True)
            sizes = {item.rfilename: item.size or 0 for item in info.siblings or []}
            chosen, notes = choose_files(sizes, wanted)
            revision = info.sha
            if chosen:
                break
        files = {
            name: Path(
                hf_hub_download(wanted.repository, name, repo_type="dataset", revision=revision)
            )
            for name in chosen
        }
    except DataError:
        raise
    except Exception as error:  # the client raises its own, the network's and the system's
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{wanted.repository} couldn't be fetched from the Hub ({reason})"
        ) from error
    if not files:
        raise DataError(
            f"{wanted.repository} on the Hub has no .parquet, .jsonl, .csv or .txt files"
            + (f" in the folder '{wanted.folder}'" if wanted.folder else "")
        )
    return files, str(revision), notes


def choose_files(sizes: dict[str, int], wanted: HubSet) -> tuple[list[str], list[str]]:
    """The files to take, in order, and notes: of one kind, Parquet first, up to `MAX_BYTES`.

    Args:
        sizes: bytes of each file of the repository.
        wanted: the set.

    Raises:
        DataError: the repository holds several sets and none was named.
    """
    inside = wanted.folder + "/" if wanted.folder else ""
    found = [name for name in sorted(sizes) if name.startswith(inside)]
    for kind in ("parquet", "jsonl", "csv", "text"):
        names = [
            name for name in found if kind_of(name) == kind and not name.lower().endswith(".md")
        ]
        if names:
            break
    else:
        return [], []
    folders = {name.split("/")[0] for name in names if "/" in name}
    folders = {name for name in folders if name != "data" and split_name(name) is None}
    if not wanted.folder and len(folders) > 1:
        raise DataError(
            f"{wanted.repository} holds several sets: {', '.join(sorted(folders))}. "
            f"Name one: hf:{wanted.repository}/{min(folders)}"
        )
    # The small held-out splits first, so that the limit cuts training text only.
    names.sort(key=lambda name: split_name(name) in (None, "train"))
    taken: list[str] = []
    total = 0
    for name in names:
        if taken and total + sizes[name] > MAX_BYTES:
            break
        taken.append(name)
        total += sizes[name]
    notes = []
    if len(taken) < len(names):
        notes.append(
            f"only {len(taken)} of {len(names)} files were taken ({total / 1e9:.1f} GB; "
            f"the limit is {MAX_BYTES / 1e9:.1f} GB)"
        )
    return taken, notes
