"""One process or many, which ``torchrun`` starts.

Every process holds the whole model and takes its rows of each global batch; the gradients are
averaged, so the loss curve is that of one process. What the leading process alone does (preparing,
scoring, saving) goes through `World.on_leader`, so that a failure there ends every process.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from itera_lite.errors import ConfigError, IteraError, UsageError

T = TypeVar("T")
TIMEOUT = timedelta(hours=12)  # of waiting for the leader, which prepares the text


class LeaderFailed(IteraError):
    """Raised in the other processes where the leading one failed, which prints the reason."""

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
    def is_leader(self) -> bool:
        """Whether this process writes, prints and decides."""
        return self.rank == 0

    @classmethod
    def join(cls) -> World:
        """Join the processes that ``torchrun`` describes in the environment, if there are any.

        Raises:
            UsageError: the environment names several processes, but not how they find each other.
        """
        cuda = torch.cuda.is_available()
        size = _environment_number("WORLD_SIZE", 1)
        if size == 1:
            return cls(device="cuda" if cuda else "cpu")
        missing = [key for key in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(key)]
        if missing:
            raise UsageError(
                f"WORLD_SIZE={size} in the environment says that {size} processes train together, "
                f"but {', '.join(missing)} is missing. Start with torchrun, or unset WORLD_SIZE"
            )
        local = _environment_number("LOCAL_RANK", 0)
        device = f"cuda:{local}" if cuda else "cpu"
        if cuda:
            torch.cuda.set_device(local)
        dist.init_process_group("nccl" if cuda else "gloo", timeout=TIMEOUT)
        return cls(dist.get_rank(), size, _environment_number("LOCAL_WORLD_SIZE", size), device)

    def leave(self) -> None:
        """End the process group, if there is one."""
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
        """The leading process's numbers, in every process."""
        if self.size == 1:
            return numbers
        tensor = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.broadcast(tensor, 0)
        return tuple(tensor.tolist())

    def on_leader(self, action: Callable[[], T]) -> T:
        """Run ``action`` in the leading process, while the others wait for what it returns.

        Raises:
            LeaderFailed: in the others, where ``action`` raised in the leader.
        """
        outcome: list[Any] = [None, None]  # what it returned; the message and code of its failure
        failure: BaseException | None = None
        if self.is_leader:
            try:
                outcome[0] = action()
            except BaseException as error:
                failure, outcome[1] = error, (str(error), getattr(error, "exit_code", 1))
        if self.size > 1:
            dist.broadcast_object_list(outcome, 0, device=torch.device(self.device))
        if failure is not None:
            raise failure
        if outcome[1] is not None:
            raise LeaderFailed(*outcome[1])
        return cast(T, outcome[0])

    def leader_first(self, action: Callable[[], T]) -> T:
        """Run ``action`` in every process, in the leading one first: the others find what it left
        in a cache."""
        results: list[T] = []
        self.on_leader(lambda: results.append(action()))  # which gives the others None
        return results[0] if self.is_leader else action()

    def sum(self, *tensors: Tensor) -> None:
        """Replace each tensor by its sum over the processes."""
        if self.size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)


def _environment_number(key: str, default: int) -> int:
    """A whole number of the environment; ``default`` where the variable is empty or not set.

    Raises:
        UsageError: the variable holds something else.
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
