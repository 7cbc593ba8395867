"""What a training computes with: processes, threads, fused operations, precision."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from itera_lite import ops
from itera_lite.machine.processor import default_threads
from itera_lite.ops.library import keep_memory
from itera_lite.quantities import threads_of
from itera_lite.train.distributed import World
from itera_lite.train.precision import Precision, PrecisionChoice, choose


@dataclass(frozen=True)
class Compute:
    """What trainings compute with, and whether they are shown on the terminal.

    Attributes:
        problem: why the fused operations are off; None where they are on.
    """

    world: World
    precision: PrecisionChoice
    problem: str | None
    quiet: bool = False

    @classmethod
    def prepare(
        cls,
        precision: Precision = "auto",
        threads: int | None = None,
        quiet: bool = False,
        world: World | None = None,
    ) -> Compute:
        """Set the threads, compile the fused operations (once), measure which precision is fast.

        Raises:
            UsageError: ``threads`` is out of range.
        """
        world = world or World()
        if threads is None:
            torch.set_num_threads(default_threads(world.local_size))
        else:
            torch.set_num_threads(threads_of(threads))
        problem = ops.enable()
        keep_memory()
        return cls(world, choose(precision, world.device), problem, quiet)
