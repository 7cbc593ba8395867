"""Training with a part of the model, of its gradient and of its optimizer in each process: FSDP2.

PyTorch's `fully_shard` puts the rows of every parameter on all processes. A layer's whole
parameters are there while the layer computes, and the sum of its gradients goes back to where the
rows are. AdamW updates each process's numbers where they lie. Muon needs whole matrices: each has
one owner, which receives its momentum from all processes, orthogonalises it and sends the rows of
the update back. A stack of experts is split between whole matrices, so each process orthogonalises
those that it holds.

For models whose weights, gradients and optimizer (at most 16 bytes a parameter) are much. A process
computes with one worker: start one a core, or one a GPU.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from itera_lite import ops
from itera_lite.checkpoint.shards import load_shards
from itera_lite.config import TrainConfig
from itera_lite.model import LanguageModel
from itera_lite.model.layers import Dropout
from itera_lite.train.distributed import World, peers
from itera_lite.train.objective import Objective
from itera_lite.train.optim import MOMENTS, Optimizer, Scale, orthogonalize, part_of
from itera_lite.train.step import BatchLoss, rows_of_part, set_dropout
from itera_lite.workers import Workers


def shard(model: LanguageModel, world: World) -> LanguageModel:
    """Leave this process its rows of each of the model's parameters; the model is changed.

    Layer by layer; what is outside of the layers (the embedding, which is the head too, and the
    last norm) is a group of its own.
    """
    # PyTorch warns because an operation in place on such a view would fail; the model has none.
    warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(world.device.partition(":")[0], (world.size,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "loss")
    for module in model.modules():
        if isinstance(module, FSDPModule):  # the gradients' sum, as in `step.BatchGradient`
            module.set_force_sum_reduction_for_comms(True)
            module.set_gradient_divide_factor(1.0)
    return model


def whole_model(model: LanguageModel) -> LanguageModel:
    """A copy of a sharded model with all of its weights, in every process."""
    with torch.random.fork_rng():  # whose numbers the first weights of the copy would take
        whole = LanguageModel(model.config)
    with peers():
        weights = {name: _dtensor(value).full_tensor() for name, value in model.named_parameters()}
    whole.load_state_dict(weights)
    whole.compute_dtype = model.compute_dtype
    return whole.to(model.embedding.weight.device).train(model.training)


@torch.no_grad()
def load_weights(model: LanguageModel, weights: dict[str, Tensor]) -> None:
    """Copy this process's rows of whole weights, by name, into a sharded model."""
    for name, parameter in model.named_parameters():
        parameter.copy_(_rows_of(weights[name], _dtensor(parameter)))


class ShardedGradient:
    """`BatchGradient` for a model that was sharded: the same loss, and this process's rows of the
    same gradient.

    Attributes:
        gradients: of what this process holds of each parameter, in the model's order; float32.
    """

    def __init__(
        self, model: LanguageModel, config: TrainConfig, objective: Objective, world: World
    ) -> None:
        self.model, self.config, self.objective, self.world = model, config, objective, world
        self.rows = config.batch_size // world.size  # of this process
        self.part_rows = rows_of_part(config, self.rows, world.device)
        self.gradients: list[Tensor] = []
        self._dropouts = [module for module in model.modules() if isinstance(module, Dropout)]

    def __call__(
        self, tokens: NDArray[np.int64], positions: NDArray[np.int64], step: int
    ) -> BatchLoss:
        """Compute the losses and `gradients`, and set the loads of the model's experts.

        Args:
            tokens, positions: (rows, L+1), of this process; see `Objective.loss`.
            step: its number, which decides the dropout.
        """
        ops.forget_packed()  # the gathered weights changed, and not their versions
        self.model.zero_grad(set_to_none=True)
        sums: list[Tensor] = []  # of the losses and of the counts so far
        for first in range(0, self.rows, self.part_rows):
            rows = slice(first, min(first + self.part_rows, self.rows))
            numbers = self._add_part(tokens[rows], positions[rows], step, rows.start)
            if sums:
                torch._foreach_add_(sums, numbers)
            else:
                sums.extend(numbers)
        share = self.part_rows / self.config.batch_size  # of a micro-batch
        with torch.no_grad():
            self.world.sum_small(sums)
            self.gradients = [_gradient(parameter) for parameter in self.model.parameters()]
            torch._foreach_mul_(self.gradients, share)
            squares = torch.stack(torch._foreach_norm(self.gradients)).double().square().sum()
            self.world.sum(squares)
        total, cross_entropy, *counts = sums
        self.set_loads([count / count.sum() for count in counts])
        return BatchLoss(total.item() * share, cross_entropy.item() * share, squares.sqrt().item())

    def _add_part(
        self, tokens: NDArray[np.int64], positions: NDArray[np.int64], step: int, first: int
    ) -> list[Tensor]:
        """Add the gradient of some rows, of which the first is the process's ``first``.

        Returns:
            The losses, and the tokens of each expert of each mixture.
        """
        model = self.model
        last = first + self.part_rows >= self.rows
        model.set_requires_gradient_sync(last)  # type: ignore[operator]  # of `FSDPModule`
        model.set_is_last_backward(last)  # type: ignore[operator]
        set_dropout(self._dropouts, self.config, step, self.world.rank * self.rows + first)
        with torch.enable_grad(), peers():
            loss = self.objective.loss(
                model,
                torch.from_numpy(tokens).to(self.world.device),
                torch.from_numpy(positions),
                self.config.balance_weight,
            )
            weight = len(tokens) / self.part_rows
            (loss.total * weight).backward()
        counts = [moe.counts.clone() for moe in model.mixtures if moe.counts is not None]
        return [(loss.total * weight).detach(), loss.cross_entropy.detach() * weight, *counts]

    def set_loads(self, loads: Sequence[Tensor]) -> None:
        """Set the loads that the next step balances the experts by; see `MoE`.

        Args:
            loads: (E,) of each mixture, sums to 1.
        """
        self.model.set_loads([load.to(self.world.device) for load in loads])


