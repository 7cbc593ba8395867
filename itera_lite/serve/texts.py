"""Token ids to what clients read: texts in whole characters, and log-probabilities of tokens."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence

from itera_lite.engine import Model
from itera_lite.serve.protocol import ChatToken, LogProbs, RequestError, TopToken
from itera_lite.serve.scheduler import Entry

END = "<|endoftext|>"
BEGIN = "<|begin|>"  # where another token begins documents than ends them


class Vocabulary:
    """The model's tokens as bytes, and as names in answers."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.bytes = [model.token_bytes(token) for token in range(model.vocab_size)]
        self.names = [_name(piece) for piece in self.bytes]
        self.special = {END: model.eot_id}
        if model.bos_id not in (None, model.eot_id):
            self.special[BEGIN] = model.bos_id
        self.shown = list(self.bytes)  # with special tokens by their names
        for name, token in self.special.items():
            self.names[token], self.shown[token] = name, name.encode()

    @property
    def bos_name(self) -> str | None:
        """The name of the token that begins a document."""
        return None if self.model.bos_id is None else self.names[self.model.bos_id]

    def encode(self, text: str) -> list[int]:
        """Ids of a text. One that begins with a special token's name begins with that token."""
        for name, token in self.special.items():
            if text.startswith(name):
                return [token, *self.model.tokenize(text[len(name) :])]
        return self.model.tokenize(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, so that `encode` gives the same ids again where it can."""
        return b"".join(self.shown[token] for token in ids).decode("utf-8", "replace")

    def check(self, ids: Iterable[int], param: str) -> None:
        """Refuse ids that the vocabulary hasn't.

        Raises:
            RequestError: naming the field.
        """
        if any(not 0 <= token < len(self.bytes) for token in ids):
            raise RequestError(
                f"{param}: a token id is out of the vocabulary: expected 0 to "
                f"{len(self.bytes) - 1:,}",
                param=param,
            )


def _name(piece: bytes) -> str:
    """A token's text; one that is no whole text as OpenAI writes it."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


class Characters:
    """Where tokens begin in a text, in characters, while the text grows."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.count = 0

    def begin_of(self, piece: bytes) -> int:
        """The character that a token begins at, which comes next in the text."""
        begin = self.count
        self.count += len(self._decoder.decode(piece))
        return begin


class LogProbsWriter:
    """The log-probabilities of a text's tokens, as the completions of OpenAI list them."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._characters = Characters()

    def write(self, entries: Sequence[Entry]) -> LogProbs:
        """The next tokens of the text."""
        names, pieces = self._vocabulary.names, self._vocabulary.shown
        return LogProbs(
            tokens=[names[one.token] for one in entries],
            token_logprobs=[one.log_probability for one in entries],
            top_logprobs=[self._top(one) for one in entries],
            text_offset=[self._characters.begin_of(pieces[one.token]) for one in entries],
        )

    def _top(self, entry: Entry) -> dict[str, float] | None:
        """Text -> log-probability. Of two tokens with the same text the likelier counts: then the
        chosen one is the likeliest of all exactly where its number is the largest."""
        if entry.log_probability is None:
            return None
        found: dict[str, float] = {}
        for token, value in (*entry.top, (entry.token, entry.log_probability)):
            name = self._vocabulary.names[token]
            found[name] = max(value, found.get(name, value))
        return found


def chat_tokens(vocabulary: Vocabulary, entries: Sequence[Entry]) -> list[ChatToken]:
    """The log-probabilities of tokens, as the chats of OpenAI list them."""

    def fields(token: int, value: float | None) -> tuple[str, float, list[int]]:
        assert value is not None  # of a generated token
        return vocabulary.names[token], value, list(vocabulary.bytes[token])

    return [
        ChatToken(
            *fields(one.token, one.log_probability),
            top_logprobs=[TopToken(*fields(token, value)) for token, value in one.top],
        )
        for one in entries
    ]
