"""Tasks are shared out, and results and sums have the order of the tasks."""

import threading
import time
from functools import partial

import pytest
import torch

from itera_lite.workers import WorkerChoice, Workers


@pytest.mark.parametrize("count", [1, 2, 5])
def test_results_have_the_order_of_the_tasks(count: int) -> None:
    def task(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        return number

    with Workers(count) as workers:
        tasks = [partial(task, number) for number in range(20)]
        assert workers.map(tasks) == list(range(20))
        added: list[int] = []
        workers.fold(tasks, added.append)
        assert added == list(range(20))
        assert workers.map([]) == []


def test_every_worker_takes_tasks_and_has_one_thread() -> None:
    both = threading.Barrier(2, timeout=600)

    def task() -> tuple[int, int]:
        both.wait()  # until another worker has taken a task too
        return threading.get_ident(), torch.get_num_threads()

    before = torch.get_num_threads()
    with Workers(2) as workers:
        found = workers.map([task, task])
    assert len({ident for ident, _ in found}) == 2
    assert {threads for _, threads in found} == {1}
    assert torch.get_num_threads() == before


def test_only_active_workers_take_tasks() -> None:
    with Workers(3) as workers:
        workers.active = 1
        assert set(workers.map([threading.get_ident] * 6)) == {threading.get_ident()}


def test_additions_never_overlap() -> None:
    running = overlaps = 0

    def add(_: int) -> None:
        nonlocal running, overlaps
        running += 1
        overlaps += running > 1
        time.sleep(0.001)
        running -= 1

    with Workers(4) as workers:
        workers.fold([partial(int, number) for number in range(30)], add)
    assert not overlaps


@pytest.mark.parametrize("count", [1, 2])
def test_the_first_failure_is_raised_and_no_task_begins_after_it(count: int) -> None:
    begun: list[int] = []

    def task(number: int) -> None:
        begun.append(number)
        if number >= 2:
            raise ValueError(f"task {number}")

    with Workers(count) as workers:
        for call in (workers.map, lambda tasks: workers.fold(tasks, print)):
            begun.clear()
            with pytest.raises(ValueError, match="task 2"):
                call([partial(task, number) for number in range(50)])
            assert len(begun) <= 2 + count
        assert workers.map([lambda: 7]) == [7]  # the workers go on


def test_a_failing_addition_is_raised() -> None:
    def add(_: int) -> None:
        raise ValueError("can't be added")

    with Workers(2) as workers, pytest.raises(ValueError, match="can't be added"):
        workers.fold([partial(int, 1)] * 3, add)


def test_gradients_are_on_or_off_as_in_the_calling_thread() -> None:
    with Workers(2) as workers:
        tasks = [torch.is_grad_enabled] * 8
        assert set(workers.map(tasks)) == {True}
        with torch.no_grad():
            assert set(workers.map(tasks)) == {False}


def seconds_of(choice: WorkerChoice, workers: Workers, one: float, both: float) -> list[int]:
    """The numbers of workers of ten rounds, which take these times; the first is slow."""
    counts = []
    for number in range(10):
        choice.begin()
        counts.append(workers.active)
        seconds = one if workers.active == 1 else both
        choice.end(9.0 if number == 0 else seconds)
    return counts


@pytest.mark.parametrize(("both", "chosen"), [(0.6, 2), (1.2, 1)])
def test_the_faster_number_of_workers_is_chosen_in_the_first_rounds(
    both: float, chosen: int
) -> None:
    with Workers(2) as workers:
        choice = WorkerChoice(workers)
        assert choice.reason is None
        assert seconds_of(choice, workers, 1.0, both) == [2, 2, 1, 2, 1, *[chosen] * 5]
        assert choice.reason == f"measured: 2 are {1 / both:.2f} times as fast as one"


def test_nothing_is_measured_for_a_number_that_was_asked_for_or_one_core() -> None:
    with Workers(2) as workers:
        choice = WorkerChoice(workers, fixed=True)
        assert seconds_of(choice, workers, 1.0, 9.0) == [2] * 10
        assert choice.reason == "asked for"
    with Workers(1) as workers:
        assert WorkerChoice(workers).reason == "one core"
