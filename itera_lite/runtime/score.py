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

from itera_lite.errors import UsageError
from itera_lite.runtime.find import find_model, load_model, shown
from itera_lite.runtime.lines import Line, LineReader
from itera_lite.runtime.results import Score
from itera_lite.runtime.resume import Output

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
        output: File to write to; by default standard output.
        resume: Go on after the last whole line of the output, if there is one.
        text_field: Field of an object that holds the text.
        text: Write the text too.
        max_bits: Write only lines with at most so many bits per byte; empty texts have none.
        window: Tokens of context at most, as --seq-len of `itera eval`; by default all that
            the model reads.
        threads: Lines scored at the same time.
    """
    file = Path(file)
    if resume and output is None:
        raise UsageError("resume needs an output: name the file with --output")
    if max_bits is not None and not max_bits > 0:
        raise UsageError(f"max_bits={max_bits}: expected more than 0")
    if threads < 1:
        raise UsageError(f"threads={threads}: expected 1 or more")
    if text_field in ADDED:
        raise UsageError(f"text_field='{text_field}': that field is where a result is written")
    if output is not None and file.exists() and output.exists() and output.samefile(file):
        raise UsageError(f"the output '{output}' is the input: name another file")
    reader = LineReader(file, text_field)
    target = Output(output, resume)
    path = find_model(checkpoint)
    model = load_model(path)

    def score(lines: list[Line]) -> list[Score]:
        return model.score([line.text for line in lines], window=window, threads=threads)

    def as_json(line: Line, result: Score) -> bytes:
        fields = {**line.fields, **_results(line, result)}
        if not text:
            del fields[text_field]
        return _dump(fields)

    score([])  # a bad option shows before a file is made
    summary = Summary(path)
    begin = time.perf_counter()
    with (
        target as out,
        tqdm(total=reader.size, unit="B", unit_scale=True, disable=_hidden(output)) as bar,
    ):
        for batch in _batches(out.unwritten(reader, score), BATCH_BYTES * threads):
            written = []
            for line, result in zip(batch, score(batch), strict=True):
                summary.lines += 1
                summary.bytes += result.bytes
                summary.nats += result.nats
                if max_bits is None or (result.bytes and result.bits_per_byte <= max_bits):
                    written.append(as_json(line, result))
            summary.kept += len(written)
            out.write(b"".join(written))
            bar.update((reader.position() or summary.bytes) - bar.n)
    summary.seconds = time.perf_counter() - begin
    _report(summary, reader, out.resumed_after, max_bits)
    return summary


def _results(line: Line, result: Score) -> dict[str, Any]:
    empty = result.bytes == 0
    return {
        "line": line.number,
        "bytes": result.bytes,
        "tokens": result.tokens,
        "nats": result.nats,
        "bits_per_byte": None if empty else result.bits_per_byte,
        "perplexity": result.perplexity if math.isfinite(result.perplexity) else None,
    }


def _dump(fields: dict[str, Any]) -> bytes:
    line = json.dumps(fields, ensure_ascii=False, allow_nan=False)
    try:
        return line.encode("utf-8") + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can only write escaped
        return json.dumps(fields, allow_nan=False).encode("ascii") + b"\n"


def _batches(lines: Iterable[Line], size: int) -> Iterator[list[Line]]:
    """Groups of about ``size`` bytes: a corpus of any length is never held as a whole."""
    batch: list[Line] = []
    held = 0
    for line in lines:
        batch.append(line)
        held += len(line.text)
        if held >= size or len(batch) == BATCH_LINES:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _hidden(output: Path | None) -> bool | None:
    """No bar between the results on a terminal; else None: tqdm looks whether anybody watches."""
    return True if output is None and sys.stdout.isatty() else None


def _report(
    summary: Summary, reader: LineReader, resumed_after: int, max_bits: float | None
) -> None:
    speed = summary.bytes / summary.seconds / 1e3
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
    print(f"[{'; '.join(parts)}; model: {shown(summary.model)}]", file=sys.stderr)
