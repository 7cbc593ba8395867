"""Prepared sets: memory-mapped token files with a manifest, cached by content.

A prepared set is a folder ``NAME-KEY`` in the cache: ``SPLIT.bin`` (little-endian uint16, or
uint32 for a tokenizer of more than 65,536 ids), ``manifest.json`` and the tokenizer's files. KEY
is a hash of text, tokenizer, unit and format. The folder is written under another name and renamed,
so it is whole or absent. Small files in ``index/`` map what is known without reading the text
(`Source.fingerprint`) to the folder. What is being prepared lies in ``.preparing-KEY`` with a lock:
a second process waits for the first, and goes on with what a killed one left.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Container, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from itera_lite.config import Unit
from itera_lite.data.building import Build
from itera_lite.data.corpus import load_documents, locate
from itera_lite.data.processes import Processes
from itera_lite.data.tokenizer import Tokenizer, check_vocab_size, training_sample
from itera_lite.data.units import unit_of
from itera_lite.data.verify import damaged_shard
from itera_lite.errors import DataError, Interrupted, IteraError, IteraWarning, TextTooSmall
from itera_lite.files import cache_folder, write_json
from itera_lite.records import DatasetDescription

FORMAT = 1  # of the cache: raise it when the same text would give other shards or another split
_DECODED = 1_000_000  # tokens decoded at a time, which bounds memory
# The errors that reading a damaged file of the cache may raise
_DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, IteraError)
GENERAL = "python"  # a set that is on every machine
_KEEP = "keep"  # a file in a folder of unfinished work that isn't removed


@dataclass(frozen=True)
class Dataset:
    """A prepared set.

    Attributes:
        path: its folder in the cache.
        manifest: contents of manifest.json: name, source, sha256 of the text, unit,
            tokenizer_sha256, vocab_size, notes, and for each split documents (each is a
            unit), bytes, tokens, sha256 of the text, file and its file_sha256. ``tokens``
            counts what is predicted: every token of the documents and the ``<|endoftext|>``
            after each; ``bytes`` is the text alone.
    """

    path: Path
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.manifest["name"])

    @property
    def splits(self) -> list[str]:
        return list(self.manifest["splits"])

    @property
    def unit(self) -> Unit:
        """What of the text a document of the set is: see `itera_lite.data.units`."""
        return unit_of(self.manifest.get("unit")) or "document"

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self.path).with_unit(self.unit)

    def tokens(self, split: str) -> NDArray[Any]:
        """The split's stream, memory-mapped, read-only: one more than ``tokens`` in the manifest.

        It begins with ``<|endoftext|>``, and each document is followed by one.
        """
        entry = self._entry(split)
        return np.memmap(self.path / entry["file"], dtype=self.manifest["dtype"], mode="r")

    def n_bytes(self, split: str) -> int:
        """Bytes of the split's documents: what bits per byte divides by."""
        return int(self._entry(split)["bytes"])

    def n_tokens(self, split: str) -> int:
        """Tokens predicted in the split, each document's ``<|endoftext|>`` included."""
        return int(self._entry(split)["tokens"])

    def documents(
        self, split: str, wanted: Container[int] | None = None, most: int | None = None
    ) -> Iterator[bytes]:
        """The split's documents, decoded from the tokens: the exact bytes that went in.

        Args:
            split: a split of the set.
            wanted: numbers of the documents to decode, from 0; by default all.
            most: bytes of each at most; by default all.
        """
        tokens = self.tokens(split)
        for number, (start, end) in enumerate(pairwise(self._ends(split))):
            if wanted is None or number in wanted:
                if most is not None:
                    end = min(end, start + 1 + most)
                parts = range(start + 1, end, _DECODED)  # a document may be the whole text
                text = b"".join(
                    self.tokenizer.decode_bytes(tokens[at : min(at + _DECODED, end)].tolist())
                    for at in parts
                )
                yield text[:most]

    def sizes(self, split: str) -> NDArray[np.int64]:
        """The bytes of each document of the split."""
        lengths = np.array([len(piece) for piece in self.tokenizer.token_bytes], dtype=np.int64)
        tokens, sizes, size = self.tokens(split), list[NDArray[np.int64]](), 0
        for at in range(1, len(tokens), _DECODED):
            part = tokens[at : at + _DECODED]
            ends = np.flatnonzero(part == self.tokenizer.eot_id)
            totals = np.cumsum(lengths[part])
            sizes.append(np.diff(totals[ends], prepend=-size))
            size = int(totals[-1]) - (int(totals[ends[-1]]) if len(ends) else -size)
        return np.concatenate(sizes)

    def tokens_in_use(self, split: str) -> int:
        """How many different tokens occur in the split."""
        tokens, used = self.tokens(split), np.zeros(self.tokenizer.vocab_size, dtype=bool)
        for at in range(0, len(tokens), _DECODED):
            used[tokens[at : at + _DECODED]] = True
        return int(used.sum())

    def _ends(self, split: str) -> Iterator[int]:
        """The places of ``<|endoftext|>`` in the stream."""
        tokens = self.tokens(split)
        for at in range(0, len(tokens), _DECODED):
            part = tokens[at : at + _DECODED]
            yield from (at + np.flatnonzero(part == self.tokenizer.eot_id)).tolist()

    def describe(self, source: str) -> DatasetDescription:
        """The record of the set in a result file.

        Args:
            source: the name or path that the user gave.
        """
        train, valid = self._entry("train"), self._entry("valid")
        return DatasetDescription(
            name=self.name,
            source=source,
            sha256=self.manifest["sha256"],
            tokenizer_sha256=self.manifest["tokenizer_sha256"],
            vocab_size=self.manifest["vocab_size"],
            train_bytes=train["bytes"],
            train_tokens=train["tokens"],
            valid_bytes=valid["bytes"],
            valid_tokens=valid["tokens"],
            bytes_per_token=train["bytes"] / train["tokens"],
            unit=self.unit,
        )

    def _entry(self, split: str) -> dict[str, Any]:
        entries: dict[str, dict[str, Any]] = self.manifest["splits"]
        if split not in entries:
            raise DataError(f"{self.name} has no split '{split}'. Its splits: {', '.join(entries)}")
        return entries[split]


