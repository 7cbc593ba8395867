"""`Model`: generate, score and inspect with the native engine.

Everything heavy happens in C++ without Python's global lock, so several
threads may use one model at once. States and streams of text may be shared
too: one thread at a time works on each. A model below about 10 M parameters is
fastest on one thread; `score` and `generate_many` are where more work pays.
"""

from __future__ import annotations

import builtins
import os
import secrets
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from itera_lite import _engine
from itera_lite.config import Unit
from itera_lite.data.units import UNITS
from itera_lite.engine.arguments import (
    bytes_of,
    id_of,
    ids_of,
    int32,
    items_of,
    kind_of,
    real,
    stops_of,
    whole,
)
from itera_lite.engine.complete import Completer
from itera_lite.engine.results import Completion, Generation, TextScore, TextStream, TokenScore
from itera_lite.errors import IteraWarning, UsageError
from itera_lite.quantities import MOST_SEED, MOST_THREADS
from itera_lite.sampling import REPETITION_WINDOW

if TYPE_CHECKING:  # takes longer to import than a text to write
    import numpy as np
    from numpy.typing import NDArray

Prompt = str | bytes | Sequence[int]
MOST_LIKELIEST = 20  # tokens whose log-probabilities are kept in the place of one
MOST_ROWS = 1024  # tokens of one pass


