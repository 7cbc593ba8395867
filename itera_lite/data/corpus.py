"""Where text comes from: named sets, files, folders, standard input, the Hub.

`locate` turns what the user wrote into a `Source` without reading any text;
`Source.read` gives the documents, split. `load_documents` does both.
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

from itera_lite.data import hub, readers
from itera_lite.data.folder import list_folder
from itera_lite.data.repairs import Repairs, Tally, shown, some
from itera_lite.data.split import split_by_hash, without_leaks
from itera_lite.data.tables import Table
from itera_lite.errors import DataError
from itera_lite.files import expand_home

READING = 3  # raise it when the same files would give other documents

HUB_SETS = {
    "tinystories": hub.HubSet("roneneldan/TinyStories", "data"),
    "wikitext-2": hub.HubSet("Salesforce/wikitext", "wikitext-2-v1"),
    "wikitext-103": hub.HubSet("Salesforce/wikitext", "wikitext-103-v1"),
}
PYTHON_LIMIT_BYTES = 16_000_000
# Tests, generated tables and what was installed beside the library aren't its source.
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
        name: short name, fit for a file name.
        source: where the text came from, for the manifest.
        splits: documents as valid UTF-8 by split; always 'train' and 'valid'.
        notes: what was repaired or left out, to be said to the user.
    """

    name: str
    source: dict[str, Any]
    splits: dict[str, list[bytes]]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Source:
    """A set that was found, not yet read.

    Attributes:
        spec: what the user wrote.
        name: short name.
        kind: how the set is read.
        files: (split, or None where the set has none; label; file), in order.
        column: the column of a table, where the user named one.
        hub: where to fetch it from, where it isn't here.
        left_out: what the folder holds beside the files, to be said to the user.
        is_folder: whether the files were found in a folder, and not
    """

    spec: str
    name: str
    kind: Literal["python", "stories", "wikitext", "shakespeare", "files", "stdin"]
    files: tuple[tuple[str | None, str, Path], ...] = ()
    column: str | None = None
    hub: hub.HubSet | None = None
    left_out: tuple[str, ...] = ()
    is_folder: bool = False

    def fingerprint(self) -> list[Any] | None:
        """What changes when the set may have changed, found without reading it.

        None for standard input. A set on the Hub counts as fixed.
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
        source: dict[str, Any] = {"set": self.name if self.hub else _without_folder(self.spec)}
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
                given=self.spec,
                required=not self.is_folder,
            )
            given_splits.setdefault(split, []).extend(documents)
        if self.kind == "python":
            repairs.empty_files = 0  # empty __init__.py files are nothing to report
        if self.kind == "wikitext":
            repairs.blank_rows = Tally()  # they are its blank lines
        notes += [*repairs.notes(), *self.left_out]
        if self.kind == "python":
            given_splits[None], said = cap_python(given_splits[None])
            notes += said
        if self.kind == "shakespeare":
            given_splits = cut_shakespeare(given_splits)
        return _finish(self.name, source, given_splits, notes, origin=self.spec)


def load_documents(spec: str) -> Corpus:
    """The documents of a set.

    Args:
        spec: a named set (python, tinystories, wikitext-2, wikitext-103, or a
            folder in $ITERA_DATA), hf:OWNER/NAME[/FOLDER][:column], a file, a
            folder, a glob, or - for standard input. A table may name its
            column: reviews.csv:body, -:body.

    Raises:
        DataError: there is no such set, or its text can't be used.
        MissingExtra: a package for this kind of set isn't installed.
    """
    return locate(spec).read()


def locate(spec: str) -> Source:
    """Find a set without reading it; see `load_documents`."""
    if spec == "-":
        return Source(spec, "stdin", "stdin")
    if spec == "python":
        return Source(spec, "python", "python", python_files())
    if spec.startswith("hf:"):
        return _hub(spec)
    here = hub.data_folder()
    if spec in HUB_SETS:
        kind: Literal["wikitext", "stories"] = "wikitext" if "wiki" in spec else "stories"
        if here and (here / spec).is_dir():
            return _folder(spec, here / spec, name=spec, kind=kind)
        return Source(spec, spec, kind, hub=HUB_SETS[spec])
    path = Path(expand_home(spec))
    if spec and os.path.isdir(path):
        return _folder(spec, path, name=shown(path.resolve().name) or "root")
    if os.path.isfile(path):
        return Source(spec, _stem(path), "files", ((None, shown(path.name), path),))
    if spec and os.path.exists(path):
        raise DataError(f"data='{spec}': expected a file or a folder, found something else")
    if here and spec and "/" not in spec and os.path.isdir(here / spec):
        shakespeare = spec == "tinyshakespeare"
        return _folder(spec, here / spec, name=spec, kind="shakespeare" if shakespeare else "files")
    table, _, column = spec.rpartition(":")
    if table == "-" and column:
        return Source(spec, "stdin", "stdin", column=column)
    if table and column and (os.path.exists(expand_home(table)) or _matches(table)):
        return replace(locate(table), spec=spec, column=column)
    if matches := _matches(spec):
        files = tuple((None, shown(file.name), file) for file in matches)
        return Source(spec, _stem(matches[0].resolve().parent) or "glob", "files", files)
    known = ["python", *HUB_SETS]
    if here and here.is_dir():
        known += sorted(f.name for f in here.iterdir() if f.is_dir() and f.name not in known)
    raise DataError(
        f"data='{spec}': there is no such file, folder, glob or named set. "
        f"Named sets: {', '.join(known)}; $ITERA_DATA is {here or 'not set'}. "
        "Others: hf:OWNER/NAME[:column], or - for standard input."
    )


def python_files() -> tuple[tuple[None, str, Path], ...]:
    """(no split, path in the library, file) of the interpreter's standard-library source."""
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
    """At most `PYTHON_LIMIT_BYTES`, picked by hash so that no name is favoured; and notes."""
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
    """The custom of the field: the first 90 % of the characters train, the rest judge."""
    text = b"".join(splits.get(None, [])).decode("utf-8")
    cut = len(text) * 9 // 10
    return {"train": [text[:cut].encode()], "valid": [text[cut:].encode()]}


