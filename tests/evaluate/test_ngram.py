"""Check that the Kneser-Ney model is a distribution and equals the textbook's recursion."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from itera_lite.errors import DataError, UsageError
from itera_lite.evaluate import ngram
from itera_lite.evaluate.ngram import END, N_SYMBOLS, PADDING, ByteNgram

TEXT = [b"the cat sat on the mat", b"the dog sat", b"a cat and a dog", b"", b"the end"] * 3


class Textbook:
    """Interpolated modified Kneser-Ney with dictionaries, as in Chen and Goodman (1999)."""

    def __init__(self, documents, order):
        self.order = order
        self.counts = [defaultdict(Counter) for _ in range(order + 1)]  # [n][context][symbol]
        for document in documents:
            row = [PADDING] * (order - 1) + [*document, END]
            for i in range(order - 1, len(row)):
                self.counts[order][tuple(row[i - order + 1 : i])][row[i]] += 1
        for n in range(order - 1, 0, -1):
            before = defaultdict(set)
            for context, symbols in self.seen(documents, n + 1).items():
                for symbol in symbols:
                    before[(*context[1:], symbol)].add(context[0])
            raw = self.seen(documents, n)
            for context, symbols in raw.items():
                for symbol, count in symbols.items():
                    starts = context[:1] == (PADDING,)
                    self.counts[n][context][symbol] = (
                        count if starts else len(before[(*context, symbol)])
                    )
        self.discounts = [None] + [self.estimate(self.counts[n]) for n in range(1, order + 1)]

    def seen(self, documents, n):
        found = defaultdict(Counter)
        for document in documents:
            row = [PADDING] * (self.order - 1) + [*document, END]
            for i in range(self.order - 1, len(row)):
                found[tuple(row[i - n + 1 : i])][row[i]] += 1
        return found

    @staticmethod
    def estimate(counts):
        n = Counter(min(c, 5) for symbols in counts.values() for c in symbols.values())
        if not all(n[k] for k in (1, 2, 3, 4)):
            return [0, 0.5, 0.5, 0.5]
        y = n[1] / (n[1] + 2 * n[2])
        d = [k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3)]
        return [0, *(min(max(x, 0.05), k) for k, x in zip((1, 2, 3), d, strict=True))]

    def probability(self, history, symbol, n=None):
        n = self.order if n is None else n
        if n == 0:
            return 1 / N_SYMBOLS
        lower = self.probability(history, symbol, n - 1)
        symbols = self.counts[n][tuple(history[len(history) - n + 1 :])]
        total = sum(symbols.values())
        if not total:
            return lower
        discount = self.discounts[n]
        freed = sum(discount[min(c, 3)] for c in symbols.values())
        count = symbols[symbol]
        return (count - discount[min(count, 3)]) / total + freed / total * lower


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_equals_the_textbook(order):
    fast, slow = ByteNgram(TEXT, order), Textbook(TEXT, order)
    held_out = [b"the cat and the dog sat", b"xyz", b"\xff\x00a"]
    expected = []
    for document in held_out:
        row = [PADDING] * (order - 1) + [*document, END]
        for i in range(order - 1, len(row)):
            expected.append(-math.log(slow.probability(row[:i], row[i])))
    np.testing.assert_allclose(fast.nats(held_out), expected, rtol=1e-9)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.binary(max_size=30), min_size=1, max_size=5),
    st.binary(max_size=8),
    st.integers(1, 6),
)
@example(TEXT, b"", 4)
@example(TEXT, b"the cat sat on the", 4)
@example(TEXT, b"never seen \xfe", 4)
def test_probabilities_sum_to_one_after_any_history(documents, history, order):
    """Of the 256 bytes, and of the document's end."""
    model = ByteNgram(documents, order)
    nats = [model.nats([history + bytes([byte])])[len(history)] for byte in range(256)]
    p = np.exp(-np.array([*nats, model.nats([history])[-1]]))
    assert p.shape == (N_SYMBOLS,)
    assert p.min() > 0
    assert p.sum() == pytest.approx(1, abs=1e-9)


def test_longer_context_predicts_repeated_text_better():
    bits = [
        ByteNgram(TEXT, order).bits_per_byte([b"the cat sat on the mat"]) for order in (1, 3, 6)
    ]
    assert bits[0] > bits[1] > bits[2]


def test_documents_start_fresh():
    model = ByteNgram(TEXT, 5)
    alone = model.nats([b"the dog"])
    np.testing.assert_allclose(model.nats([b"a cat", b"the dog"])[-len(alone) :], alone)


def test_refuses_nothing_to_count():
    with pytest.raises(DataError, match="no text to count"):
        ByteNgram([], 3)
    with pytest.raises(UsageError, match="order=0"):
        ByteNgram([b"a"], 0)


def test_the_usual_length_and_what_is_refused():
    model = ByteNgram([b"abc"])
    assert model.order == 8
    assert math.isnan(model.bits_per_byte([])) and math.isnan(model.bits_per_byte([b""]))
    for documents, order, words in (
        ([], 3, "there is no text to count: expected at least one document"),
        ([b"a"], 0, "order=0: expected 1 or more symbols"),
    ):
        with pytest.raises((DataError, UsageError)) as caught:
            ByteNgram(documents, order)
        assert str(caught.value) == words
    assert ByteNgram([b"a"], 1).order == 1


def test_bits_are_of_bytes_and_the_end_costs_too():
    model = ByteNgram(TEXT, 3)
    nats = model.nats([b"the cat", b"a"])
    assert len(nats) == 7 + 1 + 2
    assert model.bits_per_byte([b"the cat", b"a"]) == pytest.approx(nats.sum() / math.log(2) / 8)


def test_discounts_are_chen_and_goodmans():
    """Their equation 26 on counts that are known: 4 of one, 3 of two, 2 of three, 1 of four."""
    counts = np.array([0, 1, 1, 1, 1, 2, 2, 2, 3, 3, 4, 9])
    y = 4 / (4 + 2 * 3)
    expected = [0, 1 - 2 * y * 3 / 4, 2 - 3 * y * 2 / 3, 3 - 4 * y * 1 / 2]
    np.testing.assert_allclose(ngram._discounts(counts), expected)
    few = np.array([1, 1, 2, 3])  # none occurs four times
    np.testing.assert_allclose(ngram._discounts(few), [0, 0.5, 0.5, 0.5])
    # Many twos would make the discount of a one negative: it keeps a little.
    many = np.array([1] + [2] * 50 + [3] * 60 + [4])
    assert ngram._discounts(many)[1] == 0.05
    assert (ngram._discounts(many) <= [0, 1, 2, 3]).all()


def test_symbols_end_each_document_and_begin_with_padding():
    assert ngram._symbols([b"ab", b""], 2).tolist() == [
        PADDING, PADDING, 97, 98, END, PADDING, PADDING, END,
    ]  # fmt: skip
    assert ngram._symbols([], 2).tolist() == []
    assert ngram._symbols([b"ab"], 2).dtype == np.uint16
    assert (END, PADDING, N_SYMBOLS, ngram.BASE) == (256, 257, 257, 258)
