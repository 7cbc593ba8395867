"""Documents to evaluate on: all of a split, or a random choice (fixed seed) of a given size."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from itera_lite.data.prepare import Dataset


def read_documents(dataset: Dataset, split: str, max_bytes: int | None = None) -> list[bytes]:
    """The documents of a prepared split, or what `sample_documents` takes of them.

    Only the documents that are taken are decoded.
    """
    if max_bytes is None or dataset.n_bytes(split) <= max_bytes:
        return list(dataset.documents(split))
    chosen = _choose(dataset.sizes(split), max_bytes)
    if not chosen:
        return [next(dataset.documents(split, most=max_bytes))]
    texts = dict(zip(sorted(chosen), dataset.documents(split, set(chosen)), strict=True))
    return [texts[number] for number in chosen]


def sample_documents(documents: Sequence[bytes], max_bytes: int) -> list[bytes]:
    """All documents, or a random choice of them (fixed seed) of at most ``max_bytes``.

    Where every document is longer, the first one is cut.
    """
    if sum(map(len, documents)) <= max_bytes:
        return list(documents)
    chosen = _choose(np.array([len(document) for document in documents]), max_bytes)
    return [documents[number] for number in chosen] or [documents[0][:max_bytes]]


def _choose(sizes: NDArray[np.int64], max_bytes: int) -> list[int]:
    """Numbers of documents of these sizes, in random order, as many as fit."""
    chosen: list[int] = []
    least = sizes.min(initial=max_bytes)
    for number in shuffled(len(sizes)):
        if least > max_bytes:
            break
        if sizes[number] <= max_bytes:
            chosen.append(number)
            max_bytes -= int(sizes[number])
    return chosen


def shuffled(n: int) -> Iterator[int]:
    """The numbers below ``n`` as `random.Random(0).sample(range(n), n)` orders them, of which the
    first take no time for the others."""
    rng, left = random.Random(0), np.arange(n)
    for last in range(n - 1, -1, -1):
        place = rng.randrange(last + 1)
        yield int(left[place])
        left[place] = left[last]
