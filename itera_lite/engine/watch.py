"""Finds the lines of a log that a model didn't expect, and the parts that surprised it.

A token's excess is minus the base-2 logarithm of its probability less the entropy of what the model
expected in its place: the digits of an address are improbable, all of them, and have no excess.
(Bao and others, 'Fast-DetectGPT', 2024, compare the same two numbers for whole texts.) A line is
unusual where a token's excess lies above a threshold. The threshold comes from normal lines that
the model wasn't trained on: at most a given share of further lines like them lies above it (split
conformal prediction; Vovk, Gammerman and Shafer, 'Algorithmic Learning in a Random World', 2005).
It is stored by the hash of the model, so it fits the model wherever that lies.

A date that no line of the training had would surprise in every line, and all that follows it would
be expected less. So a line is judged with another date, which the model writes itself, in the place
of its own.
"""

from __future__ import annotations

import math
import re
import time
import warnings
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path

from itera_lite.data.compression import decompressed
from itera_lite.data.follow import MOST_LINE, LineSplitter
from itera_lite.engine.model import Model
from itera_lite.engine.results import TextScore
from itera_lite.engine.score_resume import hash_of_model
from itera_lite.errors import DataError, IteraError, IteraWarning, OutputError, UsageError
from itera_lite.files import cache_folder, exists, read_object, write_json

_MONTH = b"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_DATE = re.compile(  # with the seconds since 1970, whose first digits change once a day
    rb"\d{4}[-/.]\d{2}[-/.]\d{2}|\d{2}/" + _MONTH + rb"/\d{4}|"
    rb"\b" + _MONTH + rb" [ \d]\d\b|\b1[6-9]\d{8}(?:\d{3})?\b"
)
DATE_TOKENS = 16  # in which a model writes a date
MOST_BEFORE = 1024  # bytes that it reads before
BATCH_BYTES = 1 << 16  # of text that is read, then judged, at a time; for each thread


@dataclass(frozen=True)
class Calibration:
    """What is unusual for a model.

    Attributes:
        threshold: bits; a line is unusual where a token's excess lies above it.
        false_alarms: share of normal lines that lie above it at most, 0 to 1.
        lines: normal lines that it comes from.
        file: that they stand in.
        dates: for each form of a date in them, the date that lines are judged with.
    """

    threshold: float
    false_alarms: float
    lines: int
    file: str
    dates: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Mark:
    """A part of a line that the model didn't expect.

    Attributes:
        begin, end: in bytes of the line's text in UTF-8; equal where the line ended unexpectedly.
        excess: of its tokens, the greatest, in bits.
    """

    begin: int
    end: int
    excess: float


@dataclass(frozen=True, slots=True)
class UnusualLine:
    """A line above the threshold.

    Attributes:
        line: its number, from 1, among all that were read.
        text: without the line break; bytes that aren't UTF-8 became U+FFFD.
        bytes: of the text.
        excess: of its tokens, the greatest, in bits.
        marks: the tokens above the threshold, neighbours joined, in their order.
        cut: whether the line was longer than `MOST_LINE` bytes, and was judged by those.
    """

    line: int
    text: str
    bytes: int
    excess: float
    marks: list[Mark]
    cut: bool


