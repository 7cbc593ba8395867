"""A word trigram model that completes what is typed: the floor for completions by a model.

It counts, with 'stupid backoff' (Brants et al., 'Large Language Models in Machine Translation',
2007): a word that was seen after the two symbols before it has its share of what follows them; else
0.4 times its share of what follows the last symbol; else 0.16 times its share of the text. Symbols
are words, and single other characters but spaces; only words are offered. A word is what it is to
the engine's completions: a run of ASCII letters, digits, underscores and characters beyond ASCII.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from itera_lite.errors import DataError

_WORD = r"[0-9A-Za-z_\u0080-\U0010ffff]+"
WORD = re.compile(_WORD)
SYMBOL = re.compile(rf"{_WORD}|[^ ]")
BEGIN = ""  # stands twice before every document
BACKOFF = 0.4


@dataclass(frozen=True)
class _Followers:
    """How often each symbol follows each context of one length.

    Attributes:
        keys: (G,) int64, sorted: the context's number times the number of symbols, plus the
            symbol's.
        counts: (G,) of the keys.
        totals: (C,) of the contexts.
    """

    keys: np.ndarray
    counts: np.ndarray
    totals: np.ndarray

    @classmethod
    def count(cls, context: np.ndarray, symbol: np.ndarray, n_symbols: int) -> _Followers:
        keys, counts = np.unique(context * n_symbols + symbol, return_counts=True)
        return cls(keys, counts, np.bincount(context))


class WordTrigrams:
    """Counts of words after the two symbols before them.

    Args:
        documents: texts to count.

    Raises:
        DataError: where there is no word.
    """

    def __init__(self, documents: Iterable[str]) -> None:
        texts = [[BEGIN, BEGIN, *SYMBOL.findall(document)] for document in documents]
        self._symbols = sorted({BEGIN}.union(*texts))
        self._ids = {symbol: i for i, symbol in enumerate(self._symbols)}
        self._is_word = np.array([WORD.match(symbol) is not None for symbol in self._symbols])
        if not self._is_word.any():
            raise DataError("there is no word to count: expected a text with words")
        ids = np.array([self._ids[symbol] for text in texts for symbol in text], dtype=np.int64)
        size, begin = len(self._symbols), self._ids[BEGIN]
        at = np.flatnonzero(ids != begin)  # at 2 and more
        self._pairs, pair = np.unique(ids[at - 2] * size + ids[at - 1], return_inverse=True)
        self._after_one = _Followers.count(ids[at - 1], ids[at], size)
        self._after_two = _Followers.count(pair.reshape(-1), ids[at], size)
        self._shares = np.bincount(ids[at], minlength=size) / len(at)

    def complete(self, before: tuple[str, str], typed: str, k: int) -> list[str]:
        """What completes a word, the likeliest first.

        Args:
            before: the two symbols before the word; `BEGIN` where there are fewer.
            typed: its letters so far, which may be none.
            k: completions at most. One that would add nothing isn't given.
        """
        low = bisect_left(self._symbols, typed)
        high = bisect_left(self._symbols, typed + "\U0010ffff")
        size = len(self._symbols)
        scores = BACKOFF**2 * self._shares[low:high]
        first, last = (self._ids.get(symbol) for symbol in before)
        pair = None
        if first is not None and last is not None:
            pair = int(np.searchsorted(self._pairs, first * size + last))
            if pair == len(self._pairs) or self._pairs[pair] != first * size + last:
                pair = None
        for followers, context, weight in (
            (self._after_one, last, BACKOFF),
            (self._after_two, pair, 1.0),
        ):
            if context is None or context >= len(followers.totals):
                continue
            begin = context * size + low
            here = slice(*np.searchsorted(followers.keys, [begin, begin + high - low]))
            share = followers.counts[here] / max(followers.totals[context], 1)
            scores[followers.keys[here] - begin] = weight * share
        scores[~self._is_word[low:high]] = 0
        if typed and low < high and self._symbols[low] == typed:
            scores[0] = 0
        return [self._symbols[low + i][len(typed) :] for i in _largest(scores, k)]


def _largest(scores: np.ndarray, k: int) -> np.ndarray:
    """Places of the ``k`` largest above 0, the largest first, equal ones in order."""
    least = np.partition(scores, -k)[-k] if len(scores) > k else 0
    some = np.flatnonzero((scores >= least) & (scores > 0))
    return some[np.argsort(-scores[some], kind="stable")][:k]
