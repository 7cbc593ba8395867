"""One process or many: PyTorch's own data parallelism under ``torchrun``.

Every process holds the whole model and takes its rows of each global batch;
the gradients are averaged, so the loss curve is that of one process.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from itera_lite.errors import ConfigError
from itera_lite.model import LanguageModel
from itera_lite.train.objective import Objective


@dataclass(frozen=True)
class World:
    """The processes that train together; alone: rank 0 of 1."""

    rank: int = 0
    size: int = 1
    local_size: int = 1
    device: str = "cpu"

    @property
    def leads(self) -> bool:
        """Whether this process writes, prints and decides."""
        return self.rank == 0

    @classmethod
    def join(cls) -> World:
        """The world that ``torchrun`` describes in the environment, else a world of one."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        cuda = torch.cuda.is_available()
        if size == 1:
            return cls(device="cuda" if cuda else "cpu")
        local = int(os.environ.get("LOCAL_RANK", "0"))
        device = f"cuda:{local}" if cuda else "cpu"
        if cuda:
            torch.cuda.set_device(local)
        dist.init_process_group("nccl" if cuda else "gloo")
        return cls(dist.get_rank(), size, int(os.environ.get("LOCAL_WORLD_SIZE", size)), device)

    def leave(self) -> None:
        """End the process group, where there is one."""
        if self.size > 1:
            dist.destroy_process_group()

    def share_of(self, batch_size: int) -> int:
        """Rows of a global batch for each process.

        Raises:
            ConfigError: where they can't be shared out evenly.
        """
        if batch_size % self.size:
            raise ConfigError(
                f"batch_size={batch_size} can't be shared by {self.size} processes: "
                f"expected a multiple of {self.size}"
            )
        return batch_size // self.size

    def agree(self, *numbers: float) -> tuple[float, ...]:
        """The leader's numbers, in every process."""
        if self.size == 1:
            return numbers
        tensor = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.broadcast(tensor, 0)
        return tuple(tensor.tolist())

    def mean(self, value: Tensor) -> float:
        """The mean of a scalar over the processes."""
        if self.size == 1:
            return value.item()
        value = value.detach().clone()
        dist.all_reduce(value)
        return value.item() / self.size

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier()


class LossOf(nn.Module):
    """A model's loss as a forward pass, which is what DistributedDataParallel wraps."""

    def __init__(self, model: LanguageModel, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(
        self, tokens: Tensor, places: Tensor, balance_weight: float
    ) -> tuple[Tensor, Tensor]:
        """Returns what is minimised, and the cross-entropy alone."""
        loss = self.objective.loss(self.model, tokens, places, balance_weight)
        return loss.total, loss.cross_entropy.detach()


def parallel(model: LanguageModel, world: World, objective: Objective) -> nn.Module:
    """`LossOf` the model, averaging gradients over the world."""
    module = LossOf(model, objective)
    if world.size == 1:
        return module
    return nn.parallel.DistributedDataParallel(module)
