"""The verb `generate`: text from a checkpoint or a GGUF file, written by the native engine."""

from __future__ import annotations

import json
import math
import re
import secrets
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itera_lite.engine.find import display_name, find_model, load_model
from itera_lite.engine.results import Generation
from itera_lite.errors import UsageError
from itera_lite.quantities import finite_number, seed_of, whole_number


@dataclass(frozen=True, kw_only=True)
class GeneratedText(Generation):
    """A text that was generated, and how fast.

    Attributes:
        prompt: what it goes on from.
        seconds: from the first token read to the last one written.
        model: the folder or file that wrote it.
    """

    prompt: str
    seconds: float
    model: Path

    @property
    def tokens(self) -> int:
        """Tokens generated, a final ``<|endoftext|>`` not counted."""
        return len(self.token_ids)

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens over ``seconds``, reading the prompt included."""
        return self.tokens / self.seconds


def generate(
    prompt: str = "",
    *,
    checkpoint: Path | None = None,
    max_tokens: int = 200,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
    seed: int | None = None,
    stop: tuple[str, ...] = (),
    logit_bias: dict[str, float] | None = None,
    log_probabilities: bool = False,
) -> GeneratedText:
    """Write text with a model.

    The text streams to standard output; the speed and the model go to standard error.

    Args:
        prompt: Text to go on from; empty starts a new document.
        checkpoint: A GGUF file, or the folder of a model as `itera train` writes it. By
            default checkpoints/itera_lite_tiny, else the model that comes with Itera-Lite.
        max_tokens: Tokens to generate at most.
        temperature: 0 always takes the most probable token; higher is more varied. By default
            what the model's file advises, as for the next four.
        top_k: Sample from the k most probable tokens only; 0 means all.
        top_p: Sample from the most probable tokens that together reach this probability.
        min_p: Sample only from tokens with this share of the most probable one's probability.
        repetition_penalty: Above 1, makes what stands in the last 64 tokens less probable.
        presence_penalty: Subtracted from the logit of each token that was generated, -2 to 2.
        frequency_penalty: The same, as often as the token was generated.
        seed: Of the random numbers: the same seed gives the same text.
        stop: Text that ends the output; may be given several times.
        logit_bias: A number to add to a token's logit, by its id, as in --logit-bias.17=-5.
        log_probabilities: Also write each token's natural log-probability to standard error.
    """
    given: dict[str, Any] = {
        "max_tokens": whole_number("max_tokens", max_tokens),
        "temperature": _number("temperature", temperature, least=0),
        "top_k": None if top_k is None else whole_number("top_k", top_k, least=0),
        "top_p": _number("top_p", top_p, above=0, most=1),
        "min_p": _number("min_p", min_p, least=0, most=1),
        "repetition_penalty": _number("repetition_penalty", repetition_penalty, above=0),
        "presence_penalty": _number("presence_penalty", presence_penalty, least=-2, most=2),
        "frequency_penalty": _number("frequency_penalty", frequency_penalty, least=-2, most=2),
        "seed": secrets.randbits(63) if seed is None else seed_of(seed),
        "logit_bias": {_token(name, x): float(x) for name, x in (logit_bias or {}).items()},
    }
    path = find_model(checkpoint)
    model = load_model(path)
    pieces = model.generate(
        prompt, stream=True, **given, stop=stop, log_probabilities=log_probabilities
    )
    text = ""
    # The model reads bytes of a command line that aren't UTF-8 as they are; they can't be printed.
    print(re.sub("[\ud800-\udfff]", "\ufffd", prompt), end="", flush=True)
    begin = time.perf_counter()
    for piece in pieces:
        print(piece, end="", flush=True)
        text += piece
    seconds = time.perf_counter() - begin
    print(flush=True)
    result = GeneratedText(
        *(text, pieces.token_ids, pieces.finish_reason, pieces.log_probabilities),
        prompt=prompt,
        seconds=seconds,
        model=path,
    )
    if log_probabilities:
        for token, value in zip(result.token_ids, result.log_probabilities, strict=True):
            piece = json.dumps(model.detokenize([token]), ensure_ascii=False)
            print(f"{value:9.4f} {token:6d} {piece}", file=sys.stderr)
    print(
        f"[{result.tokens} tokens in {seconds:.2f} s: {result.tokens_per_second:,.0f} tokens/s, "
        f"1 thread; ended by {result.finish_reason}; model: {display_name(path)}]",
        file=sys.stderr,
    )
    return result


def _number(option: str, value: float | None, **range: float) -> float | None:
    """The number in its range; None, for what the model's file advises, stays None."""
    return None if value is None else finite_number(option, value, **range)


def _token(name: str, bias: float) -> int:
    """The id of the token whose logit is changed by ``bias``."""
    try:
        token = int(name)
    except ValueError:
        raise UsageError(
            f"--logit-bias.{name}: expected the id of a token, a whole number"
        ) from None
    if not bias < math.inf:  # -inf forbids a token
        raise UsageError(f"--logit-bias.{name} {bias}: expected a number")
    return token
