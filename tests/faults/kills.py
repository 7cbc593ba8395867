"""Kills a command at a moment, starts it again until it ends, and compares with a whole run.

Children are forked from a process that has imported everything, so that a run takes a second. What
is found: a file that looks whole and isn't, a command that neither goes on nor says what to do,
anything left over at the end, and an end that isn't that of the uninterrupted run.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

from tests.faults.moments import Counts, Moment, arm

Run = Callable[[list[str]], int]
Snapshot = Callable[[Path], dict[str, str]]
Problems = Callable[[Path], list[str]]

SECONDS = 300  # that a command may take
STARTS = 6  # after which a command must have ended
AGAIN = 0.25  # of the starts after a kill are killed too
LATE = 30  # times that a time is halved because the command had ended by then
_PR_SET_CHILD_SUBREAPER = 36  # of Linux's prctl
KILLED = (signal.SIGKILL, signal.SIGXFSZ)


@dataclass(frozen=True)
class Verb:
    """A command that is killed.

    Attributes:
        name: in the table.
        run: takes the arguments, gives the exit code; it runs in a child.
        arguments: of the command; ``again``: those with which it is started after a kill.
        snapshot: what is compared at the end: of each file, by its path in the folder, what must be
            the same in every run.
        problems: of the files as they lie in a folder right after a kill, in words. It looks at a
            copy, in a child.
        advised: an option that a message may name, with which a user then begins anew.
        before: a folder that the command finds, if there is one.
    """

    name: str
    run: Run
    arguments: Sequence[str]
    snapshot: Snapshot
    problems: Problems
    again: Sequence[str]
    advised: str = "--overwrite"
    before: Path | None = None


@dataclass
class Result:
    """What the kills of a verb have shown."""

    verb: str
    kills: dict[str, int] = field(default_factory=dict)  # by the kind of moment
    advised: int = 0  # starts that said what to do instead of going on
    ended: int = 0  # moments that came after the end
    findings: list[str] = field(default_factory=list)


def try_verb(
    verb: Verb, wanted: int, seed: int, folder: Path, say: Callable[[str], object]
) -> Result:
    """Kill a verb at ``wanted`` moments that follow from the seed."""
    draw, result = Random(f"{seed}/{verb.name}"), Result(verb.name)
    whole = folder / "whole"
    counts = run_whole(verb, whole)
    expected = verb.snapshot(whole / "work")
    say(
        f"{verb.name}: {len(counts.events)} events, {counts.syncs} synchronisations, "
        f"{counts.seconds:.2f} s, {len(expected)} files"
    )
    for number, moment in enumerate(counts.moments(wanted, draw), 1):
        trial = folder / f"{number:03}"
        found = _try(verb, moment, counts, trial, expected, draw, result)
        event = ""
        if moment.kind == "event":
            event = f" ({counts.events[int(moment.number) - 1]})"
        say(f"  {verb.name} {number}: {moment}{event}: {'; '.join(found) or 'good'}")
        result.findings += [f"{verb.name} {number}, {moment}{event}: {each}" for each in found]
        if not found:
            shutil.rmtree(trial)
    return result


def run_whole(verb: Verb, place: Path) -> Counts:
    """Run a verb to its end and count what it does.

    Raises:
        RuntimeError: it fails, or leaves files that aren't whole.
    """
    begin = time.monotonic()
    child = _Child(verb, verb.arguments, place, None)
    code = child.wait()
    seconds = time.monotonic() - begin
    if code != 0:
        raise RuntimeError(f"{verb.name} ended with {code}, and nobody killed it: {child.said()}")
    if found := _problems(verb, place):
        raise RuntimeError(f"{verb.name}: after a whole run: {found}")
    events = (place / "events").read_text(encoding="utf-8").splitlines()
    return Counts(events[1:], int(events[0]), seconds)


def _try(
    verb: Verb,
    moment: Moment,
    counts: Counts,
    place: Path,
    expected: dict[str, str],
    draw: Random,
    result: Result,
) -> list[str]:
    """Kill once or twice, start until the end; gives what was found, in words."""
    found: list[str] = []
    due: Moment | None = moment
    arguments: Sequence[str] = verb.arguments
    late = starts = 0
    while starts < STARTS:
        starts += 1
        child = _Child(verb, arguments, place, due)
        if due is not None and due.kind == "time":
            child.kill_after(due.number)
        code = child.wait()
        killed = -code in KILLED
        if killed and due is not None:
            result.kills[due.kind] = result.kills.get(due.kind, 0) + 1
            found += _problems(verb, place)
            again = draw.random() < AGAIN
            due = Moment("event", draw.randint(1, len(counts.events))) if again else None
            arguments = verb.again
            continue
        if due is not None and due.kind == "time" and late < LATE:
            # The whole run took longer, on a busier machine. Sooner, and from the beginning.
            late, starts = late + 1, 0
            due = replace(due, number=due.number / 2)
            shutil.rmtree(place)
            continue
        if due is not None and due is moment:
            result.ended += 1
        due = None
        if code == 0:
            break
        message = child.said()
        usable = "itera: error: " in message and "Traceback" not in message
        anew = [*verb.arguments, *({verb.advised} - {*verb.arguments})]
        if code not in (1, 2) or not usable or verb.advised not in message or arguments == anew:
            return [*found, f"started again it ends with {code}: {message[-600:]}"]
        result.advised += 1
        arguments = anew
    else:
        return [*found, f"it hasn't ended after {STARTS} starts"]
    ended = verb.snapshot(place / "work")
    for name in sorted(expected.keys() | ended.keys()):
        if name not in ended:
            found.append(f"'{name}' is missing at the end")
        elif name not in expected:
            found.append(f"'{name}' is left over at the end")
        elif ended[name] != expected[name]:
            found.append(f"'{name}' isn't that of the whole run")
    return found


def _problems(verb: Verb, place: Path) -> list[str]:
    """`Verb.problems` of a copy of the folder, for a reader may finish what a writer began."""
    look = place / "look"
    shutil.copytree(place / "work", look, symlinks=True)
    process = os.fork()
    if not process:
        code = 70
        try:
            (place / "problems").write_text("\n".join(verb.problems(look)), encoding="utf-8")
            code = 0
        except BaseException as error:
            (place / "problems").write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
        finally:
            os._exit(code)
    _, status = os.waitpid(process, 0)
    shutil.rmtree(look)
    found = (place / "problems").read_text(encoding="utf-8").splitlines()
    if code := os.waitstatus_to_exitcode(status):
        found.append(f"the files can't be looked at: {code}")
    return found


class _Child:
    """A run in a forked process, the first of a group of its own.

    Args:
        place: a folder with ``work``, where the command runs, ``output``, what it prints, and
            ``events``, what it did to files if it ended.
    """

    def __init__(
        self, verb: Verb, arguments: Sequence[str], place: Path, moment: Moment | None
    ) -> None:
        if not place.exists():
            (place / "tmp").mkdir(parents=True)
            if verb.before is None:
                (place / "work").mkdir()
            else:
                shutil.copytree(verb.before, place / "work", symlinks=True)
        self._output = place / "output"
        self._output.write_bytes(b"")
        sys.stdout.flush()
        sys.stderr.flush()
        _adopt(True)
        self._process = os.fork()
        with contextlib.suppress(OSError):  # the child does it too, and may have ended
            os.setpgid(self._process, self._process)
        if not self._process:
            _run_in_child(verb.run, list(arguments), place, moment)

    def kill_after(self, seconds: float) -> None:
        """Kill it after some time, if it runs so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self._has_ended():
            time.sleep(min(left, 0.005))
        with contextlib.suppress(ProcessLookupError):  # it isn't waited for yet: the number is its
            os.kill(self._process, signal.SIGKILL)

    def wait(self) -> int:
        """The exit code; minus the number of the signal that ended it. Processes that the command
        started are ended with it, and waited for: until then they may still change files."""
        end = time.monotonic() + SECONDS
        try:
            while not self._has_ended():
                if time.monotonic() > end:
                    raise RuntimeError(f"it ran longer than {SECONDS} s: {self.said()}")
                time.sleep(0.002)
        finally:
            os.killpg(self._process, signal.SIGKILL)
            _, status = os.waitpid(self._process, 0)
            with contextlib.suppress(ChildProcessError):  # there are no more
                while True:
                    os.waitpid(-self._process, 0)  # any of the group
            _adopt(False)
        return os.waitstatus_to_exitcode(status)

    def said(self) -> str:
        return self._output.read_text(encoding="utf-8", errors="replace").strip()

    def _has_ended(self) -> bool:
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._process, flags) is not None


