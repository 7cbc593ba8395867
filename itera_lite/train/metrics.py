"""The training log: a row every few steps, as CSV."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from itera_lite.files import write_text
from itera_lite.model import LanguageModel
from itera_lite.model.moe import MoE

COLUMNS = (
    *("step", "tokens", "seconds", "epoch", "flops", "train_loss", "train_bpb"),
    *("valid_loss", "valid_bpb", "valid_ppl", "lr_matrix", "lr_other", "grad_norm"),
    *("tokens_per_second", "mfu", "expert_load_max", "expert_entropy"),
)


def write_metrics(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write all rows; a cell that wasn't measured is blank."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _short(value) for key, value in row.items() if value is not None})
    write_text(path, out.getvalue())


def is_log(path: Path) -> bool:
    """Whether a file is a training log; an empty one may be replaced too."""
    try:
        with open(path, encoding="utf-8") as file:
            first = file.readline()
    except (OSError, ValueError):
        return False
    return not first or first.startswith(COLUMNS[0] + ",")


def _short(value: float) -> float | int | str:
    return value if isinstance(value, int) else f"{value:.7g}"


class Window:
    """Means over the steps since the last row of the log."""

    def __init__(self, layers: int, experts: int) -> None:
        self.load = torch.zeros(layers, experts)
        self.steps = 0
        self.loss = self.grad_norm = self.seconds = 0.0

    def add(self, model: LanguageModel, loss: float, grad_norm: float, seconds: float) -> None:
        """Count one step in."""
        self.steps += 1
        self.loss += loss
        self.grad_norm += grad_norm
        self.seconds += seconds
        loads = expert_loads(model)
        if loads:
            self.load += torch.stack(loads).cpu()

    def balance(self) -> tuple[float | None, float | None]:
        """Largest share times E, and normalised entropy (1: all alike); means over the layers."""
        if not self.load.numel() or not self.steps:
            return None, None
        share = self.load / self.steps
        experts = share.shape[1]
        entropy = -(share * share.clamp(min=1e-12).log()).sum(dim=1) / math.log(experts)
        return float(share.max(dim=1).values.mean() * experts), float(entropy.mean())

    def state_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "load": self.load.tolist(),
            "steps": self.steps,
            "loss": self.loss,
            "grad_norm": self.grad_norm,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.load = torch.tensor(state["load"]).view_as(self.load)
        self.steps, self.loss = state["steps"], state["loss"]
        self.grad_norm, self.seconds = state["grad_norm"], state["seconds"]


def expert_loads(model: LanguageModel) -> list[Tensor]:
    """Each MoE layer's share of tokens per expert in the last training batch; [] if dense."""
    layers = [block.ffn for block in model.blocks if isinstance(block.ffn, MoE)]
    return [layer.load for layer in layers if layer.load is not None]
