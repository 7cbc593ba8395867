"""Check the sums over scored tokens, and the unit and sign of each number made of them."""

import math

import pytest

from itera_lite.evaluate.score import Score, count_words, perplexity


def test_parts_add_up():
    one = Score(1.5, 10, 20, 3, {1: (0.5, 1), 4: (1.0, 9)})
    one.add(Score(2.5, 5, 7, 2, {4: (2.0, 3), 8: (0.5, 2)}))
    assert one == Score(4.0, 15, 27, 5, {1: (0.5, 1), 4: (3.0, 12), 8: (0.5, 2)})


def test_bits_are_of_bytes_and_nats_of_tokens():
    score = Score(nats=8 * math.log(2), tokens=4, bytes=16, correct=3)
    assert score.bpb == pytest.approx(0.5)
    assert score.loss == pytest.approx(2 * math.log(2))
    assert score.ppl == pytest.approx(4)
    assert score.accuracy == 0.75


def test_what_nothing_was_counted_of_is_no_number():
    assert math.isnan(Score(nats=1.0, tokens=1).bpb)
    assert math.isnan(Score(nats=1.0, bytes=1).loss)
    assert math.isnan(Score(nats=1.0, bytes=1).accuracy)
    assert math.isnan(perplexity(1.0, 0))
    assert Score(nats=math.log(2), tokens=1, bytes=1, correct=1) == Score(math.log(2), 1, 1, 1)
    assert Score(math.log(2), 1, 1).bpb == 1.0


def test_a_perplexity_beyond_a_float_is_infinite():
    assert perplexity(1399.8, 2) == pytest.approx(math.exp(699.9))
    assert perplexity(700, 1) == perplexity(1e9, 1) == math.inf
    assert perplexity(-2.0, 1) == pytest.approx(math.exp(-2))


@pytest.mark.parametrize(
    ("text", "words"),
    [(b"", 1), (b"a", 2), (b"a\n", 2), (b"a b\n", 3), (b"a\nb", 4), (b"\n", 1), (b" \n \n", 2)],
)
def test_a_line_ends_with_a_word(text, words):
    assert count_words([text]) == words
    assert count_words([text, text]) == 2 * words
