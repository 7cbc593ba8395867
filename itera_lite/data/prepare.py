"""Prepared sets: memory-mapped token files with a manifest, cached by content.

A prepared set is a folder ``NAME-KEY`` in the cache: ``SPLIT.bin`` (little-endian uint16, or
uint32 for a tokenizer of more than 65,536 ids), ``manifest.json`` and the tokenizer's files. KEY
is a hash of text, tokenizer, unit and format. The folder is written under another name and renamed,
so it is whole or absent, and two processes may build it at once. Small files in ``index/`` map what
is known without reading the text (`Source.fingerprint`) to the folder.
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
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from itera_lite.config import Unit
from itera_lite.data.corpus import Corpus, load_documents, locate
from itera_lite.data.tokenizer import Tokenizer, check_vocab_size, training_sample
from itera_lite.data.units import unit_of
from itera_lite.data.verify import SHARD_SHA256, damaged_shard
from itera_lite.errors import DataError, IteraWarning, TextTooSmall
from itera_lite.files import cache_folder, write_json
from itera_lite.records import DatasetDescription

FORMAT = 1  # of the cache: raise it when the same text would give other shards or another split
_DECODED = 1_000_000  # tokens decoded at a time, which bounds memory
# The errors that reading a damaged file of the cache may raise
_DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, DataError)
GENERAL = "python"  # a set that is on every machine
_BAR_DELAY = 1.0  # seconds before a progress bar appears


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
        return self.manifest.get("unit", "document")

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

    def documents(self, split: str, wanted: Container[int] | None = None) -> Iterator[bytes]:
        """The split's documents, decoded from the tokens: the exact bytes that went in.

        Args:
            split: a split of the set.
            wanted: numbers of the documents to decode, from 0; by default all.
        """
        tokens = self.tokens(split)
        ends = np.flatnonzero(tokens == self.tokenizer.eot_id)
        for number, (start, end) in enumerate(pairwise(ends.tolist())):
            if wanted is None or number in wanted:
                parts = range(start + 1, end, _DECODED)  # a document may be the whole text
                yield b"".join(
                    self.tokenizer.decode_bytes(tokens[at : min(at + _DECODED, end)].tolist())
                    for at in parts
                )

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
        return found
    corpus = source.read().in_units(unit)
    if print_notes and not quiet:
        for note in corpus.notes:
            print(f"{corpus.name}: {note}", file=sys.stderr)
    text_hash, split_hashes = _hashes(corpus)
    text_keys = [_key("text", corpus.name, text_hash, vocabulary, *cut)]
    try:
        root.mkdir(parents=True, exist_ok=True)
        dataset = _look_up(root, text_keys)
        if dataset is None:
            used = None
            if tokenizer is None:
                tokenizer, used = _train_tokenizer(corpus, vocab_size, quiet)
                text_keys.append(_key("text", corpus.name, text_hash, tokenizer.sha256, *cut))
                if fingerprint is not None:
                    source_keys.append(_key("source", fingerprint, tokenizer.sha256, *cut))
            key = _key(text_hash, tokenizer.sha256, *cut)[:16]
            folder = root / f"{re.sub(r'[^A-Za-z0-9._-]+', '_', corpus.name)[:60]}-{key}"
            dataset = open_dataset(folder) or _build(
                folder, corpus, tokenizer.with_unit(unit), text_hash, split_hashes, used, quiet
            )
    except OSError as error:
        raise DataError(
            f"the cache {root} can't be written ({error.strerror or error}"
            f"{f': {error.filename}' if error.filename else ''}). "
            "Set ITERA_CACHE to a folder that can, with room for the tokens."
        ) from error
    # Two sources may hold the same text and share a folder; each keeps its own source and notes.
    own = {"source": corpus.source, "notes": corpus.notes + _sample_notes(dataset)}
    with suppress(OSError):  # these files only save work
        for key in source_keys:
            write_json(root / "index" / f"{key}.json", {"folder": dataset.path.name, **own})
        for key in text_keys:
            write_json(root / "index" / f"{key}.json", {"folder": dataset.path.name})
    return replace(dataset, manifest={**dataset.manifest, **own})


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


def _train_tokenizer(corpus: Corpus, vocab_size: int, quiet: bool) -> tuple[Tokenizer, int]:
    """A tokenizer trained on the train split, and how many bytes of it were used."""
    sample, used = training_sample(corpus.splits["train"])
    begin = time.monotonic()
    with _progress(f"learning the tokens of {corpus.name}", used, quiet) as bar:

        def progress(n_bytes: int) -> None:
            bar.n = n_bytes
            if time.monotonic() - begin > _BAR_DELAY:
                bar.refresh()

        try:
            return Tokenizer.train(sample, vocab_size, progress), used
        except TextTooSmall as error:
            notes = f" ({'; '.join(corpus.notes)})" if corpus.notes else ""
            raise TextTooSmall(f"{error}{notes}") from None


def _sample_notes(dataset: Dataset) -> list[str]:
    used = dataset.manifest["tokenizer_trained_on_bytes"]
    train_bytes = dataset.n_bytes("train")
    if used is None or used >= train_bytes:
        return []
    return [
        f"the tokenizer was trained on an even sample of {used / 1e6:.0f} MB "
        f"of {train_bytes / 1e6:.0f} MB"
    ]


def _progress(what: str, total: int, quiet: bool) -> tqdm[Any]:
    """A progress bar, on a terminal only, after `_BAR_DELAY`."""
    return tqdm(
        total=total,
        desc=what,
        unit="B",
        unit_scale=True,
        delay=_BAR_DELAY,
        disable=True if quiet else None,
    )


def _build(
    folder: Path,
    corpus: Corpus,
    tokenizer: Tokenizer,
    text_hash: str,
    split_hashes: dict[str, str],
    trained_on: int | None,
    quiet: bool,
) -> Dataset:
    """Write the set under another name, then rename it to ``folder``."""
    _remove_stale_builds(folder.parent)
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 65_536 else "<u4")
    work = Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
    try:
        entries = {}
        total = sum(len(text) for texts in corpus.splits.values() for text in texts)
        with _progress(f"tokenising {corpus.name}", total, quiet) as bar:
            for split, texts in corpus.splits.items():
                file = f"{split}.bin"
                size, digest = _write_tokens(work / file, texts, tokenizer, dtype, bar)
                entries[split] = {
                    "documents": len(texts),
                    "bytes": sum(map(len, texts)),
                    "tokens": size - 1,
                    "sha256": split_hashes[split],
                    "file": file,
                    SHARD_SHA256: digest,
                }
        tokenizer.save(work)
        manifest = {
            "format": FORMAT,
            "name": corpus.name,
            "source": corpus.source,
            "sha256": text_hash,
            "unit": tokenizer.unit,
            "tokenizer_sha256": tokenizer.sha256,
            "tokenizer_trained_on_bytes": trained_on,
            "vocab_size": tokenizer.vocab_size,
            "dtype": dtype.str,
            "notes": corpus.notes,
            "splits": entries,
        }
        write_json(work / "manifest.json", manifest)
        work.chmod(0o755)
        dataset = _move(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return dataset


def _write_tokens(
    file: Path,
    texts: list[bytes],
    tokenizer: Tokenizer,
    dtype: np.dtype[Any],
    bar: tqdm[Any],
) -> tuple[int, str]:
    """Write the token stream of one split; returns its length and its SHA-256."""

    def counted() -> Iterable[bytes]:
        for text in texts:
            yield text
            bar.update(len(text))

    size, digest = 0, hashlib.sha256()
    with open(file, "wb") as out:
        start = np.array([tokenizer.eot_id])
        for part in chain([start], tokenizer.encode_stream(counted())):
            data = part.astype(dtype).tobytes()
            out.write(data)
            digest.update(data)
            size += len(part)
        out.flush()
        os.fsync(out.fileno())
    return size, digest.hexdigest()


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


def _hashes(corpus: Corpus) -> tuple[str, dict[str, str]]:
    """The sha256 of the whole set, and that of each split's documents joined."""
    whole = hashlib.sha256()
    splits = {}
    for split, texts in corpus.splits.items():
        alone = hashlib.sha256()
        whole.update(f"{split} {len(texts)}\n".encode())
        for text in texts:
            alone.update(text)
            whole.update(len(text).to_bytes(8, "little"))
            whole.update(text)
        splits[split] = alone.hexdigest()
    return whole.hexdigest(), splits


def _remove_stale_builds(root: Path) -> None:
    """Remove the folders of builds that were killed more than a day ago."""
    for stale in root.glob(".building-*"):
        try:
            if time.time() - stale.stat().st_mtime > 86_400:
                shutil.rmtree(stale, ignore_errors=True)
        except OSError:
            continue
