"""The loss and the gradient of a batch, computed in micro-batches that workers share out.

How a batch is cut doesn't depend on the number of workers, and the gradients of its micro-batches
are added in their order: so loss and gradient are the same bit for bit with any number of workers,
however busy their cores are.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from itera_lite import ops
from itera_lite.config import TrainConfig
from itera_lite.model import LanguageModel
from itera_lite.model.layers import Dropout
from itera_lite.train.distributed import World
from itera_lite.train.objective import Objective
from itera_lite.workers import Workers

MICRO_TOKENS = 1024  # of a micro-batch at most, if its sequences aren't longer
PIECES = 16  # of the gradient, for workers to share
LEAST_PARTS = 4  # micro-batches of a step, for as many workers


class BatchLoss(NamedTuple):
    """The losses of a batch in nats a token, means over all processes."""

    total: float  # what is minimised
    cross_entropy: float
    norm: float  # of the gradient


class _Part(NamedTuple):
    """What a micro-batch gives: losses and gradients, means over its tokens.

    Where the last micro-batch has fewer rows than the others, it counts for less.
    """

    total: Tensor
    cross_entropy: Tensor
    gradients: tuple[Tensor, ...]  # of each parameter
    counts: list[Tensor]  # tokens of each expert of each mixture


class _Replica(NamedTuple):
    """A copy of the model for one worker at a time.

    Attributes:
        dropouts: of its layers, each with a key of its own in each micro-batch.
    """

    model: LanguageModel
    parameters: list[nn.Parameter]
    dropouts: list[Dropout]

    @classmethod
    def of(cls, model: LanguageModel, own: dict[int, Any]) -> _Replica:
        """A copy with the parameters ``own``, by the id of the model's."""
        replica = copy.deepcopy(model, dict(own))
        dropouts = [module for module in replica.modules() if isinstance(module, Dropout)]
        return cls(replica, list(replica.parameters()), dropouts)


