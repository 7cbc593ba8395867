"""What a run saves, and how it goes on from that with nothing lost."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from itera_lite.checkpoint.folder import load_training_state, save_checkpoint
from itera_lite.checkpoint.hf import load_model
from itera_lite.errors import CheckpointError
from itera_lite.train.metrics import expert_loads, write_metrics
from itera_lite.train.recipe import Budget
from itera_lite.train.run_files import RunFiles as RunFiles
from itera_lite.train.state import State

if TYPE_CHECKING:
    from itera_lite.train.loop import Trainer

_WORDS = {
    "dataset_sha256": "the text",
    "tokenizer_sha256": "the tokenizer",
    "objective": "what is learned from (teachers, rounding)",
    "lr_matrix": "--lr-matrix",
    "lr_embedding": "--lr-embedding",
    "lr_other": "--lr-other",
    "seq_len": "--seq-len",
}


def save(trainer: Trainer) -> None:
    """Write everything that `go_on` needs, and the log so far."""
    trainer.world.lead(lambda: _write(trainer))


def _write(trainer: Trainer) -> None:
    loads = [[round(x, 5) for x in load.tolist()] for load in expert_loads(trainer.model)]
    trainer.state.expert_load = loads or trainer.state.expert_load
    save_checkpoint(
        trainer.files.last,
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
    write_metrics(trainer.files.metrics, trainer.state.rows)


def settings_of(files: RunFiles) -> dict[str, Any]:
    """The settings that the run was saved with: ``model``, ``train``, ``budget``, ``precision``.

    Raises:
        CheckpointError: they can't be read.
    """
    path = files.last / "training_state" / "state.json"
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        identity: dict[str, Any] = saved["identity"]
        Budget(**identity["budget"])
        for part, keys in (("train", ("batch_size",)), ("model", ("vocab_size",))):
            _ = [identity[part][key] for key in keys]
        _ = str(identity["precision"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(files, error) from None
    return identity


def go_on(trainer: Trainer) -> None:
    """Bring a new trainer to where the run of its name was saved.

    A run may go on with a larger budget than before; everything else has to be the same.

    Raises:
        CheckpointError: nothing saved, a damaged state, or one of a run with other settings.
    """
    folder = trainer.files.last
    saved, tensors = load_training_state(folder)
    settings = settings_of(trainer.files)
    if differences := _differences(settings, _identity(trainer)):
        raise CheckpointError(
            f"'{folder}' was trained with other settings: {'; '.join(differences)}. Resume with "
            "those of the first run (what isn't given is taken from it; --minutes, --epochs and "
            "--tokens may be larger), or train anew with --overwrite or another --name"
        )
    weights = load_model(folder).state_dict()
    try:
        rng = tensors.pop("rng")
        state = State.from_dict(saved["state"])
        with torch.no_grad():
            for name, value in trainer.model.state_dict().items():
                value.copy_(weights[name])
        trainer.optimizer.load_tensors(tensors)
        trainer.loader.load_state_dict(saved["loader"])
        trainer.window.load_state_dict(saved["window"])
        torch.set_rng_state(rng)
    except (KeyError, TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
        raise _damaged(trainer.files, error) from None
    trainer.state = state
    # The run may be evaluated less often than before.
    state.evaluations = min(state.evaluations, int(trainer.progress * trainer.evaluations))
    before = Budget(**settings["budget"])
    if before != trainer.budget:
        _extend(trainer, before)
    if not trainer.files.best.is_dir():
        if state.ended:
            raise CheckpointError(
                f"the best model, '{trainer.files.best}', isn't there any more: go on with a "
                "larger budget, or train anew with --overwrite"
            )
        state.best = State().best  # the next evaluation writes one


def _extend(trainer: Trainer, before: Budget) -> None:
    """Give a run another budget than it had.

    Raises:
        CheckpointError: the run has used that much already.
    """
    state, budget = trainer.state, trainer.budget
    if trainer.progress >= 1:
        raise CheckpointError(
            f"'{trainer.files.last}' was trained for {trainer.tokens:,} tokens in "
            f"{state.seconds / 60:.3g} minutes, which is {budget} already: give more, or leave the "
            f"budget out to go on with {before}"
        )
    state.ended, state.fruitless = None, 0
    state.evaluations = int(trainer.progress * trainer.evaluations)
    if not trainer.quiet:
        print(
            f"{trainer.files.name}: {before} before, now {budget}, of which "
            f"{trainer.progress:.0%} are used; the learning rate follows the new budget"
        )


def _damaged(files: RunFiles, error: BaseException) -> CheckpointError:
    reason = str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
    return CheckpointError(
        f"the training state in '{files.last / 'training_state'}' can't be used ({reason}): it is "
        "damaged, or another program or version wrote it. Train anew with --overwrite, or another "
        "--name"
    )


def _differences(saved: dict[str, Any], mine: dict[str, Any]) -> list[str]:
    """What differs, in words: ``batch size 8, now 4``."""
    found = []
    for part, now in mine.items():
        before = saved.get(part)
        if part == "budget" or before == now:
            continue
        if part in ("model", "train") and isinstance(before, dict):
            for key, value in now.items():
                if before.get(key) != value:
                    word = _WORDS.get(key, key.replace("_", " "))
                    found.append(f"{word} {before.get(key)}, now {value}")
        elif part == "precision":
            found.append(f"precision {before}, now {now}")
        else:
            found.append(f"{_WORDS[part]} changed")
    return found


def _identity(trainer: Trainer) -> dict[str, Any]:
    """What must be alike for a run to be the continuation of another, and its budget."""
    return {
        "model": trainer.model.config.to_dict(),
        "train": asdict(trainer.config),
        "budget": asdict(trainer.budget),
        "tokenizer_sha256": trainer.dataset.tokenizer.sha256,
        "dataset_sha256": trainer.dataset.manifest["sha256"],
        "precision": trainer.precision.name,
        "objective": trainer.objective.identity(),
    }
