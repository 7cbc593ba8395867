"""The loop in which everything that is compared takes turns, and the ratios of the speeds found.

In each round everybody is measured once, one after the other, and the order turns from round to
round, so a machine that gets slower for a while slows all of them alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from tqdm import tqdm

from itera_lite.records import SpeedRatio
from itera_lite.stats.comparison import Measurement, Metric, compare
from itera_lite.stats.targets import ratio

T = TypeVar("T")
Progress = Callable[[str], None]


@dataclass(kw_only=True)
class Entry(ABC, Generic[T]):
    """What takes turns: its name for the progress, and what its measurements gave."""

    name: str
    samples: list[T] = field(default_factory=list)

    @abstractmethod
    def measure(self) -> T:
        """Measure once."""


def take_turns(
    entries: Sequence[Entry[Any]], repeats: int, progress: Progress, *, warm_up: bool = True
) -> None:
    """Measure every entry ``repeats`` times, in turns; to warm up, after a round that isn't
    counted."""
    for repeat in range(-1 if warm_up else 0, repeats):
        for turn in range(len(entries)):
            entry = entries[(turn + repeat) % len(entries)]
            progress(entry.name)
            sample = entry.measure()
            if repeat >= 0:
                entry.samples.append(sample)


def measure_in_turns(title: str, entries: Sequence[Entry[Any]], repeats: int) -> None:
    """`take_turns` with a bar on the terminal."""
    with progress_bar(title, (repeats + 1) * len(entries)) as progress:
        take_turns(entries, repeats, progress)


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Progress]:
    """A bar on the terminal; the function takes the name of what comes next."""
    with tqdm(total=total, desc=title, disable=None) as bar:

        def progress(name: str) -> None:
            bar.set_postfix_str(name, refresh=False)
            bar.update()

        yield progress


def speed_ratios(
    metric: Metric,
    types: Iterable[str],
    speeds: Mapping[tuple[str, str], Sequence[float]],
    ours: str,
) -> list[SpeedRatio]:
    """Compare the runtime ``ours`` with every other one, for each type of weights.

    Args:
        metric: what the speeds are.
        types: of weights.
        speeds: (type, runtime) -> tokens/s, a number a round. A runtime in ``fp32`` is compared
            with every type, another one only with its own.
        ours: name of our runtime.
    """
    ratios = []
    for kind in types:
        for (peer_type, peer), found in speeds.items():
            if peer == ours or peer_type not in (kind, "fp32"):
                continue
            a, b = Measurement.of_samples(speeds[kind, ours]), Measurement.of_samples(found)
            compared = compare(metric, a, b, names={"ours": ours, "other": peer})
            interval = ratio(a, b)
            ratios.append(
                SpeedRatio(
                    type=kind,
                    peer=peer,
                    peer_type=peer_type,
                    ratio=a.value / b.value,
                    winner=compared.winner,
                    verdict=compared.verdict,
                    low=interval and interval.low,
                    high=interval and interval.high,
                )
            )
    return ratios
