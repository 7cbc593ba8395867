"""What a run records while it trains: its state, the rows of its log, means between two rows."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from itera_lite.files import write_text
from itera_lite.machine.load import LoadTime
from itera_lite.model import LanguageModel

COLUMNS = (
    *("step", "tokens", "seconds", "epoch", "flops", "train_loss", "train_bpb"),
    *("valid_loss", "valid_bpb", "valid_ppl", "lr_matrix", "lr_other", "grad_norm"),
    *("tokens_per_second", "mfu", "expert_load_max", "expert_entropy"),
)


@dataclass
class TrainingState:
    """What a run has done so far, apart from tensors: plain values, as JSON holds them."""

    step: int = 0
    seconds: float = 0.0  # of training steps
    wall: float = 0.0  # with evaluations and saves
    load_seconds: float = 0.0  # of these, in which the load by others was measured
    load_others: float = 0.0  # and the seconds of a core that other programs used in them
    ended: str | None = None  # why the run is over: "budget" (it is used) or "early"
    expert_load: list[list[float]] = field(default_factory=list)  # see `expert_loads`
    rows: list[dict[str, Any]] = field(default_factory=list)  # of the log
    samples: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=lambda: {"step": 0, "bpb": None})
    evaluations: int = 0  # parts of the budget at the last evaluation
    evaluated: int = 0  # the step of the last evaluation
    fruitless: int = 0  # evaluations since the best one

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> TrainingState:
        """Undo `to_dict`.

        Raises:
            TypeError: a field is unknown, or has a value of another type.
        """
        state = cls(**saved)
        for name, default in asdict(cls()).items():
            value = getattr(state, name)
            kinds = {float: (int, float), type(None): (str, type(None))}
            if not isinstance(value, kinds.get(type(default), type(default))):
                raise TypeError(f"{name} is a {type(value).__name__}, which it can't be")
        return state

    def add_load(self, load: LoadTime) -> None:
        """Count in what was measured of the load by others."""
        self.load_seconds += load.seconds
        self.load_others += load.others

    @property
    def load(self) -> LoadTime:
        """The load by others, of the whole run."""
        return LoadTime(self.load_seconds, self.load_others)

    def add(self, row: dict[str, Any]) -> None:
        """Add to the log; there is one row for a step."""
        if self.rows and self.rows[-1]["step"] == row["step"]:
            self.rows[-1].update(row)
        else:
            self.rows.append(row)

    def add_score(self, bpb: float) -> bool:
        """Compare the current step's score with the best one. Returns whether it is better."""
        better = self.best["bpb"] is None or bpb < self.best["bpb"]
        self.fruitless = 0 if better else self.fruitless + 1
        if better:
            self.best = {"step": self.step, "bpb": bpb}
        return bool(better)


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
        """The sums, as JSON holds them."""
        return {**vars(self), "load": self.load.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.load = torch.tensor(state["load"]).view_as(self.load)
        self.steps, self.loss = state["steps"], state["loss"]
        self.grad_norm, self.seconds = state["grad_norm"], state["seconds"]


def expert_loads(model: LanguageModel) -> list[Tensor]:
    """Each MoE layer's share of tokens per expert in the last training batch; [] if dense."""
    return [moe.load for moe in model.mixtures if moe.load is not None]


def write_metrics(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the log as CSV; a cell that wasn't measured is blank."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _short(value) for key, value in row.items() if value is not None})
    write_text(path, out.getvalue())


def is_log(path: Path) -> bool:
    """Whether a file is a training log, or empty: then a run may replace it."""
    try:
        with open(path, encoding="utf-8") as file:
            first = file.readline()
    except (OSError, ValueError):
        return False
    return not first or first.startswith(COLUMNS[0] + ",")


def _short(value: float) -> float | int | str:
    return value if isinstance(value, int) else f"{value:.7g}"
