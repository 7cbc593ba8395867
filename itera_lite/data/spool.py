"""The text of a set on disk, between reading and tokenising.

Reading writes a *part* (a file of the set, or several small ones) as three files: ``.text`` holds
chunks of about two mebibytes, each deflated alone, ``.chunks`` a row for each chunk and
``.documents`` a row for each document. A chunk is tokenised alone: a long document is cut into
pieces at places where that changes no token.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import deflate
import numpy as np
from numpy.typing import NDArray

from itera_lite.data.tokenizer import next_border

CHUNK_BYTES = 2 << 20  # of text in a chunk, about
PIECE_BYTES = 1 << 20  # a longer document is cut

# The first 128 bits of the text's sha256 stand for it: of 2**40 documents, two that differ are
# alike with a probability of 2**-49.
DOCUMENT = np.dtype([("high", ">u8"), ("low", ">u8"), ("bytes", "<u8")])
# Place and size in .text, bytes when inflated, number of the first piece's document in the part,
# bytes of that document in chunks before, number of pieces
CHUNK = np.dtype([(n, "<u8") for n in ("at", "stored", "size", "document", "begin", "pieces")])


class Piece(NamedTuple):
    """A document of a part, or a piece of a long one.

    Attributes:
        document: its number in the part.
        begin: bytes of the document before it.
        text: valid UTF-8.
        ends: whether the document ends with it.
    """

    document: int
    begin: int
    text: bytes
    ends: bool


class SpoolWriter:
    """Writes a part; `close` makes it whole, and without it the part doesn't exist.

    Args:
        path: of the part's files, without their endings.
        progress: called after each chunk.
    """

    def __init__(self, path: Path, progress: Callable[[], object] = lambda: None) -> None:
        self.path, self._progress = path, progress
        self._files: dict[str, BinaryIO] = {
            name: open(path.with_suffix(f".{name}"), "wb")  # noqa: SIM115
            for name in ("text", "chunks", "documents")
        }
        self.documents = self.bytes = 0
        self._at = 0
        self._pieces: list[bytes] = []  # of the chunk that has begun
        self._ends: list[bool] = []
        self._size = 0
        self._rows: list[bytes] = []  # of documents that end in it
        self._first = (0, 0)  # document and place of its first piece
        self._open = bytearray()  # of a document that goes on
        self._retry = PIECE_BYTES  # its size when a border is looked for again
        self._begin = 0  # bytes of the document in pieces before
        self._hash = hashlib.sha256()

    def add(self, text: bytes, ends: bool) -> None:
        """Add the next piece of a document: whole characters of valid UTF-8."""
        if ends and not self._open and not self._begin and len(text) <= PIECE_BYTES:
            self._piece(text, True)
            return
        self._open += text
        while len(self._open) >= self._retry:
            # It may end inside a character.
            whole = self._open[: 2 * self._retry].decode("utf-8", "ignore")
            border = next_border(whole, min(PIECE_BYTES // 2, len(whole)))
            if border is None:
                self._retry *= 2  # a text without borders is looked through once in all
                break
            cut = len(whole[:border].encode("utf-8"))
            self._piece(bytes(self._open[:cut]), False)
            del self._open[:cut]
            self._retry = PIECE_BYTES
        if ends:
            self._piece(bytes(self._open), True)
            self._open.clear()
            self._retry = PIECE_BYTES

    def close(self) -> None:
        """Write what remains, and make it survive a power failure."""
        self._flush()
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()

    def abandon(self) -> None:
        """Close the files as they are."""
        for file in self._files.values():
            file.close()

    def _piece(self, text: bytes, ends: bool) -> None:
        if not self._pieces:
            self._first = self.documents, self._begin
        self._pieces.append(text)
        self._ends.append(ends)
        self._size += len(text)
        self._begin += len(text)
        self._hash.update(text)
        if ends:
            self._rows.append(self._hash.digest()[:16] + self._begin.to_bytes(8, "little"))
            self.documents += 1
            self.bytes += self._begin
            self._begin = 0
            self._hash = hashlib.sha256()
        if self._size >= CHUNK_BYTES or len(self._pieces) >= CHUNK_BYTES // 16:
            self._flush()

    def _flush(self) -> None:
        if not self._pieces:
            return
        lengths = np.array([len(piece) for piece in self._pieces], dtype="<u8")
        lengths = lengths * np.uint64(2) + np.array(self._ends, dtype="<u8")
        payload = b"".join([lengths.tobytes(), *self._pieces])
        stored = deflate.deflate_compress(payload, 1)
        row = (self._at, len(stored), len(payload), *self._first, len(self._pieces))
        self._files["text"].write(stored)
        self._files["chunks"].write(np.array([row], dtype=CHUNK).tobytes())
        self._files["documents"].write(b"".join(self._rows))
        self._at += len(stored)
        self._pieces, self._ends, self._rows, self._size = [], [], [], 0
        self._progress()


class Spool:
    """A part that was written.

    Attributes:
        path: of its files, without their endings.
        chunks: a row of `CHUNK` each.
        n_documents: in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.chunks: NDArray[Any] = np.fromfile(path.with_suffix(".chunks"), dtype=CHUNK)
        size = path.with_suffix(".documents").stat().st_size
        self.n_documents = size // DOCUMENT.itemsize

    def documents(self, start: int = 0, count: int = -1) -> NDArray[Any]:
        """Rows of `DOCUMENT`, from a number on; by default all."""
        path = self.path.with_suffix(".documents")
        return np.fromfile(path, dtype=DOCUMENT, count=count, offset=start * DOCUMENT.itemsize)

    def text_bytes(self, chunk: int) -> int:
        """Bytes of text in a chunk."""
        row = self.chunks[chunk]
        return int(row["size"]) - 8 * int(row["pieces"])

    def span(self, chunk: int) -> tuple[int, int]:
        """(number of the first document that has a piece in a chunk, number after the last)."""
        first = int(self.chunks[chunk]["document"])
        if chunk + 1 == len(self.chunks):
            return first, self.n_documents
        following = self.chunks[chunk + 1]
        return first, int(following["document"]) + (following["begin"] > 0)

    def pieces(self, chunk: int) -> Iterator[Piece]:
        """The pieces of a chunk, in order."""
        row = self.chunks[chunk]
        with open(self.path.with_suffix(".text"), "rb") as file:
            file.seek(int(row["at"]))
            stored = file.read(int(row["stored"]))
        payload = memoryview(deflate.deflate_decompress(stored, int(row["size"])))
        count = int(row["pieces"])
        lengths = np.frombuffer(payload[: 8 * count], dtype="<u8").tolist()
        at, number, begin = 8 * count, int(row["document"]), int(row["begin"])
        for length in lengths:
            size, ends = length >> 1, bool(length & 1)
            yield Piece(number, begin, bytes(payload[at : at + size]), ends)
            at += size
            number, begin = (number + 1, 0) if ends else (number, begin + size)
