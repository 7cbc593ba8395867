"""The moments at which a process is killed: counted in what it does to files, or in time.

A crash matters where it falls between two changes of files, so most moments are numbers of such
changes. Python reports them to an audit hook before they happen; `os.fsync`, which it doesn't
report, is replaced by one that counts. A file that is cut off in the middle comes from a limit on
the size of files: the system writes up to it, then kills the process with SIGXFSZ.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

Kind = Literal["event", "sync", "cut", "time"]
EVENTS = {  # those that change files, and how many of their arguments are paths
    "open": 1,
    "os.rename": 2,
    "os.remove": 1,
    "os.rmdir": 1,
    "os.mkdir": 1,
    "os.link": 2,
    "os.symlink": 2,
    "os.truncate": 1,
    "os.chmod": 1,
    "shutil.rmtree": 1,
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
MOST_CUT = 60_000  # bytes of a file that are written at most before it is cut off


@dataclass(frozen=True)
class Moment:
    """When a process is killed.

    Attributes:
        kind: before an ``event``; before or after a ``sync``; a file ``cut`` off after some bytes,
            from an event on; or a ``time`` after the start.
        number: of the event or the synchronisation, from 1; of ``time``, seconds.
        more: for ``cut``, the bytes; for ``sync``, 1 to kill after it.
    """

    kind: Kind
    number: float
    more: int = 0

    def __str__(self) -> str:
        match self.kind:
            case "time":
                return f"after {self.number:.3f} s"
            case "cut":
                return f"a file cut off after {self.more:,} bytes, from event {self.number:.0f} on"
            case "sync":
                return f"{'after' if self.more else 'before'} fsync {self.number:.0f}"
        return f"before event {self.number:.0f}"


@dataclass
class Counts:
    """What a whole run does to files, and how long it takes."""

    events: list[str]
    syncs: int
    seconds: float

    def moments(self, wanted: int, draw: Random) -> list[Moment]:
        """Moments of a run, most of them before events, no event twice while there are others."""
        shares = {"event": 0.6, "sync": 0.15, "cut": 0.1}
        numbers = {kind: round(share * wanted) for kind, share in shares.items()}
        found = [Moment("event", n) for n in _spread(len(self.events), numbers["event"], draw)]
        found += [
            Moment("sync", n, draw.randrange(2)) for n in _spread(self.syncs, numbers["sync"], draw)
        ]
        found += [
            Moment("cut", n, int(MOST_CUT ** draw.random()))
            for n in _spread(len(self.events), numbers["cut"], draw)
        ]
        while len(found) < wanted:
            found.append(Moment("time", self.seconds * draw.random()))
        return found


def _spread(among: int, wanted: int, draw: Random) -> list[int]:
    """Numbers from 1 to ``among``, each once before any comes again."""
    chosen: list[int] = []
    while among and len(chosen) < wanted:
        chosen += draw.sample(range(1, among + 1), min(among, wanted - len(chosen)))
    return chosen


def arm(moment: Moment | None, folder: Path, seen: list[str], syncs: list[int]) -> None:
    """Have this process killed at a moment, or only count; it can't be undone.

    Args:
        folder: changes of other files don't count.
        seen: gets the events; ``syncs``: a number a synchronisation.
    """
    place = str(folder)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    synchronise = os.fsync

    def counting(descriptor: int) -> None:
        syncs.append(descriptor)
        due = moment is not None and moment.kind == "sync" and moment.number == len(syncs)
        if due and moment is not None and not moment.more:
            _die()
        synchronise(descriptor)
        if due:
            _die()

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        n_paths = EVENTS.get(event)
        if n_paths is None:
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITING):
            return
        paths = [_path(argument) for argument in arguments[:n_paths]]
        if not any(path is not None and path.startswith(place) for path in paths):
            return
        shown = " -> ".join(os.path.relpath(path, place) for path in paths if path is not None)
        seen.append(f"{event} {shown}")
        if moment is None or moment.number != len(seen):
            return
        if moment.kind == "event":
            _die()
        if moment.kind == "cut":
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (moment.more, most))

    os.fsync = counting
    sys.addaudithook(watch)


def _path(argument: Any) -> str | None:
    """The absolute path of an event's argument; None for a descriptor."""
    if isinstance(argument, int):
        try:
            return os.readlink(f"/proc/self/fd/{argument}")
        except OSError:
            return None
    try:
        return os.path.abspath(os.fsdecode(argument))
    except TypeError:
        return None


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()  # until it arrives
