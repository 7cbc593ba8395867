"""Turns Ctrl-C and requests to end into a flag that the training loop checks after each step."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
    """A run was stopped by a signal, with everything saved.

    Attributes:
        exit_code: 128 plus the signal's number, as shells have it.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class Stop:
    """Whether a stop at the end of the step was asked for. A second Ctrl-C stops at once.

    Attributes:
        number: the signal that asked; 0 while none has.
    """

    def __init__(self) -> None:
        self.number = 0

    @property
    def asked(self) -> bool:
        return self.number != 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        # torchrun passes on what the terminal has sent to every process already.
        again = self.asked and number == signal.SIGINT and "TORCHELASTIC_RUN_ID" not in os.environ
        if again:
            raise KeyboardInterrupt
        self.number = self.number or number

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take `SIGNALS` while the block runs; what nohup made ignored stays so."""
        before = {}
        try:
            for number in SIGNALS:
                if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                    continue
                before[number] = signal.signal(number, self)
        except ValueError:
            pass  # not in the main thread, where signals don't arrive
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
