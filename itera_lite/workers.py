"""Shares tasks out among workers: threads, one a core, whose operations don't fork threads.

A worker takes the next task when it is free, so one on a core that something else keeps busy does
less. Results, and sums of them, are in the order of the tasks: they are the same bit for bit with
any number of workers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Lock
from types import TracebackType
from typing import Any, TypeVar

import torch

T = TypeVar("T")
Task = Callable[[], T]


class Workers:
    """A number of workers. The thread that calls `map` and `fold` is one of them.

    While a worker has tasks, PyTorch has one thread in it. The threads start with the first tasks;
    they end with a ``with`` block of the workers, or with the object.

    Args:
        count: workers, with the calling thread.

    Attributes:
        active: how many of them take tasks; all, unless it is set lower.
    """

    def __init__(self, count: int = 1) -> None:
        self.count = self.active = count
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def map(self, tasks: Iterable[Task[T]]) -> list[T]:
        """Run all tasks; returns their results in the order of the tasks.

        Raises:
            Exception: what a task raised; of several, the first task's. No task begins after one
                has failed.
        """
        tasks = list(tasks)
        results: list[Any] = [None] * len(tasks)

        def run(number: int) -> None:
            results[number] = tasks[number]()

        self._share(run, len(tasks))
        return results

    def fold(self, tasks: Sequence[Task[T]], add: Callable[[T], object]) -> None:
        """Run all tasks, and call ``add`` with each result in the order of the tasks.

        One call of ``add`` runs at a time, in any of the workers, as soon as the results before it
        have been added.

        Raises:
            Exception: as `map`.
        """
        lock = Lock()
        waiting: dict[int, T] = {}
        adding, added = False, 0

        def run(number: int) -> None:
            nonlocal adding, added
            result = tasks[number]()
            with lock:
                waiting[number] = result
                if adding:  # whoever adds takes this one too
                    return
                adding = True
            while True:
                with lock:
                    if added not in waiting:
                        adding = False
                        return
                    due = waiting.pop(added)
                    added += 1
                add(due)

        self._share(run, len(tasks))

    def _share(self, run: Callable[[int], None], total: int) -> None:
        """Call ``run`` with each number below ``total``, in rising order, in all active workers."""
        lock = Lock()
        following, failures = 0, dict[int, BaseException]()
        gradients = torch.is_grad_enabled()  # a setting of the thread

        def work() -> None:
            nonlocal following
            with torch.set_grad_enabled(gradients):
                while True:
                    with lock:
                        number = following
                        if number >= total or failures:
                            return
                        following += 1
                    try:
                        run(number)
                    except BaseException as error:
                        failures[number] = error
                        return

        others = max(0, min(self.active, total) - 1)
        if others and self._pool is None:
            self._pool = ThreadPoolExecutor(
                self.count - 1, "worker", initializer=torch.set_num_threads, initargs=(1,)
            )
        futures = [self._pool.submit(work) for _ in range(others)] if self._pool else []
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            work()
        finally:
            wait(futures)
            torch.set_num_threads(threads)
        if failures:
            raise failures[min(failures)]


class WorkerChoice:
    """Finds out in the first rounds of some work whether one worker or all are faster.

    The results of the work don't depend on it, so nothing is computed for the measurement alone.

    Args:
        workers: whose number of `Workers.active` is chosen.
        fixed: all of them are to work: nothing is measured.

    Attributes:
        reason: why the number is what it is; None while that isn't known yet.
    """

    TRIALS = 2  # rounds with each number, of which the faster one counts

    def __init__(self, workers: Workers, fixed: bool = False) -> None:
        self._workers, self.active = workers, workers.count
        self.reason = "asked for" if fixed else "one core" if workers.count == 1 else None
        self._seconds = defaultdict[int, list[float]](list)
        self._warm = False  # the first round is slower, and doesn't count

    def begin(self) -> None:
        """Set the number of active workers for the round that begins."""
        if self.reason is None:
            done = [len(self._seconds[count]) for count in (self._workers.count, 1)]
            self.active = 1 if self._warm and done[1] < done[0] else self._workers.count
        self._workers.active = self.active

    def end(self, seconds: float) -> bool:
        """Take down what the round took. Returns whether the number has been chosen just now."""
        if self.reason is not None:
            return False
        if not self._warm:
            self._warm = True
            return False
        self._seconds[self.active].append(seconds)
        every, one = (self._seconds[count] for count in (self._workers.count, 1))
        if len(one) < self.TRIALS:
            return False
        self.active = self._workers.count if min(every) < min(one) else 1
        gain = min(one) / min(every)
        self.reason = f"measured: {self._workers.count} are {gain:.2f} times as fast as one"
        return True
