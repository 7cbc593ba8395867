"""The sets in $ITERA_DATA as they are described there; skipped where it isn't set."""

import gzip
import hashlib
import os
from pathlib import Path

import pytest

from itera_lite.data.corpus import load_documents
from itera_lite.data.tokenizer import Tokenizer

DATA = Path(os.environ.get("ITERA_DATA") or "/nonexistent")


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        not (DATA / name).is_dir(), reason=f"$ITERA_DATA/{name} isn't on this machine"
    )


@pytest.fixture(autouse=True)
def real_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ITERA_DATA", str(DATA))


@needs("tinystories")
def test_tinystories() -> None:
    corpus = load_documents("tinystories")
    counts = {split: len(texts) for split, texts in corpus.splits.items()}
    assert counts == {"train": 17_111, "valid": 951, "official-valid": 6_456}
    assert not any(b"<|endoftext|>" in text for text in corpus.splits["train"])
    tokenizer = Tokenizer.train(corpus.splits["valid"], 2048)
    for text in corpus.splits["valid"][:50]:
        assert tokenizer.decode_bytes(tokenizer.encode(text)) == text


@needs("wikitext-2")
def test_wikitext_2_is_the_published_text() -> None:
    corpus = load_documents("wikitext-2")
    counts = {split: len(texts) for split, texts in corpus.splits.items()}
    assert counts == {"train": 600, "valid": 60, "test": 60}
    for split, texts in corpus.splits.items():
        whole = b"".join(texts)
        with gzip.open(DATA / "wikitext-2" / f"{split}.txt.gz") as file:
            assert hashlib.sha256(whole).digest() == hashlib.sha256(file.read()).digest()
    assert len(b"".join(corpus.splits["train"])) == 10_797_148


@needs("tinyshakespeare")
def test_tinyshakespeare_by_custom() -> None:
    splits = load_documents("tinyshakespeare").splits
    assert [sum(map(len, texts)) for texts in splits.values()] == [1_003_854, 111_540]


@needs("gutenberg-children")
def test_gutenberg_children_is_one_document_a_book() -> None:
    corpus = load_documents("gutenberg-children")
    assert sum(len(texts) for texts in corpus.splits.values()) == 16
    assert len(corpus.splits["valid"]) >= 1
