"""How fast text is prepared, beside the `tokenizers` library alone, each in a fresh process.

Run as ``python -m itera_lite.bench.preparing`` this module does one of `WORK` and prints what it
found.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tokenizers

from itera_lite.bench.processes import resident_bytes
from itera_lite.bench.turns import Entry, measure_in_turns
from itera_lite.data.prepare import open_dataset, prepare
from itera_lite.data.tokenizer import Tokenizer
from itera_lite.errors import IteraError
from itera_lite.files import cache_folder
from itera_lite.machine.processor import usable_cores

ALONE_BYTES = 64_000_000  # of the text for the library alone, which takes it from memory
BATCH = 1000  # documents that it is given at a time


@dataclass(frozen=True)
class Preparing:
    """What one of `WORK` took.

    Attributes:
        bytes: of text.
        seconds: without the start of the process.
        peak_rss_bytes: of the process, and as often as there are others the largest of those.
    """

    bytes: int
    seconds: float
    peak_rss_bytes: int


@dataclass(kw_only=True)
class _Work(Entry[Preparing]):
    work: str
    data: str
    tokenizer: Path
    workers: int

    def measure(self) -> Preparing:
        arguments = [self.work, self.data, str(self.tokenizer), str(self.workers)]
        run = subprocess.run(
            [sys.executable, "-m", "itera_lite.bench.preparing", *arguments],
            env={**os.environ, "RAYON_NUM_THREADS": str(self.workers)},
            capture_output=True,
            text=True,
        )
        if run.returncode:
            raise IteraError(f"{self.name} failed: {run.stderr.strip()[-500:]}")
        return Preparing(**json.loads(run.stdout))


def measure_preparing(
    data: str, vocab_size: int, workers: int | None, repeats: int
) -> tuple[list[Preparing], list[Preparing]]:
    """Prepare a set from the start, and encode its text with the library alone, in turns.

    The tokenizer is the same in all of them; its training isn't measured.

    Args:
        data: as for `prepare`.
        vocab_size: of the tokenizer.
        workers: processes of ours, and threads of the library; None: one a core.
        repeats: of each.

    Returns:
        What each repeat of ours took, and of the library alone.
    """
    dataset = prepare(data, vocab_size=vocab_size, workers=workers)
    count = workers or usable_cores()
    entries = [
        _Work(name=name, work=work, data=text, tokenizer=dataset.path, workers=count)
        for name, work, text in (
            ("itera data", "prepare", data),
            ("tokenizers alone", "alone", str(dataset.path)),
        )
    ]
    measure_in_turns("preparing text", entries, repeats)
    return entries[0].samples, entries[1].samples


def _prepare(data: str, tokenizer: Tokenizer, workers: int) -> tuple[int, float]:
    with tempfile.TemporaryDirectory(prefix=".building-", dir=cache_folder()) as folder:
        begin = time.perf_counter()
        dataset = prepare(
            data, tokenizer=tokenizer, cache=Path(folder), quiet=True, workers=workers
        )
        seconds = time.perf_counter() - begin
        return sum(dataset.n_bytes(split) for split in dataset.splits), seconds


def _alone(folder: str, tokenizer: Tokenizer, workers: int) -> tuple[int, float]:
    dataset = open_dataset(Path(folder))
    if dataset is None:
        raise IteraError(f"'{folder}' is no prepared set")
    texts, total = [], 0
    for document in dataset.documents("train"):
        texts.append(document[: ALONE_BYTES - total].decode("utf-8", "ignore"))
        total += len(document)
        if total >= ALONE_BYTES:
            break
    total = min(total, ALONE_BYTES)
    library = tokenizers.Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    begin = time.perf_counter()
    for at in range(0, len(texts), BATCH):
        library.encode_batch_fast(texts[at : at + BATCH], add_special_tokens=False)
    return total, time.perf_counter() - begin


WORK = {"prepare": _prepare, "alone": _alone}


def _peak(workers: int) -> int:
    scale = 1024 if sys.platform == "linux" else 1  # in kilobytes there
    others = scale * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return resident_bytes("VmHWM") + (workers * others if workers > 1 else 0)


def _main(arguments: list[str]) -> Iterator[str]:
    work, data, tokenizer, workers = arguments
    n_bytes, seconds = WORK[work](data, Tokenizer.load(tokenizer), int(workers))
    yield json.dumps({"bytes": n_bytes, "seconds": seconds, "peak_rss_bytes": _peak(int(workers))})


if __name__ == "__main__":
    print(*_main(sys.argv[1:]))
