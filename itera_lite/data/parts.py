"""What the processes of a build do with a part of the text: read, cut, mix and encode it.

Each function leaves files of the same bytes whatever process calls it, and whenever.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from itera_lite.config import Unit
from itera_lite.data.contents import Contents
from itera_lite.data.corpus import TextFile, fetched, shown, size_of
from itera_lite.data.places import DROPPED, Places, cut_place
from itera_lite.data.readers import stream_documents
from itera_lite.data.repairs import Repairs
from itera_lite.data.spool import Spool, SpoolWriter
from itera_lite.data.tokenizer import Tokenizer
from itera_lite.data.units import mixed, split_units
from itera_lite.files import write_json

_UNIT_BYTES = 1 << 20  # of a long document that is cut into units at a time


def read_part(folder: Path, number: int, files: Sequence[TextFile], options: Any) -> None:
    """Read some files into a part of the spool; its record is written last."""
    path = folder / f"part-{number:06}"
    progress = path.with_suffix(".progress")
    repairs, done = Repairs(), 0
    contents: Contents | None = None

    def note_progress() -> None:
        progress.write_text(str(done + (contents.position if contents is not None else 0)))

    writer = SpoolWriter(path, note_progress)
    try:
        for _, _, where in files:
            with fetched(where, folder) as file:
                contents = Contents(file, shown(where))
                for text, ends in stream_documents(contents, repairs, **options):
                    writer.add(text, ends)
                contents = None
            done += size_of(where)
        writer.close()
    finally:
        writer.abandon()
    progress.unlink(missing_ok=True)
    write_json(path.with_suffix(".json"), {"repairs": dataclasses.asdict(repairs)})


def cut_document(spooled: Path, document: int, train: Path, valid: Path) -> None:
    """Cut a document of a part in two parts of their own.

    Raises:
        DataError: it is too short.
    """
    spool = Spool(spooled)

    def pieces() -> Iterator[bytes]:
        for chunk in range(len(spool.chunks)):
            begin, end = spool.span(chunk)
            if begin <= document < end:
                for piece in spool.pieces(chunk):
                    if piece.document == document:
                        yield piece.text

    cut = cut_place(int(spool.documents(document, 1)["bytes"][0]), pieces())
    first, last = SpoolWriter(train), SpoolWriter(valid)
    try:
        for text in pieces():
            first.add(text[:cut], False)
            last.add(text[cut:], False)
            cut = max(0, cut - len(text))
        for writer in (first, last):
            writer.add(b"", True)
            writer.close()
    finally:
        first.abandon()
        last.abandon()


def cut_part(
    folder: Path, number: int, spooled: Path, places: Path, start: int, unit: Unit
) -> None:
    """Write the units of a part's documents as documents, with their places; the record last.

    Args:
        folder: for the new part.
        number: of the part.
        spooled: the part; its text is removed.
        places: the file of the documents' splits.
        start: number of the part's first document in the whole set.
        unit: what is cut.
    """
    path = folder / f"units-{number:06}"
    spool, writer = Spool(spooled), SpoolWriter(path)
    own = Places(places, []).of(start, spool.n_documents).tolist()
    try:
        with open(path.with_suffix(".places"), "wb") as file:

            def add(text: bytes, split: int) -> None:
                for found in split_units([text], unit):
                    writer.add(found, True)
                    file.write(bytes([split]))

            begun = b""
            for chunk in range(len(spool.chunks)):
                for piece in spool.pieces(chunk):
                    split = own[piece.document]
                    if split == DROPPED:
                        continue
                    begun += piece.text
                    if piece.ends:
                        add(begun, split)
                        begun = b""
                    elif len(begun) >= _UNIT_BYTES:
                        cut = unit_border(begun, unit)
                        add(begun[:cut], split)
                        begun = begun[cut:]
            file.flush()
            os.fsync(file.fileno())
        writer.close()
    finally:
        writer.abandon()
    write_json(path.with_suffix(".json"), {"documents": writer.documents})
    spooled.with_suffix(".text").unlink(missing_ok=True)


def mix_split(folder: Path, index: int, parts: Sequence[Path]) -> None:
    """Write one split's units in mixed order as a part; its record is written last.

    Args:
        folder: for the new part.
        index: of the split.
        parts: that `cut_part` wrote.
    """
    path = folder / f"mixed-{index}"
    writer = SpoolWriter(path)

    def units() -> Iterator[bytes]:
        for spooled in parts:
            spool, own = Spool(spooled), spooled.with_suffix(".places").read_bytes()
            begun = b""
            for chunk in range(len(spool.chunks)):
                for piece in spool.pieces(chunk):
                    if own[piece.document] == index:
                        begun += piece.text
                        if piece.ends:
                            yield begun
                            begun = b""

    try:
        for unit in mixed(units()):
            writer.add(unit, True)
        writer.close()
    finally:
        writer.abandon()
    record = {"documents": writer.documents, "bytes": writer.bytes}
    write_json(path.with_suffix(".json"), record)


def unit_border(text: bytes, unit: Unit) -> int:
    """The last place where a text can be cut without changing its units; 0 where there is none."""
    borders = (b"\n",) if unit == "line" else (b"\n\n", b"\n\r\n")
    found = [(text.rfind(border), len(border)) for border in borders]
    return max((at + size for at, size in found if at >= 0), default=0)


def encode_chunk(
    spooled: Path, chunk: int, places: Path, start: int, n_splits: int, tokenizer: Path, dtype: str
) -> list[bytes]:
    """The tokens of a chunk in each split, as they are stored.

    Args:
        spooled: the part.
        chunk: its number in the part.
        places: the file of the documents' splits.
        start: number of the part's first document in the whole set.
        n_splits: number of splits.
        tokenizer: the tokenizer's folder.
        dtype: of a token.
    """
    spool = _spool(spooled)
    first, end = spool.span(chunk)
    own = Places(places, []).of(start + first, end - first).tolist()
    texts: list[list[bytes]] = [[] for _ in range(n_splits)]
    ends: list[list[bool]] = [[] for _ in range(n_splits)]
    for piece in spool.pieces(chunk):
        split = own[piece.document - first]
        if split != DROPPED:
            texts[split].append(piece.text)
            ends[split].append(piece.ends)
    encoder = _tokenizer(tokenizer)
    return [
        b"".join(part.astype(dtype).tobytes() for part in encoder.encode_stream(*split))
        for split in zip(texts, ends, strict=True)
    ]


@lru_cache(maxsize=1)
def _spool(path: Path) -> Spool:
    return Spool(path)


@lru_cache(maxsize=1)
def _tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder)


def forget() -> None:
    """Read parts and tokenizers anew: another build's had the same names, perhaps."""
    _spool.cache_clear()
    _tokenizer.cache_clear()
