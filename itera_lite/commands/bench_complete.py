"""The verb `bench complete`: keystrokes that a model's completions save on held-out text."""

from __future__ import annotations

from pathlib import Path

from itera_lite.errors import DataError
from itera_lite.files import check_writable
from itera_lite.quantities import bytes_of, whole_number
from itera_lite.records import Keystrokes

MOST_OFFERED = 100


def bench_complete(
    model: Path | None = None,
    *,
    data: str = "python",
    split: str = "valid",
    offered: int = 3,
    max_bytes: str | int = "20KB",
    results: Path = Path("results"),
) -> Keystrokes:
    """Measure how many keystrokes a model's completions save on held-out text.

    Beside it, a word trigram model with backoff, counted on the training text. Every character
    is a keystroke, but as soon as the rest of a word is offered, one takes all of it; the space
    after it is typed. Writes NAME_keystrokes.json.

    Args:
        model: A GGUF file, or the folder of a model as `itera train` writes it. By default
            checkpoints/itera_lite_tiny, else the model that comes with Itera-Lite.
        data: Set or path: its training text is counted, its held-out text typed.
        split: Part of the set that is typed: valid, or test where the set has one.
        offered: Completions that are offered at a time.
        max_bytes: Type a random choice of documents (fixed seed) of at most this size.
        results: Folder of the result files.
    """
    whole_number("offered", offered, most=MOST_OFFERED)
    limit = bytes_of("max_bytes", max_bytes)
    from itera_lite.engine.find import find_model, load_model, model_name

    path = find_model(model)
    name = model_name(path)
    output = Path(results) / f"{name}_keystrokes.json"
    check_writable(output)
    from itera_lite.bench.keystrokes import measure_keystrokes
    from itera_lite.bench.table import print_keystrokes
    from itera_lite.data.corpus import load_documents

    loaded = load_model(path)
    corpus = load_documents(data)
    if split not in corpus.splits:
        raise DataError(
            f"'{data}' has no split '{split}': expected one of {', '.join(corpus.splits)}"
        )
    record = measure_keystrokes(name, loaded, corpus, split=split, offered=offered, max_bytes=limit)
    print_keystrokes(record)
    record.write(output)
    print(f"\nWritten to {output}")
    return record