class Surprise:
    """Finds the excess of each token of a line.

    Args:
        model: what scores the lines.
        dates: as in `Calibration`.
        threads: lines scored at the same time.

    Attributes:
        dates: those given, and the ones that were chosen since.
    """

    def __init__(
        self, model: Model, dates: Mapping[str, str] | None = None, threads: int = 1
    ) -> None:
        self.model, self.threads = model, threads
        self.dates = dict(dates or {})
        self._sizes = [len(model.token_bytes(token)) for token in range(model.vocab_size)]

    def scores(self, texts: Sequence[str]) -> list[tuple[TextScore, list[float]]]:
        """Of each text, its score and the excess in bits of its tokens, and of its end.

        Both are those of the text with known dates, which is as long. Tokens of dates have no
        excess; where no token begins a document, the first one has none either.
        """
        data = [text.encode() for text in texts]
        known = [_DATE.sub(self._known, text) for text in data]
        found = self.model.score(
            known, threads=self.threads, log_probabilities=True, entropies=True
        )
        return [
            (score, self._excesses(original, judged, score))
            for original, judged, score in zip(data, known, found, strict=True)
        ]

    def _known(self, date: re.Match[bytes]) -> bytes:
        """A date of the same form that the model itself writes in this place; else zeros."""
        form = _form(date[0])
        if form not in self.dates:
            # No token stands for less than a byte, so this fits into the context.
            most = max(0, min(MOST_BEFORE, self.model.context - DATE_TOKENS - 1))
            before = date.string[max(0, date.start() - most) : date.start()]
            try:
                written = self.model.generate(before, temperature=0.0, max_tokens=DATE_TOKENS).text
            except UsageError:  # nothing to go on from, or a context that holds no date
                written = ""
            own = _DATE.match(written.encode())
            self.dates[form] = own[0].decode() if own and _form(own[0]) == form else form
        return self.dates[form].encode()

    def _excesses(self, text: bytes, known: bytes, score: TextScore) -> list[float]:
        excesses = [
            (-log_probability - entropy) / math.log(2)
            for log_probability, entropy in zip(
                score.log_probabilities, score.entropies, strict=True
            )
        ]
        ends = self._ends(known)
        excesses[:0] = [-math.inf] * (len(ends) + 1 - len(excesses))
        for date in _DATE.finditer(text):
            first, last = bisect_right(ends, date.start()), bisect_left(ends, date.end())
            excesses[first : last + 1] = [-math.inf] * (last + 1 - first)
        return excesses

    def _ends(self, text: bytes) -> list[int]:
        """Where each token ends, in bytes."""
        ends = list(accumulate(self._sizes[token] for token in self.model.tokenize(text)))
        if (ends[-1] if ends else 0) != len(text):
            raise IteraError(f"{self.model.path.name}: its tokenizer doesn't give back the text")
        return ends

    def marks(self, text: bytes, excesses: Sequence[float], threshold: float) -> list[Mark]:
        """The tokens above a threshold, by the excesses that `scores` gives the text."""
        ends = [0, *self._ends(_DATE.sub(self._known, text)), len(text)]
        marks: list[Mark] = []
        for place, excess in enumerate(excesses):
            if excess <= threshold:
                continue
            begin, end = _whole_characters(text, ends[place], ends[place + 1])
            if marks and begin <= marks[-1].end and begin < end:
                last = marks.pop()
                begin, end, excess = last.begin, max(end, last.end), max(excess, last.excess)
            marks.append(Mark(begin, end, excess))
        return marks


class Watcher:
    """Judges lines, and counts.

    Args:
        model: what scores them.
        threshold: bits; as in `Calibration`.
        dates: likewise.
        threads: lines scored at the same time.

    Attributes:
        lines: read so far; ``bytes``: of their texts.
        unusual: of the lines.
        busy_seconds: spent on judging; ``seconds``: since the watcher was made.
    """

    def __init__(
        self,
        model: Model,
        threshold: float,
        dates: Mapping[str, str] | None = None,
        threads: int = 1,
    ) -> None:
        self.threshold = threshold
        self.lines = self.unusual = self.bytes = 0
        self.busy_seconds = 0.0
        self._surprise = Surprise(model, dates, threads)
        self._begin = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._begin

    def judge(self, lines: Sequence[bytes]) -> list[UnusualLine]:
        """The unusual ones of some lines, which go on after those of the last call.

        Args:
            lines: as `itera_lite.data.follow` gives them; blank ones are never unusual.
        """
        begin = time.perf_counter()
        first = self.lines + 1
        texts = [_text_of(line) for line in lines]
        places = [place for place, text in enumerate(texts) if text.strip()]
        scores = self._surprise.scores([texts[place] for place in places])
        found = []
        for place, (score, excesses) in zip(places, scores, strict=True):
            self.bytes += score.bytes
            if (excess := max(excesses)) > self.threshold:
                data = texts[place].encode()
                marks = self._surprise.marks(data, excesses, self.threshold)
                cut = len(lines[place]) > MOST_LINE
                found.append(
                    UnusualLine(first + place, texts[place], len(data), excess, marks, cut)
                )
        self.lines += len(lines)
        self.unusual += len(found)
        self.busy_seconds += time.perf_counter() - begin
        return found


