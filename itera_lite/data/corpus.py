"""Finds and reads text: named sets, files, folders, standard input, the Hugging Face Hub.

`locate` turns what the user wrote into a `Source` without reading any text;
`Source.read` gives the documents, split into training and validation. `load_documents` does both.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import platform
import sys
import sysconfig
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal

from itera_lite.config import Unit
from itera_lite.data import hub, readers
from itera_lite.data.folder import list_folder
from itera_lite.data.repairs import Repairs, Tally, first_few, printable
from itera_lite.data.split import divide
from itera_lite.data.tables import Table
from itera_lite.data.units import mixed, split_units
from itera_lite.errors import DataError
from itera_lite.files import expand_home

READING = 4  # version of the readers: raise it when the same files would give other documents

HUB_SETS = {
    "tinystories": hub.HubSet("roneneldan/TinyStories", "data"),
    "wikitext-2": hub.HubSet("Salesforce/wikitext", "wikitext-2-v1"),
    "wikitext-103": hub.HubSet("Salesforce/wikitext", "wikitext-103-v1"),
}
PYTHON_LIMIT_BYTES = 16_000_000
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


@dataclass(frozen=True)
class Source:
    """A set that was found and not read yet.

    Attributes:
        data: what the user wrote.
        name: short name.
        kind: decides what is special in reading the set.
        files: (split, or None where the set has none; name to record; path), in order.
        column: the column of a table that holds the text, if the user named one.
        hub: the set on the Hub, if it has to be fetched.
        left_out: what else the folder holds, a sentence each, for the user.
        is_folder: whether the files were found in a folder instead of being named.
    """

    data: str
    name: str
    kind: Literal["python", "stories", "wikitext", "shakespeare", "files", "stdin"]
    files: tuple[tuple[str | None, str, Path], ...] = ()
    column: str | None = None
    hub: hub.HubSet | None = None
    left_out: tuple[str, ...] = ()
    is_folder: bool = False

    def fingerprint(self) -> list[Any] | None:
        """Names, sizes and times of the files: the set hasn't changed while this stays equal.

        None for standard input. A set on the Hub counts as unchanging.
        """
        if self.kind == "stdin":
            return None
        if self.hub is not None:
            hub = [self.hub.repository, self.hub.folder]
            return ["hub", READING, *hub, self.kind, self.column]
        files = []
        for split, _, file in self.files:
            stat = file.stat()
            # The absolute path: a relative one is another file in another folder.
            files.append([split, os.path.realpath(file), stat.st_size, stat.st_mtime_ns])
        return [READING, self.name, self.kind, self.column, files, list(self.left_out)]

    def read(self) -> Corpus:
        """The documents.

        Raises:
            DataError: the text can't be used; the message says why and what to do.
            MissingExtra: a package for this kind of file isn't installed.
        """
        if self.kind == "stdin":
            return _read_stdin(self.column)
        source: dict[str, Any] = {
            "set": self.name if self.hub else printable(Path(self.data).name or self.data)
        }
        notes: list[str] = []
        files = self.files
        if self.hub is not None:
            fetched, source["revision"], notes = hub.fetch(self.hub, self.name)
            source["hub"] = "/".join(filter(None, (self.hub.repository, self.hub.folder)))
            given = [(hub.split_name(label), label, file) for label, file in fetched.items()]
            files = tuple(given)
            if not any(split == "train" for split, _, _ in given):
                files = tuple((None, label, file) for _, label, file in given)
        if self.kind == "python":
            source["python"] = platform.python_version()
        if self.kind == "wikitext":
            source["format"] = "wikitext"
        listed = [label for _, label, _ in files]
        source["files"] = listed if len(listed) <= 50 else len(listed)
        repairs = Repairs()
        given_splits: dict[str | None, list[bytes]] = {}
        for split, _, file in files:
            documents = readers.read_documents(
                file,
                repairs,
                column=self.column,
                wikitext=self.kind == "wikitext",
                data=self.data,
                required=not self.is_folder,
            )
            given_splits.setdefault(split, []).extend(documents)
        if self.kind == "python":
            repairs.empty_files = 0  # empty __init__.py files are nothing to report
        if self.kind == "wikitext":
            repairs.blank_rows = Tally()  # they are its blank lines
        notes += [*repairs.notes(), *self.left_out]
        if self.kind == "python":
            given_splits[None], cap_notes = cap_python(given_splits[None])
            notes += cap_notes
        if self.kind == "shakespeare":
            given_splits = cut_shakespeare(given_splits)
        return _finish(self.name, source, given_splits, notes, origin=self.data)


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
    if table and column and (os.path.exists(expand_home(table)) or _matches(table)):
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
    files: list[tuple[str | None, str, Path]] = []
    for file in listing.files:
        label = printable(file.relative_to(folder).as_posix())
        split = hub.split_name(label)
        if kind == "stories" and label.startswith("official-valid"):
            split = "official-valid"
        files.append((split, label, file))
    names = {split for split, _, _ in files}
    if "train" in names and (names & {"valid", "test"} or names == {"train"}):
        others = [
            label
            for split, label, _ in files
            if split is None and not quiet and not label.lower().startswith("readme")
        ]
        if others:
            left_out.insert(
                0, f"left out, because they belong to none of the splits: {first_few(others)}"
            )
        files = [item for item in files if item[0] is not None]
    else:
        if held_out := [label for split, label, _ in files if split in ("valid", "test")]:
            left_out.insert(
                0, f"read as any other file, for none is named train: {first_few(held_out)}"
            )
        files = [(None, label, file) for _, label, file in files]
    return Source(data, name, kind, tuple(files), left_out=tuple(left_out), is_folder=True)


def _hub(data: str) -> Source:
    repository, _, column = data.removeprefix("hf:").partition(":")
    parts = repository.strip("/").split("/")
    if len(parts) < 2 or not all(parts):
        raise DataError(f"data='{data}': expected hf:OWNER/NAME, hf:OWNER/NAME/FOLDER or either")
    wanted = hub.HubSet("/".join(parts[:2]), "/".join(parts[2:]))
    return Source(data, parts[-1], "files", column=column or None, hub=wanted)


def _read_stdin(column: str | None) -> Corpus:
    """Standard input: JSON lines where its first line is a JSON object, else plain text.

    Raises:
        DataError: its first line begins like a JSON object and isn't one.
    """
    repairs = Repairs()
    raw = _all_of(sys.stdin.buffer)
    text = readers.valid_utf8(raw, "standard input", repairs)
    if column is not None or text.lstrip().startswith(b"{"):
        _check_first_line(text)
        table = Table(Path("standard input"), text, "jsonl", column, "-", repairs)
        documents = [row for row in table.documents() if row.strip()]
    else:
        documents = readers.split_text(text)
    source = {"set": "standard input", "bytes": len(raw)}
    return _finish("stdin", source, {None: documents}, repairs.notes(), origin="standard input")


@lru_cache(maxsize=1)
def _all_of(stream: BinaryIO) -> bytes:
    """The stream to its end, kept because a verb may prepare the set twice."""
    return stream.read()


def _check_first_line(text: bytes) -> None:
    number, line = next(
        ((n, line) for n, line in enumerate(text.split(b"\n"), 1) if line.strip()), (1, b"")
    )
    try:
        json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"standard input: line {number} begins like JSON and isn't a JSON object ({error}); "
            "expected one object a line. If it is plain text, put it into a .txt file and give that"
        ) from None


def _finish(
    name: str,
    source: dict[str, Any],
    given: dict[str | None, list[bytes]],
    notes: list[str],
    *,
    origin: str,
) -> Corpus:
    """The corpus, with training and validation split as `divide` does.

    Raises:
        DataError: there is too little text; the message ends with the notes.
    """
    try:
        splits, split_notes = divide(given, origin)
    except DataError as error:
        raise DataError(f"{error}{_aside(notes)}") from error
    return Corpus(name, source, splits, notes + split_notes)


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
