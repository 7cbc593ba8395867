"""When the load by other programs forbids a verdict on something that depends on time.

Both limits are shares of the cores. They come from what a training on all cores loses beside other
programs: at least the share that they take, and not much more (a busy loop of equal priority takes
a third of two cores, and the training is a third slower). So five hundredths apart bend the ratio
of two speeds by about 5 %, and the bits per byte of two trainings of equal time by some tenths of
a percent, which is less than the smallest difference that counts (`comparison.LEAST_DIFFERENCE`).
And beside programs that use a quarter of the cores, speeds aren't those of this machine any more:
how much a side loses then depends on how it waits and on the caches that it needs.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

MOST_APART = 0.05  # of the cores, between the two sides of a comparison
MOST = 0.25  # of the cores, on either side


class Load(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Cores that other programs kept busy on average while something was measured, of ``cores``."""

    by_others: float
    cores: int

    @property
    def share(self) -> float:
        return self.by_others / self.cores

    @property
    def disturbs(self) -> bool:
        """Whether it is more than two sides may differ by; so one of them may have had it all."""
        return self.share > MOST_APART

    @property
    def too_high(self) -> str:
        """Why nothing that depends on time is judged; empty where it may be."""
        if self.share <= MOST:
            return ""
        return f"other programs used {self}: measure again on a quieter machine"

    def __str__(self) -> str:
        return f"{self.by_others:.1f} of {self.cores} core{'s' if self.cores > 1 else ''}"

    @classmethod
    def mean(cls, loads: Sequence[Load | None]) -> Load | None:
        """Of several measurements of one side; None where one has none."""
        known = [load for load in loads if load is not None]
        if not known or len(known) < len(loads):
            return None
        return cls(sum(load.by_others for load in known) / len(known), known[0].cores)


def why_withheld(a: Load | None, b: Load | None, names: tuple[str, str]) -> str:
    """Why two numbers that depend on time aren't judged; empty where they are.

    Args:
        a, b: load beside each of them; where one wasn't measured, nothing is withheld.
        names: what the sides are called.
    """
    if a is None or b is None:
        return ""
    if a == b:  # measured together, in turns
        return a.too_high
    if abs(a.share - b.share) <= MOST_APART and max(a.share, b.share) <= MOST:
        return ""
    return (
        f"other programs used {a} ({names[0]}) and {b} ({names[1]}): measure again on a quieter "
        "machine"
    )
