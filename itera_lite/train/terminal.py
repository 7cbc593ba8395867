"""A training's terminal: its progress bar, and Ctrl-C as a flag that is checked after each step."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tqdm import tqdm

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ProgressBar:
    """A bar over the share of the budget that is used; silent when ``quiet``."""

    def __init__(self, name: str, total: float, start: float, unit: str, quiet: bool) -> None:
        self.total = total
        self.bar = tqdm(
            total=total,
            initial=start,
            desc=f"{name} ({unit})",
            bar_format="{l_bar}{bar:18}| {elapsed}<{remaining}{postfix}",
            disable=quiet or sys.stderr is None,
            dynamic_ncols=True,
            mininterval=0.5,
            file=sys.stderr,
            delay=1e-9,  # nothing is written before the first update
        )

    def update(
        self, done: float, step: int, loss: float, bpb: float, speed: float, mfu: float
    ) -> None:
        """Show where the training is: loss in nats, speed in tokens/s, share of the peak."""
        quality = f"loss {loss:.3f} {bpb:.3f} bits/byte"
        text = f"step {step} {quality} {speed / 1e3:.1f}k tok/s {mfu:.0%} of peak"
        with self._survive_a_closed_terminal():
            self.bar.set_postfix_str(text, refresh=False)
            self.bar.update(min(done, self.total) - self.bar.n)

    def write(self, text: str) -> None:
        """Write a line above the bar."""
        with self._survive_a_closed_terminal():
            if not self.bar.disable:
                tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        with self._survive_a_closed_terminal():
            self.bar.close()

    @contextmanager
    def _survive_a_closed_terminal(self) -> Iterator[None]:
        """A terminal that has gone away ends the bar, not the training."""
        try:
            yield
        except (OSError, ValueError):
            self.bar.disable = True


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
        """Handle `SIGNALS` while the block runs; what nohup made ignored stays so."""
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
