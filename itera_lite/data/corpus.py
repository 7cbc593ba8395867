"""Finds and reads text: named sets, files, folders, standard input, the Hugging Face Hub.

`locate` turns what the user wrote into a `Source` without reading any text;
`Source.read` gives the documents, split into training and validation. `load_documents` does both.
All documents are in memory then; `itera_lite.data.building` reads sets of any size.
"""

from __future__ import annotations

import atexit
import glob
import hashlib
import json
import os
import platform
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

from itera_lite.config import Unit
from itera_lite.data import hub, readers
from itera_lite.data.contents import Contents
from itera_lite.data.folder import list_folder
from itera_lite.data.remote import RemoteFile, is_url, list_remote
from itera_lite.data.repairs import Repairs, Tally, first_few, printable
from itera_lite.data.split import divide
from itera_lite.data.units import mixed, split_units
from itera_lite.errors import DataError
from itera_lite.files import cache_folder, expand_home

READING = 4  # version of the readers: raise it when the same files would give other documents

HUB_SETS = {
    "tinystories": hub.HubSet("roneneldan/TinyStories", "data"),
    "wikitext-2": hub.HubSet("Salesforce/wikitext", "wikitext-2-v1"),
    "wikitext-103": hub.HubSet("Salesforce/wikitext", "wikitext-103-v1"),
}
PYTHON_LIMIT_BYTES = 16_000_000
_COPY, _STDIN = ".building-", "-stdin"  # how the name of a copy of standard input begins and ends
# Left out of the standard library's source: tests, generated tables, installed packages.
_SKIPPED = {
    "test",
    "tests",
    "idle_test",
    "site-packages",
    "dist-packages",
    "encodings",
    "pydoc_data",
    "__pycache__",
}


@dataclass(frozen=True)
class Corpus:
    """Documents of a set, split.

    Attributes:
        name: short name, usable in a file name.
        source: where the text came from, as the manifest records it.
        splits: documents as valid UTF-8 by split; always 'train' and 'valid'.
        notes: what was repaired or left out, a sentence each, for the user.
    """

    name: str
    source: dict[str, Any]
    splits: dict[str, list[bytes]]
    notes: list[str] = field(default_factory=list)

    def in_units(self, unit: Unit) -> Corpus:
        """The set with each unit of its documents as a document, in mixed order.

        Copies were dropped and the split was made before, by document: the units of a document are
        all in one split.

        Raises:
            DataError: a split has no text.
        """
        if unit == "document":
            return self
        splits = {
            split: list(mixed(split_units(texts, unit))) for split, texts in self.splits.items()
        }
        for split, texts in splits.items():
            if not texts:
                raise DataError(f"{self.name}: the split '{split}' has no {unit} with text")
        return replace(self, splits=splits)


Where: TypeAlias = Path | hub.HubFile | RemoteFile
# (split, or None where the set has none; name to record; where it lies)
TextFile: TypeAlias = tuple[str | None, str, Where]


@dataclass(frozen=True)
class Listing:
    """The files of a set, in the order in which they are read.

    Attributes:
        files: see `TextFile`.
        source: where the text comes from, as the manifest records it.
        notes: what isn't read of the set, a sentence each, for the user.
    """

    files: tuple[TextFile, ...]
    source: dict[str, Any]
    notes: list[str]


