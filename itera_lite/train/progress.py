"""What a person sees while a model trains."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm


class Progress:
    """A bar over the share of the budget that is used; silent when ``quiet``."""

    def __init__(self, name: str, total: float, start: float, unit: str, quiet: bool) -> None:
        shown = "{l_bar}{bar:18}| {elapsed}<{remaining}{postfix}"
        self.total = total
        self.bar = tqdm(
            total=total,
            initial=start,
            desc=f"{name} ({unit})",
            bar_format=shown,
            disable=quiet or sys.stderr is None,
            dynamic_ncols=True,
            mininterval=0.5,
            file=sys.stderr,
            delay=1e-9,  # nothing is written before the first update
        )

    def update(
        self, done: float, step: int, loss: float, bpb: float | None, speed: float, mfu: float
    ) -> None:
        """Show where the training is: loss in nats, speed in tokens/s, share of the peak."""
        quality = "" if bpb is None else f" {bpb:.3f} bits/byte"
        text = f"step {step} loss {loss:.3f}{quality} {speed / 1e3:.1f}k tok/s {mfu:.0%} of peak"
        with self._alive():
            self.bar.set_postfix_str(text, refresh=False)
            self.bar.update(min(done, self.total) - self.bar.n)

    def say(self, text: str) -> None:
        """A line above the bar."""
        with self._alive():
            if not self.bar.disable:
                tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        with self._alive():
            self.bar.close()

    @contextmanager
    def _alive(self) -> Iterator[None]:
        """A terminal that has gone away ends the bar, not the training."""
        try:
            yield
        except (OSError, ValueError):
            self.bar.disable = True
