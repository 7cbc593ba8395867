"""One process or many, which ``torchrun`` starts.

Every process takes its rows of each global batch, so the loss curve is that of one process, and its
part of each text that is scored. What the leading process alone does (preparing, saving) goes
through `World.on_leader`, so that a failure there ends every process; a process that fails
elsewhere ends the others by its lost connections (`PeerFailed`).

Processes that hold the whole model each sum their gradients here; `train.sharded` has processes
that hold a part of the model each.
"""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from itera_lite.errors import ConfigError, IteraError, UsageError
from itera_lite.torchrun import end_with_launcher, uses_launchers_store
from itera_lite.workers import Task, Workers

T = TypeVar("T")
LEADER_TIMEOUT = timedelta(hours=12)  # of waiting for the leader, which prepares the text
STEP_SECONDS = 300  # of waiting for any other process in a step, unless ITERA_TIMEOUT says more
# In the messages of gloo, NCCL and the store, where another process or its machine went away
_BROKEN = ("gloo", "nccl", "connection", "timed out", "timeout", "socket", "broken pipe", "recv")


class LeaderFailed(IteraError):
    """Raised in the other processes where the leading one failed, which prints the reason."""

    is_consequence = True

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class PeerFailed(IteraError):
    """Raised where another process has gone away, or its machine can't be reached."""

    is_consequence = True


@dataclass
class Traffic:
    """What a process has sent through `World.sum` and `World.exchange`.

    Attributes:
        bytes: of the tensors; a sum moves nearly twice as many over the network in each process.
        seconds: in them, waiting for other processes included.
    """

    bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class World:
    """The processes that train together; alone: rank 0 of 1."""

    rank: int = 0
    size: int = 1
    local_size: int = 1
    device: str = "cpu"
    traffic: Traffic = field(default_factory=Traffic, compare=False)
    _waiting: Any = None  # the process group that waits for the leader

    @property
    def is_leader(self) -> bool:
        """Whether this process writes, prints and decides."""
        return self.rank == 0

    @classmethod
    def join(cls) -> World:
        """Join the processes that ``torchrun`` describes in the environment, if there are any.

        Raises:
            UsageError: the environment names several processes, but not how they find each other.
            PeerFailed: not all of them came.
        """
        end_with_launcher()
        cuda = torch.cuda.is_available()
        size = _environment_number("WORLD_SIZE", 1)
        if size == 1:
            return cls(device="cuda" if cuda else "cpu")
        missing = [key for key in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(key)]
        if missing:
            raise UsageError(
                f"WORLD_SIZE={size} in the environment asks for {size} processes, "
                f"but {', '.join(missing)} is missing. Start with torchrun, or unset WORLD_SIZE"
            )
        local = _environment_number("LOCAL_RANK", 0)
        device = f"cuda:{local}" if cuda else "cpu"
        if cuda:
            torch.cuda.set_device(local)
        wait = timedelta(seconds=_environment_number("ITERA_TIMEOUT", STEP_SECONDS) or STEP_SECONDS)
        with peers():
            store, rank, _ = next(rendezvous("env://", timeout=wait))
            if uses_launchers_store():  # which still has what processes before a restart wrote
                attempt = _environment_number("TORCHELASTIC_RESTART_COUNT", 0)
                store = PrefixStore(f"attempt {attempt}", store)
            backend = "nccl" if cuda else "gloo"
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=wait)
            waiting = dist.new_group(backend="gloo", timeout=LEADER_TIMEOUT)
        local_size = _environment_number("LOCAL_WORLD_SIZE", size)
        return cls(rank, size, local_size, device, _waiting=waiting)

    def __enter__(self) -> World:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Leave; after an error at the end of the process, because the others end by the lost
        connection, and the reason of the first failure is to be written before."""
        if error is None:
            self.leave()
        else:
            atexit.register(self.leave)

    def leave(self) -> None:
        """End the process group, if there is one."""
        if self.size > 1 and dist.is_initialized():
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
        with peers():
            dist.broadcast(tensor, 0)
        return tuple(tensor.tolist())

    def largest(self, number: float) -> float:
        """The largest of the processes' numbers, in every process."""
        if self.size == 1:
            return number
        tensor = torch.tensor(number, dtype=torch.float64, device=self.device)
        with peers():
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return float(tensor)

    def on_leader(self, action: Callable[[], T], *, soon: bool = False) -> T:
        """Run ``action`` in the leading process, while the others wait for what it returns.

        Args:
            soon: it takes no longer than others may wait in a step; else they wait for hours.

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
            try:
                with peers():
                    if soon:
                        dist.broadcast_object_list(outcome, 0, device=torch.device(self.device))
                    else:
                        dist.broadcast_object_list(outcome, 0, group=self._waiting)
            except PeerFailed:
                if failure is None:
                    raise
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

    def check_same(self, **values: object) -> None:
        """Check that every process has the same of something, such as the text.

        Raises:
            ConfigError: in every process, where one of them has another; names it and the rank.
        """
        if self.size == 1:
            return
        every = self._gather(values)
        for rank, theirs in enumerate(every):
            for name, first in every[0].items():
                if theirs[name] != first:
                    raise ConfigError(
                        f"process {rank} has {name} {theirs[name]}, process 0 has {first}: every "
                        "process needs the same text and the same version of this program"
                    )

    def map(self, workers: Workers, tasks: Sequence[Task[T]]) -> list[T]:
        """Run tasks that are shared out among all processes and the workers of each.

        Returns:
            The results of all, in the order of the tasks, in every process.
        """
        own = workers.map(tasks[self.rank :: self.size])
        if self.size == 1:
            return own
        parts = self._gather(own)
        return [parts[i % self.size][i // self.size] for i in range(len(tasks))]

    def sum(self, *tensors: Tensor) -> None:
        """Replace each tensor by its sum over the processes."""
        if self.size == 1:
            return
        for tensor in tensors:
            with self._counted(tensor):
                dist.all_reduce(tensor)

    def sum_small(self, tensors: Sequence[Tensor]) -> None:
        """`sum` of tensors of a few numbers of any type, in one message."""
        if self.size == 1:
            return
        together = torch.cat([tensor.flatten().double() for tensor in tensors])
        self.sum(together)
        parts = together.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def exchange(self, parts: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
        """Send a flat tensor to each process.

        Args:
            parts: (n,) for each process, of one type.
            sizes: numbers that come from each.

        Returns:
            What came, (n,) from each process.
        """
        sent = torch.cat(list(parts))
        received = sent.new_empty(sum(sizes))
        with self._counted(sent):
            dist.all_to_all_single(received, sent, list(sizes), [len(part) for part in parts])
        return list(received.split(list(sizes)))

    def _gather(self, value: T) -> list[T]:
        """The value of each process, by rank."""
        values: list[Any] = [None] * self.size
        with peers():
            dist.all_gather_object(values, value)
        return values

    @contextmanager
    def _counted(self, tensor: Tensor) -> Iterator[None]:
        begin = time.perf_counter()
        with peers():
            yield
        self.traffic.seconds += time.perf_counter() - begin
        self.traffic.bytes += tensor.numel() * tensor.element_size()


@contextmanager
def peers() -> Iterator[None]:
    """Turns an error of a connection to other processes, in the block, into a `PeerFailed`."""
    try:
        yield
    except RuntimeError as error:  # PyTorch's DistError is one
        words = str(error).lower()
        if not isinstance(error, dist.DistError) and not any(word in words for word in _BROKEN):
            raise
        raise PeerFailed(
            "the connection to another process was lost, because it ended or its machine can't be "
            f"reached ({str(error).splitlines()[0]})"
        ) from error


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
