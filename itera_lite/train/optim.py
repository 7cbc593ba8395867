"""Muon for the matrices, AdamW for the rest; AdamW alone for the conventional reference.

Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon) replaces the momentum of a
matrix by the nearest orthogonal matrix. A projection that holds several matrices (z, x, B, C of a
Mamba layer; gate and up) is split, an expert tensor is a stack of matrices, and all matrices of one
shape go through the iteration together.

A step is a list of tasks of fixed size, which workers share: no two touch the same weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from itera_lite import ops
from itera_lite.checkpoint.shards import load_shards
from itera_lite.config import TrainConfig
from itera_lite.machine.processor import multiplies_bfloat16
from itera_lite.model import LanguageModel
from itera_lite.model.attention import Attention
from itera_lite.model.layers import SwiGLU
from itera_lite.model.moe import MoE
from itera_lite.model.ssd import Mamba2
from itera_lite.workers import Workers

# Of each quintic Newton-Schulz iteration: the best one for what the iteration before it leaves of
# the interval 0.003..1, all but the last for an interval 2 % wider, because rounding to bfloat16
# lifts some values above it (Amsel et al., 2025, 'The Polar Express',
# https://arxiv.org/abs/2505.16932). The last one is scaled by 0.88: so large was the median of the
# iteration with which the learning rates were found.
COEFFICIENTS = (
    (8.2193, -23.3375, 16.6266),
    (3.9681, -2.8404, 0.5161),
    (3.4599, -2.4914, 0.4779),
    (2.2316, -1.6482, 0.3882),
)
BETA1 = 0.9  # of AdamW
MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW, in the order of `Optimizer.moments`
# About what a task of a step computes, in multiplications and in numbers: a millisecond each.
TASK_PRODUCTS = 1 << 26
TASK_NUMBERS = 1 << 18


def orthogonalize(matrices: Tensor) -> Tensor:
    """The nearest (semi-)orthogonal matrices, roughly: singular values in about 0.7..1.1.

    Args:
        matrices: (K, m, n), any float type. The iteration runs in bfloat16, or in float32 on a
            processor that has no products of bfloat16.
    """
    x = matrices.float()
    dtype = (
        torch.float32 if x.device.type == "cpu" and not multiplies_bfloat16() else torch.bfloat16
    )
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).to(dtype)
    for i, (a, b, c) in enumerate(COEFFICIENTS):
        square = x @ x.mT
        if i == 0:  # the largest singular value is at most the root of the square's norm
            norm = square.float().norm(dim=(1, 2), keepdim=True)
            trace = square.float().diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None]
            scale = trace / (norm + 1e-30)
            x, square = (x * scale.sqrt()).to(dtype), (square * scale).to(dtype)
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def _matrices(model: LanguageModel) -> Iterator[tuple[nn.Parameter, list[slice]]]:
    """Parameters that hold matrices (m, n), or stacks of them (k, m, n): each with the rows of
    every matrix in it."""
    whole = [slice(None)]
    for module in model.modules():
        if isinstance(module, Mamba2):
            c = module.config
            sizes = (c.d_inner, c.d_inner, c.d_state, c.d_state, c.n_ssm_heads)
            rows = [slice(start, end) for start, end in pairwise(accumulate(sizes, initial=0))]
            yield module.in_proj.weight, rows
            yield module.out_proj.weight, whole
        elif isinstance(module, Attention):
            for part in (module.q_proj, module.k_proj, module.v_proj, module.o_proj):
                yield part.weight, whole
        elif isinstance(module, SwiGLU | MoE):
            up = module.gate_up if isinstance(module, MoE) else module.gate_up.weight
            half = up.shape[-2] // 2
            yield up, [slice(0, half), slice(half, None)]
            yield module.down if isinstance(module, MoE) else module.down.weight, whole


def part_of(tensor: Tensor, rows: slice) -> Tensor:
    """A view (k, m, n) of some rows of a parameter or of its gradient."""
    return tensor[:, rows] if tensor.dim() == 3 else tensor[None, rows]


def _runs(total: int, size: int) -> Iterator[slice]:
    """Cut ``total`` things into runs of ``size``; the last one may be shorter."""
    for start in range(0, total, max(size, 1)):
        yield slice(start, min(start + max(size, 1), total))


@dataclass(frozen=True)
class Scale:
    """What a step scales by: the gradients by ``clip``, the learning rates by ``factor``."""

    clip: float
    factor: float


@dataclass(frozen=True)
class _Muon:
    """A task: matrices (m, n) of one shape.

    Attributes:
        parts: of each part, the number of the parameter, its rows, and which matrices of those.
        number, offset: (K,) of each matrix, the number of its parameter and its place there, bytes.
        momentum: (K, m, n), a view.
    """

    config: TrainConfig
    weights: Sequence[Tensor]
    parts: Sequence[tuple[int, slice, slice]]
    number: Tensor
    offset: Tensor
    momentum: Tensor

    @classmethod
    def of(
        cls,
        config: TrainConfig,
        weights: Sequence[Tensor],
        parts: Sequence[tuple[int, slice, slice]],
        momentum: Tensor,
    ) -> _Muon:
        places = [
            (i, matrix.data_ptr() - weights[i].data_ptr())
            for i, rows, chosen in parts
            for matrix in part_of(weights[i], rows)[chosen]
        ]
        number, offset = torch.tensor(places).unbind(1)
        return cls(config, weights, parts, number, offset, momentum)

    def step(self, gradients: Sequence[Tensor], scale: Scale) -> None:
        """Update momentum and weights."""
        c, momentum = self.config, self.momentum
        rows, columns = momentum.shape[1:]
        lr = c.lr_matrix * scale.factor
        rate, keep = lr * max(1.0, rows / columns) ** 0.5, 1 - lr * c.weight_decay
        weights = self.weights
        if ops.usable(momentum):
            step = ops.MuonStep(COEFFICIENTS, scale.clip, c.momentum, rate, keep)
            where = [
                torch.tensor([tensor.data_ptr() for tensor in tensors])[self.number] + self.offset
                for tensors in (weights, gradients)
            ]
            ops.muon(where[0], where[1], momentum, step)
            return
        gradient = torch.cat(
            [part_of(gradients[i], rows)[chosen] for i, rows, chosen in self.parts]
        )
        gradient = gradient * scale.clip
        momentum.lerp_(gradient, 1 - c.momentum)
        update = orthogonalize(gradient.lerp_(momentum, c.momentum)).float() * -rate
        views = [part_of(weights[i], rows)[chosen] for i, rows, chosen in self.parts]
        torch._foreach_mul_(views, keep)
        torch._foreach_add_(views, list(update.split([view.shape[0] for view in views])))


@dataclass(frozen=True)
class _Adam:
    """A task: runs of numbers of some parameters, with one learning rate and decay.

    Attributes:
        beta2: what the moment of the squared gradient keeps.
        runs: of each run, the number of its parameter and its place there.
        averages, squares: the moments of gradient and squared gradient of each run, views.
        steps: scalar, counts the steps.
    """

    lr: float
    beta2: float
    decay: float
    eps: float
    weights: Sequence[Tensor]
    runs: Sequence[tuple[int, slice]]
    averages: Sequence[Tensor]
    squares: Sequence[Tensor]
    steps: Tensor

    def step(self, gradients: Sequence[Tensor], scale: Scale) -> None:
        """Update moments and weights."""
        torch._fused_adamw_(
            [self.weights[i].view(-1)[run] for i, run in self.runs],
            [gradients[i].view(-1)[run] for i, run in self.runs],
            list(self.averages),
            list(self.squares),
            [],
            [self.steps] * len(self.runs),
            lr=self.lr * scale.factor,
            beta1=BETA1,
            beta2=self.beta2,
            weight_decay=self.decay,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
            grad_scale=torch.full_like(self.steps, 1 / scale.clip),
            found_inf=None,
        )


class Optimizer:
    """Muon and AdamW over all parameters of a model, with decoupled weight decay.

    Attributes:
        names, parameters: all of them, in the order of the gradients that `step` takes.
        momentum: of Muon: (K, m, n) for each shape (m, n), all matrices of that shape.
        moments: of AdamW: the averages of gradient and squared gradient, by a parameter's number.
    """

    def __init__(self, model: LanguageModel, config: TrainConfig) -> None:
        self.config = config
        named = dict(model.named_parameters())
        self.names, self.parameters = list(named), self._held(list(named.values()))
        number = {id(parameter): i for i, parameter in enumerate(named.values())}
        conventional = model.config.parts.optimizer == "adamw"
        # Of each parameter that holds matrices, by its number, the rows of every matrix
        self.matrices = {
            number[id(parameter)]: rows
            for parameter, rows in (() if conventional else _matrices(model))
        }
        self.device = model.embedding.weight.device
        self._tasks: list[_Muon | _Adam] = []
        self._add_matrices()
        self._add_others(number[id(model.embedding.weight)], conventional)

    def _held(self, parameters: list[nn.Parameter]) -> list[Tensor]:
        """What this process holds, and updates, of each parameter."""
        return list(parameters)

    def _add_matrices(self) -> None:
        """Make Muon's state and tasks."""
        shapes: dict[tuple[int, int], list[tuple[int, slice]]] = {}
        for i, parts in self.matrices.items():
            for rows in parts:
                _, m, n = part_of(self.parameters[i], rows).shape
                shapes.setdefault((m, n), []).append((i, rows))
        self.momentum: dict[tuple[int, int], Tensor] = {}
        self._places = shapes
        for shape, found in shapes.items():
            counts = [part_of(self.parameters[i], rows).shape[0] for i, rows in found]
            self.momentum[shape] = torch.zeros(sum(counts), *shape, device=self.device)
            self._tasks += self._muon_tasks(shape, found, counts)

    def _add_others(self, embedding_number: int, conventional: bool) -> None:
        """Make AdamW's state and tasks."""
        config = self.config
        rest = [i for i in range(len(self.parameters)) if i not in self.matrices]
        embedding = [] if conventional else [embedding_number]
        decayed = [
            i
            for i in rest
            if "router" in self.names[i] or (conventional and self.parameters[i].dim() == 2)
        ]
        plain = [i for i in rest if i not in {*embedding, *decayed}]
        self.moments = {
            i: (torch.zeros_like(self.parameters[i]), torch.zeros_like(self.parameters[i]))
            for i in rest
        }
        self._steps = torch.zeros((), device=self.device)
        eps = 1e-8 if conventional else 1e-10
        for chosen, lr, decay in (
            (embedding, config.lr_embedding, config.weight_decay),
            (decayed, config.lr_other, config.weight_decay),
            (plain, config.lr_other, 0.0),
        ):
            self._tasks += self._adam_tasks(chosen, lr, decay, eps)

    def _muon_tasks(
        self, shape: tuple[int, int], found: list[tuple[int, slice]], counts: list[int]
    ) -> Iterator[_Muon]:
        """Tasks of about `TASK_PRODUCTS`, over all matrices of a shape."""
        short, long = sorted(shape)
        products = len(COEFFICIENTS) * short * short * (2 * long + short)
        matrices = [
            (i, rows, k)
            for (i, rows), count in zip(found, counts, strict=True)
            for k in range(count)
        ]
        for run in _runs(len(matrices), TASK_PRODUCTS // products):
            parts: list[tuple[int, slice, slice]] = []
            for i, rows, k in matrices[run]:
                if parts and parts[-1][:2] == (i, rows):
                    parts[-1] = (i, rows, slice(parts[-1][2].start, k + 1))
                else:
                    parts.append((i, rows, slice(k, k + 1)))
            yield _Muon.of(self.config, self.parameters, parts, self.momentum[shape][run])

    def _adam_tasks(
        self, chosen: list[int], lr: float, decay: float, eps: float
    ) -> Iterator[_Adam]:
        """Tasks of about `TASK_NUMBERS`, over some parameters."""
        tasks: list[list[tuple[int, slice]]] = []
        room = 0
        for i in chosen:
            for run in _runs(self.parameters[i].numel(), TASK_NUMBERS):
                if room <= 0:
                    tasks.append([])
                    room = TASK_NUMBERS
                tasks[-1].append((i, run))
                room -= run.stop - run.start
        for runs in tasks:
            averages, squares = (
                [self.moments[i][moment].view(-1)[run] for i, run in runs] for moment in (0, 1)
            )
            rates = lr, self.config.beta2, decay, eps
            yield _Adam(*rates, self.parameters, runs, averages, squares, self._steps)

    @torch.no_grad()
    def step(
        self,
        gradients: Sequence[Tensor],
        factor: float,
        workers: Workers,
        norm: float | None = None,
    ) -> float:
        """Clip and update. The gradients aren't needed afterwards: they may be changed.

        Args:
            gradients: one for each of ``parameters``, in that order, float32.
            factor: of the learning rates, from the schedule.
            workers: what they do doesn't depend on how many they are.
            norm: of the gradients, where it is known.

        Returns:
            The norm of the gradient before clipping. Where it isn't finite, nothing was updated.
        """
        gradients = [gradient.contiguous() for gradient in gradients]
        if norm is None:
            norm = float(torch.stack(torch._foreach_norm(gradients)).norm())
        if not math.isfinite(norm):
            return norm
        scale = Scale(min(1.0, self.config.clip / (norm + 1e-6)), factor)
        self._steps += 1
        self._update(gradients, scale, workers)
        torch.autograd.graph.increment_version(self.parameters)  # also of what PyTorch didn't do
        return norm

    def _update(self, gradients: Sequence[Tensor], scale: Scale, workers: Workers) -> None:
        workers.map([partial(task.step, gradients, scale) for task in self._tasks])

    def tensors(self) -> dict[str, Tensor]:
        """The state that a step depends on, by name."""
        found = {f"momentum.{m}x{n}": value for (m, n), value in self.momentum.items()}
        found["adam.step"] = self._steps
        for i, (average, square) in self.moments.items():
            found[f"adam.{i}.exp_avg"], found[f"adam.{i}.exp_avg_sq"] = average, square
        return found

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` gave.

        Raises:
            KeyError, ValueError: they are of another model.
        """
        own = self.tensors()
        if others := tensors.keys() ^ own.keys():
            raise KeyError(f"{', '.join(sorted(others))}: only one of the two models has this")
        for name, value in own.items():
            if tensors[name].shape != value.shape:
                raise ValueError(
                    f"{name} has the shape {tuple(tensors[name].shape)}, not {tuple(value.shape)}"
                )
            value.copy_(tensors[name])

    def by_parameter(self) -> dict[str, Tensor]:
        """Copies of the means, each in the shape of its parameter, by names such as
        ``momentum.NAME``, ``exp_avg.NAME``: what several processes store, a part each."""
        found = {
            f"momentum.{self.names[i]}": torch.empty_like(self.parameters[i], requires_grad=False)
            for i in self.matrices
        }
        for (i, rows), momentum in self._momentum_parts():
            part_of(found[f"momentum.{self.names[i]}"], rows).copy_(momentum)
        for i, moments in self.moments.items():
            for kind, moment in zip(MOMENTS, moments, strict=True):
                found[f"{kind}.{self.names[i]}"] = moment.detach().clone()
        return found

    @torch.no_grad()
    def load_by_parameter(self, tensors: dict[str, Tensor], steps: Tensor) -> None:
        """Restore what `by_parameter` gave, and the number of steps.

        Raises:
            KeyError, RuntimeError: they are of another model.
        """
        for (i, rows), momentum in self._momentum_parts():
            momentum.copy_(part_of(tensors[f"momentum.{self.names[i]}"], rows))
        for i, moments in self.moments.items():
            for kind, moment in zip(MOMENTS, moments, strict=True):
                moment.copy_(tensors[f"{kind}.{self.names[i]}"])
        self._steps.copy_(steps)

    def load_shards(self, folder: Path, steps: Tensor) -> None:
        """Restore what several processes stored, a part each (`save_shards`).

        Raises:
            CheckpointError: the parts are damaged, or of another model.
        """
        whole = self.by_parameter()
        load_shards(folder, whole, alone=True)
        self.load_by_parameter(whole, steps)

    def _momentum_parts(self) -> Iterator[tuple[tuple[int, slice], Tensor]]:
        """Of each run of matrices, the number of its parameter, its rows there, its momentum."""
        for shape, found in self._places.items():
            counts = [part_of(self.parameters[i], rows).shape[0] for i, rows in found]
            yield from zip(found, self.momentum[shape].split(counts), strict=True)
