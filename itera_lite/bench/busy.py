"""A busy program to measure beside: what a training keeps of its speed when it isn't alone."""

from __future__ import annotations

import os
import subprocess
import sys
from types import TracebackType
from typing import Literal

from itera_lite.errors import IteraError

Priority = Literal["low", "equal"]
NICENESS: dict[Priority, int] = {"low": 19, "equal": 0}

# The program prints a line when its loop begins. It ignores Ctrl-C, which the terminal sends to it
# as well, and it ends by itself when the process that started it is gone.
_CODE = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
os.nice(int(sys.argv[1]))
parent = int(sys.argv[2])
print(flush=True)
while os.getppid() == parent:
    for _ in range(100_000):
        pass
"""


class BusyProgram:
    """A loop in a process of its own, for a ``with`` block, on whichever core it gets.

    It is in the session of this process: Linux shares the cores among sessions first, and a
    priority counts only within one.

    Args:
        priority: ``low`` (nice 19), or ``equal`` to that of this process.
    """

    def __init__(self, priority: Priority) -> None:
        self.priority = priority
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> BusyProgram:
        words = [str(NICENESS[self.priority]), str(os.getpid())]
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", _CODE, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        try:
            assert self._process.stdout is not None
            if not self._process.stdout.readline():
                raise IteraError(
                    "the busy program to measure beside couldn't be started: see the lines above"
                )
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None
