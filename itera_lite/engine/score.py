"""Scores one file: each line is written with its score as a JSON object, as it is scored.

The output may be a pipe or standard output, and one that is an uncompressed file can be resumed
within the file. CSV and Parquet are written whole or not at all. `itera_lite.engine.score_corpus`
scores many files.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from itera_lite.data.lines import Line, LineReader
from itera_lite.engine.score_fields import Fields
from itera_lite.engine.score_formats import format_of, grouped, held_by, table_kind, unit_of
from itera_lite.engine.score_jobs import copy_scored
from itera_lite.engine.score_output import Output
from itera_lite.engine.score_resume import Progress
from itera_lite.engine.score_sample import (
    Threshold,
    find_threshold,
    plan,
    raise_first_error,
    threshold_text,
)
from itera_lite.engine.score_tally import Tally
from itera_lite.engine.scorer import QUANTITIES, By, Scorer, check_unit
from itera_lite.errors import UsageError
from itera_lite.files import check_output_file, exists, replacing

BATCH_BYTES = 1 << 16  # of text that is scored, then written, at a time; for each thread


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is to be done, in one file or in many.

    Attributes:
        model: GGUF file or checkpoint folder; None: as `find_model` finds it.
        bad: the second model of a contrast.
        by: as in `Scorer`.
        fields: what is written of a text.
        max_bits: the highest score that is kept; ``keep``: the share of the texts that is kept
            instead. None of both: all texts are.
        window: tokens of context at most.
        threads: that score, in all processes together.
    """

    model: Path | None = None
    bad: Path | None = None
    by: By = "bits_per_byte"
    fields: Fields = field(default_factory=Fields)
    max_bits: float | None = None
    keep: float | None = None
    window: int | None = None
    threads: int = 1

    @property
    def options(self) -> dict[str, object]:
        """The options that decide the results, by name."""
        return {
            "text_field": self.fields.text_field,
            "text": self.fields.text,
            "scores": self.fields.scores,
            "prefix": self.fields.prefix,
            "by": None if self.by == "bits_per_byte" else self.by,  # as in records of before
            "max_bits": self.max_bits,
            "keep": None if self.keep is None else f"{100 * self.keep:g}%",
            "window": self.window,
        }


@dataclass(kw_only=True)
class ScoredLines(Tally):
    """What was scored in a run.

    Attributes:
        model: the folder or file that scored; ``bad``: the second one of a contrast.
        quantity: what the scores are, in words.
        limit: the highest score that was kept; None: all were.
        threshold: how the limit was found from a sample, where it was.
        seconds: that the scoring took, without the sample.
        threads: that scored.
        resumed_after: number of the line that an earlier run had done; 0 for none.
    """

    model: Path
    bad: Path | None = None
    quantity: str = QUANTITIES["bits_per_byte"]
    limit: float | None = None
    threshold: Threshold | None = None
    seconds: float = 0.0
    threads: int = 1
    resumed_after: int = 0


