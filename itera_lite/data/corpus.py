"""Where text comes from: named sets, files, folders, standard input, the Hub.

`locate` turns what the user wrote into a `Source` without reading any text;
`Source.read` gives the documents, split. `load_documents` does both.
"""

from __future__ import annotations

import glob
import os
import platform
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from itera_lite.data import hub, named, readers
from itera_lite.data.split import split_by_hash, without_leaks
from itera_lite.errors import DataError

HUB_SETS = {
    "tinystories": hub.HubSet("roneneldan/TinyStories", "data"),
    "wikitext-2": hub.HubSet("Salesforce/wikitext", "wikitext-2-v1"),
    "wikitext-103": hub.HubSet("Salesforce/wikitext", "wikitext-103-v1"),
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
    """

    spec: str
    name: str
    kind: Literal["python", "stories", "wikitext", "shakespeare", "files", "stdin"]
    files: tuple[tuple[str | None, str, Path], ...] = ()
    column: str | None = None
    hub: hub.HubSet | None = None
    left_out: tuple[str, ...] = ()

    def fingerprint(self) -> list[Any] | None:
        """What changes when the set may have changed, found without reading it.

        None for standard input. A set on the Hub counts as fixed.
        """
        if self.kind == "stdin":
            return None
        if self.hub is not None:
            return ["hub", self.hub.repository, self.hub.folder, self.kind, self.column]
        stats = [(split, str(file), file.stat()) for split, _, file in self.files]
        files = [[split, name, stat.st_size, stat.st_mtime_ns] for split, name, stat in stats]
        return [self.name, self.kind, self.column, files]

    def read(self) -> Corpus:
        """The documents.

        Raises:
            DataError: the text can't be used; the message says why and what to do.
            MissingExtra: a package for this kind of file isn't installed.
        """
        if self.kind == "stdin":
            return _read_stdin()
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
        repairs = readers.Repairs()
        given_splits: dict[str | None, list[bytes]] = {}
        for split, _, file in files:
            documents = readers.read_documents(
                file, repairs, column=self.column, wikitext=self.kind == "wikitext"
            )
            given_splits.setdefault(split, []).extend(documents)
        if self.kind == "python":
            repairs.empty_files = 0  # empty __init__.py files are nothing to report
        notes += repairs.notes()
        if self.left_out:
            names = ", ".join(self.left_out[:5]) + (", ..." if len(self.left_out) > 5 else "")
            notes.append(f"left out, because they belong to none of the splits: {names}")
        if self.kind == "python":
            given_splits[None], said = named.cap_python(given_splits[None])
            notes += said
        if self.kind == "shakespeare":
            given_splits = named.cut_shakespeare(given_splits)
        return _finish(self.name, source, given_splits, notes, origin=self.spec)


def load_documents(spec: str) -> Corpus:
    """The documents of a set.

    Args:
        spec: a named set (python, tinystories, wikitext-2, wikitext-103, or a
            folder in $ITERA_DATA), hf:OWNER/NAME[/FOLDER][:column], a file, a
            folder, a glob, or - for standard input. A table may name its
            column: reviews.csv:body.

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
        return Source(spec, "python", "python", named.python_files())
    if spec.startswith("hf:"):
        return _hub(spec)
    here = hub.data_folder()
    if spec in HUB_SETS:
        kind: Literal["wikitext", "stories"] = "wikitext" if "wiki" in spec else "stories"
        if here and (here / spec).is_dir():
            return _folder(spec, here / spec, name=spec, kind=kind)
        return Source(spec, spec, kind, hub=HUB_SETS[spec])
    path = Path(spec).expanduser()
    if spec and os.path.isdir(path):
        return _folder(spec, path, name=path.resolve().name or "root")
    if os.path.isfile(path):
        return Source(spec, _stem(path), "files", ((None, path.name, path),))
    if spec and os.path.exists(path):
        raise DataError(f"data='{spec}': expected a file or a folder, found something else")
    if here and spec and "/" not in spec and os.path.isdir(here / spec):
        shakespeare = spec == "tinyshakespeare"
        return _folder(spec, here / spec, name=spec, kind="shakespeare" if shakespeare else "files")
    table, _, column = spec.rpartition(":")
    if table and column and (os.path.exists(Path(table).expanduser()) or _matches(table)):
        return replace(locate(table), spec=spec, column=column)
    if matches := _matches(spec):
        files = tuple((None, file.name, file) for file in matches)
        return Source(spec, _stem(matches[0].resolve().parent) or "glob", "files", files)
    known = ["python", *HUB_SETS]
    if here and here.is_dir():
        known += sorted(f.name for f in here.iterdir() if f.is_dir() and f.name not in known)
    raise DataError(
        f"data='{spec}': there is no such file, folder, glob or named set. "
        f"Named sets: {', '.join(known)}; $ITERA_DATA is {here or 'not set'}. "
        "Others: hf:OWNER/NAME[:column], or - for standard input."
    )


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
    found = [
        (file.relative_to(folder).as_posix(), file)
        for file in sorted(folder.rglob("*"))
        if readers.kind_of(file)
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]
    if not found:
        raise DataError(
            f"{folder}: found no .txt, .md, .jsonl, .csv or .parquet files (.gz and .zst of them "
            f"count). For others give a glob, such as '{folder}/**/*.rst'."
        )
    files: list[tuple[str | None, str, Path]] = []
    for label, file in found:
        split = hub.split_name(label)
        if kind == "stories" and label.startswith("official-valid"):
            split = "official-valid"
        files.append((split, label, file))
    left_out: tuple[str, ...] = ()
    names = {split for split, _, _ in files}
    if "train" in names and (names & {"valid", "test"} or names == {"train"}):
        # The set's own other files (extra-lowercase, official-valid) are no oversight.
        quiet = kind in ("stories", "wikitext")
        left_out = tuple(
            label
            for split, label, _ in files
            if split is None and not quiet and not label.lower().startswith("readme")
        )
        files = [item for item in files if item[0] is not None]
    else:
        files = [(None, label, file) for _, label, file in files]
    return Source(spec, name, kind, tuple(files), left_out=left_out)


def _hub(spec: str) -> Source:
    repository, _, column = spec.removeprefix("hf:").partition(":")
    parts = repository.strip("/").split("/")
    if len(parts) < 2 or not all(parts):
        raise DataError(f"data='{spec}': expected hf:OWNER/NAME, hf:OWNER/NAME/FOLDER or either")
    wanted = hub.HubSet("/".join(parts[:2]), "/".join(parts[2:]))
    return Source(spec, parts[-1], "files", column=column or None, hub=wanted)


def _read_stdin() -> Corpus:
    repairs = readers.Repairs()
    raw = sys.stdin.buffer.read()
    text = readers.valid_utf8(raw, "standard input", repairs)
    documents = readers.split_text(text)
    source = {"set": "standard input", "bytes": len(raw)}
    return _finish("stdin", source, {None: documents}, repairs.notes(), origin="standard input")


def _finish(
    name: str,
    source: dict[str, Any],
    given: dict[str | None, list[bytes]],
    notes: list[str],
    *,
    origin: str,
) -> Corpus:
    """Split what has no splits, and keep copies off the border."""
    if not any(given.values()):
        raise DataError(f"{origin}: holds no text; expected documents in UTF-8")
    unsplit = given.pop(None, [])
    splits = {str(split): texts for split, texts in given.items() if texts}
    if not splits:
        splits["train"], splits["valid"], said = split_by_hash(unsplit)
        return Corpus(name, source, splits, notes + said)
    if not splits.get("train"):
        raise DataError(f"{origin}: the training files hold no text")
    splits, said = without_leaks(splits)
    notes = notes + said
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
    splits = dict(sorted(splits.items(), key=lambda item: (order.get(item[0], 3), item[0])))
    return Corpus(name, source, splits, notes)


def _matches(pattern: str) -> list[Path]:
    if not glob.has_magic(pattern):
        return []
    names = sorted(glob.glob(os.path.expanduser(pattern), recursive=True))
    return [Path(name) for name in names if os.path.isfile(name)]


def _stem(path: Path) -> str:
    return path.name.split(".")[0] or path.name


def _without_folder(spec: str) -> str:
    """What the user wrote less the folders, which say nothing to others."""
    return Path(spec).name or spec
