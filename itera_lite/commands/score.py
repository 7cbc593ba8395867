"""The verb `score`: how probable a model finds each line of a file, to look at or to filter by."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from itera_lite.data.lines import Line, LineReader
from itera_lite.engine.find import display_name, find_model, load_model
from itera_lite.engine.output import Output
from itera_lite.engine.results import TextScore
from itera_lite.engine.resume import Progress
from itera_lite.errors import IteraError, ModelFileError, UsageError
from itera_lite.quantities import finite_number, threads_of, whole_number

ADDED = ("line", "bytes", "tokens", "nats", "bits_per_byte", "perplexity")
BATCH_BYTES = 1 << 16  # of text that is scored, then written, at a time; for each thread
BATCH_LINES = 4096


@dataclass
class Summary:
    """What was scored in this run.

    Attributes:
        model: the folder or file that scored.
        lines: documents scored.
        kept: documents written.
        bytes: of their text.
        nats: minus the sum of all tokens' log-probabilities.
        seconds: that it took.
    """

    model: Path
    lines: int = 0
    kept: int = 0
    bytes: int = 0
    nats: float = 0.0
    seconds: float = 0.0

    @property
    def bits_per_byte(self) -> float:
        """Of all documents together; 0 where there are none."""
        return self.nats / math.log(2) / self.bytes if self.bytes else 0.0


def score_lines(
    file: Path,
    *,
    checkpoint: Path | None = None,
    output: Path | None = None,
    resume: bool = False,
    text_field: str = "text",
    text: bool = True,
    prefix: str = "",
    max_bits: float | None = None,
    window: int | None = None,
    threads: int = 1,
) -> Summary:
    """Score each line of a file: bits per byte and perplexity.

    Writes a JSON object a line: what stood in the line, and line (its number), bytes, tokens,
    nats, bits_per_byte and perplexity (per token).

    Args:
        file: .txt (a document a line) or .jsonl (an object a line), also .gz or .zst; - is
            standard input.
        checkpoint: A GGUF file, or the folder of a model as `itera train` writes it. By
            default checkpoints/itera_lite_tiny, else the model that comes with Itera-Lite.
        output: File to write to, gzip or Zstandard if it ends in .gz or .zst; by default
            standard output.
        resume: Go on after what the output holds, if there is something. The options must be
            those of before.
        text_field: Field of an object that holds the text.
        text: Write the text too.
        prefix: Put this before the names of the fields that are added, such as score_.
        max_bits: Write only lines with at most so many bits per byte; empty texts have none.
        window: Tokens of context at most, as --seq-len of `itera eval`; by default all that
            the model reads.
        threads: Lines scored at the same time.
    """
    file = Path(file)
    names = [prefix + name for name in ADDED]
    threads = threads_of(threads)
    if max_bits is not None:
        max_bits = finite_number("max_bits", max_bits, above=0)
    if window is not None:
        window = whole_number("window", window)
    if text_field in names:
        raise UsageError(
            f"--text-field {text_field}: a result is written to a field of that name. Give the "
            "results other names with --prefix, such as --prefix score_"
        )
    reader = LineReader(file, text_field, keep_text=text, reserved=names)
    out = Output(None if output is None else Path(output), reader)
    if resume and not out.resumable:
        raise UsageError(
            f"--resume needs an output that is an uncompressed file, not {out.name}: name one with "
            "--output, or leave out --resume"
        )
    if not resume:
        out.refuse_content()
    path = find_model(checkpoint)
    model = load_model(path)

    def score(lines: list[Line]) -> list[TextScore]:
        return model.score([line.text for line in lines], window=window, threads=threads)

    def as_json(line: Line, result: TextScore) -> bytes:
        results = json.dumps(_results(line, result, prefix), ensure_ascii=False, allow_nan=False)
        between = ", " if line.fields else ""
        return f"{{{line.fields}{between}{results[1:]}\n".encode()

    score([])  # a bad option shows before a file is made
    options = {"text_field": text_field, "text": text, "prefix": prefix}
    options |= {"max_bits": max_bits, "window": window}
    progress = Progress(out.path, options, path) if out.resumable else None
    if progress and resume:
        progress.look()
    summary = Summary(path)
    begin = time.perf_counter()
    lines: Iterable[Line] = reader
    if progress:
        lines = progress.unwritten(reader, lambda line: as_json(line, score([line])[0]))
    with (
        out.begin(progress),
        tqdm(total=reader.size, unit="B", unit_scale=True, disable=_hidden(out)) as bar,
    ):
        for batch in _batches(lines, BATCH_BYTES * threads):
            written = []
            for line, result in zip(batch, score(batch), strict=True):
                summary.lines += 1
                summary.bytes += result.bytes
                summary.nats += result.nats
                if max_bits is None or (result.bytes and result.bits_per_byte <= max_bits):
                    written.append(as_json(line, result))
            summary.kept += len(written)
            out.write(b"".join(written), batch[-1])
            bar.update((reader.position() or summary.bytes) - bar.n)
        out.finish()
    summary.seconds = time.perf_counter() - begin
    _report(summary, reader, progress.resumed_after if progress else 0, max_bits)
    return summary


def _results(line: Line, result: TextScore, prefix: str) -> dict[str, Any]:
    if not math.isfinite(result.nats):
        raise ModelFileError(
            f"the model gives line {line.number:,} no finite probability ({result.nats} nats): its "
            "weights are damaged. Take another model"
        )
    found = {
        "line": line.number,
        "bytes": result.bytes,
        "tokens": result.tokens,
        "nats": result.nats,
        "bits_per_byte": None if result.bytes == 0 else result.bits_per_byte,
        "perplexity": result.perplexity if math.isfinite(result.perplexity) else None,
    }
    return {prefix + name: value for name, value in found.items()}


def _batches(lines: Iterable[Line], size: int) -> Iterator[list[Line]]:
    """Groups of about ``size`` bytes: a corpus of any length is never held as a whole.

    Where a line is bad, those before it are given first, so that their results aren't lost.
    """
    batch: list[Line] = []
    held = 0
    try:
        for line in lines:
            batch.append(line)
            held += len(line.text)
            if held >= size or len(batch) == BATCH_LINES:
                yield batch
                batch, held = [], 0
    except IteraError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def _hidden(out: Output) -> bool | None:
    """No bar between the results on a terminal; else None: tqdm looks whether anybody watches."""
    return True if out.on_terminal else None


def _report(
    summary: Summary, reader: LineReader, resumed_after: int, max_bits: float | None
) -> None:
    speed = summary.bytes / max(summary.seconds, 1e-9) / 1e3
    parts = [
        f"{summary.lines:,} lines, {summary.bytes:,} bytes in {summary.seconds:.2f} s: "
        f"{speed:,.0f} kB/s"
    ]
    if summary.bytes:
        parts.append(f"{summary.bits_per_byte:.4f} bits per byte in all")
    if max_bits is not None:
        parts.append(f"{summary.kept:,} kept with at most {max_bits:g}")
    if resumed_after:
        parts.append(f"resumed after line {resumed_after:,}")
    if reader.repaired:
        parts.append(f"{reader.repaired:,} lines had invalid UTF-8, replaced by U+FFFD")
    if reader.halves:
        parts.append(f"{reader.halves:,} texts had half of a surrogate pair, scored as U+FFFD")
    print(f"[{'; '.join(parts)}; model: {display_name(summary.model)}]", file=sys.stderr)