def open_dataset(folder: Path) -> Dataset | None:
    """The prepared set in a folder; None where there is none or it is damaged.

    A shard whose content changed after it was written is named in an `IteraWarning`.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        width = np.dtype(manifest["dtype"]).itemsize
        whole = manifest["format"] == FORMAT and all(
            (folder / entry["file"]).stat().st_size == (entry["tokens"] + 1) * width
            for entry in manifest["splits"].values()
        )
        dataset = Dataset(folder, manifest)
        if whole and (problem := damaged_shard(folder, manifest["splits"])):
            warnings.warn(problem, IteraWarning, stacklevel=2)
            return None
        if whole and dataset.tokenizer.sha256 == manifest["tokenizer_sha256"]:
            ends = [dataset.tokens(split)[[0, -1]].tolist() for split in dataset.splits]
            train, valid = manifest["splits"]["train"], manifest["splits"]["valid"]
            if train and valid and all(end == [dataset.tokenizer.eot_id] * 2 for end in ends):
                return dataset
    except _DAMAGED:
        pass
    return None


def prepare(
    data: str,
    *,
    vocab_size: int = 2048,
    tokenizer: Tokenizer | None = None,
    unit: Unit | None = None,
    cache: Path | None = None,
    quiet: bool = False,
    print_notes: bool = True,
    workers: int | None = None,
) -> Dataset:
    """A set ready for training or evaluation, from the cache if it was prepared before.

    Args:
        data: the set; see `itera_lite.data.corpus.load_documents`.
        vocab_size: size of the tokenizer trained on the train split, from 256
            (bytes only: 257 ids with ``<|endoftext|>``) to 65,536.
        tokenizer: use this one instead, such as a checkpoint's.
        unit: what of the text becomes a document; by default what it was for the
            checkpoint that ``tokenizer`` is of, else the document as it is.
        cache: folder for prepared sets; by default $ITERA_CACHE, else
            ~/.cache/itera-lite.
        quiet: neither notes nor progress on standard error.
        print_notes: print the notes when the set is built.
        workers: processes that read and tokenise, for sets of more than some megabytes; by
            default one a core, as far as the memory allows. The result doesn't depend on it.

    What a killed process left of a set of some size is gone on with. Memory is bounded
    whatever the size of the text: see `itera_lite.data.building`.

    Raises:
        DataError: the set or its text can't be used, or the cache can't be written.
        UsageError: ``vocab_size`` is out of range, or there is no such unit.
    """
    if tokenizer is None:
        check_vocab_size(vocab_size)
    vocabulary = max(vocab_size, 257) if tokenizer is None else tokenizer.sha256
    unit = unit_of(unit) or (None if tokenizer is None else tokenizer.unit) or "document"
    cut = [] if unit == "document" else [unit]  # of whole documents the key is as it always was
    root = cache or cache_folder()
    source = locate(data)
    fingerprint = source.fingerprint()
    source_keys = [_key("source", fingerprint, vocabulary, *cut)] if fingerprint is not None else []
    if found := _look_up(root, source_keys):
        _remove_left(root, source_keys[0])
        return found
    try:
        with ExitStack() as stack:
            place = _workplace(root, source_keys, source.name, quiet)
            work, unwritable = stack.enter_context(place)
            if found := _look_up(root, source_keys):  # another process made it
                return found
            processes = stack.enter_context(Processes(workers))
            build = Build(source, work, processes, quiet)
            stack.enter_context(_kept_if_large(build))
            build.read(unit)
            if print_notes and not quiet:
                for note in build.notes:
                    print(f"{source.name}: {note}", file=sys.stderr)
            text_hash, split_hashes = build.hashes()
            text_keys = [_key("text", source.name, text_hash, vocabulary, *cut)]
            dataset = _look_up(root, text_keys)
            if dataset is None:
                if unwritable is not None:
                    raise unwritable
                used = None
                if tokenizer is None:
                    tokenizer, used = build.learn(vocab_size)
                    text_keys.append(_key("text", source.name, text_hash, tokenizer.sha256, *cut))
                    if fingerprint is not None:
                        source_keys.append(_key("source", fingerprint, tokenizer.sha256, *cut))
                key = _key(text_hash, tokenizer.sha256, *cut)[:16]
                folder = root / f"{re.sub(r'[^A-Za-z0-9._-]+', '_', source.name)[:60]}-{key}"
                dataset = open_dataset(folder) or _finish(
                    build, folder, tokenizer.with_unit(unit), text_hash, split_hashes, used
                )
            # Two sources may hold the same text and share a folder; each keeps its own source and
            # notes. The files are there before a process that waits for the workplace goes on.
            own = {"source": build.listing_source, "notes": build.notes + _sample_notes(dataset)}
            with suppress(OSError):  # these files only save work
                for key in source_keys:
                    write_json(root / "index" / f"{key}.json", {"folder": dataset.path.name, **own})
                for key in text_keys:
                    write_json(root / "index" / f"{key}.json", {"folder": dataset.path.name})
            return replace(dataset, manifest={**dataset.manifest, **own})
    except OSError as error:
        reason = error.__cause__ if isinstance(error.__cause__, OSError) else error
        raise DataError(
            f"the cache {root} can't be written ({reason.strerror or reason}"
            f"{f': {reason.filename}' if reason.filename else ''}). "
            "Set ITERA_CACHE to a folder that can, with room for the text and its tokens."
        ) from error


def prepare_general(
    data: str, vocab_size: int, quiet: bool = False, unit: Unit | None = None
) -> Dataset:
    """`prepare` with a tokenizer of exactly ``vocab_size`` ids, however small the set is.

    The tokenizer is trained on the set. A small text doesn't hold that many merges: then it is
    trained on the set and on the standard library's source together, and some of its tokens
    never occur in the set, as with any tokenizer made for general text.
    """
    tokenizer = _general_tokenizer(data, vocab_size, str(locate(data).fingerprint()), quiet)
    return prepare(data, tokenizer=tokenizer, unit=unit, quiet=quiet)


@lru_cache(maxsize=4)
def _general_tokenizer(data: str, vocab_size: int, fingerprint: str, quiet: bool) -> Tokenizer:
    """The tokenizer, trained once in a process while the set's fingerprint stays the same."""
    try:
        return prepare(data, vocab_size=vocab_size, quiet=quiet).tokenizer
    except TextTooSmall:
        pass
    if not quiet:
        print(
            f"the text alone doesn't hold {vocab_size:,} tokens: the tokenizer is trained on it "
            "and on the standard library's source, as a general one"
        )

    def documents() -> Iterator[bytes]:
        for source in (data, GENERAL):
            yield from training_sample(load_documents(source).splits["train"])[0]

    return Tokenizer.train(documents(), vocab_size)