@dataclass(frozen=True)
class Source:
    """A set that was found and not read yet.

    Attributes:
        data: what the user wrote.
        name: short name.
        kind: decides what is special in reading the set.
        files: those of the set, in order, where they are known.
        column: the column of a table that holds the text, if the user named one.
        hub: the set on the Hub, if it has to be fetched.
        left_out: what else the folder holds, a sentence each, for the user.
        is_folder: whether the files were found in a folder instead of being named.
    """

    data: str
    name: str
    kind: Literal["python", "stories", "wikitext", "shakespeare", "files", "stdin"]
    files: tuple[TextFile, ...] = ()
    column: str | None = None
    hub: hub.HubSet | None = None
    left_out: tuple[str, ...] = ()
    is_folder: bool = False

    def fingerprint(self) -> list[Any] | None:
        """Names, sizes and times of the files: the set hasn't changed while this stays equal.

        None for standard input, and where nothing is known that changes with a file. A set on the
        Hub counts as unchanging.
        """
        if self.kind == "stdin":
            return None
        if self.hub is not None:
            hub = [self.hub.repository, self.hub.folder]
            revision = [] if self.hub.revision is None else [self.hub.revision]
            return ["hub", READING, *hub, self.kind, self.column, *revision]
        files: list[list[Any]] = []
        for split, _, file in self.files:
            if not isinstance(file, Path):
                if not isinstance(file, RemoteFile) or file.version is None:
                    return None
                files.append([split, file.url, file.size, file.version])
                continue
            stat = file.stat()
            # The absolute path: a relative one is another file in another folder.
            files.append([split, os.path.realpath(file), stat.st_size, stat.st_mtime_ns])
        return [READING, self.name, self.kind, self.column, files, list(self.left_out)]

    @property
    def fits_in_memory(self) -> bool:
        """Whether the set is small and has a rule of its own, so that `read` reads it."""
        return self.kind in ("python", "shakespeare")

    def listing(self) -> Listing:
        """The files to read. Of a set on the Hub this asks the Hub; standard input is copied.

        Raises:
            DataError: the Hub can't be reached, or has no such set.
            MissingExtra: a package isn't installed.
        """
        if self.kind == "stdin":
            path = _copied(sys.stdin.buffer)
            source: dict[str, Any] = {"set": "standard input", "bytes": path.stat().st_size}
            return Listing(((None, "standard input", path),), source, [])
        source = {"set": self.name if self.hub else printable(Path(self.data).name or self.data)}
        notes: list[str] = []
        files = self.files
        if self.hub is not None:
            found, notes = hub.list_files(self.hub, self.name)
            source["revision"] = found[0].revision
            source["hub"] = "/".join(filter(None, (self.hub.repository, self.hub.folder)))
            files = tuple((hub.split_name(file.path), file.path, file) for file in found)
            if not any(split == "train" for split, _, _ in files):
                files = tuple((None, label, file) for _, label, file in files)
        if self.kind == "python":
            source["python"] = platform.python_version()
        if self.kind == "wikitext":
            source["format"] = "wikitext"
        listed = [label for _, label, _ in files]
        source["files"] = listed if len(listed) <= 50 else len(listed)
        return Listing(files, source, notes)

    def reader_options(self, files: tuple[TextFile, ...]) -> dict[str, Any]:
        """Arguments for `readers.read_documents` and `readers.stream_documents`.

        Raises:
            DataError: the first line of standard input begins like a JSON object and isn't one.
        """
        options: dict[str, Any] = {
            "column": self.column,
            "wikitext": self.kind == "wikitext",
            "data": self.data,
            "required": not self.is_folder,
        }
        if self.kind == "stdin":
            (_, shown, where), *_ = files
            assert isinstance(where, Path)
            options |= {"data": "-", "kind": _kind_of_stdin(Contents(where, shown), self.column)}
        return options

    def read_notes(self, repairs: Repairs) -> list[str]:
        """What was repaired in reading, and what the folder holds beside, for the user."""
        if self.kind == "python":
            repairs.empty_files = 0  # empty __init__.py files are nothing to report
        if self.kind == "wikitext":
            repairs.blank_rows = Tally()  # they are its blank lines
        return [*repairs.notes(), *self.left_out]

    def read(self) -> Corpus:
        """The documents, all of them in memory.

        Raises:
            DataError: the text can't be used; the message says why and what to do.
            MissingExtra: a package for this kind of file isn't installed.
        """
        listing = self.listing()
        options = self.reader_options(listing.files)
        repairs = Repairs()
        given_splits: dict[str | None, list[bytes]] = {}
        for split, _, where in listing.files:
            with fetched(where, None) as file:
                documents = readers.read_documents(file, repairs, shown=shown(where), **options)
            given_splits.setdefault(split, []).extend(documents)
        notes = listing.notes + self.read_notes(repairs)
        if self.kind == "python":
            given_splits[None], cap_notes = cap_python(given_splits[None])
            notes += cap_notes
        if self.kind == "shakespeare":
            given_splits = cut_shakespeare(given_splits)
        try:
            splits, split_notes = divide(given_splits, self.origin)
        except DataError as error:
            raise with_notes(error, notes) from error
        return Corpus(self.name, listing.source, splits, notes + split_notes)

    @property
    def origin(self) -> str:
        """The set's name in messages about all of it."""
        return "standard input" if self.kind == "stdin" else self.data


