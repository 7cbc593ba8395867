"""Text from a PyTorch model, piece by piece as it is written: `stream`.

This is what training shows samples with, and what the native engine is checked against.
"""

from __future__ import annotations

import codecs
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from itera_lite.errors import UsageError

if TYPE_CHECKING:
    from itera_lite.data.tokenizer import Tokenizer
    from itera_lite.model import LanguageModel, ModelState


class Sampler:
    """Picks the next token from logits.

    Args:
        temperature: divides the logits; 0 always takes the most probable token.
        top_k: only the k most probable tokens; 0 means all.
        top_p: only the most probable tokens that together reach this probability
            (Holtzman et al., 2020); 1 means all.
        seed: of the random numbers; None takes a new one each time.

    Raises:
        UsageError: where a value is out of its range.
    """

    def __init__(
        self,
        temperature: float = 0.8,
        top_k: int = 0,
        top_p: float = 0.95,
        seed: int | None = None,
    ) -> None:
        if not 0 <= temperature < float("inf"):
            raise UsageError(f"temperature={temperature}: expected 0 (greedy) or more")
        if top_k < 0:
            raise UsageError(f"top_k={top_k}: expected 0 (all tokens) or more")
        if not 0 < top_p <= 1:
            raise UsageError(f"top_p={top_p}: expected more than 0, at most 1 (all tokens)")
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p
        self._generator = torch.Generator()
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(_seed(seed))

    def probabilities(self, logits: Tensor) -> Tensor:
        """The distribution (V,) that is sampled from, for logits (V,)."""
        logits = logits.float().cpu()
        if self.temperature == 0:
            return torch.zeros_like(logits).index_fill_(0, logits.argmax(), 1.0)
        logits = (logits - logits.max()) / self.temperature
        if 0 < self.top_k < len(logits):
            logits = torch.full_like(logits, -torch.inf).scatter_(
                0, (top := logits.topk(self.top_k)).indices, top.values
            )
        p = logits.softmax(-1)
        if self.top_p < 1:
            ordered, index = p.sort(descending=True, stable=True)
            before = ordered.cumsum(-1) - ordered  # the first token always stays
            p = p.index_fill(0, index[before >= self.top_p], 0.0)
        return p / p.sum()

    def __call__(self, logits: Tensor) -> int:
        if self.temperature == 0:
            return int(logits.argmax())
        return int(torch.multinomial(self.probabilities(logits), 1, generator=self._generator))


def _seed(value: int) -> int:
    """A seed as the engine takes it, of any integer type."""
    try:
        if 0 <= (number := operator.index(value)) < 1 << 63:
            return number
    except TypeError:
        pass
    raise UsageError(f"seed={value}: expected a whole number from 0 to 2^63-1")


def stream_ids(
    model: LanguageModel, prompt_ids: Sequence[int], eot_id: int, sampler: Sampler
) -> Iterator[int]:
    """Yields token ids after ``<|endoftext|>`` and the prompt, until the model ends the
    document; take as many as you want."""
    logits, state = _read(model, [eot_id, *prompt_ids])
    while (token := sampler(logits)) != eot_id:
        yield token
        logits = _step(model, token, state)


def stream(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: str = "",
    *,
    max_tokens: int = 200,
    temperature: float = 0.8,
    top_k: int = 0,
    top_p: float = 0.95,
    seed: int | None = None,
    stop: Sequence[str] = (),
) -> Iterator[str]:
    """Yields the continuation of ``prompt`` in pieces of whole characters.

    A character whose bytes aren't complete is held back until they are, and so is text
    that may be the beginning of a stop text. The pieces together are what decoding all
    tokens at once gives, cut before the first stop text.

    Args:
        model: reads and writes; its memory of the context is only limited by its config.
        tokenizer: the model's own.
        prompt: text to go on from; empty starts a new document.
        max_tokens: tokens to generate at most.
        temperature: see `Sampler`, as ``top_k``, ``top_p`` and ``seed``.
        top_k: see `Sampler`.
        top_p: see `Sampler`.
        seed: see `Sampler`.
        stop: texts that end the continuation; they aren't part of it.

    Raises:
        UsageError: where an option is out of its range or the context gets too long.
    """
    run = _Run(model, tokenizer, prompt, max_tokens, Sampler(temperature, top_k, top_p, seed), stop)
    return run.pieces()


class _Run:
    """One continuation: checks first, then `pieces`, then counts."""

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        prompt: str,
        max_tokens: int,
        sampler: Sampler,
        stop: Sequence[str],
    ) -> None:
        if isinstance(stop, str):
            stop = (stop,)
        if max_tokens < 1:
            raise UsageError(f"max_tokens={max_tokens}: expected 1 or more")
        if not all(stop):
            raise UsageError("an empty stop text: expected at least one character")
        self.prompt_ids = tokenizer.encode(prompt)
        longest = model.config.max_seq_len
        if 1 + len(self.prompt_ids) + max_tokens > longest:
            raise UsageError(
                f"a prompt of {len(self.prompt_ids):,} tokens and max_tokens={max_tokens:,}: the "
                f"model reads at most {longest:,} tokens. Shorten the prompt or lower max_tokens"
            )
        self.model, self.tokenizer, self.sampler = model, tokenizer, sampler
        self.max_tokens, self.stop = max_tokens, tuple(stop)
        self.tokens = 0
        self.finish_reason = "stop"

    def pieces(self) -> Iterator[str]:
        held = ""
        for piece in self._characters():
            held += piece
            if (at := _first(held, self.stop)) >= 0:
                self.finish_reason = "stop"
                if at:
                    yield held[:at]
                return
            keep = _may_begin(held, self.stop)
            if ready := held[: len(held) - keep]:
                yield ready
            held = held[len(held) - keep :]
        if held:
            yield held

    def _characters(self) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        ids = stream_ids(self.model, self.prompt_ids, self.tokenizer.eot_id, self.sampler)
        for token in ids:
            self.tokens += 1
            yield decoder.decode(self.tokenizer.token_bytes[token])
            if self.tokens == self.max_tokens:
                self.finish_reason = "length"
                break
        yield decoder.decode(b"", final=True)


# Gradients are off only inside these: a generator that is paused must not leave them off.


@torch.no_grad()
def _read(model: LanguageModel, ids: list[int]) -> tuple[Tensor, ModelState]:
    state = model.initial_state(1)
    device = next(model.parameters()).device
    return model.prefill(torch.tensor([ids], device=device), state)[0], state


@torch.no_grad()
def _step(model: LanguageModel, token: int, state: ModelState) -> Tensor:
    device = next(model.parameters()).device
    return model.step(torch.tensor([token], device=device), state)[0]


def _first(text: str, stops: Iterable[str]) -> int:
    """Where the stop text that is complete first begins, or -1.

    The place doesn't depend on how the text came in pieces.
    """
    found = [(at + len(s), at) for s in stops if (at := text.find(s)) >= 0]
    return min(found)[1] if found else -1


def _may_begin(text: str, stops: Iterable[str]) -> int:
    """How many characters at the end may be the beginning of a stop text."""
    return max(
        (n for s in stops for n in range(1, min(len(s), len(text) + 1)) if text.endswith(s[:n])),
        default=0,
    )
