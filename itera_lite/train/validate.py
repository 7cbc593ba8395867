"""How good a model in training is: a score on held-out text, and a sample."""

from __future__ import annotations

import numpy as np
import torch

from itera_lite.data.prepare import Dataset
from itera_lite.evaluate.bits import stream_bits
from itera_lite.evaluate.score import Score
from itera_lite.model import LanguageModel
from itera_lite.model.stream import Sampler, stream

EVAL_TOKENS = 32_768  # of the validation text, the same ones each time


def score(model: LanguageModel, dataset: Dataset, seq_len: int) -> Score:
    """Score the first `EVAL_TOKENS` tokens of the validation text, in training's precision."""
    lengths = np.array([len(piece) for piece in dataset.tokenizer.token_bytes])
    return stream_bits(
        model,
        dataset.tokens("valid"),
        lengths,
        seq_len=seq_len,
        batch_size=16,
        max_tokens=EVAL_TOKENS,
    )


def sample(model: LanguageModel, dataset: Dataset) -> dict[str, str]:
    """A short continuation, in float32, of the beginning of a validation text.

    Returns:
        ``prompt`` and ``text``.
    """
    first = next(iter(dataset.documents("valid"))).decode("utf-8", errors="replace")
    prompt = " ".join(first[:400].split()[:4])
    dtype, model.compute_dtype = model.compute_dtype, torch.float32
    model.eval()
    sampler = Sampler(temperature=0.7, seed=0)
    pieces = stream(model, dataset.tokenizer, prompt, max_tokens=40, sampler=sampler)
    text = "".join(pieces)
    model.train()
    model.compute_dtype = dtype
    return {"prompt": prompt, "text": text}
