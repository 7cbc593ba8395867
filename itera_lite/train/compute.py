"""What a training computes with: processes, workers, fused operations, precision."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from itera_lite import ops
from itera_lite.machine.processor import default_threads
from itera_lite.ops.library import keep_memory
from itera_lite.quantities import workers_of
from itera_lite.train.distributed import World
from itera_lite.train.precision import Precision, PrecisionChoice, choose
from itera_lite.workers import Workers


@dataclass(frozen=True)
class Compute:
    """What trainings compute with, and whether they are shown on the terminal.

    Attributes:
        workers_given: whether their number was asked for, so that it isn't measured.
        problem: why the fused operations are off; None where they are on.
    """

    world: World
    workers: Workers
    workers_given: bool
    precision: PrecisionChoice
    problem: str | None
    quiet: bool = False

    @classmethod
    def prepare(
        cls,
        precision: Precision = "auto",
        workers: int | None = None,
        quiet: bool = False,
        world: World | None = None,
    ) -> Compute:
        """Compile the fused operations (once), measure which precision is fast.

        PyTorch has one thread from now on: what runs at once are workers.

        Args:
            workers: how many; by default one a core, shared by the machine's processes.

        Raises:
            UsageError: ``workers`` is out of range.
        """
        world = world or World()
        count = default_threads(world.local_size) if workers is None else workers_of(workers)
        torch.set_num_threads(1)
        problem = ops.enable()
        keep_memory()
        shared = Workers(count)
        chosen = choose(precision, world.device, shared)
        return cls(world, shared, workers is not None, chosen, problem, quiet)

    def in_precision(self, precision: Precision) -> Compute:
        """The same in another precision; as it is for `auto`."""
        if precision == "auto":
            return self
        return replace(self, precision=choose(precision, self.world.device, self.workers))
