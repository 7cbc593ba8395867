"""The verb `score`: how probable a model finds each text of a file or corpus, to filter by."""

from __future__ import annotations

import sys
from pathlib import Path

from itera_lite.engine.find import display_name
from itera_lite.engine.score import ScoredLines, Task, score_file
from itera_lite.engine.score_corpus import ScoredCorpus, is_corpus, score_corpus
from itera_lite.engine.score_fields import Fields
from itera_lite.engine.scorer import By
from itera_lite.errors import DataError, UsageError
from itera_lite.files import check_writable
from itera_lite.machine.processor import default_threads
from itera_lite.quantities import check_numbers, finite_number, share_of, whole_number

LEAST_SHOWN = 20  # texts of which a histogram is drawn


def score_lines(
    file: Path,
    *more: Path,
    checkpoint: Path | None = None,
    good: Path | None = None,
    bad: Path | None = None,
    output: Path | None = None,
    resume: bool = False,
    text_field: str = "text",
    text: bool = True,
    scores: bool = True,
    prefix: str = "",
    max_bits: float | None = None,
    keep: str | None = None,
    by: By = "bits_per_byte",
    window: int | None = None,
    threads: int | None = None,
    plot: Path | None = None,
) -> ScoredLines:
    """Score each line of a file, or a corpus of files: bits per byte and perplexity.

    Writes a JSON object a line: what stood in the line, and line (its number), bytes, tokens,
    nats, bits_per_byte and perplexity (per token). CSV and Parquet get columns of these names.

    Several inputs, a folder or a pattern are scored into the folder named by --output, which has
    a file for each; given again, the same command goes on with the files that aren't done.

    Args:
        file: .txt (a document a line), .jsonl (an object a line), .csv, also .gz or .zst,
            .parquet; a folder of these, or a pattern in quotes such as 'data/**/*.jsonl.zst'; - is
            standard input.
        more: More files, folders and patterns.
        checkpoint: A GGUF file, or the folder of a model as `itera train` writes it. By
            default checkpoints/itera_lite_tiny, else the model that comes with Itera-Lite.
        good: With --bad, the same as --checkpoint.
        bad: A second model. The score is then the difference of both models' bits per byte, good
            minus bad; adds bad_bits_per_byte and difference.
        output: File to write to, gzip or Zstandard if it ends in .gz or .zst; by default
            standard output. For several inputs, the folder.
        resume: Go on after what the output file holds, if there is something. The options must
            be those of before. A folder is always gone on with.
        text_field: Field of an object, or column, that holds the text.
        text: Write the text too.
        scores: Write the results too. Without them, lines and rows stay as they are, .txt too, to
            filter by --keep or --max-bits; but lines end in LF (rows of CSV as the header does),
            and space at the ends of an object goes.
        prefix: Put this before the names of the fields that are added, such as score_.
        max_bits: Write only texts whose score is at most this; empty texts have none. The score
            is bits per byte, the difference with --bad, or surprise with --by surprise.
        keep: Write about this share of the texts, those with the lowest scores, such as 30%. A
            sample of all files is scored first to find the threshold.
        by: The score: bits_per_byte, or surprise, which finds texts with a single fault better;
            adds a field surprise. Not with --bad.
        window: Tokens of context at most, as --seq-len of `itera eval`; by default all that
            the model reads.
        threads: Threads that score; by default one a core. Several files are scored at the same
            time.
        plot: PNG file for the histogram of the scores.
    """
    task = _task(
        Fields(
            text_field,
            text,
            scores,
            prefix,
            contrast=bad is not None,
            surprise=by == "surprise",
        ),
        _good(checkpoint, good, bad),
        bad,
        max_bits,
        keep,
        by,
        window,
        threads,
    )
    if plot is not None:
        plot = Path(plot)
        if plot.suffix.lower() != ".png":
            raise UsageError(f"--plot {plot}: expected a name that ends in .png")
        check_writable(plot)
    into = None if output is None else Path(output)
    inputs = [Path(file), *map(Path, more)]
    done: ScoredLines
    if is_corpus(inputs, into):
        done = score_corpus(inputs, into, task)
    else:
        done = score_file(inputs[0], into, task, resume=resume)
    _print_summary(done)
    if plot is not None:
        _draw(done, plot)
    if isinstance(done, ScoredCorpus) and done.failed:
        raise DataError(
            f"{len(done.failed):,} of {done.files:,} files couldn't be scored and have no output, "
            f"such as {done.failed[0]}. Mend or remove them, and give the same command again: the "
            "others are done"
        )
    return done