class BatchGradient:
    """Computes the loss of a batch and its gradient, which is then in ``gradients``.

    Each worker has a replica of the model: the same parameters, and what its own forward pass
    leaves on the modules. Parameters that the objective rounds are rounded once a step, into
    parameters of the replicas' own.

    Args:
        model: in training mode, on the device that it trains on.
        config: its batch size counts the rows of all processes.

    Attributes:
        gradients: of each parameter, in the model's order; float32.
    """

    def __init__(
        self,
        model: LanguageModel,
        config: TrainConfig,
        objective: Objective,
        workers: Workers,
        world: World,
    ) -> None:
        self.model, self.config, self.objective = model, config, objective
        self.workers, self.world = workers, world
        self.rows = config.batch_size // world.size  # of this process
        self.part_rows = rows_of_part(config, self.rows, world.device)
        parameters = dict(model.named_parameters())
        sizes = [parameter.numel() for parameter in parameters.values()]
        self._flat = torch.zeros(sum(sizes), device=world.device)
        self.gradients = [
            part.view(parameter.shape)
            for part, parameter in zip(self._flat.split(sizes), parameters.values(), strict=True)
        ]
        self._roundings: list[Callable[[], None]] = []  # each fills a parameter of the replicas
        own: dict[int, Any] = {}  # the replicas' parameter for each of the model's, by its id
        for name, parameter in parameters.items():
            own[id(parameter)] = parameter
            rounding = objective.rounding(name)
            if rounding is not None:
                own[id(parameter)] = nn.Parameter(parameter.detach().clone())
                self._roundings.append(partial(_round, rounding, parameter, own[id(parameter)]))
        for moe in model.mixtures:
            moe.counts = moe.balance_loss = None  # of a batch before; its graph can't be copied
        self._replicas: SimpleQueue[_Replica] = SimpleQueue()
        for _ in range(min(workers.count, -(-self.rows // self.part_rows))):
            self._replicas.put(_Replica.of(model, own))

    def __call__(
        self, tokens: NDArray[np.int64], positions: NDArray[np.int64], step: int
    ) -> BatchLoss:
        """Compute the losses and `gradients`, and set the loads of the model's experts.

        Args:
            tokens, positions: (rows, L+1), of this process; see `Objective.loss`.
            step: its number, which decides the dropout.
        """
        self.objective.prepare(positions, self.workers)
        self.workers.map(self._roundings)
        sums: list[Tensor] = []  # of the losses and of the counts so far

        def add(part: _Part) -> None:
            numbers = [part.total, part.cross_entropy, *part.counts]
            if sums:
                torch._foreach_add_(self.gradients, part.gradients)
                torch._foreach_add_(sums, numbers)
            else:
                torch._foreach_copy_(self.gradients, part.gradients)
                sums.extend(numbers)

        with torch.no_grad():
            self.workers.fold(
                [
                    partial(self._part, tokens[rows], positions[rows], step, rows.start)
                    for rows in map(self._slice, range(0, self.rows, self.part_rows))
                ],
                add,
            )
            self.world.sum(self._flat)
            self.world.sum_small(sums)
            share = self.part_rows / self.config.batch_size  # of a micro-batch
            pieces = self._flat.chunk(PIECES)
            norms = self.workers.map([partial(_scale, piece, share) for piece in pieces])
        total, cross_entropy, *counts = sums
        self.set_loads([count / count.sum() for count in counts])
        return BatchLoss(total.item() * share, cross_entropy.item() * share, math.hypot(*norms))

    def _slice(self, first: int) -> slice:
        return slice(first, min(first + self.part_rows, self.rows))

    def _part(
        self, tokens: NDArray[np.int64], positions: NDArray[np.int64], step: int, first: int
    ) -> _Part:
        """The losses and gradients of some rows, of which the first is the process's ``first``."""
        replica = self._replicas.get()
        try:
            set_dropout(replica.dropouts, self.config, step, self.world.rank * self.rows + first)
            with torch.enable_grad():
                loss = self.objective.loss(
                    replica.model,
                    torch.from_numpy(tokens).to(self.world.device),
                    torch.from_numpy(positions),
                    self.config.balance_weight,
                )
                weight = len(tokens) / self.part_rows
                total = loss.total if weight == 1 else loss.total * weight
                gradients = torch.autograd.grad(total, replica.parameters, materialize_grads=True)
            counts = [moe.counts for moe in replica.model.mixtures if moe.counts is not None]
            return _Part(total.detach(), loss.cross_entropy.detach() * weight, gradients, counts)
        finally:
            self._replicas.put(replica)

    def set_loads(self, loads: Sequence[Tensor]) -> None:
        """Set the loads that the next step balances the experts by; see `MoE`.

        Args:
            loads: (E,) of each mixture, sums to 1.
        """
        replicas = [self._replicas.get() for _ in range(self._replicas.qsize())]
        loads = [load.to(self.world.device) for load in loads]
        for model in (self.model, *(replica.model for replica in replicas)):
            model.set_loads(loads)
        for replica in replicas:
            self._replicas.put(replica)


def rows_of_part(config: TrainConfig, rows: int, device: str) -> int:
    """Rows of a micro-batch, of the ``rows`` that a process has of a batch."""
    if device != "cpu":
        return rows
    part = min(MICRO_TOKENS // config.seq_len, config.batch_size // LEAST_PARTS)
    return min(rows, max(1, part))


def set_dropout(dropouts: Sequence[Dropout], config: TrainConfig, step: int, place: int) -> None:
    """Give each dropout of a model its key for a micro-batch.

    Args:
        place: of the micro-batch's first row in the batch of all processes.
    """
    if config.dropout:
        seeds = np.random.SeedSequence([config.seed, step, place])
        keys = seeds.generate_state(len(dropouts))
        for module, key in zip(dropouts, keys.tolist(), strict=True):
            module.drop = ops.Drop(config.dropout, key)


def _scale(piece: Tensor, factor: float) -> float:
    """Scale in place; returns the norm of the result."""
    return float(torch.linalg.vector_norm(piece.mul_(factor)))


@torch.no_grad()
def _round(rounding: Callable[[Tensor], Tensor], exact: Tensor, rounded: Tensor) -> None:
    rounded.copy_(rounding(exact))
