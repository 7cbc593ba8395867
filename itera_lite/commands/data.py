"""The verb `data`: prepares a set and describes it."""

from __future__ import annotations

from typing import Any

from itera_lite.commands.options import WorkerCount
from itera_lite.config import Unit
from itera_lite.data.prepare import prepare
from itera_lite.data.repairs import printable
from itera_lite.errors import UsageError
from itera_lite.quantities import check_numbers
from itera_lite.terminal import table

MAX_SAMPLES = 10_000
SAMPLE_CHARS = 240
SAMPLE_BYTES = 10_000  # of a document that is decoded for them


def describe(
    data: str = "python",
    *,
    unit: Unit = "document",
    vocab_size: int = 2048,
    samples: int = 3,
    workers: WorkerCount = None,
) -> dict[str, Any]:
    """Prepare a text set and describe it: documents, bytes, tokens, samples.

    Args:
        data: A named set (python, tinystories, wikitext-2, wikitext-103, or a
            folder in $ITERA_DATA), hf:OWNER/NAME[:column], a file, a folder, a
            glob, a URL such as s3://BUCKET/FOLDER, or - for standard input. A table
            may name its column: reviews.csv:body.
        unit: What of the text becomes a document: the document as it is, or each of its
            paragraphs, lines or sentences.
        vocab_size: Size of the tokenizer, from 256 (bytes only) to 65,536.
        samples: Documents to show.
        workers: Processes that read and tokenise; by default one a core. The result
            doesn't depend on it.

    Returns:
        The manifest, with ``path`` (the folder in the cache), ``bytes_per_token``
        in each split and ``samples`` (the beginnings of some train documents).
    """
    if not isinstance(samples, int) or not 0 <= samples <= MAX_SAMPLES:
        raise UsageError(f"samples={samples}: expected 0 to {MAX_SAMPLES:,}")
    check_numbers(workers=workers)
    dataset = prepare(data, vocab_size=vocab_size, unit=unit, print_notes=False, workers=workers)
    result = dataset.manifest | {"unit": dataset.unit, "path": str(dataset.path)}
    result["splits"] = {
        split: {**entry, "bytes_per_token": entry["bytes"] / entry["tokens"]}
        for split, entry in dataset.manifest["splits"].items()
    }
    total = result["splits"]["train"]["documents"]
    wanted = {(2 * i + 1) * total // (2 * samples) for i in range(samples)}  # evenly spread
    texts = dataset.documents("train", wanted, SAMPLE_BYTES)
    result["samples"] = [_beginning(text) for text in texts]
    print(printable(_text(result)))
    return result


def _beginning(document: bytes) -> str:
    text = document.decode("utf-8", "ignore").strip()
    return text if len(text) <= SAMPLE_CHARS else text[:SAMPLE_CHARS].rstrip() + " ..."


def _text(result: dict[str, Any]) -> str:
    lines = [f"{result['name']}  (sha256 {result['sha256'][:12]})"]
    for key, value in result["source"].items():
        if key == "files":
            files = value if isinstance(value, int) else len(value)
            value = value[0] if files == 1 and not isinstance(value, int) else f"{files:,}"
        lines.append(f"  {key}: {value}")
    if result["unit"] != "document":
        lines.append(f"  unit: each {result['unit']} is a document")
    lines.append(
        f"  tokenizer: byte-level BPE, {result['vocab_size']:,} ids "
        f"(sha256 {result['tokenizer_sha256'][:12]})"
    )
    lines += [f"  note: {note}" for note in result["notes"]]
    sizes = ("documents", "bytes", "tokens")
    rows = (
        [split, *(f"{entry[size]:,}" for size in sizes), f"{entry['bytes_per_token']:.2f}"]
        for split, entry in result["splits"].items()
    )
    lines += [f"  prepared in: {result['path']}", "", table(("split", *sizes, "bytes/token"), rows)]
    for number, sample in enumerate(result["samples"], 1):
        lines += ["", f"--- sample {number} from train", sample]
    return "\n".join(lines)
