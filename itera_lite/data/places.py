"""Gives each document of a spooled set its split, with the rules of `itera_lite.data.split`.

`divide` needs all documents in memory; here hashes stand for them, and what has to be compared is
sorted in partitions that fit. The tests hold the two equal.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from itera_lite.data.split import (
    BORDERS,
    LONG_ENOUGH,
    NO_VALIDATION_FILES,
    VALID_SHARE,
    all_held_out,
    cannot_be_cut,
    copies_dropped,
    in_order,
    leaks_dropped,
    near_cut,
    no_text,
    no_training_text,
    uneven,
)
from itera_lite.data.spool import Spool
from itera_lite.errors import DataError

PARTITION_ROWS = 1 << 20  # documents whose hashes are sorted at a time: 100 MB of memory
BLOCK_ROWS = 1 << 18  # rows read at a time
MOST_PARTITIONS = 512  # files that are open at a time
DROPPED = 255  # the place of a document that is in no split
_ROW = np.dtype([("high", "<u8"), ("low", "<u8"), ("number", "<u8"), ("held", "u1")])


@dataclass
class Places:
    """The split of each document.

    Attributes:
        path: a byte for each document of all parts: the index of its split, or `DROPPED`.
        splits: names of the splits.
        documents: of each split.
        bytes: of each split.
        notes: for the user, as `divide` gives them.
        alone: the set is one document, of this number, which has to be cut in two; the others are
            copies of it.
    """

    path: Path
    splits: list[str]
    documents: list[int] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    alone: int | None = None

    def of(self, start: int, count: int) -> NDArray[np.uint8]:
        """The places of some documents, by their numbers in the whole set."""
        return np.fromfile(self.path, dtype=np.uint8, count=count, offset=start)


def place(parts: Sequence[tuple[str | None, Spool]], folder: Path, origin: str) -> Places:
    """Decide each document's split.

    Args:
        parts: the split that each part's files belong to (None: to none), and the part.
        folder: for the places, and for files that are needed meanwhile.
        origin: what the user wrote to name the set, for the messages.

    Raises:
        DataError: there is too little text.
    """
    total = sum(spool.n_documents for _, spool in parts)
    if not total:
        raise DataError(no_text(origin))
    given = {split for split, spool in parts if spool.n_documents}
    named = {split for split in given if split is not None}
    if named and "train" not in named:
        raise DataError(no_training_text(origin))
    splits = in_order({*named, "train", "valid"})
    places = Places(folder / "places", splits)
    train, valid = splits.index("train"), splits.index("valid")
    with open(places.path, "wb") as file:
        for split, spool in parts:
            if not spool.n_documents:
                continue
            if split is None and named:
                own = DROPPED  # a file without a split among others that have one
            else:
                own = splits.index(split or "train")
            file.write(bytes([own]) * spool.n_documents)
    by_hash = "valid" not in named
    if by_hash or len(named) > 1:
        places.notes += _drop(places, parts, folder, train, by_hash, origin)
    if by_hash:
        _choose_valid(places, parts, train, valid)
    places.documents, places.bytes = _count(places, parts)
    if by_hash and places.alone is None:
        places.notes += uneven(
            places.bytes[valid],
            places.bytes[train] + places.bytes[valid],
            places.documents[valid],
            places.documents[train] + places.documents[valid],
        )
    return places


def _blocks(
    places: Places, parts: Sequence[tuple[str | None, Spool]]
) -> Iterator[tuple[int, NDArray[Any], NDArray[np.uint8]]]:
    """(number of the first document, rows of `DOCUMENT`, their places), some at a time."""
    number = 0
    for _, spool in parts:
        for start in range(0, spool.n_documents, BLOCK_ROWS):
            rows = spool.documents(start, min(BLOCK_ROWS, spool.n_documents - start))
            yield number, rows, places.of(number, len(rows))
            number += len(rows)


def _drop(
    places: Places,
    parts: Sequence[tuple[str | None, Spool]],
    folder: Path,
    train: int,
    copies: bool,
    origin: str,
) -> list[str]:
    """Drop train documents that lie in another split, and copies among the others; the notes.

    Args:
        copies: whether copies are dropped.
    """
    leaks = repeated = 0
    marks = np.memmap(places.path, dtype=np.uint8, mode="r+")
    for rows in _partitions(places, parts, folder, train):
        # By hash; the documents with one hash stay in their order.
        rows = rows[np.lexsort((rows["low"], rows["high"]))]
        new = np.ones(len(rows), dtype=bool)
        new[1:] = (rows["high"][1:] != rows["high"][:-1]) | (rows["low"][1:] != rows["low"][:-1])
        first = np.flatnonzero(new)
        held = np.maximum.reduceat(rows["held"], first)[np.cumsum(new) - 1] > 0
        leaked = held & (rows["held"] == 0)
        again = ~held & ~new if copies else np.zeros(len(rows), dtype=bool)
        marks[rows["number"][leaked | again]] = DROPPED
        leaks += int(leaked.sum())
        repeated += int(again.sum())
    marks.flush()
    del marks
    notes = leaks_dropped(leaks)
    if leaks == sum(spool.n_documents for split, spool in parts if split == "train") and leaks:
        raise DataError(all_held_out(origin))
    if copies and any(split == "train" and spool.n_documents for split, spool in parts):
        notes.append(NO_VALIDATION_FILES)
    return notes + copies_dropped(repeated)


def _partitions(
    places: Places, parts: Sequence[tuple[str | None, Spool]], folder: Path, train: int
) -> Iterator[NDArray[Any]]:
    """The documents as `_ROW`, all with one hash in one array of about `PARTITION_ROWS`."""
    total = sum(spool.n_documents for _, spool in parts)
    count = min(MOST_PARTITIONS, -(-total // PARTITION_ROWS))
    paths = [folder / f"partition-{number}" for number in range(count)]
    files = [open(path, "wb") for path in paths]  # noqa: SIM115
    try:
        for number, documents, own in _blocks(places, parts):
            rows = np.empty(len(documents), dtype=_ROW)
            rows["high"], rows["low"] = documents["high"], documents["low"]
            rows["number"] = number + np.arange(len(documents), dtype=np.uint64)
            rows["held"] = own != train
            rows = rows[own != DROPPED]
            partition = (rows["high"] >> np.uint64(32)) * np.uint64(count) >> np.uint64(32)
            for index in np.unique(partition):
                files[int(index)].write(rows[partition == index].tobytes())
        for file in files:
            file.close()
        for path in paths:
            if path.stat().st_size:
                yield np.fromfile(path, dtype=_ROW)
            path.unlink()
    finally:
        for file in files:
            file.close()
        for path in paths:
            path.unlink(missing_ok=True)


def _choose_valid(
    places: Places, parts: Sequence[tuple[str | None, Spool]], train: int, valid: int
) -> None:
    """Move about 5 % of the train documents to valid, by their hashes."""
    least, highest = 1.0, np.empty(0)
    number = 0
    for start, documents, own in _blocks(places, parts):
        mine = np.flatnonzero(own == train)
        if len(mine):
            hashes = _uniform(documents[mine])
            least = min(least, float(hashes.min()))
            highest = np.sort(np.concatenate([highest, hashes]))[-2:]
            number = start + int(mine[-1])
    if len(highest) == 1:
        places.alone = number
        return
    limit = min(max(VALID_SHARE, least), float(highest[0]))
    with open(places.path, "r+b") as file:
        for start, documents, own in _blocks(places, parts):
            own[(own == train) & (_uniform(documents) <= limit)] = valid
            os.pwrite(file.fileno(), own.tobytes(), start)


def _uniform(documents: NDArray[Any]) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1): the first 48 bits of the hash, as `split_by_hash` takes them."""
    return (documents["high"].astype(np.uint64) >> np.uint64(16)).astype(np.float64) / 2**48