def shown(where: Where) -> str:
    """A file's name in messages."""
    if isinstance(where, Path):
        is_copy = where.name.startswith(_COPY) and where.name.endswith(_STDIN)
        return "standard input" if is_copy else str(where)
    return where.url if isinstance(where, RemoteFile) else f"{where.repository}/{where.path}"


def size_of(where: Where) -> int:
    """A file's bytes, as it is stored."""
    return where.stat().st_size if isinstance(where, Path) else where.size


@contextmanager
def fetched(where: Where, folder: Path | None) -> Iterator[Path]:
    """The file on this machine, while the block runs.

    Args:
        folder: for a copy of a file from elsewhere; None: the system's folder for such.
    """
    if isinstance(where, Path):
        yield where
    else:
        with where.fetched(folder) as path:
            yield path


def with_notes(error: DataError, notes: list[str]) -> DataError:
    """An error about a whole set, with the notes in parentheses."""
    return DataError(f"{error}{_aside(notes)}")


def load_documents(data: str) -> Corpus:
    """The documents of a set.

    Args:
        data: a named set (python, tinystories, wikitext-2, wikitext-103, or a
            folder in $ITERA_DATA), hf:OWNER/NAME[/FOLDER][:column], a file, a
            folder, a glob, or - for standard input. A table may name its
            column: reviews.csv:body, -:body.

    Raises:
        DataError: there is no such set, or its text can't be used.
        MissingExtra: a package for this kind of set isn't installed.
    """
    return locate(data).read()


def locate(data: str) -> Source:
    """Find a set without reading it. Arguments and errors are those of `load_documents`."""
    if data == "-":
        return Source(data, "stdin", "stdin")
    if data == "python":
        return Source(data, "python", "python", python_files())
    if data.startswith("hf:"):
        return _hub(data)
    if is_url(data):
        return _remote(data)
    here = hub.data_folder()
    if data in HUB_SETS:
        kind: Literal["wikitext", "stories"] = "wikitext" if "wiki" in data else "stories"
        if here and (here / data).is_dir():
            return _folder(data, here / data, name=data, kind=kind)
        return Source(data, data, kind, hub=HUB_SETS[data])
    path = Path(expand_home(data))
    if data and os.path.isdir(path):
        return _folder(data, path, name=printable(path.resolve().name) or "root")
    if os.path.isfile(path):
        return Source(data, _stem(path), "files", ((None, printable(path.name), path),))
    if data and os.path.exists(path):
        raise DataError(f"data='{data}': expected a file or a folder, found something else")
    if here and data and "/" not in data and os.path.isdir(here / data):
        shakespeare = data == "tinyshakespeare"
        return _folder(data, here / data, name=data, kind="shakespeare" if shakespeare else "files")
    table, _, column = data.rpartition(":")
    if table == "-" and column:
        return Source(data, "stdin", "stdin", column=column)
    if table and column and _is_there(table):
        return replace(locate(table), data=data, column=column)
    if matches := _matches(data):
        files = tuple((None, printable(file.name), file) for file in matches)
        return Source(data, _stem(matches[0].resolve().parent) or "glob", "files", files)
    known = ["python", *HUB_SETS]
    if here and here.is_dir():
        known += sorted(f.name for f in here.iterdir() if f.is_dir() and f.name not in known)
    raise DataError(
        f"data='{data}': there is no such file, folder, glob or named set. "
        f"Named sets: {', '.join(known)}; $ITERA_DATA is {here or 'not set'}. "
        "Others: hf:OWNER/NAME[:column], or - for standard input."
    )


