"""Builds a prepared set from text of any size, with all cores, and goes on after it was stopped.

The steps, each of which leaves files when it is done (of a small text, some are done again):

1. *Read*: processes read the files of the set, a part each, into a `Spool` on disk.
2. *Divide*: `place` gives each document its split, or drops it. Where units are asked for, each
   document is then cut into them, and a process a split mixes them.
3. *Learn*: the tokenizer is trained on a sample, unless one is given.
4. *Tokenise*: processes encode chunks of the spool; this process writes the tokens in order.

Nothing depends on the number of processes. Memory is that of some chunks and of
`places.PARTITION_ROWS` hashes, however large the text is. On the disk are the text, deflated, and
the tokens.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from tqdm import tqdm

from itera_lite.config import Unit
from itera_lite.data.corpus import Source, TextFile, size_of, with_notes
from itera_lite.data.hub import HubFile
from itera_lite.data.parts import (
    cut_document,
    cut_part,
    encode_chunk,
    forget,
    mix_split,
    read_part,
)
from itera_lite.data.places import Places, place
from itera_lite.data.processes import Processes
from itera_lite.data.remote import RemoteFile
from itera_lite.data.repairs import Repairs
from itera_lite.data.split import ONE_DOCUMENT
from itera_lite.data.spool import Piece, Spool, SpoolWriter
from itera_lite.data.tokenizer import TRAINING_SAMPLE_BYTES, Tokenizer, sample_spans
from itera_lite.data.verify import SHARD_SHA256
from itera_lite.errors import DataError, Interrupted, TextTooSmall
from itera_lite.files import sha256_of, write_json

PART_BYTES = 64_000_000  # files are read together up to this size
KEPT_BYTES = 16_000_000  # of deflated text: less is read again after an error
SAVE_SECONDS = 1.0  # of tokenising that may have to be done again after a kill
TEXT_SHARE = 0.35  # of the text on disk when deflated, at least; for the first estimate
_BAR_DELAY = 1.0  # seconds before a progress bar appears


class Build:
    """The work on one set, in a folder of its own. Call its steps in their order.

    Args:
        source: the set.
        folder: for the files; work that was begun there goes on.
        processes: that share the work.
        quiet: no progress on standard error.

    Attributes:
        folder: see above.
        listing_source: where the text comes from, as the manifest records it.
        notes: for the user.
        parts: (split that the files belong to, spooled text).
        places: the split of each document.
    """

    def __init__(self, source: Source, folder: Path, processes: Processes, quiet: bool) -> None:
        self._source, self._processes, self._quiet = source, processes, quiet
        self.folder = folder
        self.listing_source: dict[str, Any] = {}
        self.notes: list[str] = []
        self.parts: list[tuple[str | None, Spool]] = []

    @property
    def is_large(self) -> bool:
        """Whether the work so far is worth keeping: else it is done again as fast."""
        return sum(file.stat().st_size for file in self.folder.glob("*.text")) >= KEPT_BYTES

    @property
    def name(self) -> str:
        return self._source.name

    def keep(self, mark: str) -> None:
        """Leave the work so far to a later process, with a file of this name in the folder."""
        (self.folder / mark).touch()
        if not self._quiet:
            print(
                f"{self.name}: what was done is kept in {self.folder}; the same command goes on",
                file=sys.stderr,
            )

    def read(self, unit: Unit) -> None:
        """Read the files, and divide the documents: steps 1 and 2.

        Raises:
            DataError: the text can't be used; the message says why and what to do.
            MissingExtra: a package for this kind of file isn't installed.
        """
        if self._source.fits_in_memory:
            self._take_corpus()
        else:
            self._read_files()
            try:
                self._divide()
            except DataError as error:
                raise with_notes(error, self.notes) from error
        if unit != "document":
            self._cut_into_units(unit)

    def hashes(self) -> tuple[str, dict[str, str]]:
        """The sha256 of the whole set, and that of each split's documents joined."""
        path = self.folder / "hashes.json"
        if (known := _read(path)) is not None:
            return known["whole"], known["splits"]
        whole = hashlib.sha256()
        splits = {}
        total = self._text_bytes() * len(self.places.splits)
        with progress_bar(f"hashing {self._source.name}", total, self._quiet) as bar:
            for index, split in enumerate(self.places.splits):
                alone = hashlib.sha256()
                whole.update(f"{split} {self.places.documents[index]}\n".encode())
                for spool, chunk, start in self._chunks():
                    texts, framed = [], []
                    for piece, length in self._pieces_of(spool, chunk, start, index):
                        texts.append(piece.text)
                        if not piece.begin:
                            framed.append(length.to_bytes(8, "little"))
                        framed.append(piece.text)
                    alone.update(b"".join(texts))
                    whole.update(b"".join(framed))
                    bar.update(spool.text_bytes(chunk))
                splits[split] = alone.hexdigest()
        if self.is_large:
            write_json(path, {"whole": whole.hexdigest(), "splits": splits})
        return whole.hexdigest(), splits

    def learn(self, vocab_size: int) -> tuple[Tokenizer, int]:
        """Train a tokenizer on the train split; also how many bytes of it were used: step 3.

        Raises:
            TextTooSmall: the text doesn't support so large a vocabulary.
        """
        folder = self.folder / "learned"
        if (known := _read(folder / "sample.json")) is not None:
            return Tokenizer.load(folder), known["bytes"]
        total = self.places.bytes[self.places.splits.index("train")]
        used = min(total, TRAINING_SAMPLE_BYTES)
        begin = time.monotonic()
        with progress_bar(f"learning the tokens of {self._source.name}", used, self._quiet) as bar:

            def progress(n_bytes: int) -> None:
                bar.n = n_bytes
                if time.monotonic() - begin > _BAR_DELAY:
                    bar.refresh()

            try:
                tokenizer = Tokenizer.train(self._sample(total), vocab_size, progress)
            except TextTooSmall as error:
                notes = f" ({'; '.join(self.notes)})" if self.notes else ""
                raise TextTooSmall(f"{error}{notes}") from None
        if self.is_large:
            tokenizer.save(folder)
            write_json(folder / "sample.json", {"bytes": used})
        return tokenizer, used

    def tokenise(self, tokenizer: Tokenizer, out: Path, split_hashes: dict[str, str]) -> Any:
        """Write ``SPLIT.bin`` and the tokenizer into ``out``: step 4.

        Returns:
            The entries of the splits in the manifest, and the type of the tokens.
        """
        dtype = np.dtype("<u2" if tokenizer.vocab_size <= 65_536 else "<u4")
        out.mkdir(exist_ok=True)
        tokenizer.save(out)
        state_path = self.folder / "tokens.json"
        eot = np.array([tokenizer.eot_id], dtype=dtype).tobytes()
        paths = [out / f"{split}.bin" for split in self.places.splits]
        for shard in paths:
            shard.touch()
        state = _read(state_path)
        if state is None or any(
            shard.stat().st_size < size for shard, size in zip(paths, state["bytes"], strict=True)
        ):  # it has not begun, or the finished set was moved away before a kill
            state = {"chunks": 0, "bytes": [0] * len(paths)}
        files = [open(shard, "r+b") for shard in paths]  # noqa: SIM115
        try:
            for file, size in zip(files, state["bytes"], strict=True):
                file.truncate(size)
                file.seek(size)
                if not size:
                    file.write(eot)
            self._tokenise(out, dtype, state, files, state_path)
        finally:
            for file in files:
                file.close()
        entries = {}
        for index, (split, shard) in enumerate(zip(self.places.splits, paths, strict=True)):
            entries[split] = {
                "documents": self.places.documents[index],
                "bytes": self.places.bytes[index],
                "tokens": shard.stat().st_size // dtype.itemsize - 1,
                "sha256": split_hashes[split],
                "file": shard.name,
                SHARD_SHA256: sha256_of(shard),
            }
        return entries, dtype.str

    def _tokenise(
        self, out: Path, dtype: np.dtype[Any], state: dict[str, Any], files: list[Any], path: Path
    ) -> None:
        forget()
        chunks = list(self._chunks())
        tasks = [
            (spool.path, chunk, self.places.path, start, len(files), out, dtype.str)
            for spool, chunk, start in chunks
        ]
        sizes = [spool.text_bytes(chunk) for spool, chunk, _ in chunks]
        done = state["chunks"]

        def sync() -> None:
            for file in files:
                file.flush()
                os.fsync(file.fileno())

        if done < len(tasks):
            self._check_room(tasks[done], sum(sizes[done:]), sizes[done])
        saved = time.monotonic()
        with progress_bar(
            f"tokenising {self._source.name}", sum(sizes), self._quiet, sum(sizes[:done])
        ) as bar:
            for tokens in self._processes.map(encode_chunk, tasks[done:]):
                for file, part in zip(files, tokens, strict=True):
                    file.write(part)
                bar.update(sizes[done])
                done += 1
                if time.monotonic() - saved > SAVE_SECONDS and self.is_large:
                    sync()
                    write_json(path, {"chunks": done, "bytes": [file.tell() for file in files]})
                    saved = time.monotonic()
        sync()

    def _check_room(self, task: tuple[Any, ...], total: int, size: int) -> None:
        """Check that the tokens of ``total`` bytes fit on the disk, by those of the next chunk."""
        if total < PART_BYTES:
            return
        tokens = sum(map(len, encode_chunk(*task)))
        self._need(int(1.05 * total * tokens / max(size, 1)), "tokens")

    def _need(self, needed: int, what: str) -> None:
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise Interrupted(
                f"preparing {self._source.name} needs about {needed:,} bytes more for its "
                f"{what}, and {self.folder.parent} has {free:,} free. Make room and "
                "give the command again (it goes on), or set ITERA_CACHE to a folder that has "
                "more"
            )

    def _take_corpus(self) -> None:
        """Spool a small set that is read in memory."""
        corpus = self._source.read()
        self.listing_source, self.notes = corpus.source, corpus.notes
        splits = list(corpus.splits)
        places = Places(self.folder / "places", splits)
        with open(places.path, "wb") as file:
            for index, (split, texts) in enumerate(corpus.splits.items()):
                writer = SpoolWriter(self.folder / f"whole-{index}")
                for text in texts:
                    writer.add(text, True)
                writer.close()
                file.write(bytes([index]) * len(texts))
                places.documents.append(len(texts))
                places.bytes.append(sum(map(len, texts)))
                self.parts.append((split, Spool(writer.path)))
        self.places = places

    def _read_files(self) -> None:
        """Step 1."""
        files = self._listed()
        parts = _parts(files)
        options = self._source.reader_options(files)
        records = [self.folder / f"part-{number:06}.json" for number in range(len(parts))]
        todo = [number for number, record in enumerate(records) if _read(record) is None]
        sizes = [sum(size_of(where) for _, _, where in part) for part in parts]
        self._processes.settle(sum(sizes))
        elsewhere = [  # fetched into this folder; those that are kept go to the Hub's own cache
            size_of(where)
            for number in todo
            for _, _, where in parts[number]
            if not isinstance(where, Path) and not getattr(where, "keep", False)
        ]
        largest = sorted(elsewhere)[-self._processes.count :]
        self._need(int(TEXT_SHARE * sum(sizes[n] for n in todo)) + sum(largest), "text")
        processes = self._processes
        if any(isinstance(w, RemoteFile) and w.in_this_process for _, _, w in files):
            processes = Processes(1)
        total, before = sum(sizes), sum(sizes) - sum(sizes[number] for number in todo)
        with progress_bar(f"reading {self._source.name}", total, self._quiet, before) as bar:

            def watch() -> None:
                bar.n = before
                for number in todo:
                    with suppress(OSError, ValueError):
                        text = (self.folder / f"part-{number:06}.progress").read_text()
                        bar.n += min(int(text), sizes[number])
                bar.refresh()

            tasks = ((self.folder, n, parts[n], options) for n in todo)
            for _ in processes.map(read_part, tasks, watch):
                watch()
        repairs = Repairs()
        for number, (record, part) in enumerate(zip(records, parts, strict=True)):
            repairs.extend(_repairs_from(_read(record)["repairs"]))
            spool = Spool(self.folder / f"part-{number:06}")
            self.parts.append((part[0][0], spool))
        self.notes += self._source.read_notes(repairs)

    def _listed(self) -> tuple[TextFile, ...]:
        """The files to read. Of the Hub, those of the revision with which the work began."""
        path = self.folder / "files.json"
        if self._source.hub is not None and (known := _read(path)) is not None:
            self.listing_source, self.notes = known["source"], known["notes"]
            return tuple((split, label, HubFile(**file)) for split, label, file in known["files"])
        listing = self._source.listing()
        self.listing_source, self.notes = listing.source, list(listing.notes)
        if self._source.hub is not None:
            files = [
                (split, label, dataclasses.asdict(where))
                for split, label, where in listing.files
                if isinstance(where, HubFile)
            ]
            write_json(path, {"source": listing.source, "notes": listing.notes, "files": files})
        return listing.files

    def _divide(self) -> None:
        """Step 2: the split of each document."""
        path = self.folder / "places.json"
        if (known := _read(path)) is not None:
            self.places = Places(**{**known, "path": self.folder / known["path"]})
        else:
            self.places = place(self.parts, self.folder, self._source.origin)
            if self.is_large:
                with open(self.places.path, "r+b") as file:  # it must survive what the record does
                    os.fsync(file.fileno())
                write_json(path, {**dataclasses.asdict(self.places), "path": self.places.path.name})
        if self.places.alone is not None:
            self._cut_alone(self.places.alone)
        self.notes += self.places.notes

    def _cut_alone(self, number: int) -> None:
        """Cut the only document in two, for training and for validation."""
        first = 0
        for _, spool in self.parts:
            if number < first + spool.n_documents:
                break
            first += spool.n_documents
        paths = [self.folder / name for name in ("cut-train", "cut-valid")]
        try:
            list(self._processes.map(cut_document, [(spool.path, number - first, *paths)]))
        except DataError as error:
            raise DataError("; ".join([str(error), *self.places.notes])) from None
        others = [
            part for part in self.parts if part[0] not in (None, "train") and part[1].n_documents
        ]
        cuts = [Spool(path) for path in paths]
        self.parts = [("train", cuts[0]), ("valid", cuts[1]), *others]
        old, splits = self.places, self.places.splits
        places = Places(self.folder / "places-cut", splits, notes=[*old.notes, ONE_DOCUMENT])
        with open(places.path, "wb") as file:
            for split, spool in self.parts:
                file.write(bytes([splits.index(str(split))]) * spool.n_documents)
        places.documents, places.bytes = list(old.documents), list(old.bytes)
        for name, spool in zip(("train", "valid"), cuts, strict=True):
            places.documents[splits.index(name)] = 1
            places.bytes[splits.index(name)] = int(spool.documents()["bytes"][0])
        self.places = places

    def _cut_into_units(self, unit: Unit) -> None:
        """Make each unit of the documents a document, in mixed order."""
        starts, splits = self._starts(), self.places.splits
        paths = [self.folder / f"units-{number:06}" for number in range(len(self.parts))]
        cuts: list[tuple[Any, ...]] = [
            (self.folder, n, spool.path, self.places.path, starts[n], unit)
            for n, (_, spool) in enumerate(self.parts)
            if _read(paths[n].with_suffix(".json")) is None
        ]
        mixes: list[tuple[Any, ...]] = [
            (self.folder, index, paths)
            for index in range(len(splits))
            if _read(self.folder / f"mixed-{index}.json") is None
        ]
        title = f"finding the {unit}s of {self.name}"
        with progress_bar(title, len(cuts) + len(mixes), self._quiet, unit=" steps") as bar:
            for _ in self._processes.map(cut_part, cuts):
                bar.update(1)
            for _ in self._processes.map(mix_split, mixes):
                bar.update(1)
        places = Places(self.folder / "places-mixed", splits, notes=self.places.notes)
        self.parts = []
        with open(places.path, "wb") as file:
            for index, split in enumerate(splits):
                found = _read(self.folder / f"mixed-{index}.json")
                if not found["documents"]:
                    raise DataError(f"{self.name}: the split '{split}' has no {unit} with text")
                places.documents.append(found["documents"])
                places.bytes.append(found["bytes"])
                self.parts.append((split, Spool(self.folder / f"mixed-{index}")))
                file.write(bytes([index]) * found["documents"])
        for path in paths:
            path.with_suffix(".text").unlink(missing_ok=True)
        self.places = places

    def _starts(self) -> list[int]:
        """The number of each part's first document in the whole set."""
        counts = [spool.n_documents for _, spool in self.parts]
        return [sum(counts[:n]) for n in range(len(counts))]

    def _chunks(self) -> Iterator[tuple[Spool, int, int]]:
        """(part, number of the chunk in it, number of the part's first document), in order."""
        start = 0
        for _, spool in self.parts:
            for chunk in range(len(spool.chunks)):
                yield spool, chunk, start
            start += spool.n_documents

    def _text_bytes(self) -> int:
        return sum(spool.text_bytes(chunk) for spool, chunk, _ in self._chunks())

    def _pieces_of(
        self, spool: Spool, chunk: int, start: int, index: int
    ) -> Iterator[tuple[Piece, int]]:
        """The pieces of one split in a chunk, each with its document's length."""
        first, end = spool.span(chunk)
        own = self.places.of(start + first, end - first)
        if not (own == index).any():
            return
        lengths = spool.documents(first, end - first)["bytes"].tolist()
        mine = (own == index).tolist()
        for piece in spool.pieces(chunk):
            if mine[piece.document - first]:
                yield piece, lengths[piece.document - first]

    def _sample(self, total: int) -> Iterator[bytes]:
        """What `training_sample` takes of the train split."""
        train = self.places.splits.index("train")
        if total <= TRAINING_SAMPLE_BYTES:
            yield from self._documents(train)
            return
        place = [0, 0]  # part, and document in it, of the length that was given last

        def lengths() -> Iterator[int]:
            for number, ((_, spool), start) in enumerate(
                zip(self.parts, self._starts(), strict=True)
            ):
                place[0] = number
                rows = 1 << 18
                for first in range(0, spool.n_documents, rows):
                    documents = spool.documents(first, rows)
                    own = self.places.of(start + first, len(documents))
                    mine = np.flatnonzero(own == train)
                    sizes = documents["bytes"][mine].tolist()
                    for place[1], size in zip((first + mine).tolist(), sizes, strict=True):
                        yield size

        readers: dict[int, _SpanReader] = {}
        for _, begin, size in sample_spans(lengths(), total, TRAINING_SAMPLE_BYTES):
            number, document = place
            if number not in readers:
                readers = {number: _SpanReader(self.parts[number][1])}
            yield readers[number].read(document, begin, size)

    def _documents(self, index: int) -> Iterator[bytes]:
        """The documents of a split."""
        begun: list[bytes] = []
        for spool, chunk, start in self._chunks():
            for piece, _ in self._pieces_of(spool, chunk, start, index):
                begun.append(piece.text)
                if piece.ends:
                    yield b"".join(begun)
                    begun = []


