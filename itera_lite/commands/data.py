"""`itera data`: prepare a set and say what it is."""

from __future__ import annotations

from typing import Any

from itera_lite.data.prepare import Dataset, prepare
from itera_lite.data.repairs import printable
from itera_lite.errors import UsageError

MAX_SAMPLES = 10_000
_SAMPLE_CHARS = 240


def describe(data: str = "python", *, vocab_size: int = 2048, samples: int = 3) -> dict[str, Any]:
    """Prepare a text set and describe it: documents, bytes, tokens, samples.

    Args:
        data: A named set (python, tinystories, wikitext-2, wikitext-103, or a
            folder in $ITERA_DATA), hf:OWNER/NAME[:column], a file, a folder, a
            glob, or - for standard input. A table may name its column: reviews.csv:body.
        vocab_size: Size of the tokenizer, from 256 (bytes only) to 65,536.
        samples: Documents to show.

    Returns:
        The manifest, with ``path`` (the folder in the cache), ``bytes_per_token``
        in each split and ``samples`` (the beginnings of some train documents).
    """
    if not isinstance(samples, int) or not 0 <= samples <= MAX_SAMPLES:
        raise UsageError(f"samples={samples}: expected 0 to {MAX_SAMPLES:,}")
    dataset = prepare(data, vocab_size=vocab_size, print_notes=False)
    result = dict(dataset.manifest)
    result["path"] = str(dataset.path)
    result["splits"] = {
        split: {**entry, "bytes_per_token": entry["bytes"] / entry["tokens"]}
        for split, entry in dataset.manifest["splits"].items()
    }
    result["samples"] = _samples(dataset, samples)
    print(printable(_text(result)))
    return result


def _samples(dataset: Dataset, count: int) -> list[str]:
    """Beginnings of train documents, evenly spread."""
    total = dataset.manifest["splits"]["train"]["documents"]
    wanted = {(2 * i + 1) * total // (2 * count) for i in range(count)}
    return [_beginning(document.decode("utf-8")) for document in dataset.documents("train", wanted)]


def _beginning(text: str) -> str:
    text = text.strip()
    return text if len(text) <= _SAMPLE_CHARS else text[:_SAMPLE_CHARS].rstrip() + " ..."


def _text(result: dict[str, Any]) -> str:
    lines = [f"{result['name']}  (sha256 {result['sha256'][:12]})"]
    for key, value in result["source"].items():
        if key == "files":
            files = value if isinstance(value, int) else len(value)
            value = value[0] if files == 1 and not isinstance(value, int) else f"{files:,}"
        lines.append(f"  {key}: {value}")
    lines.append(
        f"  tokenizer: byte-level BPE, {result['vocab_size']:,} ids "
        f"(sha256 {result['tokenizer_sha256'][:12]})"
    )
    lines += [f"  note: {note}" for note in result["notes"]]
    lines.append(f"  prepared in: {result['path']}")
    wide = max(len("split"), *map(len, result["splits"]))
    lines += [
        "",
        f"{'split':<{wide}} {'documents':>11} {'bytes':>15} {'tokens':>13} {'bytes/token':>12}",
    ]
    for split, entry in result["splits"].items():
        lines.append(
            f"{split:<{wide}} {entry['documents']:>11,} {entry['bytes']:>15,} "
            f"{entry['tokens']:>13,} {entry['bytes_per_token']:>12.2f}"
        )
    for number, sample in enumerate(result["samples"], 1):
        lines += ["", f"--- sample {number} from train", sample]
    return "\n".join(lines)
