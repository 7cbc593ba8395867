"""`Model`: generate, score and inspect with the native engine.

Everything heavy happens in C++ without Python's global lock, so several
threads may use one model at once. A model below about 10 M parameters is
fastest on one thread; `score` and `generate_many` are where more work pays.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from itera_lite import _engine
from itera_lite.errors import UsageError
from itera_lite.runtime.results import Generation, Score, TextStream

if TYPE_CHECKING:  # takes longer to import than a text to write
    import numpy as np
    from numpy.typing import NDArray


class State:
    """What a model remembers of a text: read once, it can be forked for many continuations."""

    def __init__(self, model: _engine.Model, state: _engine.State) -> None:
        self._model, self._state = model, state

    def __len__(self) -> int:
        """Tokens read so far, the ``<|endoftext|>`` at the start among them."""
        return self._state.length

    def feed(self, text: str | bytes | Sequence[int]) -> NDArray[np.float32]:
        """Read text or token ids; returns the logits (V,) of the next token.

        Raises:
            UsageError: where the text doesn't fit the context, or there is nothing to read.
        """
        ids = self._model.encode(_bytes(text)) if isinstance(text, str | bytes) else list(text)
        if not self._state.length:
            ids.insert(0, self._model.eot)
        return self._model.read(self._state, ids, False)

    def fork(self) -> State:
        """An independent copy; what it costs is copying what is in use."""
        return State(self._model, self._state.fork())

    def save(self) -> bytes:
        """The state as bytes, for `Model.restore` of the same model on this kind of processor."""
        return self._state.save()


class Model:
    """A model in a GGUF file (``granitehybrid`` or ``llama``). Make one with `Model.load`."""

    def __init__(self, engine: _engine.Model, path: Path) -> None:
        self._engine, self.path = engine, path

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, context: int | None = None) -> Model:
        """Read a GGUF file.

        Args:
            path: the file: types F32, F16, BF16, Q8_0, Q4_0 and mixtures of them.
            context: tokens that a text may have; by default what the file says, at most 65,536.

        Raises:
            ModelFileError: where the file is missing, damaged or of another kind.
            UsageError: for a context below 1.
        """
        if context is not None and not 1 <= context <= 1 << 24:
            raise UsageError(f"context={context}: expected 1 to {1 << 24:,} tokens")
        return cls(_engine.Model.load(os.fspath(path), context or 0), Path(path))

    def __repr__(self) -> str:
        return (
            f"<Model {self.path.name}: {self.architecture}, {self.parameters:,} parameters, "
            f"{self._engine.isa}>"
        )

    @property
    def architecture(self) -> str:
        """``granitehybrid`` or ``llama``."""
        return self._engine.architecture

    @property
    def parameters(self) -> int:
        """Numbers in all of the file's tensors."""
        return self._engine.parameters

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self._engine.vocab_size

    @property
    def context(self) -> int:
        """Tokens that a text may have."""
        return self._engine.context

    @property
    def eot_id(self) -> int:
        """Id of ``<|endoftext|>``, which begins and ends every document."""
        return self._engine.eot

    @property
    def isa(self) -> str:
        """Instruction set in use: avx512, avx2, neon or portable."""
        return self._engine.isa

    @property
    def sampling_defaults(self) -> dict[str, Any]:
        """Sampling that the file recommends: temperature, top_k, top_p."""
        return self._engine.sampling

    def tokenize(self, text: str | bytes) -> list[int]:
        """Ids of the text, without ``<|endoftext|>``."""
        return self._engine.encode(_bytes(text))

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of the ids; a character that is cut in two becomes U+FFFD."""
        return self._engine.decode(list(ids)).decode("utf-8", "replace")

    def state(self, prompt: str | bytes | None = None) -> State:
        """A memory of nothing, or of a prompt: compute it once, fork it for each continuation."""
        state = State(self._engine, self._engine.state())
        if prompt is not None:
            state.feed(prompt)
        return state

    def restore(self, saved: bytes) -> State:
        """The state that `State.save` gave.

        Raises:
            ModelFileError: where the bytes are damaged or belong to another model.
        """
        return State(self._engine, self._engine.restore(saved))

    def logits(self, ids: Sequence[int], state: State | None = None) -> NDArray[np.float32]:
        """Logits (L, V) after each of the ids, read on from ``state`` or from nothing.

        Nothing is put in front: give ``[model.eot_id, *ids]`` for a document's beginning.

        Raises:
            UsageError: for an id outside the vocabulary or more ids than the context.
        """
        memory = self._engine.state() if state is None else state._state
        return self._engine.read(memory, list(ids), True)

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
        seed = options.pop("seed", None)
        first = secrets.randbits(63) if seed is None else seed
        return _ended(
            [
                self.start(prompt, seed=(first + i) % (1 << 64), **options)
                for i, prompt in enumerate(prompts)
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
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        repetition_window: int = 64,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
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
            top_k: only the k most probable tokens; 0 means all.
            top_p: only the most probable tokens that together reach this probability.
            min_p: only tokens with at least this share of the most probable one's probability.
            repetition_penalty: above 1, makes tokens of the last ``repetition_window`` rarer.
            repetition_window: see there.
            seed: of the random numbers; None takes a new one.
            stop: a text, or several, that end the continuation and aren't part of it.
            logit_bias: token id -> number added to its logit.
            log_probabilities: also keep each token's log-probability.
            ignore_end: never end the document (for benchmarks).
            state: read on from here (the state itself stays as it is).
        """
        advice = self._engine.sampling
        return self._engine.stream(
            None if state is None else state._state,
            self.tokenize(prompt),
            max_tokens=_int32(max_tokens),
            temperature=advice["temperature"] if temperature is None else temperature,
            top_k=advice["top_k"] if top_k is None else _int32(top_k),
            top_p=advice["top_p"] if top_p is None else top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            repetition_window=_int32(repetition_window),
            seed=secrets.randbits(64) if seed is None else seed % (1 << 64),
            logit_bias=self._bias(logit_bias or {}),
            stop=[_bytes(text) for text in ([stop] if isinstance(stop, str) else stop)],
            log_probabilities=log_probabilities,
            ignore_end=ignore_end,
        )

    def _bias(self, given: Mapping[int, float]) -> dict[int, float]:
        for token in given:
            if not 0 <= token < self.vocab_size:
                raise UsageError(
                    f"a logit bias for token {token}: expected an id from 0 to "
                    f"{self.vocab_size - 1:,}"
                )
        return dict(given)

    def score(
        self,
        texts: str | bytes | Sequence[str | bytes],
        *,
        window: int | None = None,
        threads: int = 1,
        log_probabilities: bool = False,
    ) -> list[Score]:
        """Score texts; each starts fresh, and its end is scored too.

        Args:
            texts: one text or several.
            window: tokens of context at most, as ``seq_len`` of `itera eval`: a longer text is
                read in overlapping windows and every token is scored once. By default all of
                the context.
            threads: texts scored at the same time.
            log_probabilities: also keep each token's.

        Raises:
            UsageError: for a window or threads below 1.
        """
        if window is not None and window < 1:
            raise UsageError(f"window={window}: expected 1 token or more")
        if threads < 1:
            raise UsageError(f"threads={threads}: expected 1 or more")
        given = [texts] if isinstance(texts, str | bytes) else texts
        found = self._engine.score(
            [_bytes(text) for text in given],
            window=window or 0,
            threads=threads,
            log_probabilities=log_probabilities,
            end=True,
        )
        return [
            Score(s.bytes, s.tokens, s.nats, s.bits_per_byte, s.log_probabilities) for s in found
        ]


def _int32(value: int) -> int:
    """The nearest number that the engine can take: its own check then speaks of a bad one."""
    return max(-(1 << 31), min(value, (1 << 31) - 1))


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")


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
