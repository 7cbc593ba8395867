"""The teachers' likeliest tokens and their probabilities at positions of a text, kept on disk.

A folder of the cache, under a key of everything that decides its content:

    manifest.json    the content's description, which the key is the hash of
    ids.bin          (positions, k) uint16, or uint32 for a large vocabulary
    shares.bin       (positions, k) float16: their probabilities, falling
    filled.bin       a byte for each `BLOCK` positions: 1 where they are computed
    spent.json       teacher seconds so far, and sums of the teachers' quality on the text

The files are sparse: a position is computed, and takes room on disk, only when a student will
train on it. A position that is marked as filled is on the disk: ids and shares are synchronised
before the marks, so that a stop or a power cut loses the last seconds and nothing else. A folder
whose manifest is missing or another's, or whose files have the wrong size, is started anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from msgspec.structs import astuple
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from itera_lite.data.prepare import Dataset
from itera_lite.distill.alignment import Alignment
from itera_lite.distill.teacher import CONTEXT, WINDOW, Teacher
from itera_lite.errors import DataError
from itera_lite.files import cache_folder, reason_of, sync_folder, write_json
from itera_lite.records import TargetsCache
from itera_lite.workers import Workers

FORMAT = 1
BLOCK = 32  # positions that are filled together
PIECE = 1024  # positions that a worker computes at a time, at most
LOGITS = 2**23  # probabilities that a worker holds at a time
FLUSH_SECONDS = 20.0


class SoftTargets:
    """The teachers' mean distribution at each position of a set's train stream, its top k.

    Args:
        teachers: one or more; their probabilities are averaged.
        dataset: the student's, in the student's tokens.
        k: how many tokens are kept at a position.
        quiet: no progress bar.
    """

    def __init__(
        self, teachers: Sequence[Teacher], dataset: Dataset, k: int, *, quiet: bool = False
    ) -> None:
        self.teachers, self.dataset, self.quiet = list(teachers), dataset, quiet
        self.vocab_size = dataset.tokenizer.vocab_size
        self.k = min(k, self.vocab_size - 1)
        self.positions = dataset.n_tokens("train")
        self._has_text = False
        manifest = {
            "format": FORMAT,
            "text_sha256": dataset.manifest["sha256"],
            "tokenizer_sha256": dataset.tokenizer.sha256,
            "teachers_sha256": sorted(teacher.sha256 for teacher in teachers),
            "teacher_tokenizers_sha256": sorted(t.tokenizer.sha256 for t in teachers),
            "k": self.k,
            "window": WINDOW,
            "context": CONTEXT,
        }
        key = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = cache_folder() / "teachers" / f"{dataset.name}-{key}".replace("/", "_")
        self._totals_path = self.folder / "spent.json"
        wide = "<u2" if self.vocab_size <= 65_536 else "<u4"
        blocks = -(-self.positions // BLOCK)
        tables = [
            _Table(self.folder / "ids.bin", wide, (self.positions, self.k)),
            _Table(self.folder / "shares.bin", "<f2", (self.positions, self.k)),
            _Table(self.folder / "filled.bin", "u1", (blocks, 1)),
        ]
        self._ids, self._shares, self._filled = tables
        with self._writing():
            self._open(tables, manifest)
        self._known = self._filled.rows[:, 0] != 0  # filled, whether the disk has it yet or not
        self._unmarked: list[NDArray[np.int64]] = []  # filled since the last flush
        self._unsaved = _NOTHING  # totals since then
        self._filling = Lock()

    def at(self, positions: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """The teachers' tokens and probabilities at positions, computed where they are missing.

        Several threads may call this at once.

        Returns:
            (n, k) int64 ids, different in each row, and (n, k) float32 probabilities. Where no
            teacher has a distribution the row's probabilities are 0.

        Raises:
            DataError, TokenizerMismatch: as `fill`.
        """
        self.fill_at(positions)
        positions = positions.ravel() % self.positions
        ids = torch.from_numpy(self._ids.rows[positions].astype(np.int64))
        return ids, torch.from_numpy(self._shares.rows[positions].astype(np.float32))

    def fill_at(self, positions: NDArray[np.int64], workers: Workers | None = None) -> None:
        """Compute the targets of these positions, of any shape, where they are missing."""
        self.fill(np.unique(positions % self.positions // BLOCK), workers=workers)

    def missing(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of the blocks that aren't filled."""
        done = self._known[blocks] | (self._filled.rows[blocks, 0] != 0)
        missing: NDArray[np.int64] = blocks[~done]
        return missing

    def fill(
        self, blocks: NDArray[np.int64], title: str = "", workers: Workers | None = None
    ) -> None:
        """Compute those of the rising blocks that aren't filled; with a title, under a bar.

        Args:
            workers: that share them; None: the calling thread does all.

        Raises:
            DataError: the disk has no room for it, or can't be written.
            TokenizerMismatch: a teacher's tokens don't fit the student's on this text.
        """
        with self._filling:
            missing = self.missing(blocks)
            if not len(missing):
                return
            self._need_room(len(missing) * BLOCK)
            self._set_texts()
            with (
                self._writing(),
                tqdm(
                    total=len(missing) * BLOCK,
                    desc=title,
                    unit="tok",
                    unit_scale=True,
                    disable=True if self.quiet or not title else None,
                ) as bar,
            ):
                self._fill(missing, workers or Workers(), bar)

    def _fill(self, missing: NDArray[np.int64], workers: Workers, bar: tqdm[Any]) -> None:
        flushed = counted = time.monotonic()

        def add(piece: _Piece) -> None:
            nonlocal flushed, counted
            self._write(piece)
            now = time.monotonic()  # workers compute at the same time: their seconds don't add up
            self._unsaved += msgspec.structs.replace(piece.totals, seconds=now - counted)
            bar.update(len(piece.blocks) * BLOCK)
            if now - flushed > FLUSH_SECONDS:
                self._flush()
                flushed = time.monotonic()
            counted = time.monotonic()

        size = max(1, min(PIECE, LOGITS // self.vocab_size) // BLOCK)
        pieces = [missing[first : first + size] for first in range(0, len(missing), size)]
        try:
            workers.fold([partial(self._compute, blocks) for blocks in pieces], add)
        finally:
            self._flush()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn an `OSError` of the block into a `DataError` that names ITERA_CACHE."""
        try:
            yield
        except OSError as error:
            raise DataError(
                f"the teachers' cache '{self.folder}' can't be written ({reason_of(error)}). Make "
                "room, or set ITERA_CACHE to another folder that you may write to"
            ) from error

    def _open(self, tables: Sequence[_Table], manifest: dict[str, Any]) -> None:
        """Open the files; make them anew where they aren't a whole cache of this content."""
        path = self.folder / "manifest.json"
        try:
            whole = json.loads(path.read_text(encoding="utf-8")) == manifest
            _Totals.read(self._totals_path)
        except (FileNotFoundError, ValueError, RecursionError):
            whole = False
        whole = whole and all(table.is_whole() for table in tables)
        if not whole:
            self.folder.mkdir(parents=True, exist_ok=True)
            # The marks go first, the manifest comes last: whatever happens in between, nothing is
            # marked as filled that isn't.
            self._filled.path.unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            sync_folder(self.folder)
            write_json(self._totals_path, msgspec.to_builtins(_NOTHING))
        for table in tables:
            table.open()
        if not whole:
            write_json(path, manifest)

    def totals(self) -> TargetsCache:
        """What the whole cache holds, and what it cost."""
        sums = _Totals.read(self._totals_path)
        taught = max(sums.taught, 1.0)
        return TargetsCache(
            positions=sums.positions,
            seconds=sums.seconds,
            share_taught=sums.taught / max(sums.positions, 1.0),
            top_k_mass=sums.mass / taught,
            teacher_loss=sums.nats / taught,
            disk_bytes=sum(file.stat().st_blocks * 512 for file in self.folder.iterdir()),
        )

    def _compute(self, blocks: NDArray[np.int64]) -> _Piece:
        """The targets of some blocks."""
        positions = (blocks[:, None] * BLOCK + np.arange(BLOCK)).ravel()
        positions = positions[positions < self.positions]
        mean = torch.zeros(len(positions), self.vocab_size)
        teachers = torch.zeros(len(positions))  # with a distribution at the position
        for teacher in self.teachers:
            probabilities, known = teacher.probabilities(positions, self.vocab_size)
            mean += probabilities
            teachers += known
        mean /= teachers.clamp(min=1)[:, None]
        taught = teachers > 0
        top, ids = mean.topk(self.k)
        targets = self.dataset.tokens("train")[positions].astype(np.int64)
        right = mean[torch.arange(len(positions)), torch.from_numpy(targets)]
        totals = _Totals(
            positions=float(len(positions)),
            taught=float(taught.sum()),
            mass=float(top.sum()),
            nats=float(-right[taught].clamp(min=1e-9).log().sum()),
            seconds=0.0,
        )
        return _Piece(blocks, positions, ids.numpy(), top.numpy(), totals)

    def _write(self, piece: _Piece) -> None:
        self._ids.write(piece.positions, piece.ids)
        self._shares.write(piece.positions, piece.shares)
        self._known[piece.blocks] = True
        self._unmarked.append(piece.blocks)

    def _need_room(self, positions: int) -> None:
        """Refuse before the disk is full, which under a sparse mapped file kills the process."""
        needed = positions * self.k * (self._ids.dtype.itemsize + self._shares.dtype.itemsize)
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise DataError(
                f"the teachers' targets take {needed / 1e6:,.0f} MB and {self.folder} has "
                f"{free / 1e6:,.0f} MB free. Give a smaller --top-k or budget, make room, or set "
                "ITERA_CACHE to another folder"
            )

    def _set_texts(self) -> None:
        """Give the teachers the text. Another tokenizer's takes a while, so only when needed."""
        if self._has_text:
            return
        stream, own = self.dataset.tokens("train"), self.dataset.tokenizer
        for teacher in self.teachers:
            alignment = None
            if teacher.tokenizer.sha256 != own.sha256:
                documents = self.dataset.documents("train")
                alignment = Alignment.build(documents, stream, own, teacher.tokenizer)
            teacher.set_text(stream, alignment)
        self._has_text = True

    def _flush(self) -> None:
        """Synchronise the values, then save the totals and the marks."""
        if not self._unmarked:
            return
        self._ids.sync()
        self._shares.sync()
        totals = _Totals.read(self._totals_path) + self._unsaved
        write_json(self._totals_path, msgspec.to_builtins(totals))
        blocks = np.unique(np.concatenate(self._unmarked))
        self._filled.write(blocks, np.ones((len(blocks), 1)))
        self._filled.sync()
        self._unmarked, self._unsaved = [], _NOTHING


class _Table:
    """A file of rows of numbers, read through a memory map. Call `open` first.

    It is written by calls, not through the map, so that a full disk is an error and doesn't kill
    the process.
    """

    def __init__(self, path: Path, dtype: str, shape: tuple[int, int]) -> None:
        self.path, self.dtype, self.shape = path, np.dtype(dtype), shape
        self._bytes = shape[1] * self.dtype.itemsize  # of a row

    def is_whole(self) -> bool:
        """Whether the file exists in full length."""
        try:
            return self.path.stat().st_size == self.shape[0] * self._bytes
        except FileNotFoundError:
            return False

    def open(self) -> None:
        """Open the file; make it anew, of zeros, where it isn't whole."""
        whole = self.is_whole()
        if not whole:
            self.path.unlink(missing_ok=True)  # another process may have it mapped
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        weakref.finalize(self, os.close, self._file)
        if not whole:
            os.ftruncate(self._file, self.shape[0] * self._bytes)
            os.fsync(self._file)
        self.rows: NDArray[Any] = np.memmap(self.path, self.dtype, "r", shape=self.shape)

    def write(self, rows: NDArray[np.int64], values: NDArray[Any]) -> None:
        """Write (n, columns) values to rising rows."""
        data = np.ascontiguousarray(values, self.dtype)
        borders = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1), len(rows)]
        for first, end in pairwise(borders):
            left, at = memoryview(data[first:end].tobytes()), int(rows[first]) * self._bytes
            while left:
                written = os.pwrite(self._file, left, at)
                left, at = left[written:], at + written

    def sync(self) -> None:
        """Return when what was written is on the disk."""
        os.fsync(self._file)


class _Totals(msgspec.Struct):
    """Sums over the filled positions of a cache.

    Attributes:
        taught: positions with a distribution; ``mass``: probability of the kept tokens there.
        nats: of the text's own tokens.
        seconds: that the teachers took.
    """

    positions: float
    taught: float
    mass: float
    nats: float
    seconds: float

    def __add__(self, other: _Totals) -> _Totals:
        pairs = zip(astuple(self), astuple(other), strict=True)
        return _Totals(*(a + b for a, b in pairs))

    @classmethod
    def read(cls, path: Path) -> _Totals:
        return msgspec.json.decode(path.read_bytes(), type=cls)


_NOTHING = _Totals(0.0, 0.0, 0.0, 0.0, 0.0)


class _Piece(NamedTuple):
    """The targets of some blocks: k tokens, and their probabilities, for each position."""

    blocks: NDArray[np.int64]
    positions: NDArray[np.int64]
    ids: NDArray[np.int64]
    shares: NDArray[np.float32]
    totals: _Totals
