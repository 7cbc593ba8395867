"""Documents to evaluate on: all of a split, or a random choice (fixed seed) of a given size."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from itera_lite.data.prepare import Dataset


def read_documents(dataset: Dataset, split: str, max_bytes: int | None = None) -> list[bytes]:
    """The documents of a prepared split, or what `sample_documents` takes of them.

    Only the documents that are taken are decoded.
    """
    if max_bytes is None or dataset.n_bytes(split) <= max_bytes:
        return list(dataset.documents(split))
    tokens, tokenizer = dataset.tokens(split), dataset.tokenizer
    token_bytes = np.array([len(piece) for piece in tokenizer.token_bytes], dtype=np.uint16)
    starts = np.flatnonzero(tokens == tokenizer.eot_id)[:-1]
    sizes = np.add.reduceat(token_bytes[tokens[:-1]], starts, dtype=np.int64)
    chosen = _choose(sizes.tolist(), max_bytes)
    if not chosen:
        return [next(dataset.documents(split))[:max_bytes]]
    texts = dict(zip(sorted(chosen), dataset.documents(split, set(chosen)), strict=True))
    return [texts[number] for number in chosen]


def sample_documents(documents: Sequence[bytes], max_bytes: int) -> list[bytes]:
    """All documents, or a random choice of them (fixed seed) of at most ``max_bytes``.

    Where every document is longer, the first one is cut.
    """
    if sum(map(len, documents)) <= max_bytes:
        return list(documents)
    chosen = _choose([len(document) for document in documents], max_bytes)
    return [documents[number] for number in chosen] or [documents[0][:max_bytes]]


def _choose(sizes: Sequence[int], max_bytes: int) -> list[int]:
    """Numbers of documents of these sizes, in random order, as many as fit."""
    chosen = []
    for number in random.Random(0).sample(range(len(sizes)), len(sizes)):
        if sizes[number] <= max_bytes:
            chosen.append(number)
            max_bytes -= sizes[number]
    return chosen
