"""The verb `score`: how probable a model finds each line of a file, to look at or to filter by."""

from __future__ import annotations

import sys
from pathlib import Path

from itera_lite.engine.find import display_name
from itera_lite.engine.score import ScoredLines, score_file
from itera_lite.quantities import check_numbers, finite_number, whole_number


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
) -> ScoredLines:
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
    check_numbers(threads=threads)
    if max_bits is not None:
        max_bits = finite_number("max_bits", max_bits, above=0)
    if window is not None:
        window = whole_number("window", window)
    scored = score_file(
        Path(file),
        checkpoint,
        None if output is None else Path(output),
        resume=resume,
        text_field=text_field,
        text=text,
        prefix=prefix,
        max_bits=max_bits,
        window=window,
        threads=threads,
    )
    speed = scored.bytes / max(scored.seconds, 1e-9) / 1e3
    parts = [
        f"{scored.lines:,} lines, {scored.bytes:,} bytes in {scored.seconds:.2f} s: "
        f"{speed:,.0f} kB/s"
    ]
    if scored.bytes:
        parts.append(f"{scored.bits_per_byte:.4f} bits per byte in all")
    if max_bits is not None:
        parts.append(f"{scored.kept:,} kept with at most {max_bits:g}")
    if scored.resumed_after:
        parts.append(f"resumed after line {scored.resumed_after:,}")
    if scored.repaired:
        parts.append(f"{scored.repaired:,} lines had invalid UTF-8, replaced by U+FFFD")
    if scored.halves:
        parts.append(f"{scored.halves:,} texts had half of a surrogate pair, scored as U+FFFD")
    print(f"[{'; '.join(parts)}; model: {display_name(scored.model)}]", file=sys.stderr)
    return scored
