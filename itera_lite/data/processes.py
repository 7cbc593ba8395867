"""Processes that share tasks; their results come in the order of the tasks.

The processes are started anew, not forked, because PyTorch and the tokenizer's library hold threads
in this one. They end when this one ends, whatever ends it.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from itera_lite.errors import Interrupted, IteraError
from itera_lite.machine.memory import memory
from itera_lite.machine.processor import usable_cores

T = TypeVar("T")

WATCH_SECONDS = 0.3  # between two looks at work that goes on
PROCESS_BYTES = 300_000_000  # memory of a process that prepares text, at most; see docs/data.md
MAPPED_BYTES = 1 << 20  # blocks of memory from this size on are returned when they are free
WORTH_BYTES = 16_000_000  # of text for each process: its start takes as long as some megabytes
_M_MMAP_THRESHOLD = -3  # of <malloc.h>


class Processes:
    """A number of processes. For a small text none is started: the caller does the work itself.

    Use it in a ``with`` block: leaving it ends the processes at once, whatever they do.

    Args:
        count: how many; None: one, until `settle` decides.
    """

    def __init__(self, count: int | None = None) -> None:
        self._asked = count is not None
        self.count = count or 1
        self._small = True
        self._executor: ProcessPoolExecutor | None = None
        self._pipe: tuple[Connection, Connection] | None = None

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._executor is not None and self._pipe is not None:
            if kind is None:
                self._executor.shutdown()
            self._pipe[1].close()  # ends the processes
            self._executor.shutdown(cancel_futures=True)
            self._pipe[0].close()
            self._executor = self._pipe = None

    def settle(self, n_bytes: int) -> None:
        """Take one process a core for so much text, as far as the memory allows, unless a number
        was asked for."""
        self._small = n_bytes < 2 * WORTH_BYTES
        if not self._asked:
            most, free = min(usable_cores(), n_bytes // WORTH_BYTES), memory().free
            self.count = max(1, most if free is None else min(most, free // PROCESS_BYTES))

    def map(
        self,
        work: Callable[..., T],
        tasks: Iterable[tuple[Any, ...]],
        watch: Callable[[], object] = lambda: None,
    ) -> Iterator[T]:
        """Call ``work`` with each task's arguments; gives the results in the order of the tasks.

        A few tasks more than there are processes are begun before their results are taken, so
        memory stays bounded.

        Args:
            work: a function of a module.
            watch: called several times a second while a result is awaited.

        Raises:
            IteraError: what a task raised; of several, the first task's.
            Interrupted: a process was killed.
        """
        if self.count == 1 and self._small:
            for task in tasks:
                yield work(*task)
            return
        executor = self._started()
        waiting: deque[Future[Any]] = deque()
        try:
            for task in tasks:
                with _without_main_module():  # it may start a process
                    waiting.append(executor.submit(_guarded, work, task))
                if len(waiting) >= 2 * self.count:
                    yield _result(waiting.popleft(), watch)
            while waiting:
                yield _result(waiting.popleft(), watch)
        except BrokenProcessPool:
            raise Interrupted(
                f"one of the {self.count} processes that prepare the text was killed, perhaps for "
                f"want of memory (each takes up to {PROCESS_BYTES / 1e6:.0f} MB, and more for a "
                "table with very long rows). Prepare it with fewer: itera data --workers 1"
            ) from None

    def _started(self) -> ProcessPoolExecutor:
        if self._executor is None:
            context = multiprocessing.get_context("spawn")
            self._pipe = context.Pipe(duplex=False)
            self._executor = ProcessPoolExecutor(
                self.count, context, initializer=_begin, initargs=(self._pipe[0], self.count > 1)
            )
        return self._executor


class _Failed:
    """An error of ours, which pickle may not be able to make again from its arguments."""

    def __init__(self, error: IteraError) -> None:
        self.kind, self.arguments = type(error), error.args

    def error(self) -> IteraError:
        error = self.kind.__new__(self.kind)
        error.args = self.arguments
        return error


def _guarded(work: Callable[..., T], task: tuple[Any, ...]) -> T | _Failed:
    try:
        return work(*task)
    except IteraError as error:
        return _Failed(error)


def _result(future: Future[Any], watch: Callable[[], object]) -> Any:
    while not wait([future], WATCH_SECONDS).done:
        watch()
    found = future.result()
    if isinstance(found, _Failed):
        raise found.error()
    return found


def _begin(life: Connection, others: bool) -> None:
    """Prepare a new process: Ctrl-C is for its parent, and it ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if others:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a process is one core's
    with suppress(OSError, AttributeError):  # another C library than glibc
        # Return large blocks to the system: between small ones, they would add up.
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES)

    def end() -> None:
        with suppress(EOFError, OSError):
            life.recv_bytes()  # nothing is ever sent; the end comes with the parent's
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


@contextmanager
def _without_main_module() -> Iterator[None]:
    """Keep new processes from running the user's script again, which need not expect that."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