def _folder(
    spec: str,
    folder: Path,
    *,
    name: str,
    kind: Literal["stories", "wikitext", "shakespeare", "files"] = "files",
) -> Source:
    """A folder: its given splits, else all its files.

    It has given splits where one file is named train and another valid or
    test, or where all are named train. One lone `train.txt` among others may
    be about trains.
    """
    try:
        listing = list_folder(folder)
    except OSError as error:
        raise DataError(f"{folder}: can't be read ({error.strerror or error})") from error
    # The named sets' own other files (extra-lowercase, official-valid) are no oversight.
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
        label = shown(file.relative_to(folder).as_posix())
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
                0, f"left out, because they belong to none of the splits: {some(others)}"
            )
        files = [item for item in files if item[0] is not None]
    else:
        if held_out := [label for split, label, _ in files if split in ("valid", "test")]:
            left_out.insert(0, f"read as any other file, for none is named train: {some(held_out)}")
        files = [(None, label, file) for _, label, file in files]
    return Source(spec, name, kind, tuple(files), left_out=tuple(left_out), is_folder=True)


def _hub(spec: str) -> Source:
    repository, _, column = spec.removeprefix("hf:").partition(":")
    parts = repository.strip("/").split("/")
    if len(parts) < 2 or not all(parts):
        raise DataError(f"data='{spec}': expected hf:OWNER/NAME, hf:OWNER/NAME/FOLDER or either")
    wanted = hub.HubSet("/".join(parts[:2]), "/".join(parts[2:]))
    return Source(spec, parts[-1], "files", column=column or None, hub=wanted)


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
    """The stream to its end. It ends once, and a verb may prepare the set again."""
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
    """Split what has no splits, and keep copies off the border.

    Raises:
        DataError: there is too little text; the message ends with the notes.
    """
    try:
        splits, said = _divide(given, origin)
    except DataError as error:
        raise DataError(f"{error}{_aside(notes)}") from error
    return Corpus(name, source, splits, notes + said)


def _divide(
    given: dict[str | None, list[bytes]], origin: str
) -> tuple[dict[str, list[bytes]], list[str]]:
    if not any(given.values()):
        raise DataError(f"{origin}: holds no text; expected documents in UTF-8")
    unsplit = given.pop(None, [])
    splits = {str(split): texts for split, texts in given.items() if texts}
    if not splits:
        train, valid, notes = split_by_hash(unsplit)
        return {"train": train, "valid": valid}, notes
    if not splits.get("train"):
        raise DataError(f"{origin}: the training files hold no text")
    splits, notes = without_leaks(splits)
    if not splits["train"]:
        raise DataError(
            f"{origin}: every training document also lies in another split; "
            "expected other text for training"
        )
    if "valid" not in splits:
        train, valid, said = split_by_hash(splits["train"])
        splits = {**splits, "train": train, "valid": valid}
        notes += ["no validation files were given: about 5 % of train are used", *said]
    order = {"train": 0, "valid": 1, "test": 2}
    return dict(sorted(splits.items(), key=lambda item: (order.get(item[0], 3), item[0]))), notes


def _aside(notes: list[str]) -> str:
    """Notes at the end of an error."""
    return f" ({'; '.join(notes)})" if notes else ""


def _matches(pattern: str) -> list[Path]:
    if not glob.has_magic(pattern):
        return []
    names = sorted(glob.glob(os.path.expanduser(pattern), recursive=True))
    return [Path(name) for name in names if os.path.isfile(name)]


def _stem(path: Path) -> str:
    return shown(path.name.split(".")[0] or path.name)


def _without_folder(spec: str) -> str:
    """What the user wrote less the folders, which say nothing to others."""
    return shown(Path(spec).name or spec)
