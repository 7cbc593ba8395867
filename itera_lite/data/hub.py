"""Chooses and downloads the files of a set on the Hugging Face Hub.

Of a set of at most `MAX_BYTES` the Hub's own cache keeps the files, so it can be prepared again
without a network. Of a larger one, a file is downloaded, read and removed, one after another.
"""

from __future__ import annotations

import glob
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from itera_lite.data.compression import SUFFIXES
from itera_lite.data.readers import TABLE_KINDS, kind_of
from itera_lite.errors import DataError, Interrupted, MissingExtra
from itera_lite.files import expand_home

MAX_BYTES = 2 * 1024**3  # of a set's files, as stored, unless they are named one by one

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
    """A set on the Hub.

    Attributes:
        repository: OWNER/NAME.
        folder: in it, or a file, or a pattern of files; '' for all of it.
        revision: a branch, tag or commit; None: the newest.
    """

    repository: str
    folder: str = ""
    revision: str | None = None


@dataclass(frozen=True)
class HubFile:
    """A file of a data set on the Hub.

    Attributes:
        repository: OWNER/NAME.
        path: in the repository.
        revision: commit.
        size: in bytes.
        keep: whether the Hub's cache keeps it.
        advice: what to do where it can't be fetched.
    """

    repository: str
    path: str
    revision: str
    size: int
    keep: bool
    advice: str

    @contextmanager
    def fetched(self, folder: Path | None) -> Iterator[Path]:
        """The file on this machine; without `keep` it is downloaded into ``folder`` (None: the
        system's folder for such) and removed after the block.

        Raises:
            Interrupted: it can't be fetched.
        """
        from huggingface_hub import hf_hub_download, try_to_load_from_cache

        with ExitStack() as stack:
            try:
                found = try_to_load_from_cache(
                    self.repository, self.path, revision=self.revision, repo_type="dataset"
                )
                if not isinstance(found, str):
                    own = None
                    if not self.keep:
                        temporary = tempfile.TemporaryDirectory(prefix="hub-", dir=folder)
                        own = stack.enter_context(temporary)
                    found = hf_hub_download(
                        self.repository,
                        self.path,
                        revision=self.revision,
                        repo_type="dataset",
                        local_dir=own,
                    )
            except Exception as error:  # the client raises its own, the network's and the system's
                raise Interrupted(f"{_unfetched(self.repository, error)}. {self.advice}") from error
            yield Path(found)


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


def list_files(wanted: HubSet, name: str) -> tuple[list[HubFile], list[str]]:
    """The files of a set to read, in order, and notes; nothing is downloaded.

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
        return _list_files(wanted, advice)
    except MissingExtra as error:
        error.args = (f"{error}. {advice}",)
        raise
    except DataError as error:
        raise DataError(f"{error}. {advice}") from error


def data_folder() -> Path | None:
    """$ITERA_DATA, where named sets are looked for first; None where it isn't set."""
    value = os.environ.get("ITERA_DATA")
    return Path(expand_home(value)) if value else None


def _list_files(wanted: HubSet, advice: str) -> tuple[list[HubFile], list[str]]:
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise MissingExtra(
            "huggingface_hub", "hub", f"Fetching {wanted.repository} from the Hub"
        ) from error
    revision = None
    chosen: list[str] = []
    notes: list[str] = []
    sizes: dict[str, int] = {}
    # The Hub keeps a Parquet copy of sets in other formats on the second branch.
    for branch in (wanted.revision, "refs/convert/parquet"):
        try:
            info = HfApi().dataset_info(wanted.repository, revision=branch, files_metadata=True)
        except Exception as error:  # the client raises its own, the network's and the system's
            raise DataError(_unfetched(wanted.repository, error)) from error
        sizes = {item.rfilename: item.size or 0 for item in info.siblings or []}
        chosen, notes = choose_files(sizes, wanted)
        revision = info.sha
        if chosen or wanted.revision is not None:
            break
    if not chosen:
        raise DataError(
            f"{wanted.repository} on the Hub has no .parquet, .jsonl, .csv or .txt files"
            + (f" in the folder '{wanted.folder}'" if wanted.folder else "")
        )
    keep = sum(sizes[name] for name in chosen) <= MAX_BYTES
    return [
        HubFile(wanted.repository, name, str(revision), sizes[name], keep, advice)
        for name in chosen
    ], notes


def _unfetched(repository: str, error: Exception) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"{repository} couldn't be fetched from the Hub ({reason})"


def choose_files(sizes: dict[str, int], wanted: HubSet) -> tuple[list[str], list[str]]:
    """The files to take, in order, and notes: of one kind, Parquet first, up to `MAX_BYTES`.

    A file or a pattern that is named instead of a folder gives all files that it means.

    Args:
        sizes: bytes of each file of the repository.
        wanted: the set.

    Raises:
        DataError: the repository holds several sets and none was named.
    """
    if wanted.folder in sizes or glob.has_magic(wanted.folder):
        named = [
            name
            for name in sorted(sizes)
            if name == wanted.folder or (kind_of(name) and fnmatchcase(name, wanted.folder))
        ]
        named.sort(key=lambda name: split_name(name) in (None, "train"))
        return named, []
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
            f"only {len(taken)} of {len(names)} files were taken ({total / 1e9:.1f} GB; the limit "
            f"is {MAX_BYTES / 1e9:.1f} GB). For others name them, such as with "
            f"'hf:{wanted.repository}/{os.path.dirname(names[-1]) or '.'}/*'".replace("/./", "/")
        )
    return taken, notes
