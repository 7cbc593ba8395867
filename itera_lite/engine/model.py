"""`Model`: generate, score and inspect with the native engine.

Everything heavy happens in C++ without Python's global lock, so several
threads may use one model at once. States and streams of text may be shared
too: one thread at a time works on each. A model below about 10 M parameters is
fastest on one thread; `score` and `generate_many` are where more work pays.
"""

from __future__ import annotations

import operator
import os
import secrets
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from itera_lite import _engine
from itera_lite.engine.results import Generation, TextScore, TextStream
from itera_lite.errors import IteraWarning, UsageError
from itera_lite.quantities import MOST_SEED, MOST_THREADS, shown
from itera_lite.sampling import REPETITION_WINDOW

if TYPE_CHECKING:  # takes longer to import than a text to write
    import numpy as np
    from numpy.typing import NDArray


class State:
    """The state of a model after a text, which can be forked for many continuations."""

    def __init__(self, model: _engine.Model, state: _engine.State) -> None:
        self._model, self._state = model, state

    def __len__(self) -> int:
        """Tokens read so far, the one that begins a document among them."""
        return self._state.length

    def feed(self, text: str | bytes | Sequence[int]) -> NDArray[np.float32]:
        """Read text or token ids; returns the logits (V,) of the next token.

        Raises:
            UsageError: where the text doesn't fit the context, or there is nothing to read.
        """
        is_text = isinstance(text, str | bytes)
        ids = self._model.encode(_bytes(text)) if is_text else _ids(text, self._model.vocab_size)
        return self._model.read(self._state, ids, False, True)

    def fork(self) -> State:
        """An independent copy; the time is that of copying the part in use."""
        return State(self._model, self._state.fork())

    def save(self) -> bytes:
        """The state as bytes, for `Model.restore` of the same model on this kind of processor."""
        return self._state.save()


