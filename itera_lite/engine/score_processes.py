"""Runs jobs in processes that each hold the model, one job a process at a time.

Reading and writing JSON is Python's work, which one process does on one core; so files are scored
in parallel by processes, and the cores that are left over are threads of these. A job that fails,
or whose process the system ends, is reported, and the others go on. Where the first process is
killed, the others end by themselves.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from itera_lite.engine.score_sample import Tick
from itera_lite.engine.scorer import Scorer
from itera_lite.errors import DataError, IteraError, IteraWarning

TICK_SECONDS = 0.5  # between two reports of a process
MOST_DEATHS = 3  # processes that may be killed one after another


class Job(Protocol):
    """What a process does; it travels there."""

    @property
    def source(self) -> Path:
        """The file that is read."""

    @property
    def size(self) -> int:
        """Its bytes: large files begin first."""

    def run(self, scorer: Scorer, tick: Tick) -> Any:
        """Do it; a `DataError` is the fault of this file alone."""


class Processes:
    """Processes that score, started when they are needed. Use it in a ``with`` block.

    Args:
        scorer: its model and window are those of the processes.
        threads: that score, in all processes together.
    """

    def __init__(self, scorer: Scorer, threads: int) -> None:
        self._make = scorer.recipe()
        self._threads = threads
        self._idle: list[_Process] = []
        self._busy: dict[Connection, _Process] = {}

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in (*self._idle, *self._busy.values()):
            process.end()

    def run(
        self,
        jobs: Sequence[Job],
        done: Callable[[Any, Any], None],
        failed: Callable[[Any, str], None],
        tick: Tick,
    ) -> None:
        """Run all jobs, the largest first.

        Args:
            jobs: what is to be done.
            done: is called with a job and its result.
            failed: is called with a job and the reason, which names the file.
            tick: is called with the bytes that are done in all files together.

        Raises:
            IteraError: what isn't the fault of one file, such as a full disk.
            RuntimeError: an error in the program, with the trace of the process.
        """
        waiting = deque(sorted(jobs, key=lambda job: (-job.size, str(job.source))))
        finished = deaths = 0
        while waiting or self._busy:
            while waiting and len(self._busy) < self._threads:
                process = self._idle.pop() if self._idle else _Process(self._make)
                self._busy[process.connection] = process
                self._share()
                process.begin(waiting.popleft())
            if not waiting:
                self._share()
            for connection in wait(list(self._busy)):
                assert isinstance(connection, Connection)
                process = self._busy[connection]
                kind, value = process.receive()
                if kind == "at":
                    process.at = value
                    continue
                del self._busy[connection]
                finished += process.job.size
                if kind == "killed":
                    deaths += 1
                    failed(process.job, value)
                    if deaths == MOST_DEATHS:
                        raise IteraError(f"{deaths} files one after another: {value}")
                    continue
                deaths = 0
                self._idle.append(process)
                if kind == "done":
                    done(process.job, value)
                elif kind == "failed":
                    failed(process.job, value)
                else:
                    raise value
            tick(finished + sum(process.at for process in self._busy.values()))

    def _share(self) -> None:
        """Share out the threads among the processes that are at work."""
        least, more = divmod(self._threads, len(self._busy)) if self._busy else (0, 0)
        for place, process in enumerate(self._busy.values()):
            process.set_threads(max(1, least + (place < more)))


class _Process:
    """A process, seen from the one that started it.

    Attributes:
        job: what it does, or has done last.
        at: bytes of the job's file that are done.
    """

    job: Job

    def __init__(self, make: Callable[[], Scorer]) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy locks that threads hold
        self.connection, other = context.Pipe()
        self._process: SpawnProcess = context.Process(target=_work, args=(other, make), daemon=True)
        self._process.start()
        other.close()  # so that the end of the process ends the connection
        self._threads = 0
        self.at = 0

    def begin(self, job: Job) -> None:
        self.job, self.at = job, 0
        self._send(job)

    def set_threads(self, threads: int) -> None:
        if threads != self._threads:
            self._threads = threads
            self._send(threads)

    def receive(self) -> tuple[str, Any]:
        """What the process sent: its kind, and its value; ``killed`` where it has ended."""
        try:
            kind, value = self.connection.recv()
        except (EOFError, OSError):
            self._process.join()
            return "killed", f"{self.job.source}: {_how_ended(self._process.exitcode)}"
        if kind == "stop":
            exit_code, message = value
            error = IteraError(message)
            error.exit_code = exit_code
            return kind, error
        return (kind, RuntimeError(value)) if kind == "bug" else (kind, value)

    def end(self) -> None:
        """End the process, whatever it does."""
        self.connection.close()
        self._process.terminate()
        self._process.join()
        self._process.close()

    def _send(self, message: Any) -> None:
        with suppress(OSError):  # it has ended, which `receive` finds out
            self.connection.send(message)


def _how_ended(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        memory = ", perhaps because the memory was used up" if name == "SIGKILL" else ""
        return f"the process that scored it was ended by {name}{memory}"
    return f"the process that scored it ended with code {code}"


def _work(connection: Connection, make: Callable[[], Scorer]) -> None:
    """What runs in a process: takes jobs until the connection ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends this one
    warnings.simplefilter("ignore", IteraWarning)  # which the first process has given
    try:
        scorer = make()
        while True:
            message = connection.recv()
            if isinstance(message, int):
                scorer.threads = message
            else:
                connection.send(_result(connection, scorer, message))
    except (EOFError, ConnectionError):
        pass  # the first process has ended
    except IteraError as error:
        connection.send(("stop", (error.exit_code, str(error))))


def _result(connection: Connection, scorer: Scorer, job: Job) -> tuple[str, Any]:
    """Runs a job; returns the kind of the answer and its value."""
    reported = 0.0

    def tick(at: int) -> None:
        nonlocal reported
        while connection.poll():
            scorer.threads = connection.recv()
        if time.monotonic() - reported > TICK_SECONDS:
            reported = time.monotonic()
            connection.send(("at", at))

    try:
        return "done", job.run(scorer, tick)
    except DataError as error:
        return "failed", str(error)
    except MemoryError:
        return "failed", f"{job.source}: not enough memory"
    except IteraError as error:
        return "stop", (error.exit_code, str(error))
    except (EOFError, ConnectionError):
        raise
    except Exception:
        return "bug", traceback.format_exc()