def score_file(file: Path, output: Path | None, task: Task, *, resume: bool) -> ScoredLines:
    """Score every line of ``file``, or every row.

    Args:
        file: plain text, JSON lines, CSV or Parquet; ``-`` is standard input.
        output: file to write to; None is standard output.
        task: what is to be done.
        resume: go on after what the output holds.

    Raises:
        UsageError: a field has the name of a result, the output holds something else, or it
            can't be resumed.
        DataError: a line can't be used; what comes before it is written.
        CheckpointError, ModelFileError: there is no model, or it can't be used.
        OutputError: the output can't be written.
    """
    if str(file) != "-" and table_kind(file):
        return _score_table(file, output, task, resume)
    fields = task.fields
    reader = LineReader(file, fields.text_field, keep_text=fields.text, reserved=fields.names)
    if task.keep is not None and reader.size is None:
        raise UsageError(
            f"--keep reads a sample of the input first, and {reader.name} can be read only once: "
            "give a file, or --max-bits"
        )
    out = Output(output, reader)
    out.resumable = out.resumable and fields.scores
    if resume and not fields.scores:
        raise UsageError(
            "--resume needs the results in the output, which --no-scores leaves out: leave out one "
            "of the two, or name a folder with --output, where finished files are kept"
        )
    if resume and not out.resumable:
        raise UsageError(
            f"--resume needs an output that is an uncompressed file, not {out.name}: name one with "
            "--output, or leave out --resume"
        )
    if not resume:
        out.refuse_content()
    scorer = _scorer(task, file)
    progress = None
    lines: Iterable[Line] = reader
    done = ScoredLines(
        model=scorer.path, bad=scorer.bad, quantity=scorer.quantity, threads=task.threads
    )
    if out.resumable:
        models = [scorer.path] if scorer.bad is None else [scorer.path, scorer.bad]
        # An output without results can't be resumed, and records of before don't have the option.
        options = {name: value for name, value in task.options.items() if name != "scores"}
        progress = Progress(out.path, options, models)
        if resume:
            progress.look()
        done.resumed_after = progress.resumed_after
        lines = progress.unwritten(
            reader, lambda line: fields.as_line(line, scorer.details([line.text])[0], is_text=False)
        )
    done.limit = task.max_bits
    if task.keep is not None:
        if progress is not None and progress.threshold is not None:
            done.limit = progress.threshold
        else:
            done.threshold = _threshold(file, scorer, task)
            done.limit = done.threshold.value
            print(threshold_text(done.threshold, scorer), file=sys.stderr)
        if progress is not None:
            progress.threshold = done.limit
    begin = time.perf_counter()
    # No bar between the results on a terminal; else tqdm decides, with None, whether one is seen.
    hidden = True if out.on_terminal else None
    with (
        out.begin(progress),
        tqdm(total=reader.size, unit="B", unit_scale=True, disable=hidden) as bar,
    ):
        for batch in grouped(lines, BATCH_BYTES * task.threads, held_by):
            scored = scorer.details([line.text for line in batch])
            written = [
                fields.as_line(line, each, is_text=reader.is_text)
                for line, each, kept in zip(
                    batch, scored, done.add(scored, done.limit), strict=True
                )
                if kept
            ]
            out.write(b"".join(written), batch[-1])
            bar.update((reader.position() or done.bytes) - bar.n)
        out.finish()
    done.seconds = time.perf_counter() - begin
    done.repaired, done.halves = reader.repaired, reader.halves
    return done


def _score_table(file: Path, output: Path | None, task: Task, resume: bool) -> ScoredLines:
    """Score a CSV or Parquet file into another of its kind; arguments of `score_file`."""
    kind = table_kind(file)
    if resume:
        raise UsageError(
            f"--resume: '{file}' is a table, whose output is written whole or not at all. Leave "
            "out --resume"
        )
    if output is None or str(output) == "-":
        raise UsageError(
            f"'{file}' is a table, whose output is another: name one that ends in {kind} with "
            "--output"
        )
    if table_kind(output) != kind:
        raise UsageError(
            f"the output '{output}': expected a name that ends in {kind}, as that of '{file}'"
        )
    check_output_file(output)
    if exists(output):
        raise UsageError(f"the output '{output}' is there already: name another")
    format = format_of(file, task.fields)
    scorer = _scorer(task, file)
    done = ScoredLines(
        model=scorer.path, bad=scorer.bad, quantity=scorer.quantity, threads=task.threads
    )
    done.limit = task.max_bits
    if task.keep is not None:
        done.threshold = _threshold(file, scorer, task)
        done.limit = done.threshold.value
        print(threshold_text(done.threshold, scorer), file=sys.stderr)
    begin = time.perf_counter()
    size = file.stat().st_size
    with (
        replacing(output) as temporary,
        tqdm(total=size, unit="B", unit_scale=True, disable=None) as bar,
        format.writing(temporary, output) as write,
    ):
        for tally in copy_scored(format, write, scorer, done.limit):
            done.update(tally)
            bar.update(format.position() - bar.n)
    done.seconds = time.perf_counter() - begin
    return done


def _scorer(task: Task, file: Path) -> Scorer:
    scorer = Scorer(task.model, bad=task.bad, by=task.by, window=task.window, threads=task.threads)
    if str(file) != "-":
        check_unit(scorer.unit, {unit_of(file)})
    return scorer


def _threshold(file: Path, scorer: Scorer, task: Task) -> Threshold:
    """The threshold for ``task.keep``, by a sample of the file."""
    assert task.keep is not None
    jobs = plan([(file, file.stat().st_size)], task.fields)
    with tqdm(total=file.stat().st_size, unit="B", unit_scale=True, disable=None) as bar:
        bar.set_description("sample")
        samples = [job.run(scorer, lambda at: bar.update(at - bar.n)) for job in jobs]
    found = find_threshold(samples, task.keep)
    if found is None:
        raise_first_error(jobs)
    return found