class _SpanReader:
    """Reads spans of a part's documents, in rising order."""

    def __init__(self, spool: Spool) -> None:
        self._spool, self._chunk = spool, 0
        self._loaded = -1
        self._pieces: dict[int, list[Piece]] = {}

    def read(self, document: int, begin: int, size: int) -> bytes:
        """``size`` bytes of a document from ``begin`` on."""
        chunks = self._spool.chunks
        while self._chunk + 1 < len(chunks):
            following = chunks[self._chunk + 1]
            if (int(following["document"]), int(following["begin"])) > (document, begin):
                break
            self._chunk += 1
        found = b""
        chunk = self._chunk
        while len(found) < size:
            for piece in self._load(chunk)[document]:
                at = begin + len(found) - piece.begin
                if 0 <= at < len(piece.text):
                    found += piece.text[at : at + size - len(found)]
            chunk += 1
        return found

    def _load(self, chunk: int) -> dict[int, list[Piece]]:
        if chunk != self._loaded:
            self._pieces = {}
            for piece in self._spool.pieces(chunk):
                self._pieces.setdefault(piece.document, []).append(piece)
            self._loaded = chunk
        return self._pieces


def progress_bar(what: str, total: int, quiet: bool, before: int = 0, unit: str = "B") -> tqdm[Any]:
    """A progress bar with rate and remaining time, on a terminal only, after `_BAR_DELAY`."""
    return tqdm(
        total=total,
        initial=before,
        desc=what,
        unit=unit,
        unit_scale=True,
        delay=_BAR_DELAY,
        disable=True if quiet else None,
    )


def _parts(files: Sequence[TextFile]) -> list[tuple[TextFile, ...]]:
    """The files in groups that are read together: of one split, up to `PART_BYTES`."""
    parts: list[list[TextFile]] = []
    size = 0
    for file in files:
        own = size_of(file[2])
        if not parts or parts[-1][0][0] != file[0] or size + own > PART_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(file)
        size += own
    return [tuple(part) for part in parts]


def _repairs_from(record: dict[str, Any]) -> Repairs:
    return msgspec.convert(record, Repairs)


def _read(path: Path) -> Any:
    """The value in a JSON file; None where there is none, or it isn't whole."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
