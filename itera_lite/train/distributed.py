"""One process or many: PyTorch's own data parallelism under ``torchrun``.

Every process holds the whole model and takes its rows of each global batch;
the gradients are averaged, so the loss curve is that of one process. What only the leading process
does (preparing, scoring, saving) goes through `World.lead`, so that a failure there ends all.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from itera_lite.errors import ConfigError, IteraError, UsageError
from itera_lite.model import LanguageModel
from itera_lite.train.objective import Objective

PATIENCE = timedelta(hours=12)  # a process waits so long for the leader, which prepares the text


class LeaderFailed(IteraError):
    """The leading process failed, and with it every other one; it says itself why."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


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
        """The world that ``torchrun`` describes in the environment, else a world of one.

        Raises:
            UsageError: the environment names several processes, but not how they find each other.
        """
        cuda = torch.cuda.is_available()
        size = _number("WORLD_SIZE", 1)
        if size == 1:
            return cls(device="cuda" if cuda else "cpu")
        missing = [key for key in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(key)]
        if missing:
            raise UsageError(
                f"WORLD_SIZE={size} in the environment says that {size} processes train together, "
                f"but {', '.join(missing)} is missing. Start with torchrun, or unset WORLD_SIZE"
            )
        local = _number("LOCAL_RANK", 0)
        device = f"cuda:{local}" if cuda else "cpu"
        if cuda:
            torch.cuda.set_device(local)
        dist.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
        return cls(dist.get_rank(), size, _number("LOCAL_WORLD_SIZE", size), device)

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

    def lead(self, action: Callable[[], None]) -> None:
        """The leader acts, and the others wait for it.

        Raises:
            LeaderFailed: in the others, where ``action`` raised in the leader, which raises that.
        """
        failure: BaseException | None = None
        if self.leads:
            try:
                action()
            except BaseException as error:
                failure = error
        if self.size > 1:
            outcome: list[tuple[str, int] | None] = [None]
            if failure is not None:
                outcome = [(str(failure), getattr(failure, "exit_code", 1))]
            dist.broadcast_object_list(outcome, 0, device=torch.device(self.device))
            if outcome[0] is not None and not self.leads:
                raise LeaderFailed(*outcome[0])
        if failure is not None:
            raise failure

    def mean(self, value: Tensor) -> float:
        """The mean of a scalar over the processes."""
        if self.size == 1:
            return value.item()
        value = value.detach().clone()
        dist.all_reduce(value)
        return value.item() / self.size


def _number(key: str, default: int) -> int:
    """A whole number of the environment; an empty one counts as not there.

    Raises:
        UsageError: it is something else.
    """
    text = os.environ.get(key, "").strip()
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or (key == "WORLD_SIZE" and int(text) < 1):
        raise UsageError(
            f"{key}={text!r} in the environment: expected a number, as torchrun sets it. Unset it "
            "to train with one process"
        )
    return int(text)


class LossOf(nn.Module):
    """A model's loss as a forward pass, which is what DistributedDataParallel wraps."""

    def __init__(self, model: LanguageModel, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(
        self, tokens: Tensor, positions: Tensor, balance_weight: float
    ) -> tuple[Tensor, Tensor]:
        """Returns what is minimised, and the cross-entropy alone."""
        loss = self.objective.loss(self.model, tokens, positions, balance_weight)
        return loss.total, loss.cross_entropy.detach()


def parallel(model: LanguageModel, world: World, objective: Objective) -> nn.Module:
    """`LossOf` the model, averaging gradients over the world."""
    module = LossOf(model, objective)
    if world.size == 1:
        return module
    return nn.parallel.DistributedDataParallel(module)