class Model:
    """A model in a GGUF file (``granitehybrid`` or ``llama``). Make one with `Model.load`.

    Attributes:
        path: the file.
        architecture: ``granitehybrid`` or ``llama``.
        parameters: numbers in all of the file's tensors.
        vocab_size: number of token ids.
        context: tokens that a text may have.
        eot_id: id of ``<|endoftext|>``, which ends every document.
        bos_id: id of the token that begins every document; None if the file has none.
        isa: instruction set in use: avx512, avx2, neon or portable.
    """

    def __init__(self, engine: _engine.Model, path: Path) -> None:
        self._engine, self.path = engine, path
        self.architecture, self.isa = engine.architecture, engine.isa
        self.parameters, self.vocab_size = engine.parameters, engine.vocab_size
        self.context, self.eot_id = engine.context, engine.eot
        self.bos_id = None if engine.bos < 0 else engine.bos

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, context: int | None = None) -> Model:
        """Read a GGUF file.

        Args:
            path: the file: types F32, F16, BF16, Q8_0, Q4_0 and mixtures of them.
            context: tokens that a text may have; by default what the file says, at most 65,536.

        Warns of options in the file that the engine ignores, such as a sampler that it doesn't
        have.

        Raises:
            ModelFileError: where the file is missing, damaged or of another kind.
            UsageError: for a context below 1.
        """
        wanted = 0 if context is None else _whole("context", context, 1, 1 << 24)
        name = os.fsencode(path)
        if b"\0" in name:
            raise UsageError(f"path={os.fspath(path)!r}: expected a path without a NUL character")
        engine = _engine.Model.load(name, wanted)
        for note in engine.notes:
            warnings.warn(f"{os.fsdecode(name)}: {note}", IteraWarning, stacklevel=2)
        return cls(engine, Path(os.fsdecode(name)))

    def __repr__(self) -> str:
        return (
            f"<Model {self.path.name}: {self.architecture}, {self.parameters:,} parameters, "
            f"{self.isa}>"
        )

    @property
    def sampling_defaults(self) -> dict[str, Any]:
        """The file's advice for sampling, by the names of the options of `start`."""
        return self._engine.sampling

    def tokenize(self, text: str | bytes) -> list[int]:
        """Ids of the text, without ``<|endoftext|>``."""
        return self._engine.encode(_bytes(text))

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of the ids; a character that is cut in two becomes U+FFFD."""
        return self._engine.decode(_ids(ids, self.vocab_size)).decode("utf-8", "replace")

    def state(self, prompt: str | bytes | None = None) -> State:
        """An empty state, or that after a prompt, to fork for each continuation."""
        state = State(self._engine, self._engine.state())
        if prompt is not None:
            state.feed(prompt)
        return state

    def restore(self, saved: bytes) -> State:
        """The state that `State.save` gave.

        Raises:
            ModelFileError: where the bytes are damaged or belong to another model.
        """
        if not isinstance(saved, bytes | bytearray | memoryview):
            raise UsageError(f"a saved state is {_kind(saved)}: expected the bytes of State.save")
        return State(self._engine, self._engine.restore(bytes(saved)))

    def logits(self, ids: Sequence[int], state: State | None = None) -> NDArray[np.float32]:
        """Logits (L, V) after each of the ids, which are read after ``state`` (updated) or alone.

        No token is added: give ``[model.bos_id, *ids]`` for the beginning of a document.

        Raises:
            UsageError: for an id outside the vocabulary or more ids than the context.
        """
        own = self._engine.state() if state is None else _state(state)
        return self._engine.read(own, _ids(ids, self.vocab_size), True)

    @overload
    def generate(
        self, prompt: str | bytes = "", *, stream: Literal[False] = False, **options: Any
    ) -> Generation: ...

    @overload
    def generate(
        self, prompt: str | bytes = "", *, stream: Literal[True], **options: Any
    ) -> TextStream: ...

    def generate(
        self,
        prompt: str | bytes = "",
        *,
        stream: bool = False,
        **options: Any,
    ) -> Generation | TextStream:
        """Go on from ``prompt``.

        Args:
            prompt: text to go on from; empty starts a new document.
            stream: return an iterator over pieces of text instead of the whole.
            **options: see `start`.

        Raises:
            UsageError: where an option is out of its range or the text doesn't fit the context.
        """
        started = self.start(prompt, **options)
        return TextStream(started) if stream else _ended([started])[0]

    def generate_many(self, prompts: Sequence[str | bytes], **options: Any) -> list[Generation]:
        """Go on from several prompts at once; they share each pass over the weights.

        Args:
            prompts: the texts to go on from.
            **options: see `start`; text i is sampled with ``seed + i``.
        """
        if isinstance(prompts, str | bytes):
            raise UsageError("prompts is one text: expected a list of them; `generate` takes one")
        given = _items("prompts", prompts)
        seed = options.pop("seed", None)
        first = secrets.randbits(63) if seed is None else _whole("seed", seed, 0, MOST_SEED)
        return _ended(
            [
                self.start(prompt, seed=(first + i) % (MOST_SEED + 1), **options)
                for i, prompt in enumerate(given)
            ]
        )

    def start(
        self,
        prompt: str | bytes = "",
        *,
        max_tokens: int = 200,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        repetition_window: int | None = None,
        seed: int | None = None,
        stop: str | bytes | Sequence[str | bytes] | None = (),
        logit_bias: Mapping[int, float] | None = None,
        log_probabilities: bool = False,
        ignore_end: bool = False,
        state: State | None = None,
    ) -> _engine.Stream:
        """The engine's stream behind `generate`, which has the options from here.

        Args:
            prompt: text to go on from.
            max_tokens: tokens to generate at most.
            temperature: 0 always takes the most probable token; by default the file's advice.
            top_k: only the k most probable tokens; 0 means all. By default the file's advice, as
                for the next three options.
            top_p: only the most probable tokens that together reach this probability.
            min_p: only tokens with at least this share of the most probable one's probability.
            repetition_penalty: above 1, makes tokens of the last ``repetition_window`` rarer.
            repetition_window: by default 64 if a penalty is given, else the file's advice.
            seed: of the random numbers, 0 to 2^63-1; None takes a new one.
            stop: a text, or several, that end the continuation and aren't part of it.
            logit_bias: token id -> number added to its logit.
            log_probabilities: also keep each token's log-probability.
            ignore_end: never end the document (for benchmarks).
            state: the prompt is read after this state, which stays as it is.
        """
        advice = self._engine.sampling
        if repetition_window is None:
            given = repetition_penalty is not None
            repetition_window = REPETITION_WINDOW if given else advice["repetition_window"]

        def number(name: str, value: float | None) -> float:
            return advice[name] if value is None else _number(name, value)

        return self._engine.stream(
            None if state is None else _state(state),
            self.tokenize(prompt),
            max_tokens=_int32("max_tokens", max_tokens),
            temperature=number("temperature", temperature),
            top_k=_int32("top_k", advice["top_k"] if top_k is None else top_k),
            top_p=number("top_p", top_p),
            min_p=number("min_p", min_p),
            repetition_penalty=number("repetition_penalty", repetition_penalty),
            repetition_window=_int32("repetition_window", repetition_window),
            seed=secrets.randbits(63) if seed is None else _whole("seed", seed, 0, MOST_SEED),
            logit_bias=self._bias(logit_bias or {}),
            stop=[_bytes(text, "a stop text") for text in _stops(stop)],
            log_probabilities=bool(log_probabilities),
            ignore_end=bool(ignore_end),
        )

    def _bias(self, given: Mapping[int, float]) -> dict[int, float]:
        if not isinstance(given, Mapping):
            raise UsageError(f"logit_bias is {_kind(given)}: expected a dict, token id -> number")
        return {
            _id(token, self.vocab_size, "a logit bias for token"): _number("logit_bias", value)
            for token, value in given.items()
        }

    def score(
        self,
        texts: str | bytes | Sequence[str | bytes],
        *,
        window: int | None = None,
        threads: int = 1,
        log_probabilities: bool = False,
    ) -> list[TextScore]:
        """Score texts; each starts fresh, and its end is scored too.

        Args:
            texts: one text or several.
            window: tokens of context at most, as ``seq_len`` of `itera eval`: a longer text is
                read in overlapping windows and every token is scored once. By default all of
                the context.
            threads: texts scored at the same time, 1 to 4,096; fewer where the system has no
                more to give.
            log_probabilities: also keep each token's.

        Raises:
            UsageError: for a window or threads out of their ranges, or what is no text.
        """
        given = [texts] if isinstance(texts, str | bytes) else _items("texts", texts)
        found = self._engine.score(
            [_bytes(text) for text in given],
            window=0 if window is None else min(_whole("window", window, 1), 2**32 - 1),
            threads=_whole("threads", threads, 1, MOST_THREADS),
            log_probabilities=bool(log_probabilities),
            end=True,
        )
        return [
            TextScore(s.bytes, s.tokens, s.nats, s.bits_per_byte, s.log_probabilities)
            for s in found
        ]


def _whole(name: str, value: Any, least: int, most: int | None = None) -> int:
    """A whole number of any integer type, NumPy's too, in its range."""
    try:
        number = operator.index(value)
    except TypeError:
        raise UsageError(f"{name}={_shown(value)}: expected a whole number") from None
    if number < least or (most is not None and number > most):
        expected = f"{least:,} or more"
        if most is not None:
            expected = f"{least:,} to " + ("2^63-1" if most == MOST_SEED else f"{most:,}")
        raise UsageError(f"{name}={_shown(value)}: expected {expected}")
    return number


