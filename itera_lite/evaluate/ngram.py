"""A byte n-gram model with interpolated modified Kneser-Ney smoothing, in numpy.

Chen and Goodman, 'An Empirical Study of Smoothing Techniques for Language Modeling' (1999). It is
a baseline that a neural model of the same text has to beat: it is trained in seconds, by counting.
Its alphabet is the 256 bytes and the end of a document, so it is a complete code for documents, as
the neural models are, and it is scored the same way.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from itera_lite.errors import DataError, UsageError

END = 256  # the end of a document: predicted, stands for no byte
PADDING = 257  # before a document: context only, never predicted
N_SYMBOLS = 257  # what can be predicted
BASE = 258


@dataclass(frozen=True)
class _Order:
    """The n-grams of one length. Gram ``g`` is a context's id and a symbol."""

    keys: np.ndarray  # (G,) int64, sorted: context id * BASE + symbol
    discounted: np.ndarray  # (G,) float64: count less its discount
    total: np.ndarray  # (C,) float64: counts of a context
    backoff: np.ndarray  # (C,) float64: share of a context that goes to the lower order


class ByteNgram:
    """Kneser-Ney model of ``order`` symbols (``order - 1`` of context).

    Args:
        documents: texts to count.
        order: length of the longest n-gram, 1 or more.

    Raises:
        DataError: where there is no text.
        UsageError: where ``order`` is below 1.
    """

    def __init__(self, documents: Iterable[bytes], order: int = 8) -> None:
        if order < 1:
            raise UsageError(f"order={order}: expected 1 or more symbols")
        self.order = order
        symbols = _symbols(documents, order - 1)
        if not len(symbols):
            raise DataError("there is no text to count: expected at least one document")
        self._orders = _count(symbols, order)

    def nats(self, documents: Sequence[bytes]) -> np.ndarray:
        """Nats of each symbol of the documents, ends included, one after another (T,)."""
        symbols = _symbols(documents, self.order - 1)
        return -np.log(self._probability(symbols)[symbols != PADDING])

    def bits_per_byte(self, documents: Sequence[bytes]) -> float:
        """Bits per byte; the ends of documents cost bits and count no byte."""
        n_bytes = sum(map(len, documents))
        return float(self.nats(documents).sum()) / math.log(2) / n_bytes if n_bytes else math.nan

    def _probability(self, symbols: np.ndarray) -> np.ndarray:
        """Probability of each symbol after the ones before it (T,)."""
        probability = np.full(len(symbols), 1.0 / N_SYMBOLS)
        context = np.zeros(len(symbols), dtype=np.int64)
        for level in self._orders:
            gram = _find(level.keys, context, symbols)
            known = np.flatnonzero(context >= 0)
            ids = context[known]
            total = level.total[ids]
            known, ids, total = known[total > 0], ids[total > 0], total[total > 0]
            direct = np.where(gram[known] >= 0, level.discounted[gram[known]], 0.0) / total
            probability[known] = direct + level.backoff[ids] * probability[known]
            context = _shift(gram)
        return probability


def _symbols(documents: Iterable[bytes], padding: int) -> np.ndarray:
    """Every document as padding, its bytes, `END`: one uint16 row (T,)."""
    parts: list[np.ndarray] = []
    before = np.full(padding, PADDING, dtype=np.uint16)
    after = np.array([END], dtype=np.uint16)
    for document in documents:
        parts += [before, np.frombuffer(document, dtype=np.uint8).astype(np.uint16), after]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint16)


def _shift(gram: np.ndarray) -> np.ndarray:
    """The gram that ends before each position: the context of the next order."""
    context = np.empty_like(gram)
    context[0] = -1
    context[1:] = gram[:-1]
    return context


def _find(keys: np.ndarray, context: np.ndarray, symbols: np.ndarray) -> np.ndarray:
    """Index of each (context, symbol) among the sorted keys, or -1."""
    wanted = context.astype(np.int64) * BASE + symbols
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where((context >= 0) & (keys[at] == wanted), at, -1)


def _unique(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Sorted distinct keys, an index of each in ``keys``, each key's rank, counts.

    ``np.unique`` with an unstable sort, which is several times faster: any index of a key will do.
    """
    order = np.argsort(keys)
    keys = keys[order]
    new = np.empty(len(keys), dtype=bool)
    new[0] = True
    np.not_equal(keys[1:], keys[:-1], out=new[1:])
    starts = np.flatnonzero(new)
    rank = np.empty(len(keys), dtype=np.int32)
    rank[order] = np.cumsum(new, dtype=np.int32) - 1
    return keys[starts], order[starts], rank, np.diff(starts, append=len(keys))


def _count(symbols: np.ndarray, order: int) -> list[_Order]:
    """Counts n-grams of each length, shortest first.

    A gram's id is the rank of (id of its context, last symbol), so ids are exact at any
    length. Below the longest length a gram counts how many different symbols stand
    before it; one that begins in the padding has only that before it and counts how
    often it occurs.
    """
    orders: list[_Order] = []
    context = np.zeros(len(symbols), dtype=np.int32)
    waiting: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int] | None = None
    for n in range(1, order + 1):
        valid = np.flatnonzero(context >= 0)
        keys, first, inverse, occurs = _unique(
            context[valid].astype(np.int64) * BASE + symbols[valid]
        )
        first = valid[first]
        gram = np.full(len(symbols), -1, dtype=np.int32)
        gram[valid] = inverse
        if waiting is not None:
            orders.append(_continuation(symbols, first, n - 1, *waiting))
        waiting = (keys, first, occurs, gram, int(context.max()) + 1)
        context = _shift(gram)
    assert waiting is not None
    keys, _, occurs, _, n_contexts = waiting
    return [*orders, _smooth(keys, occurs, n_contexts)]


def _continuation(
    symbols: np.ndarray,
    longer_first: np.ndarray,
    n: int,
    keys: np.ndarray,
    first: np.ndarray,
    occurs: np.ndarray,
    gram: np.ndarray,
    n_contexts: int,
) -> _Order:
    """The order of ``n``-grams, once an occurrence of each longer gram is known."""
    before = np.bincount(gram[longer_first], minlength=len(keys))
    at_start = symbols[first - (n - 1)] == PADDING
    return _smooth(keys, np.where(at_start, occurs, before), n_contexts)


def _smooth(keys: np.ndarray, counts: np.ndarray, n_contexts: int) -> _Order:
    """Subtract the discounts, and give each context's freed share to the lower order."""
    counts = np.where(keys % BASE == PADDING, 0, counts)
    context = keys // BASE
    discounts = _discounts(counts)
    level = np.minimum(counts, 3)
    total = np.bincount(context, weights=counts, minlength=n_contexts)
    freed = np.bincount(context, weights=discounts[level], minlength=n_contexts)
    return _Order(
        keys=keys,
        discounted=(counts - discounts[level]).astype(np.float64),
        total=total,
        backoff=np.divide(freed, total, out=np.ones(n_contexts), where=total > 0),
    )


def _discounts(counts: np.ndarray) -> np.ndarray:
    """Discount of counts 0, 1, 2 and 3 or more (Chen and Goodman, equation 26).

    Where too few grams have a count of one to four to estimate them, it is 1/2 for all. An estimate
    is at most its count, and can be negative: a little is kept then.
    """
    n = np.bincount(np.minimum(counts, 5), minlength=6).astype(float)
    if min(n[1:5]) == 0:
        return np.array([0.0, 0.5, 0.5, 0.5])
    y = n[1] / (n[1] + 2 * n[2])
    raw = [k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3)]
    return np.array([0.0, *(max(discount, 0.05) for discount in raw)])
