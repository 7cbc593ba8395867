"""A tokenizer with a vocabulary of the conventional size, whatever the size of the text."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from itera_lite.data.corpus import load_documents, locate
from itera_lite.data.prepare import Dataset, prepare
from itera_lite.data.tokenizer import Tokenizer, training_sample
from itera_lite.errors import TextTooSmall

GENERAL = "python"  # text that is on every machine


def prepare_general(data: str, vocab_size: int, quiet: bool = False) -> Dataset:
    """`prepare` with a tokenizer of ``vocab_size``, as people take one that is made for all text.

    It is trained on the set itself. A small text doesn't hold that many merges: then it is
    trained on the set and on the standard library's source together. Like the tokens of any
    general tokenizer, some of its tokens then never occur in the set.
    """
    tokenizer = _tokenizer(data, vocab_size, str(locate(data).fingerprint()), quiet)
    return prepare(data, tokenizer=tokenizer, quiet=quiet)


@lru_cache(maxsize=4)
def _tokenizer(data: str, vocab_size: int, fingerprint: str, quiet: bool) -> Tokenizer:
    """Trained once in a process, as long as the set is the same."""
    try:
        return prepare(data, vocab_size=vocab_size, quiet=quiet).tokenizer
    except TextTooSmall:
        pass
    if not quiet:
        print(
            f"the text alone doesn't hold {vocab_size:,} tokens: the tokenizer is trained on it "
            "and on the standard library's source, as a general one"
        )

    def documents() -> Iterator[bytes]:
        for spec in (data, GENERAL):
            yield from training_sample(load_documents(spec).splits["train"])[0]

    return Tokenizer.train(documents(), vocab_size)
