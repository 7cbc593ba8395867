"""How long a training still takes, from how long it took so far; what is recent weighs more."""

from __future__ import annotations

import math

MEMORY = 0.05  # of the budget: after so much more of it, a step weighs 1/e of a new one
FORWARD = 1 / 3  # of a step's time, about: what a score of the same tokens takes


class Pace:
    """The pace of one training: wall seconds of its steps, of its evaluations, of a score.

    With a budget in time as in tokens a step is a share of the budget in some seconds, so that one
    estimate serves both; what other programs take from the machine is in the seconds.
    """

    def __init__(self) -> None:
        self._steps = self._seconds = self._share = 0.0  # number and sums of steps, fading
        self._evaluation: float | None = None
        self._score: float | None = None

    def stepped(self, seconds: float, share: float) -> None:
        """Count a step in, which used a ``share`` of the budget."""
        keep = math.exp(-share / MEMORY)
        self._steps = keep * self._steps + 1
        self._seconds = keep * self._seconds + seconds
        self._share = keep * self._share + share

    @property
    def share_per_step(self) -> float:
        """Of the budget; 0 before the first step."""
        return self._share / max(self._steps, 1.0)

    def evaluated(self, seconds: float, score_seconds: float) -> None:
        """Count an evaluation in; ``score_seconds`` of it went into the score of the text."""
        self._evaluation = _mean(self._evaluation, seconds)
        self._score = _mean(self._score, score_seconds)

    def remaining(
        self, share: float, evaluations: float, *, score_in_steps: float, final_in_scores: float
    ) -> float | None:
        """Seconds of the training's own that are left; None before its first step.

        Args:
            share: of the budget that is left.
            evaluations: that are left.
            score_in_steps: tokens of an evaluation's score over tokens of a whole budget; the
                estimate before the first evaluation needs it.
            final_in_scores: time of the score at the end over that of an evaluation's.
        """
        if not self._share:
            return None
        whole = self._seconds / self._share
        score = self._score if self._score is not None else FORWARD * whole * score_in_steps
        evaluation = self._evaluation if self._evaluation is not None else score
        return whole * share + evaluation * evaluations + score * final_in_scores


def _mean(before: float | None, now: float) -> float:
    """A mean in which the last value weighs as much as three of those before it."""
    return now if before is None else (before + 3 * now) / 4


def time_left(seconds: float | None) -> str:
    """``1:23``, ``2:03:20``; ``?`` where it isn't known."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
