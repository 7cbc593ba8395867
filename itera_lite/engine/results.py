"""The results of a model: texts, complete or in pieces, and scores."""

from __future__ import annotations

import codecs
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from itera_lite import _engine


@dataclass(frozen=True)
class Generation:
    """A text that was generated.

    Attributes:
        text: the continuation, without the prompt; bytes that aren't UTF-8 become U+FFFD.
        token_ids: ids of its tokens, a final ``<|endoftext|>`` not among them. Before a stop text
            they end with the text; the last one may reach into the stop text.
        finish_reason: ``length`` (``max_tokens`` reached) or ``stop`` (a stop text, or the
            model ended the document).
        log_probabilities: of each token, in nats, before temperature and the other options;
            empty unless asked for.
        top_log_probabilities: of each token, the (id, log-probability) of the likeliest ones in
            its place, the largest first; empty unless asked for.
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    log_probabilities: list[float] = field(default_factory=list)
    top_log_probabilities: list[list[tuple[int, float]]] = field(default_factory=list)


@dataclass(frozen=True)
class TextScore:
    """The probability that a model gives a text.

    Attributes:
        bytes: length of the text.
        tokens: tokens scored, the final ``<|endoftext|>`` among them. Where the model's file says
            that no token begins a document, the first one isn't scored and its bytes don't count.
        nats: minus the sum of their natural log-probabilities.
        bits_per_byte: ``nats / ln 2 / bytes``; 0 for an empty text.
        log_probabilities: of each token, in nats; empty unless asked for.
        entropies: what minus the log-probability of each token was expected to be: that of every
            token in its place, weighted with its probability; empty unless asked for.
    """

    bytes: int
    tokens: int
    nats: float
    bits_per_byte: float
    log_probabilities: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)

    @property
    def perplexity(self) -> float:
        """Perplexity per token: e to the mean loss."""
        loss = self.nats / self.tokens if self.tokens else 0.0
        return math.exp(loss) if loss < 709 else math.inf  # beyond it, exp raises


@dataclass(frozen=True, slots=True)
class TokenScore:
    """The probability that a model gives a token after those before it.

    Attributes:
        id: of the token.
        log_probability: natural logarithm; None of the first one, which nothing predicts.
        top: (id, log-probability) of the likeliest tokens in its place, the largest first, equal
            ones by id. Where the token is among them, its number is the very same.
    """

    id: int
    log_probability: float | None
    top: list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Completion:
    """A way to go on.

    Attributes:
        text: what follows the prefix, to the end of the word or of the line.
        probability: of all that goes on from the prefix, by the tokens that were found to write
            it; 0 to 1. Those of all completions sum to 1 at most.
    """

    text: str
    probability: float


class TextStream(Iterator[str]):
    """A continuation while it is generated: iterate over it for pieces of text.

    Several threads may share one: each piece goes to one of them.
    """

    def __init__(self, stream: _engine.Stream) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._lock = threading.RLock()

    def __next__(self) -> str:
        with self._lock:
            while not self._stream.done:
                piece = self._decoder.decode(self._stream.next(), final=self._stream.done)
                if piece:
                    return piece
        raise StopIteration

    @property
    def token_ids(self) -> list[int]:
        """Ids of the tokens written so far."""
        return self._stream.tokens

    @property
    def log_probabilities(self) -> list[float]:
        """Of each of these tokens, where they were asked for."""
        return self._stream.log_probabilities

    @property
    def top_log_probabilities(self) -> list[list[tuple[int, float]]]:
        """Of each of these tokens, the likeliest in its place, where they were asked for."""
        return self._stream.top_log_probabilities

    @property
    def finish_reason(self) -> str:
        """``length`` or ``stop``; empty while the text goes on."""
        return self._stream.finish_reason