def _int32(name: str, value: Any) -> int:
    """The nearest 32-bit number: the engine itself refuses those out of an option's range."""
    return max(-(1 << 31), min(_whole(name, value, -(1 << 70)), (1 << 31) - 1))


def _number(name: str, value: Any) -> float:
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"{name}={_shown(value)}: expected a number") from None


def _id(token: Any, vocab_size: int, what: str = "token") -> int:
    try:
        if 0 <= (number := operator.index(token)) < vocab_size:
            return number
    except TypeError:
        pass
    raise UsageError(f"{what} {_shown(token)}: expected an id from 0 to {vocab_size - 1:,}")


def _ids(tokens: Any, vocab_size: int) -> list[int]:
    if isinstance(tokens, str | bytes):
        raise UsageError("the ids are a text: expected token ids; `tokenize` makes them")
    return [_id(token, vocab_size) for token in _items("ids", tokens)]


def _items(name: str, values: Any) -> list[Any]:
    if isinstance(values, Iterable) and not isinstance(values, Mapping):
        return list(values)
    raise UsageError(f"{name} is {_kind(values)}: expected a list")


def _stops(stop: Any) -> list[Any]:
    if stop is None:
        return []
    return [stop] if isinstance(stop, str | bytes) else _items("stop", stop)


def _state(state: Any) -> _engine.State:
    if not isinstance(state, State):
        raise UsageError(f"state is {_kind(state)}: expected what `Model.state` gives")
    return state._state


def _bytes(text: Any, what: str = "a text") -> bytes:
    """The text in UTF-8. Bytes that Python decoded with surrogateescape (arguments of a program)
    are restored; any other half of a surrogate pair becomes U+FFFD."""
    if isinstance(text, bytes):
        return text
    if not isinstance(text, str):
        raise UsageError(f"{what} is {_kind(text)}: expected a str or bytes")
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return whole.encode("utf-8")


def _kind(value: Any) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"


def _shown(value: Any) -> str:
    return shown(repr(value) if isinstance(value, str | bytes) else value)


def _ended(streams: list[_engine.Stream]) -> list[Generation]:
    texts = _engine.finish(streams)
    return [
        Generation(
            text.decode("utf-8", "replace"),
            stream.tokens,
            stream.finish_reason,
            stream.log_probabilities,
        )
        for text, stream in zip(texts, streams, strict=True)
    ]
