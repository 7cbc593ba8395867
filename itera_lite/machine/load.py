"""The load by other programs: how many cores they keep busy while this one measures.

The machine's busy time (Linux's /proc/stat: all but idle and waiting for a disk; programs of low
priority count, for they disturb caches and threads) less our own, our children's included. It is
the plain signal: the pressure in /proc/pressure also counts our own threads that wait for each
other, and the throttling of a control group is our own quota, the same for everything that is
compared. In a container /proc/stat is the whole host's. So only the cores that this process may
run on are counted, and where a quota allows a part of these, that part of the load.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from itera_lite.machine.processor import usable_cores
from itera_lite.stats.load import Load

PROCESSES = Path("/proc")
START_SECONDS = 0.5  # of measuring whether the machine is busy
# Both times are counted in ticks of 10 ms, on each core: of a short interval this much may be error
ERROR_SECONDS = 0.04
_BUSY = (0, 1, 2, 5, 6, 7)  # user, nice, system, irq, softirq, steal; guests are within user


class Counters(NamedTuple):
    """What grows, in seconds: the clock, the cores' busy time, and ours."""

    clock: float
    busy: float
    own: float


@dataclass(frozen=True)
class LoadTime:
    """What was measured in one interval, or in several; zero seconds where nothing could be.

    Attributes:
        seconds: of the clock.
        others: seconds of a core that other programs used.
    """

    seconds: float = 0.0
    others: float = 0.0

    def __add__(self, more: LoadTime) -> LoadTime:
        return LoadTime(self.seconds + more.seconds, self.others + more.others)

    @property
    def by_others(self) -> float | None:
        """Cores that other programs kept busy, on average; None: not measured."""
        if self.seconds <= 0:
            return None
        return round(max(0.0, self.others) / self.seconds, 4)

    @property
    def load(self) -> Load | None:
        """The same, with the cores that there are."""
        found = self.by_others
        return None if found is None else Load(found, usable_cores())

    @property
    def certain(self) -> Load | None:
        """The least load that it can have been, however the ticks fell; None: not measured."""
        if self.seconds <= 0:
            return None
        return Load(max(0.0, self.others - ERROR_SECONDS) / self.seconds, usable_cores())


class LoadMeter:
    """Measures the load by others over intervals.

    Args:
        read: gives the counters; None where the system has none.
    """

    def __init__(self, read: Callable[[], Counters | None] | None = None) -> None:
        self._read = read or read_counters
        self._before = self._read()

    @property
    def seconds(self) -> float:
        """Of the lap so far; infinite where nothing can be measured."""
        return math.inf if self._before is None else time.monotonic() - self._before.clock

    def lap(self) -> LoadTime:
        """What was measured since the last lap, or since the meter was made."""
        before, self._before = self._before, self._read()
        if before is None or self._before is None:
            return LoadTime()
        clock, busy, own = (now - then for now, then in zip(self._before, before, strict=True))
        return LoadTime(clock, busy - own)


def read_counters() -> Counters | None:
    """The counters of this machine; None where it isn't Linux."""
    try:
        own = _own_ticks(_root())
        lines = (PROCESSES / "stat").read_text("utf-8").splitlines()
    except OSError:
        return None
    ours = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    ticks = [list(map(int, line.split()[1:])) for line in lines if line.split()[0] in ours]
    if not ticks:
        return None
    second = os.sysconf("SC_CLK_TCK")
    busy = sum(core[field] for core in ticks for field in _BUSY) / second
    part = usable_cores() / len(ticks)  # below 1 where a quota allows less than all these cores
    return Counters(time.monotonic(), part * busy, part * own / second)


def busy_note(meter: LoadMeter) -> str:
    """A line that names the load of a busy machine and its effect on verdicts; empty if it is idle.

    Waits until `START_SECONDS` have passed since the meter was made or read.
    """
    time.sleep(max(0.0, START_SECONDS - meter.seconds))
    load = meter.lap().load
    if load is None or not load.disturbs:
        return ""
    what = "a verdict on speed, latency or energy, or after equal training time, is withheld"
    when = "while that goes on" if load.too_high else "where that differs between the two sides"
    return f"The machine is busy: other programs use {load}. {what.capitalize()} {when}."


def _root() -> int:
    """The process whose tree is ours: torchrun's, which started this one, or this one."""
    return os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else os.getpid()


def _own_ticks(process: int) -> int:
    """Ticks of a process, of its children that have ended, and of those that run.

    Those that run come first: one that ends meanwhile is then counted with its parent.
    """
    folder, running = PROCESSES / str(process), 0
    for task in (folder / "task").iterdir():
        for child in _words(task / "children"):
            try:
                running += _own_ticks(int(child))
            except OSError:
                continue  # it has ended
    fields = (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    return running + sum(map(int, fields[11:15]))


def _words(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8").split()
    except OSError:  # the thread has ended, or a kernel without this file
        return []