class ShardedOptimizer(Optimizer):
    """`Optimizer` for a model that was sharded: the same update, of what this process holds.

    Attributes:
        momentum_of: of Muon, by the number of a parameter, in the shape of what is held of it.
    """

    def __init__(self, model: LanguageModel, config: TrainConfig, world: World) -> None:
        self.world = world
        self._shards = [_dtensor(parameter) for parameter in model.parameters()]
        super().__init__(model, config)

    @torch.no_grad()
    def _held(self, _: list[nn.Parameter]) -> list[Tensor]:
        return [shard.to_local() for shard in self._shards]

    def _add_matrices(self) -> None:
        self.momentum, self._places = {}, {}
        self.momentum_of = {i: torch.zeros_like(self.parameters[i]) for i in self.matrices}
        split = [i for i in self.matrices if self.parameters[i].dim() == 2]
        self._owned: list[list[int]] = [[] for _ in range(self.world.size)]  # by each process
        work = [0.0] * self.world.size
        for i in sorted(split, key=self._work, reverse=True):
            owner = work.index(min(work))
            self._owned[owner].append(i)
            work[owner] += self._work(i)

    def _work(self, i: int) -> float:
        """Multiplications of the orthogonalisation of a parameter's matrices, about."""
        whole = torch.empty(self._shards[i].shape, device="meta")
        short_long = [sorted(part_of(whole, rows).shape[1:]) for rows in self.matrices[i]]
        return sum(float(short * short * (2 * long + short)) for short, long in short_long)

    def _update(self, gradients: Sequence[Tensor], scale: Scale, workers: Workers) -> None:
        config = self.config
        self.parameters[:] = self._held([])  # the first step moves them
        lr = config.lr_matrix * scale.factor
        updates: dict[int, Tensor] = {}  # of what is held of each, before it is orthogonal
        for i, momentum in self.momentum_of.items():
            gradient = gradients[i] * scale.clip
            momentum.lerp_(gradient, 1 - config.momentum)
            updates[i] = gradient.lerp_(momentum, config.momentum)
        experts = [i for i in updates if updates[i].dim() == 3 and updates[i].numel()]
        workers.map([partial(self._orthogonalize, i, updates[i], lr) for i in experts])
        if any(self._owned):
            self._orthogonalize_split(updates, lr, workers)
        if updates:
            weights = [self.parameters[i] for i in updates]
            torch._foreach_mul_(weights, 1 - lr * config.weight_decay)
            torch._foreach_add_(weights, list(updates.values()))
        super()._update(gradients, scale, workers)

    def _orthogonalize_split(self, updates: dict[int, Tensor], lr: float, workers: Workers) -> None:
        """`_orthogonalize` for matrices whose rows lie in several processes: by their owners.

        Args:
            updates: of what this process holds of each parameter; those of matrices are replaced.
        """
        ranks = range(self.world.size)
        mine = self._owned[self.world.rank]
        theirs = [[self._numbers(i, rank) for i in mine] for rank in ranks]
        own = [[updates[i].numel() for i in owned] for owned in self._owned]
        given = [_joined([updates[i] for i in owned], self._steps) for owned in self._owned]
        received = self.world.exchange(given, [sum(each) for each in theirs])
        pieces = [part.split(each) for part, each in zip(received, theirs, strict=True)]
        wholes = [
            torch.cat([of_rank[k] for of_rank in pieces]).view(self._shards[i].shape)
            for k, i in enumerate(mine)
        ]
        workers.map(
            [
                partial(self._orthogonalize, i, whole, lr)
                for i, whole in zip(mine, wholes, strict=True)
            ]
        )
        cut = [
            whole.flatten().split([each[k] for each in theirs]) for k, whole in enumerate(wholes)
        ]
        given = [_joined([parts[rank] for parts in cut], self._steps) for rank in ranks]
        received = self.world.exchange(given, [sum(each) for each in own])
        for owned, numbers, part in zip(self._owned, own, received, strict=True):
            for i, update in zip(owned, part.split(numbers), strict=True):
                updates[i] = update.view(self.parameters[i].shape)

    @torch.no_grad()
    def _orthogonalize(self, i: int, update: Tensor, lr: float) -> None:
        """Replace matrices of a parameter by what is added to its weights."""
        for rows in self.matrices[i]:
            part = part_of(update, rows)
            rate = lr * max(1.0, part.shape[1] / part.shape[2]) ** 0.5
            part.copy_(orthogonalize(part).float() * -rate)

    def _numbers(self, i: int, rank: int) -> int:
        """How many numbers of a parameter a process holds: its share of the rows, rounded up,
        until none are left."""
        rows, *rest = self._shards[i].shape
        most = -(-rows // self.world.size)
        return max(0, min(most, rows - rank * most)) * math.prod(rest)

    def tensors(self) -> dict[str, Tensor]:
        """What every process has: the number of steps."""
        return {"adam.step": self._steps}

    def by_parameter(self) -> dict[str, Tensor]:
        """The means of all processes, in place, under the names of `Optimizer.by_parameter`."""
        found = {f"momentum.{self.names[i]}": (i, value) for i, value in self.momentum_of.items()}
        for i, moments in self.moments.items():
            for kind, moment in zip(MOMENTS, moments, strict=True):
                found[f"{kind}.{self.names[i]}"] = i, moment
        return {name: self._as_shard(i, value) for name, (i, value) in found.items()}

    @torch.no_grad()
    def load_by_parameter(self, tensors: dict[str, Tensor], steps: Tensor) -> None:
        for name, value in self.by_parameter().items():
            value.copy_(_rows_of(tensors[name], _dtensor(value)))
        self._steps.copy_(steps)

    def load_shards(self, folder: Path, steps: Tensor) -> None:
        with peers():
            load_shards(folder, self.by_parameter())
        self._steps.copy_(steps)

    def _as_shard(self, i: int, value: Tensor) -> DTensor:
        """What this process holds of a mean, as a part of the mean of the whole parameter."""
        of = self._shards[i]
        return DTensor.from_local(
            value,
            of.device_mesh,
            of.placements,
            run_check=False,
            shape=of.shape,
            stride=of.stride(),
        )


def _dtensor(tensor: Tensor) -> DTensor:
    """Return a tensor after checking that it was sharded."""
    if not isinstance(tensor, DTensor):
        raise TypeError("the model isn't sharded, or a step is going on")
    return tensor


def _rows_of(whole: Tensor, like: DTensor) -> DTensor:
    """This process's rows of a tensor that every process has.

    Raises:
        ValueError: it has another shape.
    """
    if whole.shape != like.shape:
        raise ValueError(f"a shape of {tuple(whole.shape)}, not {tuple(like.shape)}")
    whole = whole.to(like.device, like.dtype)
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def _gradient(parameter: nn.Parameter) -> Tensor:
    """This process's part of a gradient."""
    if parameter.grad is None:  # nothing depends on it
        return torch.zeros_like(_dtensor(parameter).to_local())
    return _dtensor(parameter.grad).to_local()


def _joined(parts: Sequence[Tensor], like: Tensor) -> Tensor:
    """Parts one behind the other, flat; empty, of the type and device of ``like``, without any."""
    return torch.cat([part.flatten() for part in parts]) if parts else like.new_empty(0)
