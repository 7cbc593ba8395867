"""The word trigram model offers what plain counting offers."""

import random
from collections import Counter

import pytest

from itera_lite.errors import DataError
from itera_lite.evaluate.words import BEGIN, SYMBOL, WORD, WordTrigrams


def naive(documents: list[str], before: tuple[str, str], typed: str) -> dict[str, float]:
    """The score of every word that goes on from what was typed, by counting again each time."""
    texts = [[BEGIN, BEGIN, *SYMBOL.findall(document)] for document in documents]
    triples = [text[i : i + 3] for text in texts for i in range(len(text) - 2)]
    scores: dict[str, float] = {}
    for weight, length in ((0.16, 0), (0.4, 1), (1.0, 2)):
        context = list(before)[2 - length :]
        follow = Counter(word for *symbols, word in triples if symbols[2 - length :] == context)
        for word, count in follow.items():
            scores[word] = weight * count / follow.total()
    return {
        word[len(typed) :]: score
        for word, score in scores.items()
        if WORD.fullmatch(word) and word.startswith(typed) and word != typed
    }


def test_it_offers_what_plain_counting_offers() -> None:
    choice = random.Random(0)
    words = ["a", "ab", "abc", "b", "bc", "b2", "é", "_x", "the", "then"]
    documents = [
        "".join(choice.choice(words) + choice.choice([" ", " ", ", ", ".\n"]) for _ in range(40))
        for _ in range(6)
    ]
    model = WordTrigrams(documents)
    symbols = [BEGIN, *words, ",", ".", "\n", "unseen"]
    for typed in ("", "a", "ab", "th", "b", "é", "zzz"):
        for _ in range(30):
            before = (choice.choice(symbols), choice.choice(symbols[1:]))
            expected = naive(documents, before, typed)
            k = choice.choice((3, 8))  # many, so that some are known by their share alone
            found = model.complete(before, typed, k)
            assert len(found) == len(set(found)) == min(k, len(expected))
            best = sorted(expected.values(), reverse=True)[:k]
            assert [expected[text] for text in found] == pytest.approx(best)
        assert sorted(model.complete((BEGIN, BEGIN), typed, 99)) == sorted(
            naive(documents, (BEGIN, BEGIN), typed)
        )


def test_a_large_vocabulary_is_not_sorted_and_gives_the_same() -> None:
    text = " ".join(f"w{i % 700} w{i % 13}" for i in range(3000))
    model = WordTrigrams([text])
    for before in ((BEGIN, BEGIN), ("w1", "w5"), ("x", "w699")):
        assert model.complete(before, "w", 2) == model.complete(before, "w", 700)[:2]


@pytest.mark.parametrize("documents", [[], ["", " \n ."]])
def test_without_words_there_is_nothing_to_count(documents: list[str]) -> None:
    with pytest.raises(DataError, match="no word"):
        WordTrigrams(documents)