def _is_there(table: str) -> bool:
    """Whether a set that has columns is a file, a folder, a glob, or a folder of $ITERA_DATA."""
    here = hub.data_folder()
    named = here is not None and "/" not in table and os.path.isdir(here / table)
    return named or os.path.exists(expand_home(table)) or bool(_matches(table))


def python_files() -> tuple[tuple[None, str, Path], ...]:
    """The interpreter's standard-library source: (None, path in the library, file) each."""
    folder = Path(sysconfig.get_path("stdlib"))
    files = []
    for file in sorted(folder.rglob("*.py")):
        inside = file.relative_to(folder)
        if not _SKIPPED & set(inside.parts) and not inside.name.startswith("_sysconfig"):
            files.append((None, inside.as_posix(), file))
    if not files:
        raise DataError(
            f"data='python': {folder} holds no .py files (a trimmed interpreter?). "
            "Give another set, such as a folder of text files."
        )
    return tuple(files)


def cap_python(documents: list[bytes]) -> tuple[list[bytes], list[str]]:
    """At most `PYTHON_LIMIT_BYTES` of the documents, chosen by hash; and notes for the user."""
    notes = ["tests, generated tables and site-packages of the standard library are left out"]
    if sum(map(len, documents)) > PYTHON_LIMIT_BYTES:
        kept: set[bytes] = set()
        total = 0
        for text in sorted(documents, key=lambda text: hashlib.sha256(text).digest()):
            total += len(text)
            if total > PYTHON_LIMIT_BYTES:
                break
            kept.add(text)
        documents = [text for text in documents if text in kept]
        notes.append(f"only {PYTHON_LIMIT_BYTES / 1e6:.0f} MB of it are used")
    return documents, notes


def cut_shakespeare(splits: dict[str | None, list[bytes]]) -> dict[str | None, list[bytes]]:
    """The usual split of this set: the first 90 % of the characters for training."""
    text = b"".join(splits.get(None, [])).decode("utf-8")
    cut = len(text) * 9 // 10
    return {"train": [text[:cut].encode()], "valid": [text[cut:].encode()]}


def _folder(
    data: str,
    folder: Path,
    *,
    name: str,
    kind: Literal["stories", "wikitext", "shakespeare", "files"] = "files",
) -> Source:
    """A folder's files, with the splits that their names give; without splits, all of them.

    Names give splits where one file is named train and another valid or test, or where all are
    named train. A single `train.txt` among other files may be about trains.
    """
    try:
        listing = list_folder(folder)
    except OSError as error:
        raise DataError(f"{folder}: can't be read ({error.strerror or error})") from error
    # The named sets hold other files on purpose (extra-lowercase, official-valid).
    quiet = kind in ("stories", "wikitext")
    left_out = [] if quiet else listing.notes()
    if not listing.files:
        raise DataError(
            f"{folder}: found no .txt, .text, .md, .jsonl, .json, .csv, .tsv or .parquet files "
            "(.gz and .zst of them count). For others give a glob, such as "
            f"'{folder}/**/*.rst'{_aside(left_out)}"
        )
    files: list[TextFile] = []
    for file in listing.files:
        label = printable(file.relative_to(folder).as_posix())
        split = hub.split_name(label)
        if kind == "stories" and label.startswith("official-valid"):
            split = "official-valid"
        files.append((split, label, file))
    chosen, split_notes = _in_splits(files, quiet)
    left_out[:0] = split_notes
    return Source(data, name, kind, chosen, left_out=tuple(left_out), is_folder=True)


