"""What a run saves, and how it goes on from that with nothing lost."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from itera_lite.errors import CheckpointError
from itera_lite.export.hf import load_model
from itera_lite.train.checkpoint import load_training_state, save_checkpoint
from itera_lite.train.metrics import write_metrics
from itera_lite.train.state import State

if TYPE_CHECKING:
    from itera_lite.train.loop import Trainer


@dataclass(frozen=True)
class Places:
    """Where a run of one name keeps its files."""

    name: str
    checkpoints: Path
    results: Path

    @property
    def best(self) -> Path:
        return self.checkpoints / self.name

    @property
    def last(self) -> Path:
        return self.checkpoints / f"{self.name}-last"

    @property
    def metrics(self) -> Path:
        return self.results / f"{self.name}_metrics.csv"

    @property
    def summary(self) -> Path:
        return self.results / f"{self.name}_summary.json"


def save(trainer: Trainer) -> None:
    """Write everything that `go_on` needs, and the log so far."""
    if trainer.world.leads:
        save_checkpoint(
            trainer.places.last,
            trainer.model,
            trainer.dataset.tokenizer,
            training_state={
                "identity": _identity(trainer),
                "state": trainer.state.to_dict(),
                "loader": trainer.loader.state_dict(),
                "window": trainer.window.state_dict(),
            },
            tensors={**trainer.optimizer.tensors(), "rng": torch.get_rng_state()},
        )
        write_metrics(trainer.places.metrics, trainer.state.rows)
    trainer.world.wait()


def go_on(trainer: Trainer) -> None:
    """Bring a new trainer to where the run of its name was saved.

    Raises:
        CheckpointError: nothing saved, or saved by a run with other settings.
    """
    folder = trainer.places.last
    saved, tensors = load_training_state(folder)
    if "state" not in saved:
        raise CheckpointError(
            f"'{folder}' was saved by an older version of this program, which this one can't go "
            "on from. Start without --resume"
        )
    mine = _identity(trainer)
    for part, value in saved["identity"].items():
        if value != mine[part]:
            raise CheckpointError(
                f"'{folder}' was trained with {part}={value}; this run has {mine[part]}. Resume "
                "with the settings of the first run, or start without --resume"
            )
    weights = load_model(folder).state_dict()
    with torch.no_grad():
        for name, value in trainer.model.state_dict().items():
            value.copy_(weights[name])
    torch.set_rng_state(tensors.pop("rng"))
    trainer.optimizer.load_tensors(tensors)
    trainer.state = State(**saved["state"])
    trainer.loader.load_state_dict(saved["loader"])
    trainer.window.load_state_dict(saved["window"])


def _identity(trainer: Trainer) -> dict[str, Any]:
    """What must be alike for a run to be the continuation of another."""
    return {
        "model": trainer.model.config.to_dict(),
        "train": asdict(trainer.config),
        "budget": asdict(trainer.budget),
        "tokenizer_sha256": trainer.dataset.tokenizer.sha256,
        "dataset_sha256": trainer.dataset.manifest["sha256"],
        "precision": trainer.precision.name,
        "objective": trainer.objective.identity(),
    }