def _task(
    fields: Fields,
    model: Path | None,
    bad: Path | None,
    max_bits: float | None,
    keep: str | None,
    by: By,
    window: int | None,
    threads: int | None,
) -> Task:
    """The options, checked."""
    check_numbers(threads=threads)
    if max_bits is not None and keep is not None:
        raise UsageError("--max-bits and --keep both set what is kept: give one of them")
    if max_bits is not None:  # a difference may be negative
        limits = {} if bad is not None else {"above": 0.0}
        max_bits = finite_number("max_bits", max_bits, **limits)
    share = None
    if keep is not None:
        share = share_of("keep", keep)
        if not 0 < share <= 1:
            raise UsageError(f"--keep {keep}: expected more than 0% and at most 100%")
    if not fields.scores and max_bits is None and share is None:
        raise UsageError(
            "--no-scores without --keep or --max-bits would copy the input: add one of these"
        )
    return Task(
        model=model,
        bad=None if bad is None else Path(bad),
        by=by,
        fields=fields,
        max_bits=max_bits,
        keep=share,
        window=None if window is None else whole_number("window", window),
        threads=default_threads() if threads is None else threads,
    )


def _good(checkpoint: Path | None, good: Path | None, bad: Path | None) -> Path | None:
    if good is not None and bad is None:
        raise UsageError("--good needs --bad, the model to compare with; one model is --checkpoint")
    if good is not None and checkpoint is not None:
        raise UsageError("--good and --checkpoint name the same model: give one of them")
    return checkpoint if good is None else Path(good)


def _print_summary(done: ScoredLines) -> None:
    parts = [f"{done.lines:,} lines, {done.bytes:,} bytes"]
    now = done.bytes_now if isinstance(done, ScoredCorpus) else done.bytes
    if now == done.bytes or now:
        speed = now / max(done.seconds, 1e-9)
        before = "" if now == done.bytes else f", {now:,} of these now,"
        parts[0] += f"{before} in {done.seconds:.2f} s: {_rate(speed)}"
        if done.threads > 1:
            parts[0] += f", {_rate(speed / done.threads)} a core"
    if isinstance(done, ScoredCorpus):
        before = f", {done.done_before:,} of them before" if done.done_before else ""
        parts.insert(
            0, f"{done.files_done:,} of {done.files:,} files are done{before}, in '{done.output}'"
        )
    if done.bytes:
        parts.append(f"{done.bits_per_byte:.4f} bits per byte in all")
    if done.limit is not None:
        shares = ""
        if done.bytes:
            shares = (
                f", {100 * done.kept / done.lines:.1f} % of the lines and "
                f"{100 * done.kept_bytes / done.bytes:.1f} % of the bytes"
            )
        parts.append(f"{done.kept:,} kept with at most {done.limit:g}{shares}")
    if done.resumed_after:
        parts.append(f"resumed after line {done.resumed_after:,}")
    if done.repaired:
        parts.append(f"{done.repaired:,} lines had invalid UTF-8, replaced by U+FFFD")
    if done.halves:
        parts.append(f"{done.halves:,} texts had half of a surrogate pair, scored as U+FFFD")
    if isinstance(done, ScoredCorpus) and done.left_out:
        ends = ", ".join(f"{n:,} {end}" for end, n in sorted(done.left_out.items())[:8])
        parts.append(f"left out files of other kinds: {ends}")
    models = display_name(done.model)
    if done.bad is not None:
        models += f", compared with {display_name(done.bad)}"
    print(f"[{'; '.join(parts)}; model: {models}]", file=sys.stderr)
    if done.histogram.total >= LEAST_SHOWN:
        from itera_lite.report.histogram import histogram_text

        encoding = (getattr(sys.stderr, "encoding", None) or "").lower()
        block = "█" if encoding.startswith("utf") else "#"
        print(histogram_text(done.histogram, done.quantity, done.limit, block), file=sys.stderr)


def _draw(done: ScoredLines, plot: Path) -> None:
    if not done.histogram.total:
        print(f"note: '{plot}' isn't drawn: no text has a score", file=sys.stderr)
        return
    from itera_lite.report.plots.scores import draw_scores

    title = f"{done.histogram.total:,} texts scored by {done.model.name}"
    draw_scores(done.histogram, plot, title=title, unit=done.quantity, threshold=done.limit)


def _rate(speed: float) -> str:
    """Bytes a second, as text."""
    return f"{speed / 1e6:,.2f} MB/s" if speed >= 1e6 else f"{speed / 1e3:,.0f} kB/s"
