"""The verb `bench score`: reading documents and their probabilities, ours and others'."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from itera_lite.commands.bench import folders_of, print_missing, write_records
from itera_lite.commands.bench_decode import check
from itera_lite.records import Scoring

TYPES = ("f32", "q8_0")
REPEATS, QUICK_REPEATS = 9, 3


def bench_score(
    *checkpoints: Path,
    types: Sequence[str] = TYPES,
    quick: bool = False,
    repeats: int | None = None,
    documents: int = 16,
    length: int = 256,
    threads: int = 2,
    peers: bool = True,
    results: Path = Path("results"),
) -> dict[str, Scoring]:
    """Measure the native engine's scoring beside llama.cpp and transformers.

    Everybody computes the probabilities of all tokens of the same documents, in turns, with
    one thread; ours also with more. Writes NAME_scoring.json for each.

    Args:
        checkpoints: Folders of the models; by default both tiny ones.
        types: How the weights are stored, such as f32, q8_0, q4_0.
        quick: Three repeats.
        repeats: Turns of each; by default 9, or 3 with quick.
        documents: Number of documents.
        length: Tokens of a document.
        threads: Of our second measurement.
        peers: Also measure llama.cpp and transformers, where they are installed.
        results: Folder of the result files.
    """
    from itera_lite.bench.scoring import measure_scoring
    from itera_lite.bench.table import print_scoring

    check(types, repeats=repeats, documents=documents, length=length, threads=threads)
    folders = folders_of(checkpoints, results, "scoring")
    if peers:
        print_missing()
    records = measure_scoring(
        folders,
        types=types,
        repeats=repeats or (QUICK_REPEATS if quick else REPEATS),
        documents=documents,
        length=length,
        threads=threads,
        peers=peers,
    )
    for record in records:
        print_scoring(record)
    return write_records(records, results, "scoring")
