"""`Scorer`: one number a text, from one model or from the difference of two; without PyTorch.

`itera score` and the steps for clusters score with it, so a text has the same score in each. Lower
is better: a filter keeps the texts with the lowest scores.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Literal, get_args

from itera_lite.engine.find import find_model, load_model
from itera_lite.engine.results import TextScore
from itera_lite.errors import DataError, IteraWarning, UsageError

By = Literal["bits_per_byte", "surprise"]  # the number of one model that a text is scored by
QUANTITIES = {
    "bits_per_byte": "bits per byte",
    "surprise": "surprise",
    "difference": "difference of bits per byte",
}


@dataclass(frozen=True, slots=True)
class Scored:
    """What the models give a text.

    Attributes:
        good: by the model.
        bad: by the other model, where there are two.
        by: which number of one model is the score.
    """

    good: TextScore
    bad: TextScore | None = None
    by: By = "bits_per_byte"

    @property
    def score(self) -> float | None:
        """The number ``by``, or with two models the difference of bits per byte; None if empty."""
        if not self.good.bytes or (self.bad is not None and not self.bad.bytes):
            return None
        if self.bad is not None:
            return self.good.bits_per_byte - self.bad.bits_per_byte
        return self.good.surprise if self.by == "surprise" else self.good.bits_per_byte


class Scorer:
    """Scores texts with one model, or with the difference of two.

    It can be pickled: the paths and options travel, and the models are loaded where it arrives.

    Args:
        model: GGUF file or checkpoint folder; None: the one that `itera score` finds.
        bad: a second model. A text's score is then its bits per byte under ``model`` minus its
            bits per byte under ``bad``: negative where ``model`` finds it more probable.
        by: the number that is the score: bits_per_byte, or `TextScore.surprise`, which separates
            text with single faults better (docs/filter.md). Without ``bad`` only.
        window: tokens of context at most, as in `Model.score`.
        threads: texts that are scored at the same time.

    Attributes:
        path: of the model.
        unit: of the documents that the model was trained on: document, paragraph, line or
            sentence; None where its file doesn't have it.

    Raises:
        CheckpointError, ModelFileError: there is no model, or it can't be used.
        UsageError: the window or the threads are out of their ranges, or ``by`` is no such
            number or is surprise for two models.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        bad: str | Path | None = None,
        by: By = "bits_per_byte",
        window: int | None = None,
        threads: int = 1,
    ) -> None:
        if by not in get_args(By):
            raise UsageError(f"by={by}: expected {' or '.join(get_args(By))}")
        if by == "surprise" and bad is not None:
            raise UsageError(
                "two models are compared by bits per byte, not by surprise: leave out the choice "
                "of surprise, or the bad model"
            )
        self.by = by
        self.path = find_model(model)
        self.bad = None if bad is None else find_model(bad)
        self.window, self.threads = window, threads
        self._good = load_model(self.path)
        self._bad = None if self.bad is None else load_model(self.bad)
        self.unit = self._good.unit
        self.details([])  # a bad option shows now

    @property
    def field(self) -> str:
        """The name of the score in results."""
        return self.by if self.bad is None else "difference"

    @property
    def quantity(self) -> str:
        """What the scores are, in words."""
        return QUANTITIES[self.field]

    def score(self, texts: Sequence[str | bytes]) -> list[float | None]:
        """The score of each text, in their order; lower is better. None for an empty text.

        Raises:
            ModelFileError: a text has no finite probability.
        """
        return [scored.score for scored in self.details(texts)]

    def details(self, texts: Sequence[str | bytes]) -> list[Scored]:
        """What each model gives each text: bytes, tokens, nats; errors as of `score`."""
        good = self._good.score(texts, window=self.window, threads=self.threads)
        if self._bad is None:
            return [Scored(score, by=self.by) for score in good]
        bad = self._bad.score(texts, window=self.window, threads=self.threads)
        return list(map(Scored, good, bad))

    def __reduce__(self) -> tuple[object, ...]:
        return self.recipe(), ()

    def recipe(self) -> partial[Scorer]:
        """A call that makes an equal scorer, in another process too."""
        return partial(
            Scorer,
            self.path,
            bad=self.bad,
            by=self.by,
            window=self.window,
            threads=self.threads,
        )


def check_unit(trained: str | None, scored: set[str]) -> None:
    """Warn where the texts are of another unit than those that the model was trained on.

    Args:
        trained: the model's unit; None where it isn't known.
        scored: units of the texts.
    """
    others = sorted(scored - {trained})
    if trained is not None and others:
        texts = " and ".join(f"{unit}s" for unit in others)
        warnings.warn(
            f"the model was trained on {trained}s, and {texts} are scored, which separates good "
            f"from bad less well. Score {trained}s, or train a model with `itera train --unit "
            f"{others[0]}`",
            IteraWarning,
            stacklevel=2,
        )


def threshold_of(
    scores: Sequence[float], keep: float, weights: Sequence[float] | None = None
) -> float:
    """The highest score of the lowest ``keep`` share: texts with at most this score are kept.

    Args:
        scores: of a sample of the texts.
        keep: more than 0, at most 1. The number of scores that comes nearest is kept, at least one.
        weights: how many texts each score stands for; by default as many as any other.

    Raises:
        UsageError: ``keep`` is out of its range.
        DataError: there are no scores.
    """
    if not 0 < keep <= 1:
        raise UsageError(f"keep={keep}: expected a share of more than 0 and at most 1")
    if not scores:
        raise DataError("there are no scores to find a threshold from: the sample has no text")
    weights = [1.0] * len(scores) if weights is None else weights
    pairs = sorted(zip(scores, weights, strict=True))
    reached = list(accumulate(weight for _, weight in pairs))
    wanted = keep * reached[-1]
    nearest = min(range(len(pairs)), key=lambda i: (abs(reached[i] - wanted), -i))
    return pairs[nearest][0]
