"""What a training computes with: processes, workers, fused operations, precision."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from itera_lite import ops
from itera_lite.config import ModelConfig
from itera_lite.machine.processor import default_threads
from itera_lite.model.cost import cost
from itera_lite.ops.library import keep_memory
from itera_lite.quantities import workers_of
from itera_lite.train.distributed import World
from itera_lite.train.precision import Precision, PrecisionChoice, choose
from itera_lite.workers import Workers

SHARDED_FROM = 8_000_000  # parameters: `base`, and all references but the smallest


@dataclass(frozen=True)
class Compute:
    """What trainings compute with, and whether they are shown on the terminal.

    Attributes:
        workers_given: whether their number was asked for, so that it isn't measured.
        problem: why the fused operations are off; None where they are on.
        shard: whether processes hold a part of the model each; None: its size decides.
    """

    world: World
    workers: Workers
    workers_given: bool
    precision: PrecisionChoice
    problem: str | None
    quiet: bool = False
    shard: bool | None = None

    @classmethod
    def prepare(
        cls,
        precision: Precision = "auto",
        workers: int | None = None,
        quiet: bool = False,
        world: World | None = None,
        shard: bool | None = None,
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
        return cls(world, shared, workers is not None, chosen, problem, quiet, shard)

    def in_precision(self, precision: Precision) -> Compute:
        """The same in another precision; as it is for `auto`."""
        if precision == "auto":
            return self
        return replace(self, precision=choose(precision, self.world.device, self.workers))

    def agreed(self) -> Compute:
        """With the leading process's precision, which another one may have measured otherwise."""
        return replace(self, precision=self.world.on_leader(lambda: self.precision))

    def shards(self, shape: ModelConfig) -> bool:
        """Whether the processes hold a part of this model each (`train.sharded`)."""
        if self.world.size == 1:
            return False
        return cost(shape).params_total >= SHARDED_FROM if self.shard is None else self.shard