def _sample_notes(dataset: Dataset) -> list[str]:
    used = dataset.manifest["tokenizer_trained_on_bytes"]
    train_bytes = dataset.n_bytes("train")
    if used is None or used >= train_bytes:
        return []
    return [
        f"the tokenizer was trained on an even sample of {used / 1e6:.0f} MB "
        f"of {train_bytes / 1e6:.0f} MB"
    ]


@contextmanager
def _workplace(
    root: Path, keys: list[str], name: str, quiet: bool
) -> Iterator[tuple[Path, OSError | None]]:
    """A folder to build a set in, which no other process has; and why it isn't in the cache.

    Of a set that one of the keys stands for, it is the one that a killed process left. Another
    process that builds the set is waited for. The folder is removed when the block ends, unless
    its lock was left in it with a file ``keep``.
    """
    unwritable, lock = None, None
    try:
        root.mkdir(parents=True, exist_ok=True)
        _remove_stale_builds(root)
        lock = _claim(root / f".preparing-{keys[0]}", name, quiet) if keys else None
        work = Path(lock.name).parent if lock else Path(tempfile.mkdtemp("", ".building-", root))
    except OSError as error:
        unwritable, work = error, Path(tempfile.mkdtemp(prefix="itera-"))
    try:
        yield work, unwritable
    finally:
        if lock is None or not (work / _KEEP).exists():
            _remove(root, work)
        if lock is not None:
            lock.close()


