"""What scoring a text gives, and the numbers that are made of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class Score:
    """A sum over scored tokens.

    Attributes:
        nats: minus the sum of the natural logarithms of the probabilities given.
        tokens: how many tokens were scored, ends of documents included.
        bytes: bytes of text that these tokens stand for.
        correct: how many tokens were the most probable one.
        by_position: position of a token in its document, rounded up to a power of two
            -> (nats, tokens).
    """

    nats: float = 0.0
    tokens: int = 0
    bytes: int = 0
    correct: int = 0
    by_position: dict[int, tuple[float, int]] = field(default_factory=dict)

    def add(self, other: Score) -> None:
        """Add the sums of another part of the text."""
        self.nats += other.nats
        self.tokens += other.tokens
        self.bytes += other.bytes
        self.correct += other.correct
        for end, (nats, tokens) in other.by_position.items():
            before = self.by_position.get(end, (0.0, 0))
            self.by_position[end] = before[0] + nats, before[1] + tokens

    @property
    def bpb(self) -> float:
        """Bits per byte."""
        return self.nats / math.log(2) / self.bytes if self.bytes else math.nan

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens if self.tokens else math.nan

    @property
    def ppl(self) -> float:
        """Perplexity per token."""
        return perplexity(self.nats, self.tokens)

    @property
    def accuracy(self) -> float:
        """Share of tokens that were the most probable one."""
        return self.correct / self.tokens if self.tokens else math.nan


def perplexity(nats: float, units: int) -> float:
    """``exp(nats / units)``; infinite where that overflows."""
    if not units:
        return math.nan
    mean = nats / units
    return math.exp(mean) if mean < 700 else math.inf


def count_words(documents: Iterable[bytes]) -> int:
    """Words as language-model papers count them on WikiText: split at white space,
    and each line's end is one more, ``<eos>``."""
    return sum(
        len(text.split()) + text.count(b"\n") + (not text.endswith(b"\n")) for text in documents
    )