class State:
    """The state of a model after a text, which can be forked for many continuations."""

    def __init__(self, model: _engine.Model, state: _engine.State) -> None:
        self._model, self._state = model, state

    def __len__(self) -> int:
        """Tokens read so far, the one that begins a document among them."""
        return self._state.length

    @property
    def bytes(self) -> int:
        """Bytes of memory in use, in whole pages; they grow with the text where there is
        attention. The model in the box: 90 kB after a story of 250 tokens."""
        return self._state.bytes

    def feed(self, text: Prompt) -> NDArray[np.float32]:
        """Read text or token ids; returns the logits (V,) of the next token.

        Raises:
            UsageError: where the text doesn't fit the context, or there is nothing to read.
        """
        return self._model.read(self._state, _prompt_ids(self._model, text), False, True)

    def fork(self) -> State:
        """An independent copy; the time is that of copying the part in use."""
        return State(self._model, self._state.fork())

    def save(self) -> builtins.bytes:
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
        unit: of the text that it was trained on: document, paragraph, line or sentence; None where
            the file doesn't have it.
    """

    def __init__(self, engine: _engine.Model, path: Path) -> None:
        self._engine, self.path = engine, path
        self.architecture, self.isa = engine.architecture, engine.isa
        self.parameters, self.vocab_size = engine.parameters, engine.vocab_size
        self.context, self.eot_id = engine.context, engine.eot
        self.bos_id = None if engine.bos < 0 else engine.bos
        unit = engine.unit.decode("ascii", "replace")
        self.unit: Unit | None = next((known for known in UNITS if known == unit), None)

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
        wanted = 0 if context is None else whole("context", context, 1, 1 << 24)
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
        return self._engine.encode(bytes_of(text))

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of the ids; a character that is cut in two becomes U+FFFD."""
        return self._engine.decode(ids_of(ids, self.vocab_size)).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        """The bytes of a token; none of one that begins or ends documents."""
        return self._engine.decode([id_of(token, self.vocab_size)])

    def state_of(self, stream: _engine.Stream) -> State:
        """A copy of the state after the tokens that a stream has read: all but the last one that
        it wrote."""
        return State(self._engine, stream.state())

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
            raise UsageError(f"a saved state is {kind_of(saved)}: expected the bytes of State.save")
        return State(self._engine, self._engine.restore(bytes(saved)))

    def logits(self, ids: Sequence[int], state: State | None = None) -> NDArray[np.float32]:
        """Logits (L, V) after each of the ids, which are read after ``state`` (updated) or alone.

        No token is added: give ``[model.bos_id, *ids]`` for the beginning of a document.

        Raises:
            UsageError: for an id outside the vocabulary or more ids than the context.
        """
        own = self._engine.state() if state is None else _state(state)
        return self._engine.read(own, ids_of(ids, self.vocab_size), True)

    @overload
    def generate(
        self, prompt: Prompt = "", *, stream: Literal[False] = False, **options: Any
    ) -> Generation: ...

    @overload
    def generate(
        self, prompt: Prompt = "", *, stream: Literal[True], **options: Any
    ) -> TextStream: ...

    def generate(
        self,
        prompt: Prompt = "",
        *,
        stream: bool = False,
        **options: Any,
    ) -> Generation | TextStream:
        """Go on from ``prompt``.

        Args:
            prompt: text or token ids to go on from; empty starts a new document.
            stream: return an iterator over pieces of text instead of the whole.
            **options: see `start`.

        Raises:
            UsageError: where an option is out of its range or the text doesn't fit the context.
        """
        started = self.start(prompt, **options)
        return TextStream(started) if stream else _ended([started])[0]

    def generate_many(self, prompts: Sequence[Prompt], **options: Any) -> list[Generation]:
        """Go on from several prompts at once; they share each pass over the weights.

        Args:
            prompts: what to go on from, each a text or token ids.
            **options: see `start`; text i is sampled with ``seed + i``.
        """
        if isinstance(prompts, str | bytes):
            raise UsageError("prompts is one text: expected a list of them; `generate` takes one")
        given = items_of("prompts", prompts)
        seed = options.pop("seed", None)
        first = secrets.randbits(63) if seed is None else whole("seed", seed, 0, MOST_SEED)
        return _ended(
            [
                self.start(prompt, seed=(first + i) % (MOST_SEED + 1), **options)
                for i, prompt in enumerate(given)
            ]
        )

    def start(
        self,
        prompt: Prompt = "",
        *,
        max_tokens: int = 200,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        repetition_window: int | None = None,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        seed: int | None = None,
        stop: str | bytes | Sequence[str | bytes] | None = (),
        logit_bias: Mapping[int, float] | None = None,
        log_probabilities: bool = False,
        top_log_probabilities: int = 0,
        ignore_end: bool = False,
        state: State | _engine.State | None = None,
    ) -> _engine.Stream:
        """The engine's stream behind `generate`, which has the options from here.

        Args:
            prompt: text or token ids to go on from. The token that begins every document is put
                in front, unless the ids begin with it or there is a state that isn't empty.
            max_tokens: tokens to generate at most.
            temperature: 0 always takes the most probable token; by default the file's advice.
            top_k: only the k most probable tokens; 0 means all. By default the file's advice, as
                for the next three options.
            top_p: only the most probable tokens that together reach this probability.
            min_p: only tokens with at least this share of the most probable one's probability.
            repetition_penalty: above 1, makes tokens of the last ``repetition_window`` rarer.
            repetition_window: by default 64 if a penalty is given, else the file's advice.
            presence_penalty: is subtracted from the logits of the tokens that were generated, -2
                to 2; those of the prompt don't count.
            frequency_penalty: the same, times how often the token was generated.
            seed: of the random numbers, 0 to 2^63-1; None takes a new one.
            stop: a text, or several, that end the continuation and aren't part of it.
            logit_bias: token id -> number added to its logit.
            log_probabilities: also keep each token's log-probability, in nats, by the logits
                before any of the options.
            top_log_probabilities: also keep the ids and log-probabilities of so many likeliest
                tokens in the place of each, 0 to 20; the likeliest first, equal ones by id.
            ignore_end: never end the document (for benchmarks).
            state: the prompt is read after this state, which stays as it is.

        Returns:
            A stream. ``next()`` writes a token and gives the bytes that are ready; ``tokens``,
            ``log_probabilities`` and ``top_log_probabilities`` are of the text so far. ``done`` is
            true at its end, and ``finish_reason`` is then ``stop`` or ``length``. ``state()``
            copies the state after what was read: the prompt, and the text but its last token.
            `batch` advances several streams together.
        """
        advice = self._engine.sampling
        if repetition_window is None:
            given = repetition_penalty is not None
            repetition_window = REPETITION_WINDOW if given else advice["repetition_window"]

        def advised(name: str, value: float | None) -> float:
            return advice[name] if value is None else real(name, value)

        return self._engine.stream(
            None if state is None else _state(state),
            _prompt_ids(self._engine, prompt),
            max_tokens=int32("max_tokens", max_tokens),
            temperature=advised("temperature", temperature),
            top_k=int32("top_k", advice["top_k"] if top_k is None else top_k),
            top_p=advised("top_p", top_p),
            min_p=advised("min_p", min_p),
            repetition_penalty=advised("repetition_penalty", repetition_penalty),
            repetition_window=int32("repetition_window", repetition_window),
            presence_penalty=real("presence_penalty", presence_penalty),
            frequency_penalty=real("frequency_penalty", frequency_penalty),
            seed=secrets.randbits(63) if seed is None else whole("seed", seed, 0, MOST_SEED),
            logit_bias=self._bias(logit_bias or {}),
            stop=[bytes_of(text, "a stop text") for text in stops_of(stop)],
            log_probabilities=bool(log_probabilities),
            top_log_probabilities=whole(
                "top_log_probabilities", top_log_probabilities, 0, MOST_LIKELIEST
            ),
            ignore_end=bool(ignore_end),
        )

    def batch(self, max_rows: int = 64) -> _engine.Batch:
        """Advances several streams of this model together.

        ``batch.step(streams)`` gives the bytes that are ready of each stream, as `bytes` in their
        order. Every stream that isn't done goes on by one token. Prompts that aren't read yet are
        read in equal parts, of ``max_rows`` tokens a step in all at most, and give ``b""``
        meanwhile: a long one holds up nobody. Streams may join and leave between two steps; the
        text of each is the one that it would have alone. Where a stream can't go on, it alone is
        done, with the reason in its ``error``, and without a ``finish_reason``.

        ``batch.run(streams, seconds)`` steps until that time is over, at least once, or until all
        are done, with ``until_one=True`` until one is: it gives the bytes of each, and which are
        done.

        Args:
            max_rows: tokens that are read in one pass over the weights, 1 to 1,024.
        """
        return _engine.Batch(self._engine, whole("max_rows", max_rows, 1, MOST_ROWS))

    def _bias(self, given: Mapping[int, float]) -> dict[int, float]:
        if not isinstance(given, Mapping):
            raise UsageError(f"logit_bias is {kind_of(given)}: expected a dict, token id -> number")
        return {
            id_of(token, self.vocab_size, "a logit bias for token"): real("logit_bias", value)
            for token, value in given.items()
        }

    def score(
        self,
        texts: str | bytes | Sequence[str | bytes],
        *,
        window: int | None = None,
        threads: int = 1,
        log_probabilities: bool = False,
        entropies: bool = False,
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
            entropies: also keep the entropy of what was expected in the place of each token.

        Raises:
            UsageError: for a window or threads out of their ranges, or what is no text.
        """
        given = [texts] if isinstance(texts, str | bytes) else items_of("texts", texts)
        found = self._engine.score(
            [bytes_of(text) for text in given],
            window=0 if window is None else min(whole("window", window, 1), 2**32 - 1),
            threads=whole("threads", threads, 1, MOST_THREADS),
            log_probabilities=bool(log_probabilities),
            end=True,
            entropies=bool(entropies),
        )
        return [
            TextScore(s.bytes, s.tokens, s.nats, s.bits_per_byte, s.log_probabilities, s.entropies)
            for s in found
        ]

    def token_scores(
        self, ids: Sequence[int], *, state: State | _engine.State | None = None, top: int = 0
    ) -> list[TokenScore]:
        """Log-probability of each id after the ones before it, by the numbers of `score`.

        The first id is only read: nothing that is known here predicts it. The last is only
        scored. So ``state`` ends up after all ids but the last, and `start` goes on from there
        with the last one as its prompt.

        Args:
            ids: one or more. No token is added: give ``[model.bos_id, *ids]`` for the beginning
                of a document, and ``model.eot_id`` at the end to score that too.
            state: what was read before, which is updated; by default nothing.
            top: how many of the likeliest tokens to give in the place of each, 0 to 20.

        Raises:
            UsageError: for an id outside the vocabulary, or more ids than there is room for.
        """
        own = self._engine.state() if state is None else _state(state)
        given = ids_of(ids, self.vocab_size)
        found, likeliest = self._engine.token_scores(
            own, given, whole("top", top, 0, MOST_LIKELIEST)
        )
        return [
            TokenScore(given[0], None, []),
            *map(TokenScore, given[1:], found, likeliest),
        ]

    def completer(self) -> Completer:
        """An object that completes a text while it is typed: it keeps what was read of it."""
        return Completer(self._engine)

    def complete(self, prefix: str | bytes, k: int = 5, *, lines: bool = False) -> list[Completion]:
        """The likeliest words that go on from a text: see `Completer.complete`.

        This reads all of the text every time. For a text that is being typed, keep a `completer`.
        """
        return self.completer().complete(prefix, k, lines=lines)


def _state(state: Any) -> _engine.State:
    if isinstance(state, _engine.State):
        return state
    if not isinstance(state, State):
        raise UsageError(f"state is {kind_of(state)}: expected what `Model.state` gives")
    return state._state


def _prompt_ids(model: _engine.Model, prompt: Any) -> list[int]:
    """Ids of a text, or those given."""
    is_ids = isinstance(prompt, Iterable) and not isinstance(prompt, str | bytes | Mapping)
    return ids_of(prompt, model.vocab_size) if is_ids else model.encode(bytes_of(prompt))


def _ended(streams: list[_engine.Stream]) -> list[Generation]:
    texts = _engine.finish(streams)
    return [
        Generation(
            text.decode("utf-8", "replace"),
            stream.tokens,
            stream.finish_reason,
            stream.log_probabilities,
            stream.top_log_probabilities,
        )
        for text, stream in zip(texts, streams, strict=True)
    ]
