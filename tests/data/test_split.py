"""The split: by document, stable, no copy on both sides."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itera_lite.data.split import cut_one, split_by_hash, without_leaks
from itera_lite.errors import DataError

texts = st.lists(st.binary(min_size=1, max_size=6), min_size=2, max_size=40)


@given(texts.filter(lambda items: len(set(items)) > 1))
@settings(max_examples=200, deadline=None)
def test_no_leak_nothing_lost(documents: list[bytes]) -> None:
    train, valid, _ = split_by_hash(documents)
    assert train and valid
    assert not set(train) & set(valid)
    assert sorted(train + valid) == sorted(set(documents))
    again = split_by_hash(documents[::-1])
    assert set(again[0]) == set(train) and set(again[1]) == set(valid)


def test_about_five_percent_and_stable_when_text_is_added() -> None:
    documents = [f"document {number}".encode() for number in range(4000)]
    train, valid, notes = split_by_hash(documents)
    assert 150 < len(valid) < 250 and notes == []
    more_train, more_valid, _ = split_by_hash([b"new"] * 3 + documents + [b"newer"])
    assert set(train) <= set(more_train) and set(valid) <= set(more_valid)


def test_copies_are_dropped_and_said() -> None:
    documents = [f"document {number}".encode() for number in range(100)]
    train, valid, notes = split_by_hash(documents + documents[:7])
    assert len(train) + len(valid) == 100
    assert notes == ["7 exact copies of other documents were dropped"]


def test_uneven_documents_are_said() -> None:
    notes = split_by_hash([b"a" * 50, b"b" * 50])[2]
    assert len(notes) == 1 and "valid holds 50.0% of the bytes (1 of 2 documents)" in notes[0]


def test_given_splits_lose_train_documents_that_are_held_out() -> None:
    splits = {"train": [b"a", b"b", b"c", b"b"], "valid": [b"b"], "test": [b"c", b"d", b"d"]}
    clean, notes = without_leaks(splits)
    assert clean == {"train": [b"a"], "valid": [b"b"], "test": [b"c", b"d", b"d"]}
    assert notes == ["3 train documents that also lie in another split were dropped"]
    assert without_leaks({"train": [b"a", b"a"], "valid": [b"b"]})[1] == []


@pytest.mark.parametrize(
    ("text", "last"),
    [
        (b"word word\n\n" * 100, b"word word\n\n" * 10),
        (b"word word\n" * 100, b"word word\n" * 10),
        (b"word " * 100, b"word " * 10),
        (b"a long first line of text\n" * 30 + b"one\n\ntwo three\n" * 5, b"two three\n"),
    ],
)
def test_one_document_is_cut_at_a_border(text: bytes, last: bytes) -> None:
    first, second = cut_one(text)
    assert first + second == text
    assert second.startswith(last.split(b"\n")[0].split()[0])
    assert 0.02 * len(text) <= len(second) <= 0.3 * len(text)
    train, valid, notes = split_by_hash([text, text])
    assert (train, valid) == ([first], [second])
    assert any("the set is one document" in note for note in notes)


@pytest.mark.parametrize("text", [b"x", b"word" * 100, b"two words"])
def test_one_document_without_a_border(text: bytes) -> None:
    with pytest.raises(DataError, match="Give more text, or several documents"):
        split_by_hash([text])


def test_no_documents() -> None:
    with pytest.raises(DataError, match="found none"):
        split_by_hash([])


@pytest.mark.parametrize("text", ["汉字" * 300, "ACGT" * 300, "a" + "😀" * 400])
def test_a_long_document_without_a_border_is_cut_at_a_character(text: str) -> None:
    first, second = cut_one(text.encode())
    assert first.decode() + second.decode() == text
    assert 0.05 * len(text) <= len(second.decode()) <= 0.15 * len(text)


def test_copies_are_said_where_the_rest_is_too_small() -> None:
    with pytest.raises(DataError, match=r"one document of 1 bytes.*4 exact copies .* were dropped"):
        split_by_hash([b"x"] * 5)
