"""Muon for the matrices, AdamW for the rest; AdamW alone for the conventional reference.

Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon) replaces the momentum of a
matrix by the nearest orthogonal matrix. A projection that holds several matrices (z, x, B, C of a
Mamba layer; gate and up) is split, an expert tensor is a stack of matrices, and all matrices of one
shape go through the iteration together.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from itera_lite.config import TrainConfig
from itera_lite.model import LanguageModel
from itera_lite.model.attention import Attention
from itera_lite.model.layers import SwiGLU
from itera_lite.model.moe import MoE
from itera_lite.model.ssd import Mamba2

# Coefficients of the quintic Newton-Schulz iteration, chosen for slope at zero.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def orthogonalize(matrices: Tensor) -> Tensor:
    """The nearest (semi-)orthogonal matrices, roughly: singular values in about 0.7..1.2.

    Args:
        matrices: (K, m, n), any float type; the iteration runs in bfloat16.
    """
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.mT
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


def _part(tensor: Tensor, rows: slice) -> Tensor:
    """A view (k, m, n) of some rows of a parameter or of its gradient."""
    return tensor[:, rows] if tensor.dim() == 3 else tensor[None, rows]


class Optimizer:
    """Muon and AdamW over all parameters of a model, with decoupled weight decay."""

    def __init__(self, model: LanguageModel, config: TrainConfig) -> None:
        self.config = config
        conventional = model.config.parts.optimizer == "adamw"
        names = {parameter: name for name, parameter in model.named_parameters()}
        self.parameters = list(names)
        # shape -> the parts that are orthogonalised together
        self.groups: dict[tuple[int, int], list[tuple[nn.Parameter, slice]]] = {}
        taken = set()
        for parameter, parts in () if conventional else _matrices(model):
            taken.add(parameter)
            for rows in parts:
                _, *shape = _part(parameter, rows).shape
                self.groups.setdefault((shape[0], shape[1]), []).append((parameter, rows))
        device = model.embedding.weight.device
        self.momentum = {
            shape: torch.zeros(sum(_part(*part).shape[0] for part in parts), *shape, device=device)
            for shape, parts in self.groups.items()
        }
        rest = [parameter for parameter in names if parameter not in taken]
        embedding = [] if conventional else [model.embedding.weight]
        decayed = [p for p in rest if "router" in names[p] or (conventional and p.dim() == 2)]
        seen = {*embedding, *decayed}
        plain = [p for p in rest if p not in seen]
        groups = (
            (embedding, config.lr_embedding, config.weight_decay),
            (decayed, config.lr_other, config.weight_decay),
            (plain, config.lr_other, 0.0),
        )
        self.adam = torch.optim.AdamW(
            [
                {"params": params, "lr": lr, "full_lr": lr, "weight_decay": decay}
                for params, lr, decay in groups
                if params
            ],
            betas=(0.9, 0.95),
            eps=1e-8 if conventional else 1e-10,
            fused=True,
        )

    @torch.no_grad()
    def step(self, factor: float) -> float:
        """Clip, update, and forget the gradients.

        Args:
            factor: of the learning rates, from the schedule.

        Returns:
            The norm of the gradient before clipping. Where it isn't finite, nothing was updated.
        """
        c = self.config
        norm = nn.utils.clip_grad_norm_(self.parameters, c.clip, foreach=True)
        if not torch.isfinite(norm):
            return float(norm)
        for group in self.adam.param_groups:
            group["lr"] = group["full_lr"] * factor
        self.adam.step()
        lr = c.lr_matrix * factor
        for shape, parts in self.groups.items():
            grads = [_part(p.grad, rows) for p, rows in parts if p.grad is not None]
            gradient, momentum = torch.cat(grads), self.momentum[shape]
            momentum.lerp_(gradient, 1 - c.momentum)
            update = orthogonalize(gradient.lerp_(momentum, c.momentum)).float()
            update *= -lr * max(1.0, shape[0] / shape[1]) ** 0.5
            views = [_part(*part) for part in parts]
            torch._foreach_mul_(views, 1 - lr * c.weight_decay)
            torch._foreach_add_(views, list(update.split([v.shape[0] for v in views])))
        for parameter in self.parameters:
            parameter.grad = None
        return float(norm)

    def tensors(self) -> dict[str, Tensor]:
        """The state that a step depends on, by name."""
        found = {f"momentum.{m}x{n}": value for (m, n), value in self.momentum.items()}
        for i, parameter in enumerate(self.parameters):
            for key, value in self.adam.state.get(parameter, {}).items():
                found[f"adam.{i}.{key}"] = value
        return found

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` gave.

        Raises:
            KeyError, IndexError, ValueError, RuntimeError: they are of another model.
        """
        for (m, n), value in self.momentum.items():
            value.copy_(tensors[f"momentum.{m}x{n}"])
        for name, value in tensors.items():
            if name.startswith("adam."):
                _, i, key = name.split(".")
                parameter = self.parameters[int(i)]
                if value.dim() and value.shape != parameter.shape:
                    raise ValueError(f"{name} has the shape {tuple(value.shape)}")
                self.adam.state[parameter][key] = value.clone().to(parameter.device)