def _adopt(adopts: bool) -> None:
    """Have this process become the parent of processes whose own parent ends, or not."""
    with contextlib.suppress(OSError, AttributeError):  # not Linux
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(adopts), 0, 0, 0)


def _run_in_child(run: Run, arguments: list[str], place: Path, moment: Moment | None) -> None:
    """Be the child: never returns."""
    code = 70
    try:
        output = os.open(place / "output", os.O_WRONLY | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        # Not what a test puts in their places
        sys.stdout, sys.stderr = (os.fdopen(n, "w", closefd=False) for n in (1, 2))
        work = (place / "work").resolve()
        os.chdir(work)
        os.environ["ITERA_CACHE"] = str(work / "cache")
        tempfile.tempdir = str(place / "tmp")
        seen: list[str] = []
        syncs: list[int] = []
        arm(moment, work, seen, syncs)
        code = run(arguments)
        sys.stdout.flush()
        text = "\n".join([str(len(syncs)), *seen])
        (place / "events").write_text(text, encoding="utf-8")
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def table(results: Sequence[Result]) -> str:
    """Verb, kills by the kind of moment, and findings."""
    header = ["verb", "kills", "before events", "at fsync", "file cut off", "by time", "advised"]
    rows = [[*header, "findings"]]
    for each in results:
        numbers = [each.kills.get(kind, 0) for kind in ("event", "sync", "cut", "time")]
        rows.append(
            [each.verb, *map(str, (sum(numbers), *numbers, each.advised, len(each.findings)))]
        )
    sums = [sum(int(row[i]) for row in rows[1:]) for i in range(1, len(rows[0]))]
    rows.append(["all", *map(str, sums)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        )
        for row in rows
    )
