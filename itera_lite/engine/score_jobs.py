"""Scores one file into another of its kind: the piece of work of `itera score` over a corpus."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from itera_lite.engine.score_fields import Fields
from itera_lite.engine.score_formats import Format, Write, format_of, written
from itera_lite.engine.score_sample import Tick
from itera_lite.engine.score_tally import Tally
from itera_lite.engine.scorer import Scorer

BATCH_BYTES = 1 << 18  # of text that is scored, then written, at a time


@dataclass(frozen=True)
class ScoreJob:
    """A file to score.

    Attributes:
        source: the file; ``size``: bytes that it has, as it is stored.
        target: what is written, whole or not at all.
        scratch: folder on the target's disk for what isn't whole yet.
        fields: what is written of a text.
        limit: the highest score that is kept; None keeps all.
    """

    source: Path
    size: int
    target: Path
    scratch: Path
    fields: Fields
    limit: float | None

    def run(self, scorer: Scorer, tick: Tick) -> Tally:
        """Score the file.

        Args:
            scorer: scores.
            tick: is called with the bytes of the source that are done.

        Raises:
            DataError: a line or row can't be used, or the file can't be read.
            OutputError: the target can't be written.
            ModelFileError: a text has no finite probability.
        """
        done = Tally()
        format = format_of(self.source, self.fields)
        with (
            written(self.target, self.scratch / f"{os.getpid()}.tmp") as temporary,
            format.writing(temporary, self.target) as write,
        ):
            for tally in copy_scored(format, write, scorer, self.limit):
                done.update(tally)
                tick(format.position())
        return done


def copy_scored(
    format: Format, write: Write, scorer: Scorer, limit: float | None
) -> Iterator[Tally]:
    """Score all documents of a file and write those that are kept; gives a tally a batch.

    Raises:
        DataError, OutputError, ModelFileError: as `ScoreJob.run`.
    """
    for batch in format.batches(BATCH_BYTES):
        scored = scorer.details(batch.texts)
        tally = Tally()
        write(batch, scored, tally.add(scored, limit))
        yield tally
    yield Tally(repaired=format.repaired, halves=format.halves)
