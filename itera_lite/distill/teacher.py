"""A teacher's probabilities for each token of a text, in the student's vocabulary.

A teacher reads the stream in windows: `WINDOW` positions to predict, and the `CONTEXT` tokens
before them, so that every prediction has at least that much context. Short documents stand in the
stream one after the other, as in training. The layers compute in the precision that is set on the
model, the head and the probabilities in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from itera_lite.checkpoint.folder import load_checkpoint
from itera_lite.checkpoint.weights import weights_sha256
from itera_lite.data.tokenizer import Tokenizer
from itera_lite.distill.alignment import Alignment
from itera_lite.errors import CheckpointError, ConfigError, UsageError
from itera_lite.evaluate.bits import evaluating
from itera_lite.files import folder_name
from itera_lite.model import LanguageModel

WINDOW = 256  # positions that are predicted in one window
CONTEXT = 64  # tokens before them
LOGITS = 2**23  # logits that exist at a time


@dataclass
class Teacher:
    """A model that teaches. `load` it, then give it the text with `set_text`.

    Attributes:
        sha256: of its weights and its shape.
        tokens: the text in the teacher's tokens.
        alignment: of the student's tokens with the teacher's; None where they are the same.
    """

    folder: Path
    model: LanguageModel
    tokenizer: Tokenizer
    sha256: str
    tokens: NDArray[Any] | None = None
    alignment: Alignment | None = None

    @classmethod
    def load(cls, folder: Path) -> Teacher:
        """A checkpoint's folder, of any family.

        Raises:
            CheckpointError: it isn't one, or is damaged.
        """
        try:
            model, tokenizer = load_checkpoint(folder)
        except ConfigError as error:
            raise CheckpointError(f"the teacher '{folder}' can't be loaded: {error}") from None
        return cls(Path(folder), model, tokenizer, weights_sha256(Path(folder)))

    @property
    def name(self) -> str:
        return folder_name(self.folder)

    def set_text(self, tokens: NDArray[Any], alignment: Alignment | None) -> None:
        """Set the text to predict: the student's stream, or its alignment with the teacher's."""
        self.tokens = tokens if alignment is None else alignment.tokens
        self.alignment = alignment

    def probabilities(self, positions: NDArray[np.int64], vocab_size: int) -> tuple[Tensor, Tensor]:
        """The distribution over the student's token at each position.

        Args:
            positions: (n,) positions of the student's stream, rising.
            vocab_size: the student's.

        Returns:
            (n, vocab_size) probabilities, and (n,) whether the teacher has any at a position; the
            other rows are 0.

        Raises:
            UsageError: before `set_text`.
        """
        if self.tokens is None:
            raise UsageError("this teacher has no text yet: call set_text first")
        found = torch.zeros(len(positions), vocab_size)
        own = positions
        if self.alignment is not None:
            own = self.alignment.positions[positions].astype(np.int64)
        rows = np.flatnonzero(own >= 0)
        with evaluating(self.model):
            for part, probabilities in self._windows(own[rows]):
                if self.alignment is not None:
                    probabilities = self.alignment.fold(probabilities)
                found[torch.from_numpy(rows[part])] = probabilities
        return found, torch.from_numpy(own >= 0)

    def _windows(self, targets: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """(which of the rising targets, probabilities of the teacher's own tokens there)."""
        assert self.tokens is not None
        limit, circle = self.model.config.max_seq_len, len(self.tokens) - 1
        context = min(CONTEXT, limit // 4)
        window = min(WINDOW, limit - context)
        borders = [0]
        while borders[-1] < len(targets):
            end = targets[borders[-1]] + window
            borders.append(int(np.searchsorted(targets, end)))
        spans = list(pairwise(borders))
        width = context + max((int(targets[b - 1] - targets[a]) + 1 for a, b in spans), default=0)
        # Row a of the inputs begins `context` before the token that predicts its first target.
        # The stream is a circle; what lies after the last target is padding that no target sees.
        starts = np.array([targets[a] - 1 - context for a, _ in spans], dtype=np.int64)
        inputs = self.tokens[(starts[:, None] + np.arange(width)) % circle].astype(np.int64)
        hidden = self.model.hidden(torch.from_numpy(inputs)) if spans else torch.empty(0)
        row = np.repeat(np.arange(len(spans)), [b - a for a, b in spans])
        column = targets - 1 - starts[row]
        vectors = hidden[torch.from_numpy(row), torch.from_numpy(column)].float()
        size = max(1, LOGITS // self.model.config.vocab_size)
        for first in range(0, len(targets), size):
            logits = F.linear(vectors[first : first + size], self.model.embedding.weight)
            part = np.arange(first, min(first + size, len(targets)))
            yield part, (logits / self.model.config.logits_scaling).softmax(-1)
