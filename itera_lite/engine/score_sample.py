"""Finds the threshold of `itera score --keep`: scores a sample of texts, spread over all files.

The files are laid end to end, and `PLACES` places of `BLOCK` bytes are spaced evenly over them.
What begins in one of these is scored, so that a text's length doesn't decide whether it is in the
sample, and the same files always give the same sample. An uncompressed file of lines is read only
in these places. A compressed one, and CSV, is read from end to end, because only so are its lines
found; this takes a small part of the time that scoring takes. Of Parquet, the column of the text is
read in the row groups that have a place.

A file's scores stand for the texts of its share of the places. How many that are isn't the same for
files of different formats; so each file's scores have a weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, TypeVar

from itera_lite.data.compression import SUFFIXES, decompressed
from itera_lite.data.lines import LineReader
from itera_lite.data.rows import CsvReader, ParquetReader
from itera_lite.engine.score_fields import Fields
from itera_lite.engine.score_formats import PARQUET, format_of, grouped, table_kind
from itera_lite.engine.scorer import Scorer, threshold_of
from itera_lite.errors import DataError

PLACES = 2048
BLOCK = 8192  # bytes of a place
BATCH_BYTES = 1 << 17
Place = tuple[int, int]  # first byte, and byte after the last one, of the file as it is stored
Tick = Callable[[int], None]  # is called with the bytes of the file that are done
T = TypeVar("T")


@dataclass(frozen=True)
class FileSample:
    """Scores of texts of one file.

    Attributes:
        scores: of the texts that aren't empty.
        weight: how many texts each stands for, up to a factor that all files share.
        bytes: of the texts.
        skipped: lines that can't be used; scoring the file will report the first.
    """

    scores: list[float]
    weight: float
    bytes: int
    skipped: int


@dataclass(frozen=True)
class SampleJob:
    """The places of one file.

    Attributes:
        source: the file.
        size: bytes that it has, as it is stored.
        places: in rising order, without overlap.
        fields: which field or column is the text.
    """

    source: Path
    size: int
    places: tuple[Place, ...]
    fields: Fields

    def run(self, scorer: Scorer, tick: Tick) -> FileSample:
        """Read and score the texts.

        Raises:
            DataError: the file can't be read at all.
        """
        picked = _Picked(self)
        scores: list[float] = []
        size = 0
        for texts in grouped(picked, BATCH_BYTES, len):
            found = scorer.score(texts)
            scores += [score for score in found if score is not None]
            size += sum(
                len(text) if isinstance(text, bytes) else len(text.encode()) for text in texts
            )
            tick(picked.position())
        covered = sum(end - begin for begin, end in self.places)
        weight = covered * picked.per_byte / picked.picked if picked.picked else 0.0
        return FileSample(scores, weight, size, picked.skipped)


@dataclass(frozen=True)
class Threshold:
    """The threshold that keeps a share of the texts.

    Attributes:
        value: texts with at most this score are kept.
        keep: the share that was asked for.
        texts: of the sample; ``bytes``: of these; ``files``: in which they stand.
        error: standard error of the share that is kept, by the size of the sample.
    """

    value: float
    keep: float
    texts: int
    bytes: int
    files: int
    error: float


def plan(files: Sequence[tuple[Path, int]], fields: Fields) -> list[SampleJob]:
    """The places of each file that has one.

    Args:
        files: (path, bytes), in their order.
        fields: which field or column is the text.
    """
    total = sum(size for _, size in files)
    begins = sorted({i * total // PLACES for i in range(PLACES)}) if total else []
    ends = [*begins[1:], total]
    spans = [(begin, min(begin + BLOCK, end)) for begin, end in zip(begins, ends, strict=True)]
    jobs = []
    start, at = 0, 0
    for path, size in files:
        if not size:
            continue
        places: list[Place] = []
        while at < len(spans) and spans[at][0] < start + size:
            begin, end = spans[at]
            if end > start:
                places.append((max(begin, start) - start, min(end, start + size) - start))
            if end > start + size:  # it goes on in the next file
                break
            at += 1
        if places:
            jobs.append(SampleJob(path, size, tuple(places), fields))
        start += size
    return jobs


def find_threshold(samples: Sequence[FileSample], keep: float) -> Threshold | None:
    """The threshold by the samples of all files; None where there are no scores."""
    scores = [score for sample in samples for score in sample.scores]
    if not scores:
        return None
    weights = [sample.weight for sample in samples for _ in sample.scores]
    effective = sum(weights) ** 2 / sum(weight * weight for weight in weights)
    return Threshold(
        value=threshold_of(scores, keep, weights),
        keep=keep,
        texts=len(scores),
        bytes=sum(sample.bytes for sample in samples),
        files=sum(bool(sample.scores) for sample in samples),
        error=math.sqrt(keep * (1 - keep) / effective),
    )


def threshold_text(threshold: Threshold, scorer: Scorer) -> str:
    """The threshold and how it was found, as a line."""
    files = "1 file" if threshold.files == 1 else f"{threshold.files:,} files"
    return (
        f"--keep {100 * threshold.keep:g}%: {scorer.quantity} of at most {threshold.value:.4f}, by "
        f"a sample of {threshold.texts:,} texts ({threshold.bytes / 1e6:,.1f} MB) from {files}. "
        f"The share that is kept has a standard error of {100 * threshold.error:.1f} %"
    )


def raise_first_error(jobs: Sequence[SampleJob]) -> NoReturn:
    """Read the files until a line can't be used: nothing of the sample could.

    Raises:
        DataError: always; names the line where there is one.
    """
    for job in jobs:
        for _ in format_of(job.source, job.fields).batches(BATCH_BYTES):
            pass
    raise DataError(
        "--keep: the input has no text to find a threshold from. Give another input, or --max-bits"
    )


class _Picked:
    """Iterates over the texts of a job.

    Attributes:
        picked: texts so far, empty ones among them.
        skipped: lines that can't be used.
        per_byte: at the end, texts of the whole file for each byte of it.
    """

    def __init__(self, job: SampleJob) -> None:
        self._job = job
        self.picked = self.skipped = 0
        self.per_byte = 0.0
        self._at = 0

    def position(self) -> int:
        """Bytes of the file that are done."""
        return self._at

    def __iter__(self) -> Iterator[str | bytes]:
        source = self._job.source
        kind = table_kind(source)
        if kind is not None:
            return self._parquet() if kind == PARQUET else self._csv()
        return self._packed_lines() if source.suffix.lower() in SUFFIXES else self._lines()

    def _lines(self) -> Iterator[str]:
        reader = LineReader(self._job.source, self._job.fields.text_field)
        read = 0
        with self._job.source.open("rb") as file:
            for begin, end in self._job.places:
                file.seek(max(0, begin - 1))
                if begin:
                    file.readline()  # of which the beginning stands before the place
                while (at := file.tell()) < end and (raw := file.readline()):
                    self._at = at
                    yield from self._document(reader, raw, at == 0)
                read += end - begin
        self.per_byte = self.picked / read if read else 0.0

    def _packed_lines(self) -> Iterator[str]:
        source = self._job.source
        reader = LineReader(source, self._job.fields.text_field)
        with source.open("rb") as raw, decompressed(raw, source) as file:
            spaced = _Spaced(self._job.places, raw.tell)
            for line in spaced.pick((line for line in file if not line.isspace()), len):
                self._at = raw.tell()
                yield from self._document(reader, line, spaced.total == 1)
        self.per_byte = spaced.total / max(1, self._job.size)

    def _csv(self) -> Iterator[str]:
        reader = CsvReader(self._job.source, self._job.fields.text_field)
        spaced = _Spaced(self._job.places, reader.position)
        for row in spaced.pick(reader, lambda row: len(row.raw)):
            self._at = reader.position()
            self.picked += 1
            yield row.text
        self.per_byte = spaced.total / max(1, self._job.size)

    def _parquet(self) -> Iterator[bytes]:
        reader = ParquetReader(self._job.source, self._job.fields.text_field)
        rows, size = reader.rows, max(1, self._job.size)
        if not rows:
            return
        each = BLOCK / max(1.0, reader.mean_text_bytes())  # rows of a place
        step = max(1, math.ceil(1 / each)) if each < 1 else 1
        begins = [begin * rows // size for begin, _ in self._job.places[::step]]
        ends = [*begins[1:], rows]
        places = [
            (begin, min(begin + max(1, round(each)), end))
            for begin, end in zip(begins, ends, strict=True)
            if end > begin
        ]
        for text in reader.texts_at(places):
            self.picked += 1
            yield text
        self._at = self._job.size
        self.per_byte = rows / size

    def _document(self, reader: LineReader, raw: bytes, first: bool) -> Iterator[str]:
        try:
            line = reader.parse(raw, 1 if first else 2)
        except DataError:
            self.skipped += 1
            return
        if line is not None:
            self.picked += 1
            yield line.text


@dataclass
class _Spaced:
    """Picks items of a file that is read from end to end.

    A place adds a block to a budget when the reading has come to it. An item is picked while there
    is budget, from which its bytes are then taken: so its own length doesn't decide. Places that
    touch, and are shorter, add as much: a compressed file has more text than bytes, and all of a
    small one is picked.

    Attributes:
        places: of the file.
        position: gives how far the file was read.
        total: items so far, picked or not.
    """

    places: Sequence[Place]
    position: Callable[[], int]
    total: int = field(default=0, init=False)

    def pick(self, items: Iterable[T], length: Callable[[T], int]) -> Iterator[T]:
        at, next_place, budget = 0, 0, 0
        for item in items:
            self.total += 1
            while next_place < len(self.places) and self.places[next_place][0] <= at:
                budget += BLOCK
                next_place += 1
            if budget > 0:
                budget -= length(item)
                yield item
            at = self.position()