def _in_splits(files: list[TextFile], quiet: bool) -> tuple[tuple[TextFile, ...], list[str]]:
    """The files of a folder with the splits that their names give, or without; and notes."""
    names = {split for split, _, _ in files}
    if "train" in names and (names & {"valid", "test"} or names == {"train"}):
        others = [
            label
            for split, label, _ in files
            if split is None and not quiet and not label.lower().startswith("readme")
        ]
        notes = [f"left out, because they belong to none of the splits: {first_few(others)}"]
        return tuple(item for item in files if item[0] is not None), notes if others else []
    held_out = [label for split, label, _ in files if split in ("valid", "test")]
    notes = [f"read as any other file, for none is named train: {first_few(held_out)}"]
    return tuple((None, label, file) for _, label, file in files), notes if held_out else []


def _hub(data: str) -> Source:
    """A set on the Hub, named as hf:OWNER/NAME or as fsspec does, hf://datasets/OWNER/NAME."""
    named = data.removeprefix("hf:")
    if named.startswith("//"):
        named = named.removeprefix("//datasets/")
    repository, _, column = named.partition(":")
    parts = repository.strip("/").split("/")
    if len(parts) < 2 or not all(parts) or named.startswith("//"):
        raise DataError(
            f"data='{data}': expected hf:OWNER/NAME, hf:OWNER/NAME/FOLDER, a file or a pattern "
            "of files in it, or the same after hf://datasets/"
        )
    name, _, revision = parts[1].partition("@")
    folder = "/".join(parts[2:])
    wanted = hub.HubSet(f"{parts[0]}/{name}", folder, revision or None)
    title = name if glob.has_magic(folder) or not folder else parts[-1]
    return Source(data, title, "files", column=column or None, hub=wanted)


def _remote(data: str) -> Source:
    """Files of a protocol such as s3://, with the splits that a folder's names give."""
    url, _, column = data.rpartition(":")
    if "/" in column or "://" not in url:
        url, column = data, ""
    found, folder, left_out = list_remote(url)
    files: list[TextFile] = [
        (hub.split_name(label), label, file)
        for file in found
        for label in (printable(file.url.removeprefix(folder)),)
    ]
    is_folder = len(files) > 1 and not glob.has_magic(url)
    if is_folder:
        chosen, notes = _in_splits(files, quiet=False)
    else:
        chosen, notes = tuple((None, label, file) for _, label, file in files), []
    name = _stem(Path((folder if len(files) > 1 else url).rstrip("/")))
    return Source(
        data, name, "files", chosen, column or None, left_out=(*notes, *left_out),
        is_folder=is_folder,
    )  # fmt: skip


def _kind_of_stdin(contents: Contents, column: str | None) -> str:
    """'jsonl' where its first line is a JSON object, else 'text'.

    Raises:
        DataError: its first line begins like a JSON object and isn't one.
    """
    lines = enumerate(contents.lines(), 1)
    number, line = next(((n, line) for n, line in lines if line.strip()), (1, b""))
    if column is None and not line.lstrip().startswith(b"{"):
        return "text"
    try:
        json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"standard input: line {number} begins like JSON and isn't a JSON object ({error}); "
            "expected one object a line. If it is plain text, put it into a .txt file and give that"
        ) from None
    return "jsonl"


@lru_cache(maxsize=1)
def _copied(stream: BinaryIO) -> Path:
    """A copy of the stream, kept until the process ends: a verb may prepare the set twice."""
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(_STDIN, _COPY, folder)
    except OSError:
        descriptor, name = tempfile.mkstemp(_STDIN, _COPY)
    atexit.register(Path(name).unlink, missing_ok=True)
    with open(descriptor, "wb") as copy:
        shutil.copyfileobj(stream, copy, 1 << 20)
    return Path(name)


def _aside(notes: list[str]) -> str:
    """Notes in parentheses, for the end of an error message."""
    return f" ({'; '.join(notes)})" if notes else ""


def _matches(pattern: str) -> list[Path]:
    if not glob.has_magic(pattern):
        return []
    names = sorted(glob.glob(os.path.expanduser(pattern), recursive=True))
    return [Path(name) for name in names if os.path.isfile(name)]


def _stem(path: Path) -> str:
    return printable(path.name.split(".")[0] or path.name)
