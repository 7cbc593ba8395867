"""The loop in which runtimes and models that are compared take turns, and their speeds' ratios.

In each round everybody is measured once, one after the other, and the order turns from round to
round, so a machine that gets slower for a while slows all of them alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from tqdm import tqdm

from itera_lite.stats.comparison import Measurement, Metric, compare
from itera_lite.stats.targets import ratio

T = TypeVar("T")
Progress = Callable[[str], None]


def turns(
    items: Sequence[T], repeats: int, progress: Progress, name: Callable[[T], str] = str
) -> Iterator[tuple[int, T]]:
    """Yield each item once in every round, as (round, item).

    Args:
        items: what takes turns.
        repeats: rounds that count, numbered from 0; round -1 comes first and only warms up.
        progress: called with the item's name before each turn, see `progress_bar`.
        name: of an item.
    """
    for repeat in range(-1, repeats):
        for turn in range(len(items)):
            item = items[(turn + repeat) % len(items)]
            progress(name(item))
            yield repeat, item


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Progress]:
    """A bar on the terminal; its function takes the name of what comes next."""
    with tqdm(total=total, desc=title, disable=None) as bar:

        def progress(name: str) -> None:
            bar.set_postfix_str(name, refresh=False)
            bar.update()

        yield progress


class Entry(Protocol):
    """What was measured of a runtime with weights of one type."""

    @property
    def kind(self) -> str:
        """The type of the weights: ``q8_0``, or ``fp32`` in PyTorch."""
        ...

    @property
    def runtime(self) -> str: ...

    @property
    def speeds(self) -> list[float]:
        """Tokens a second, a number a round."""
        ...


def speed_ratios(
    metric: Metric, types: Iterable[str], entries: Sequence[Entry], ours: str
) -> list[dict[str, Any]]:
    """Compare the runtime ``ours`` with each other runtime, for each type of weights.

    A runtime in ``fp32`` is compared with every type, another only with its own.
    """
    rows = []
    for kind in types:
        first = next((e for e in entries if (e.kind, e.runtime) == (kind, ours)), None)
        for peer in entries:
            if first is None or peer.runtime == ours or peer.kind not in (kind, "fp32"):
                continue
            a, b = Measurement.of_samples(first.speeds), Measurement.of_samples(peer.speeds)
            verdict = compare(metric, a, b, names={"ours": ours, "other": peer.runtime}).verdict
            found = ratio(a, b)
            rows.append(
                {
                    "type": kind,
                    "peer": peer.runtime,
                    "peer_type": peer.kind,
                    "ratio": a.value / b.value,
                    "low": found and found.low,
                    "high": found and found.high,
                    "verdict": verdict,
                }
            )
    return rows
