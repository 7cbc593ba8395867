"""Generates text with a PyTorch model, in pieces: `stream`.

Training shows its samples with it, and tests compare the native engine with it.
"""

from __future__ import annotations

import codecs
import operator
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from itera_lite.errors import UsageError
from itera_lite.sampling import DEFAULTS

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
        temperature: float = DEFAULTS.temperature,
        top_k: int = DEFAULTS.top_k,
        top_p: float = DEFAULTS.top_p,
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
    """A seed of any integer type, in the range that the engine takes."""
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
    sampler: Sampler | None = None,
) -> Iterator[str]:
    """Yields the continuation of ``prompt`` in pieces of whole characters.

    A character whose bytes aren't complete is held back until they are: joined, the pieces are
    what decoding all tokens at once gives.

    Args:
        model: the model, in eval mode.
        tokenizer: the model's own.
        prompt: text to go on from; empty starts a new document.
        max_tokens: tokens to generate at most.
        sampler: by default one with the default options.

    Raises:
        UsageError: ``max_tokens`` is out of its range, or the text would exceed the context.
    """
    if max_tokens < 1:
        raise UsageError(f"max_tokens={max_tokens}: expected 1 or more")
    prompt_ids = tokenizer.encode(prompt)
    longest = model.config.max_seq_len
    if 1 + len(prompt_ids) + max_tokens > longest:
        raise UsageError(
            f"a prompt of {len(prompt_ids):,} tokens and max_tokens={max_tokens:,}: the "
            f"model reads at most {longest:,} tokens. Shorten the prompt or lower max_tokens"
        )
    ids = stream_ids(model, prompt_ids, tokenizer.eot_id, sampler or Sampler())
    return _characters(islice(ids, max_tokens), tokenizer)


def _characters(ids: Iterator[int], tokenizer: Tokenizer) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token in ids:
        if piece := decoder.decode(tokenizer.token_bytes[token]):
            yield piece
    if rest := decoder.decode(b"", final=True):
        yield rest


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
