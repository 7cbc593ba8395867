"""Scores each line of a file, and writes it with its score as a JSON object a line."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from itera_lite.data.lines import Line, LineReader
from itera_lite.engine.find import find_model, load_model
from itera_lite.engine.results import TextScore
from itera_lite.engine.score_output import Output
from itera_lite.engine.score_resume import Progress
from itera_lite.errors import IteraError, ModelFileError, UsageError

ADDED = ("line", "bytes", "tokens", "nats", "bits_per_byte", "perplexity")
BATCH_BYTES = 1 << 16  # of text that is scored, then written, at a time; for each thread
BATCH_LINES = 4096


@dataclass
class ScoredLines:
    """What was scored in a run.

    Attributes:
        model: the folder or file that scored.
        lines: documents scored; ``kept``: of these, documents written.
        bytes: of their text.
        nats: minus the sum of all tokens' log-probabilities.
        seconds: that it took.
        resumed_after: number of the line that an earlier run had done; 0 for none.
        repaired: lines in which something wasn't UTF-8.
        halves: texts with half of a surrogate pair, which no Unicode text has.
    """

    model: Path
    lines: int = 0
    kept: int = 0
    bytes: int = 0
    nats: float = 0.0
    seconds: float = 0.0
    resumed_after: int = 0
    repaired: int = 0
    halves: int = 0

    @property
    def bits_per_byte(self) -> float:
        """Of all documents together; 0 where there are none."""
        return self.nats / math.log(2) / self.bytes if self.bytes else 0.0


def score_file(
    file: Path,
    checkpoint: Path | None,
    output: Path | None,
    *,
    resume: bool,
    text_field: str,
    text: bool,
    prefix: str,
    max_bits: float | None,
    window: int | None,
    threads: int,
) -> ScoredLines:
    """Score every line of ``file``; the arguments are those of `itera score`.

    Raises:
        UsageError: a field has the name of a result, the output holds something else, or it
            can't be resumed.
        DataError: a line can't be used; what comes before it is written.
        CheckpointError, ModelFileError: there is no model, or it can't be used.
    """
    names = [prefix + name for name in ADDED]
    if text_field in names:
        raise UsageError(
            f"--text-field {text_field}: a result is written to a field of that name. Give the "
            "results other names with --prefix, such as --prefix score_"
        )
    reader = LineReader(file, text_field, keep_text=text, reserved=names)
    out = Output(output, reader)
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

    score([])  # a bad option shows before a file is made
    progress = None
    lines: Iterable[Line] = reader
    scored = ScoredLines(path)
    if out.resumable:
        options = {"text_field": text_field, "text": text, "prefix": prefix}
        options |= {"max_bits": max_bits, "window": window}
        progress = Progress(out.path, options, path)
        if resume:
            progress.look()
        scored.resumed_after = progress.resumed_after
        lines = progress.unwritten(reader, lambda line: _as_json(line, score([line])[0], prefix))
    begin = time.perf_counter()
    # No bar between the results on a terminal; else tqdm decides, with None, whether one is seen.
    hidden = True if out.on_terminal else None
    with (
        out.begin(progress),
        tqdm(total=reader.size, unit="B", unit_scale=True, disable=hidden) as bar,
    ):
        for batch in _batches(lines, BATCH_BYTES * threads):
            written = []
            for line, result in zip(batch, score(batch), strict=True):
                scored.lines += 1
                scored.bytes += result.bytes
                scored.nats += result.nats
                if max_bits is None or (result.bytes and result.bits_per_byte <= max_bits):
                    written.append(_as_json(line, result, prefix))
            scored.kept += len(written)
            out.write(b"".join(written), batch[-1])
            bar.update((reader.position() or scored.bytes) - bar.n)
        out.finish()
    scored.seconds = time.perf_counter() - begin
    scored.repaired, scored.halves = reader.repaired, reader.halves
    return scored


def _as_json(line: Line, result: TextScore, prefix: str) -> bytes:
    """A line of the output: the fields of the input's line, then the results."""
    if not math.isfinite(result.nats):
        raise ModelFileError(
            f"the model gives line {line.number:,} no finite probability ({result.nats} nats): its "
            "weights are damaged. Take another model"
        )
    values = (
        *(line.number, result.bytes, result.tokens, result.nats),
        None if result.bytes == 0 else result.bits_per_byte,
        result.perplexity if math.isfinite(result.perplexity) else None,
    )
    fields = {prefix + name: value for name, value in zip(ADDED, values, strict=True)}
    results = json.dumps(fields, ensure_ascii=False, allow_nan=False)
    between = ", " if line.fields else ""
    return f"{{{line.fields}{between}{results[1:]}\n".encode()


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
