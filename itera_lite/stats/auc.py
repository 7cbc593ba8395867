"""AUC: how well a score separates two groups of texts, with a bootstrap interval.

The area under the ROC curve is the probability that a text of the second group has a higher score
than one of the first, where equal scores count half (Hanley and McNeil, 1982). The texts come in
pairs: the i-th of the second group was made from the i-th of the first, or matched with it. So a
resample draws pairs, with replacement, and the same resamples are used for every score: the
difference of two scores is far surer than either of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from itera_lite.stats.comparison import Measurement

if TYPE_CHECKING:  # takes long to import; reading results starts quickly
    import numpy as np
    from numpy.typing import NDArray

RESAMPLES = 1000
CONFIDENCE = 0.95
_AT_A_TIME = 4_000_000  # numbers, which bounds memory


@dataclass(frozen=True)
class Separation:
    """An AUC, or a difference of two, and what the resamples give for it.

    Attributes:
        value: of the texts as they are.
        resampled: (R,) of each resample.
    """

    value: float
    resampled: NDArray[np.float64]

    def __sub__(self, other: Separation) -> Separation:
        """The difference, where both are of the same resamples of the same pairs."""
        return Separation(self.value - other.value, self.resampled - other.resampled)

    @property
    def measurement(self) -> Measurement:
        """With the interval that holds 95 % of the resamples (the percentile bootstrap)."""
        import numpy as np

        tail = 100 * (1 - CONFIDENCE) / 2
        low, high = np.percentile(self.resampled, [tail, 100 - tail])
        return Measurement(self.value, float(low), float(high), len(self.resampled))


def resamples(pairs: int, repeats: int = RESAMPLES, seed: int = 0) -> NDArray[np.int64]:
    """How often each pair is drawn, a row a resample (R, N). Equal arguments give equal rows."""
    import numpy as np

    rng = np.random.default_rng(seed)
    return rng.multinomial(pairs, np.full(pairs, 1 / pairs), size=repeats)


def separation(
    first: NDArray[np.float64], second: NDArray[np.float64], drawn: NDArray[np.int64]
) -> Separation:
    """The AUC of a score.

    Args:
        first: scores of the texts that should have low ones (N,), finite, N at least 1.
        second: scores of their partners, which should have high ones (N,).
        drawn: `resamples` of the N pairs.
    """
    import numpy as np

    pairs = len(first)
    order = np.argsort(first)
    below = np.searchsorted(first[order], second, "left")
    up_to = np.searchsorted(first[order], second, "right")

    def areas(weights: NDArray[np.int64]) -> NDArray[np.float64]:
        """AUC of each row of weights of the pairs."""
        running = np.zeros((len(weights), pairs + 1))
        np.cumsum(weights[:, order], axis=1, out=running[:, 1:])
        won = (running[:, below] + running[:, up_to]) / 2
        return (won * weights).sum(axis=1) / weights.sum(axis=1, dtype=np.float64) ** 2

    step = max(1, _AT_A_TIME // (pairs + 1))
    parts = [areas(drawn[at : at + step]) for at in range(0, len(drawn), step)]
    return Separation(float(areas(np.ones((1, pairs), np.int64))[0]), np.concatenate(parts))
