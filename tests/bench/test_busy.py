"""The busy program of `itera bench train`: it runs, it has its priority, and it always ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from itera_lite.bench.busy import BusyProgram


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    try:  # what nobody has asked for its exit code has ended too
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return True


def ends(process: int) -> bool:
    """Whether a process is gone within ten minutes; on a busy machine that takes a while."""
    end = time.monotonic() + 600
    while is_running(process) and time.monotonic() < end:
        time.sleep(0.01)
    return not is_running(process)


@pytest.mark.parametrize(("priority", "more"), [("low", 19), ("equal", 0)])
def test_it_runs_with_its_priority_and_ends_with_the_block(priority, more):
    with BusyProgram(priority) as program:
        process = program._process.pid
        wanted = min(19, os.getpriority(os.PRIO_PROCESS, 0) + more)
        assert os.getpriority(os.PRIO_PROCESS, process) == wanted
    assert not is_running(process)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_it_ends_with_an_error_and_with_ctrl_c(error):
    with pytest.raises(error), BusyProgram("equal") as program:
        process = program._process.pid
        raise error
    assert not is_running(process)


def test_ctrl_c_in_the_terminal_leaves_ending_it_to_us():
    with BusyProgram("equal") as program:
        program._process.send_signal(signal.SIGINT)
        time.sleep(0.05)
        assert program._process.poll() is None


def test_it_ends_where_its_starter_was_killed():
    code = (
        "from itera_lite.bench.busy import BusyProgram\n"
        "with BusyProgram('low') as program:\n"
        "    print(program._process.pid, flush=True)\n"
        "    input()\n"
    )
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as starter:
        process = int(starter.stdout.readline())
        assert is_running(process)
        starter.kill()
    assert ends(process)