def _remove(root: Path, work: Path) -> None:
    """Remove a workplace; a kill meanwhile must not leave a part of it to go on with."""
    with suppress(OSError):
        work = work.rename(root / f".building-{os.urandom(8).hex()}")
    shutil.rmtree(work, ignore_errors=True)


def _remove_left(root: Path, key: str) -> None:
    """Remove the workplace of a set that is finished, where a killed process left it."""
    work = root / f".preparing-{key}"
    with suppress(OSError), open(work / "lock", "r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(root, work)


def _claim(folder: Path, name: str, quiet: bool) -> IO[str] | None:
    """The open lock of a folder, once no other process holds it; None where locks don't work."""
    while True:
        try:
            folder.mkdir(exist_ok=True)
            lock = open(folder / "lock", "w")  # noqa: SIM115
        except FileNotFoundError:  # the other process has just removed it
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not quiet:
                print(f"{name}: another process prepares it; waiting for that", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            lock.close()
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock.fileno()), os.stat(folder / "lock")):
                (folder / _KEEP).unlink(missing_ok=True)
                return lock
        lock.close()


@contextmanager
def _kept_if_large(build: Build) -> Iterator[None]:
    """Keep much work that was stopped and can go on; the text isn't at fault then."""
    try:
        yield
    except BaseException as error:
        can_go_on = not isinstance(error, Exception) or isinstance(
            error, (OSError, MemoryError, Interrupted)
        )
        # Without a lock the workplace isn't found again, and is removed.
        if can_go_on and build.is_large and (build.folder / "lock").exists():
            with suppress(OSError):
                build.keep(_KEEP)
        raise


def _finish(
    build: Build,
    folder: Path,
    tokenizer: Tokenizer,
    text_hash: str,
    split_hashes: dict[str, str],
    trained_on: int | None,
) -> Dataset:
    """Write the set into the build's folder, then rename it to ``folder``."""
    work = build.folder / "set"
    entries, dtype = build.tokenise(tokenizer, work, split_hashes)
    manifest = {
        "format": FORMAT,
        "name": build.name,
        "source": build.listing_source,
        "sha256": text_hash,
        "unit": tokenizer.unit,
        "tokenizer_sha256": tokenizer.sha256,
        "tokenizer_trained_on_bytes": trained_on,
        "vocab_size": tokenizer.vocab_size,
        "dtype": dtype,
        "notes": build.notes,
        "splits": entries,
    }
    write_json(work / "manifest.json", manifest)
    return _move(work, folder)


def _move(work: Path, folder: Path) -> Dataset:
    """Rename a finished set to ``folder``; if another process was first, take that one."""
    with _lock(folder.parent):
        if (first := open_dataset(folder)) is not None:
            return first
        if folder.is_dir() and not folder.is_symlink():
            shutil.rmtree(folder)  # it is damaged
        else:
            folder.unlink(missing_ok=True)
        os.rename(work, folder)
    dataset = open_dataset(folder)
    if dataset is None:
        raise DataError(f"{folder}: was written and can't be read again. Is the disk damaged?")
    return dataset


@contextmanager
def _lock(root: Path) -> Iterator[None]:
    """Keep other processes from moving a set into the cache at the same time."""
    with open(root / ".lock", "w") as file:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _look_up(root: Path, keys: list[str]) -> Dataset | None:
    """The prepared set that one of the keys in ``index/`` leads to, or None."""
    for key in keys:
        try:
            entry = json.loads((root / "index" / f"{key}.json").read_text(encoding="utf-8"))
            own = {name: entry[name] for name in ("source", "notes") if name in entry}
            found = open_dataset(root / entry["folder"])
        except _DAMAGED:
            continue
        if found is not None:
            return replace(found, manifest={**found.manifest, **own})
    return None


def _key(*parts: Any) -> str:
    text = json.dumps([FORMAT, *parts], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _remove_stale_builds(root: Path) -> None:
    """Remove what killed processes left: what can't be gone on with after a day, else a month."""
    for pattern, seconds in ((".building-*", 86_400), (".preparing-*", 30 * 86_400)):
        for stale in root.glob(pattern):
            try:
                if time.time() - stale.stat().st_mtime > seconds:
                    if stale.is_dir():
                        shutil.rmtree(stale, ignore_errors=True)
                    else:
                        stale.unlink()
            except OSError:
                continue
