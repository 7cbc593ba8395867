"""The loop in which everything that is compared takes turns, and the ratios of the speeds found.

In each round everybody is measured once, one after the other, and the order turns from round to
round, so a machine that gets slower for a while slows all of them alike. Rounds that other programs
disturb are measured again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from tqdm import tqdm

from itera_lite.machine.load import LoadMeter, LoadTime
from itera_lite.records import SpeedRatio
from itera_lite.stats.comparison import Measurement, Metric, compare
from itera_lite.stats.load import Load
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


@dataclass(frozen=True)
class Rounds:
    """How rounds were measured: the load by others in those that count, and how many don't."""

    load: LoadTime = field(default_factory=LoadTime)
    repeated: int = 0

    def __add__(self, more: Rounds) -> Rounds:
        return Rounds(self.load + more.load, self.repeated + more.repeated)


def take_turns(
    entries: Sequence[Entry[Any]],
    repeats: int,
    progress: Progress,
    *,
    warm_up: bool = True,
    meter: LoadMeter | None = None,
) -> Rounds:
    """Measure every entry ``repeats`` times, in turns; to warm up, after a round that isn't
    counted.

    A round in which other programs kept more of the machine busy than two sides of a comparison
    may differ by is measured again, as long as there are at most twice as many rounds as asked
    for. The quietest count: a round is chosen by the load alone, never by what it gave.

    Args:
        meter: of the load by others; by default this machine's.
    """
    meter = meter or LoadMeter()
    rounds: list[tuple[LoadTime, dict[int, Any]]] = []

    def measure(turn: int) -> dict[int, Any]:
        samples = {}
        for place in ((i + turn) % len(entries) for i in range(len(entries))):
            progress(entries[place].name)
            samples[place] = entries[place].measure()
        return samples

    if warm_up:
        measure(-1)
    meter.lap()
    quiet = 0
    while quiet < repeats and len(rounds) < 2 * repeats:
        samples = measure(len(rounds))
        load = meter.lap()
        rounds.append((load, samples))
        quiet += not (load.certain and load.certain.disturbs)
    quietest = sorted(range(len(rounds)), key=lambda i: rounds[i][0].by_others or 0.0)[:repeats]
    total = LoadTime()
    for load, samples in (rounds[i] for i in sorted(quietest)):
        total += load
        for place, sample in samples.items():
            entries[place].samples.append(sample)
    return Rounds(total, len(rounds) - repeats)


def measure_in_turns(title: str, entries: Sequence[Entry[Any]], repeats: int) -> Rounds:
    """`take_turns` with a bar on the terminal."""
    with progress_bar(title, (repeats + 1) * len(entries)) as progress:
        return take_turns(entries, repeats, progress)


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Progress]:
    """A bar on the terminal; the function takes the name of what comes next."""
    with tqdm(total=total, desc=title, disable=None) as bar:

        def progress(name: str) -> None:
            if bar.n >= bar.total:  # rounds that are measured again
                bar.total += 1
            bar.set_postfix_str(name, refresh=False)
            bar.update()

        yield progress


def speed_ratios(
    metric: Metric,
    types: Iterable[str],
    speeds: Mapping[tuple[str, str], Sequence[float]],
    ours: str,
    load: Load | None = None,
) -> list[SpeedRatio]:
    """Compare the runtime ``ours`` with every other one, for each type of weights.

    Args:
        metric: what the speeds are.
        types: of weights.
        speeds: (type, runtime) -> tokens/s, a number a round. A runtime in ``fp32`` is compared
            with every type, another one only with its own.
        ours: name of our runtime.
        load: by others, while they took turns.
    """
    ratios = []
    for kind in types:
        for (peer_type, peer), found in speeds.items():
            if peer == ours or peer_type not in (kind, "fp32"):
                continue
            a, b = Measurement.of_samples(speeds[kind, ours]), Measurement.of_samples(found)
            compared = compare(
                metric, a, b, loads=(load, load), names={"ours": ours, "other": peer}
            )
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
