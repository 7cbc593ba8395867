"""The verb `generate`: text from a checkpoint or a GGUF file, as the native engine writes it."""

from __future__ import annotations

import json
import math
import re
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itera_lite.errors import UsageError
from itera_lite.quantities import finite_number, seed_of, whole_number

if TYPE_CHECKING:
    from itera_lite.engine import Model


@dataclass
class Generation:
    """A text that was generated, and how fast.

    Attributes:
        prompt: what it goes on from.
        text: the continuation, without the prompt.
        tokens: tokens generated, a final ``<|endoftext|>`` not counted.
        finish_reason: ``length`` (``max_tokens`` reached), ``stop`` (a stop text, or the
            model ended the document).
        seconds: from the first token read to the last one written.
        tokens_per_second: generated tokens over ``seconds``, reading the prompt included.
        model: the folder or file that wrote it.
        token_ids: ids of its tokens.
        log_probabilities: of each token, in nats; empty unless asked for.
    """

    prompt: str
    text: str
    tokens: int
    finish_reason: str
    seconds: float
    tokens_per_second: float
    model: Path
    token_ids: list[int] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)


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
    seed: int | None = None,
    stop: tuple[str, ...] = (),
    logit_bias: dict[str, float] | None = None,
    log_probabilities: bool = False,
) -> Generation:
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
        seed: Of the random numbers: the same seed gives the same text.
        stop: Text that ends the output; may be given several times.
        logit_bias: A number to add to a token's logit, by its id, as in --logit-bias.17=-5.
        log_probabilities: Also write each token's natural log-probability to standard error.
    """
    from itera_lite.engine.find import display_name, find_model, load_model

    given: dict[str, Any] = {
        "max_tokens": whole_number("max_tokens", max_tokens),
        "temperature": _number("temperature", temperature, least=0),
        "top_k": None if top_k is None else whole_number("top_k", top_k, least=0),
        "top_p": _number("top_p", top_p, above=0, most=1),
        "min_p": _number("min_p", min_p, least=0, most=1),
        "repetition_penalty": _number("repetition_penalty", repetition_penalty, above=0),
        "seed": secrets.randbits(63) if seed is None else seed_of(seed),
        "logit_bias": _by_id(logit_bias or {}),
    }
    path = find_model(checkpoint)
    model = load_model(path)
    pieces = model.generate(
        prompt,
        stream=True,
        **given,
        stop=stop,
        log_probabilities=log_probabilities,
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
    ids = pieces.token_ids
    speed = len(ids) / seconds
    if log_probabilities:
        _print_tokens(model, ids, pieces.log_probabilities)
    print(
        f"[{len(ids)} tokens in {seconds:.2f} s: {speed:,.0f} tokens/s, 1 thread; "
        f"ended by {pieces.finish_reason}; model: {display_name(path)}]",
        file=sys.stderr,
    )
    return Generation(
        prompt,
        text,
        len(ids),
        pieces.finish_reason,
        seconds,
        speed,
        path,
        ids,
        pieces.log_probabilities,
    )


def _number(option: str, value: float | None, **range: float) -> float | None:
    """The number in its range; None, for the file's own advice, stays None."""
    return None if value is None else finite_number(option, value, **range)


def _by_id(bias: Mapping[str, float]) -> dict[int, float]:
    found = {}
    for name, value in bias.items():
        try:
            token = int(name)
        except ValueError:
            raise UsageError(
                f"--logit-bias.{name}: expected the id of a token, a whole number"
            ) from None
        found[token] = float(value)
        if not value < math.inf:  # -inf forbids a token
            raise UsageError(f"--logit-bias.{name} {value}: expected a number")
    return found


def _print_tokens(model: Model, ids: Sequence[int], log_probabilities: Sequence[float]) -> None:
    for token, value in zip(ids, log_probabilities, strict=True):
        piece = json.dumps(model.detokenize([token]), ensure_ascii=False)
        print(f"{value:9.4f} {token:6d} {piece}", file=sys.stderr)
