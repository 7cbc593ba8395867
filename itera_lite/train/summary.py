"""The summary of a finished run: what was trained on what, what it cost, how good it is."""

from __future__ import annotations

import json
from typing import Any

import torch

from itera_lite.config import ModelConfig, preset_of
from itera_lite.evaluate.score import Score
from itera_lite.machine.provenance import provenance
from itera_lite.model.cost import cost
from itera_lite.train.loop import Trainer


def description(name: str, config: ModelConfig, valid: Score, context: int) -> dict[str, Any]:
    """What every summary says of a model: its shape, its cost at a number of tokens of context,
    its score on validation text."""
    counts = cost(config, context)
    return {
        "name": name,
        "family": config.family,
        "preset": preset_of(config.to_dict()),
        "config": config.to_dict(),
        "params": {
            "total": counts.params_total,
            "embedding": counts.params_embedding,
            "non_embedding": counts.params_non_embedding,
            "active": counts.params_active,
        },
        "flops_per_token": {"forward": counts.flops_forward, "train": counts.flops_train},
        "flops_breakdown": counts.breakdown,
        "valid": {
            "bpb": valid.bpb,
            "loss": valid.loss,
            "ppl": valid.ppl,
            "tokens": valid.tokens,
            "bytes": valid.bytes,
        },
    }


def training_summary(
    trainer: Trainer, config: ModelConfig, score: Score, source: str
) -> dict[str, Any]:
    """The summary of a run that has ended.

    Args:
        config: of the model that was saved.
        score: of that model on the validation text.
        source: how the set was named.
    """
    train, state, compute = trainer.config, trainer.state, trainer.compute
    speed = trainer.tokens / state.seconds
    return {
        **description(trainer.files.name, config, score, train.seq_len),
        "train": {
            "batch_size": train.batch_size,
            "seq_len": train.seq_len,
            "steps": state.step,
            "tokens": trainer.tokens,
            "epochs": trainer.loader.epoch,
            "seconds": state.seconds,
            "minutes_wall": state.wall / 60,
            "tokens_per_second": speed,
            "mfu": trainer.mfu(speed),
            "peak_gflops": compute.precision.peak / 1e9,
            "precision": compute.precision.name,
            "precision_reason": compute.precision.reason,
            "fused_kernels": compute.problem is None,
            "threads": torch.get_num_threads(),
            "processes": trainer.world.size,
            "seed": train.seed,
            "lr_matrix": train.lr_matrix,
            "lr_embedding": train.lr_embedding,
            "lr_other": train.lr_other,
            "weight_decay": train.weight_decay,
            "budget": {"unit": trainer.budget.unit, "amount": trainer.budget.amount},
            "stopped": state.ended,
        },
        "best": state.best,
        "dataset": {**trainer.dataset.summary(), "spec": source},
        "expert_load": state.expert_load,
        "samples": state.samples,
        "provenance": provenance(seed=train.seed),
    }


def summary_of_finished(trainer: Trainer) -> dict[str, Any] | None:
    """The summary of a resumed run that has ended already; None where the run goes on, or where
    its summary or its best model is missing."""
    state, files = trainer.state, trainer.files
    if state.ended is None:
        return None
    try:
        summary: dict[str, Any] = json.loads(files.summary.read_text(encoding="utf-8"))
        if summary["train"]["steps"] != state.step or not files.best.is_dir():
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return summary
