"""A training's terminal: its progress, and Ctrl-C as a flag that is checked after each step."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from tqdm import tqdm

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LINE_SECONDS = 30.0  # between two lines, where there is no terminal to draw bars on


class _Bar(tqdm):  # type: ignore[misc]
    """A bar with an estimate of the time left that isn't tqdm's own."""

    left = "?"

    @property
    def format_dict(self) -> Any:
        return {**super().format_dict, "left": self.left}


class Progress:
    """Where trainings that take turns are: a bar each on a terminal, else a line now and then.

    Args:
        titles: of the trainings.
        begun: the share of its budget that each has used.
    """

    def __init__(self, titles: Sequence[str], begun: Sequence[float], quiet: bool) -> None:
        self.titles, self.silent = titles, quiet or sys.stderr is None
        self._written_at = time.monotonic()
        self._bars: list[_Bar] = []
        if self.silent or not sys.stderr.isatty():
            return
        self._bars = [
            _Bar(
                total=1.0,
                initial=min(share, 1.0),
                desc=title,
                position=place,
                bar_format="{l_bar}{bar:18}| {elapsed}<{left}{postfix}",
                dynamic_ncols=True,
                mininterval=0.5,
                file=sys.stderr,
                delay=1e-9,  # nothing is written before the first update
            )
            for place, (title, share) in enumerate(zip(titles, begun, strict=True))
        ]

    def show(self, place: int, share: float, status: str, left: str) -> None:
        """Show where a training is.

        Args:
            place: of the training in ``titles``.
            share: of its budget that is used.
            left: the time that all of them still need.
        """
        with self._survive_a_closed_terminal():
            for bar in self._bars:
                bar.left = left
            if self._bars:
                self._bars[place].set_postfix_str(status, refresh=False)
                self._bars[place].update(min(share, 1.0) - self._bars[place].n)
            elif time.monotonic() - self._written_at >= LINE_SECONDS:
                self.write(f"{self.titles[place]}: {share:.0%}, {left} left, {status}")

    def write(self, text: str) -> None:
        """Write a line, above the bars if there are any."""
        with self._survive_a_closed_terminal():
            if not self.silent:
                self._written_at = time.monotonic()
                tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        with self._survive_a_closed_terminal():
            for bar in self._bars:
                bar.close()

    @contextmanager
    def _survive_a_closed_terminal(self) -> Iterator[None]:
        """A terminal that has gone away ends the progress, not the training."""
        try:
            yield
        except (OSError, ValueError):
            self.silent = True
            for bar in self._bars:
                bar.disable = True


class Stopped(KeyboardInterrupt):
    """A run was stopped by a signal, with everything saved.

    Attributes:
        exit_code: 128 plus the signal's number, as shells have it.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class StopSignal:
    """A handler of `SIGNALS` that remembers the first one. A second Ctrl-C stops at once.

    Attributes:
        number: of the signal that came; 0 while none has.
    """

    def __init__(self) -> None:
        self.number = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        # torchrun passes on what the terminal has sent to every process already.
        if self.number and number == signal.SIGINT and "TORCHELASTIC_RUN_ID" not in os.environ:
            raise KeyboardInterrupt
        self.number = self.number or number

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle `SIGNALS` while the block runs; what nohup made ignored stays so.

        After a stop under torchrun, they are ignored from then on: it passes the signal on, perhaps
        only when this process is about to end.
        """
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
            passed_on = self.number and "TORCHELASTIC_RUN_ID" in os.environ
            for number, handler in before.items():
                signal.signal(number, signal.SIG_IGN if passed_on else handler)
