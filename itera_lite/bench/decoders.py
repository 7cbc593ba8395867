"""Who decodes, one text at a time: our engine, llama.cpp, `transformers`, our PyTorch model.

Everybody reads the same prompt, remembers it, and then decodes from there greedily, again and
again. Reading the prompt and going back to it are not timed; choosing each token is. Everybody
takes turns; a turn lasts as long as a few passes need, so that a machine that gets slower for a
while slows all of them alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from itera_lite import _engine
from itera_lite.bench.llama import LlamaCpp

TURN_SECONDS = 0.02  # a turn is as many passes as this needs


@dataclass(frozen=True)
class Pass:
    """One pass of decoding: the tokens, the seconds, and those inside the library alone."""

    ids: list[int]
    seconds: float
    inside: float


class Decoder(Protocol):
    """Reads a prompt once, then decodes from its end whenever it is asked to."""

    def prepare(self, prompt: Sequence[int]) -> None: ...

    def decode(self, tokens: int) -> Pass: ...


class EngineDecoder:
    """The native engine.

    Args:
        path: GGUF file.
        context: tokens that a text may have.
        sampling: temperature, top_k and top_p; None chooses the most probable token.
    """

    def __init__(
        self, path: Path, context: int, sampling: Mapping[str, float] | None = None
    ) -> None:
        self.model = _engine.Model.load(str(path), context)
        chosen = sampling or {}
        self._options: dict[str, Any] = {
            "temperature": float(chosen.get("temperature", 0.0)),
            "top_k": int(chosen.get("top_k", 0)),
            "top_p": float(chosen.get("top_p", 1.0)),
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "repetition_window": 0,
            "seed": 0,
            "logit_bias": {},
            "stop": [],
            "log_probabilities": False,
            "ignore_end": True,
        }

    def prepare(self, prompt: Sequence[int]) -> None:
        self._state = self.model.state()
        if len(prompt) > 1:
            self.model.read(self._state, list(prompt[:-1]), False)
        self._last = prompt[-1]

    def decode(self, tokens: int) -> Pass:
        stream = self.model.stream(
            self._state, [self._last], max_tokens=tokens + 1, **self._options
        )
        stream.next()  # the prompt's last token, and the choice of the first one after it
        begin = time.perf_counter()
        _engine.finish([stream])
        seconds = time.perf_counter() - begin
        return Pass(stream.tokens[1:], seconds, seconds)


class LlamaDecoder:
    """llama.cpp on the same file."""

    def __init__(self, path: Path, context: int) -> None:
        self.llama = LlamaCpp(path, context=context)

    def prepare(self, prompt: Sequence[int]) -> None:
        self.llama.clear()
        self.llama.read(prompt)
        self._first = _best(self.llama.logits(), self.llama.eot_id)
        self._saved = self.llama.save()

    def decode(self, tokens: int) -> Pass:
        self.llama.restore(self._saved)
        return Pass(*self.llama.decode(self._first, tokens))


class TorchDecoder:
    """A PyTorch model with a prefill and a step (see `itera_lite.bench.measure.Runner`)."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner

    def prepare(self, prompt: Sequence[int]) -> None:
        import torch

        self._prompt = torch.tensor([list(prompt)])

    def decode(self, tokens: int) -> Pass:
        import torch

        with torch.inference_mode():
            logits, state = self._runner.prefill(self._prompt)
            token = logits.argmax(-1)
            ids, begin = [], time.perf_counter()
            for _ in range(tokens):
                logits, state = self._runner.step(token, state)
                token = logits.argmax(-1)
                ids.append(int(token))
            seconds = time.perf_counter() - begin
        return Pass(ids, seconds, seconds)


@dataclass
class Contender:
    """A decoder with its place in the results and what was measured.

    Attributes:
        model: name of the checkpoint.
        kind: how the weights are stored (``q8_0``, ``fp32``).
        runtime: ``itera-lite``, ``llama.cpp``, ``transformers``.
        tokens: decoded a pass.
        seconds: a token, the median pass of each turn.
        inside: the same, inside the library alone.
        ids: what the first pass wrote.
    """

    model: str
    kind: str
    runtime: str
    decoder: Decoder
    prompt: list[int]
    tokens: int
    seconds: list[float] = field(default_factory=list)
    inside: list[float] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)

    @property
    def label(self) -> str:
        return f"{self.model} {self.kind} {self.runtime} {len(self.prompt)}"

    def turn(self) -> None:
        """Measure for one turn."""
        passes, total = [], 0.0
        while total < TURN_SECONDS:
            passes.append(self.decoder.decode(self.tokens))
            total += passes[-1].seconds
        n = self.tokens * len(passes)
        self.seconds.append(total / n)
        self.inside.append(sum(p.inside for p in passes) / n)


def take_turns(
    contenders: Sequence[Contender],
    repeats: int,
    between: Sequence[Callable[[], None]] = (),
    progress: Callable[[str], None] | None = None,
) -> None:
    """Let everybody decode ``repeats`` times, after a pass that isn't counted.

    Args:
        contenders: those who decode.
        repeats: turns of each.
        between: measurements of something else, once in every round.
        progress: told what comes next.
    """
    for one in contenders:
        if progress:
            progress(f"{one.label}, prompt")
        one.decoder.prepare(one.prompt)
        one.ids = one.decoder.decode(one.tokens).ids
    for repeat in range(repeats):
        for turn in range(len(contenders)):
            one = contenders[(turn + repeat) % len(contenders)]
            if progress:
                progress(one.label)
            one.turn()
        for other in between:
            other()


def _best(logits: Any, never: int) -> int:
    logits[never] = float("-inf")
    return int(logits.argmax())