def _count(
    places: Places, parts: Sequence[tuple[str | None, Spool]]
) -> tuple[list[int], list[int]]:
    """Documents and bytes of each split."""
    documents, n_bytes = [0] * len(places.splits), [0] * len(places.splits)
    for _, rows, own in _blocks(places, parts):
        for index in range(len(places.splits)):
            mine = own == index
            documents[index] += int(mine.sum())
            n_bytes[index] += int(rows["bytes"][mine].sum())
    return documents, n_bytes


def cut_place(length: int, pieces: Iterable[bytes]) -> int:
    """Where `cut_one` cuts a document that is given in pieces.

    Args:
        length: of the document, in bytes.
        pieces: its text.

    Raises:
        DataError: it is too short.
    """
    target = length * 9 // 10
    before = dict.fromkeys(BORDERS, -1)  # the ends of the borders next to the target
    after = dict.fromkeys(BORDERS, -1)
    text_begin, text_end = length, 0  # without white space at the ends
    at, tail = 0, b""
    near_target = b""
    for piece in pieces:
        stripped = piece.lstrip()
        if stripped:
            text_begin = min(text_begin, at + len(piece) - len(stripped))
            text_end = at + len(piece.rstrip())
        joined, begin = tail + piece, at - len(tail)  # a border may lie over two pieces
        for border in BORDERS:
            found = joined.rfind(border, 0, max(0, target - begin))
            if found >= 0:
                before[border] = begin + found + len(border)
            if after[border] < 0:
                found = joined.find(border, max(0, target - begin))
                if found >= 0:
                    after[border] = begin + found + len(border)
        low = max(0, target - 3 - at)
        if target - 3 < at + len(piece) and at <= target:
            near_target += piece[low : max(0, target + 1 - at)]
        at += len(piece)
        tail = joined[-1:]

    def is_text(cut: int) -> bool:
        """Whether there is more than white space on both sides."""
        return text_begin < cut < text_end

    for border in BORDERS:
        cut = near_cut([c for c in (before[border], after[border]) if is_text(c)], length)
        if cut is not None:
            return cut
    if length >= LONG_ENOUGH:
        back = next(n for n, byte in enumerate(reversed(near_target)) if byte & 0xC0 != 0x80)
        if is_text(target - back):
            return target - back
    raise DataError(cannot_be_cut(length))
