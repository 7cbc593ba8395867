"""How far a run has come: plain numbers, as JSON can hold them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class State:
    """What a run has done so far, apart from tensors."""

    step: int = 0
    seconds: float = 0.0  # of training steps
    wall: float = 0.0  # with evaluations and saves
    ended: str | None = None  # why the run is over: its budget is used, or it stopped early
    expert_load: list[list[float]] = field(default_factory=list)  # see metrics.expert_loads
    rows: list[dict[str, Any]] = field(default_factory=list)  # of the log
    samples: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=lambda: {"step": 0, "bpb": None})
    evaluations: int = 0  # parts of the budget at the last evaluation
    evaluated: int = 0  # the step of the last evaluation
    fruitless: int = 0  # evaluations since the best one

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> State:
        """What `to_dict` gave.

        Raises:
            TypeError: it isn't that.
        """
        state = cls(**saved)
        for name, default in asdict(cls()).items():
            value = getattr(state, name)
            kinds = {float: (int, float), type(None): (str, type(None))}
            if not isinstance(value, kinds.get(type(default), type(default))):
                raise TypeError(f"{name} is a {type(value).__name__}, which it can't be")
        return state

    def add(self, row: dict[str, Any]) -> None:
        """Add to the log; what is known of a step stands in one row."""
        if self.rows and self.rows[-1]["step"] == row["step"]:
            self.rows[-1].update(row)
        else:
            self.rows.append(row)

    def judge(self, bpb: float) -> bool:
        """Note the score of the current step. Returns whether it is the best so far."""
        better = self.best["bpb"] is None or bpb < self.best["bpb"]
        self.fruitless = 0 if better else self.fruitless + 1
        if better:
            self.best = {"step": self.step, "bpb": bpb}
        return bool(better)