def calibration_of(model: Model, file: Path, false_alarms: float, threads: int = 1) -> Calibration:
    """The threshold above which at most a share of lines like those of ``file`` lies.

    Args:
        model: what scores them.
        file: normal lines, which the model wasn't trained on; gzip or Zstandard by its ending.
        false_alarms: the share, between 0 and 1.
        threads: lines scored at the same time.

    Raises:
        DataError: the file can't be read, or holds too few lines for so small a share.
    """
    from tqdm import tqdm

    greatest = array("d")
    surprise = Surprise(model, threads=threads)
    with tqdm(desc="calibrating", unit=" lines", disable=None, leave=False) as bar:
        for lines in _lines_of_file(file, BATCH_BYTES * threads):
            texts = [text for text in map(_text_of, lines) if text.strip()]
            greatest.extend(max(excesses) for _, excesses in surprise.scores(texts))
            bar.update(len(texts))
    n = len(greatest)
    above = math.floor((n + 1) * false_alarms + 1e-9)  # lines of n + 1 that may lie above
    if above < 1:
        raise DataError(
            f"{file}: {n:,} lines, too few for false alarms of {false_alarms:.6g} of the lines: "
            f"expected {math.ceil(1 / false_alarms) - 1:,} or more. Give more normal lines, or a "
            "larger share"
        )
    threshold = sorted(greatest)[n - above]
    return Calibration(threshold, false_alarms, n, str(file), surprise.dates)


def stored_calibration(model: Path) -> Calibration | None:
    """What `store_calibration` stored for a model; None where there is nothing.

    Raises:
        DataError: it is damaged.
    """
    path = _place_of(model)
    if not exists(path):
        return None
    fields = read_object(path, DataError)
    try:
        found = Calibration(
            float(fields["threshold"]),
            float(fields["false_alarms"]),
            int(fields["lines"]),
            str(fields["file"]),
            {str(form): str(date) for form, date in fields["dates"].items()},
        )
        if not math.isfinite(found.threshold):
            raise ValueError
    except (AttributeError, KeyError, TypeError, ValueError):
        raise DataError(
            f"'{path}' is damaged: expected the calibration of `itera watch`. Calibrate again with "
            "--calibrate FILE"
        ) from None
    return found


def store_calibration(model: Path, calibration: Calibration) -> None:
    """Store what is unusual for a model in the cache; warns where that can't be done."""
    try:
        write_json(_place_of(model), asdict(calibration))
    except (OutputError, UsageError) as error:
        warnings.warn(f"the calibration isn't stored: {error}", IteraWarning, stacklevel=2)


def _form(date: bytes) -> str:
    """What dates of one kind have in common; as long as they are: ``0000-00-00``."""
    zeros = re.sub(rb"\d", b"0", re.sub(_MONTH, b"Mon", date))
    return zeros.replace(b"  ", b" 0").decode()  # Nov  6 is of the kind of Nov 16


def _place_of(model: Path) -> Path:
    return cache_folder() / "watch" / f"{hash_of_model(model)}.json"


def _text_of(line: bytes) -> str:
    # A program that goes on writing where it was after its log was truncated leaves NUL bytes.
    return line[:MOST_LINE].lstrip(b"\0").removesuffix(b"\r").decode("utf-8", "replace")


def _lines_of_file(file: Path, size: int) -> Iterator[list[bytes]]:
    splitter = LineSplitter()
    try:
        raw = file.open("rb")
    except OSError as error:
        raise DataError(f"{file}: can't be read ({error.strerror or error})") from error
    with raw, decompressed(raw, file) as data:
        while piece := data.read(size):
            yield splitter.feed(piece)
    yield splitter.end()


def _whole_characters(text: bytes, begin: int, end: int) -> tuple[int, int]:
    """The span, with the rest of characters that a token cut in two."""
    while begin < end and text[begin] & 0xC0 == 0x80:
        begin -= 1
    while begin < end < len(text) and text[end] & 0xC0 == 0x80:
        end += 1
    return begin, end
