"""One training from its settings to a scored checkpoint and the summary of the run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from itera_lite import ops
from itera_lite.checkpoint.folder import load_checkpoint
from itera_lite.config import ModelConfig, TrainConfig, preset_of
from itera_lite.data.prepare import Dataset
from itera_lite.evaluate.bits import score_documents
from itera_lite.evaluate.score import Score
from itera_lite.files import write_json
from itera_lite.machine.provenance import default_threads, provenance
from itera_lite.model import LanguageModel
from itera_lite.model.cost import cost
from itera_lite.ops.library import keep_memory
from itera_lite.quantities import threads_of
from itera_lite.train.distributed import World
from itera_lite.train.loop import EVALUATIONS, Trainer
from itera_lite.train.objective import Objective
from itera_lite.train.precision import Choice, Precision, choose
from itera_lite.train.recipe import Budget
from itera_lite.train.resume import RunFiles, go_on

FINAL_BYTES = 2_000_000  # of validation text for the last score; more is sampled by `itera eval`


@dataclass(frozen=True)
class Compute:
    """Where trainings run: processes, threads, precision, and whether they are shown."""

    world: World
    precision: Choice
    problem: str | None  # why the fused kernels are off; None where they are on
    quiet: bool = False

    @classmethod
    def prepare(
        cls,
        precision: Precision = "auto",
        threads: int | None = None,
        quiet: bool = False,
        world: World | None = None,
    ) -> Compute:
        """Set the threads, compile the fused kernels (once), measure which precision is fast.

        Raises:
            UsageError: ``threads`` is out of range.
        """
        world = world or World()
        if threads is None:
            torch.set_num_threads(default_threads(world.local_size))
        else:
            torch.set_num_threads(threads_of(threads))
        problem = ops.enable()
        keep_memory()
        return cls(world, choose(precision, world.device), problem, quiet)


@contextmanager
def threads_restored() -> Iterator[None]:
    """Put PyTorch's number of threads back when the block ends, for a caller from Python."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run_training(
    shape: ModelConfig,
    config: TrainConfig,
    dataset: Dataset,
    budget: Budget,
    files: RunFiles,
    compute: Compute,
    *,
    source: str,
    initial: LanguageModel | None = None,
    objective: Objective | None = None,
    resume: bool = False,
    patience: int = 6,
    evaluations: int = EVALUATIONS,
    notes: dict[str, Any] | None = None,
    scored: Callable[[float], None] | None = None,
    final_bytes: int = FINAL_BYTES,
) -> dict[str, Any]:
    """Train a model, score its best checkpoint, write and return the summary.

    The caller has claimed the run's files (`RunFiles.claimed`). A resumed run that is finished is
    left as it is.

    Args:
        source: how the set was named, for the summary.
        initial: a model to begin with, instead of random weights; it is changed.
        objective: what a step minimises; the next token by default.
        resume: go on where the run of this name was stopped.
        notes: more for the summary, such as what the run began from.
        scored: is told the last score, in bits per byte, before the summary is written; it may
            add to ``notes``.
        final_bytes: of validation text for the last score.
    """
    world = compute.world
    if world.leads and not compute.quiet:
        _announce(files.name, shape, config, budget, dataset, compute)
    trainer = Trainer(
        *(shape, config, dataset, budget, files, compute.precision, world),
        patience=patience,
        quiet=compute.quiet,
        evaluations=evaluations,
        initial=initial,
        objective=objective,
    )
    if resume:
        go_on(trainer)
        if (kept := _kept_summary(trainer)) is not None:
            return kept
        if world.leads:  # it describes the model that is trained further
            files.summary.unlink(missing_ok=True)
    elif world.leads:  # what a run before this one has left, and which may be replaced
        files.forget()
    trainer.run()
    summary: dict[str, Any] = {}

    def finish() -> None:
        nonlocal summary
        summary = _finish(trainer, source, compute.problem, notes or {}, scored, final_bytes)

    world.lead(finish)
    return summary


def _kept_summary(trainer: Trainer) -> dict[str, Any] | None:
    """The summary of a resumed run that has ended, as it was written then; else None."""
    state, files = trainer.state, trainer.files
    if state.ended is None:
        return None
    try:
        kept: dict[str, Any] = json.loads(files.summary.read_text(encoding="utf-8"))
        if kept["train"]["steps"] != state.step or not files.best.is_dir():
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not trainer.quiet:
        why = "its budget is used" if state.ended == "budget" else "it stopped early"
        print(
            f"{files.name} is finished ({why}, step {state.step}) and stays as it is: a larger "
            "--minutes, --epochs or --tokens goes on with it, --overwrite trains anew"
        )
    return kept


def _finish(
    trainer: Trainer,
    source: str,
    problem: str | None,
    notes: dict[str, Any],
    scored: Callable[[float], None] | None,
    final_bytes: int,
) -> dict[str, Any]:
    """Score the best model on the validation text, in float32, and write the summary."""
    files, dataset, config, state = trainer.files, trainer.dataset, trainer.config, trainer.state
    model, tokenizer = load_checkpoint(files.best)
    texts = first_bytes(dataset.documents("valid"), final_bytes)
    score = score_documents(model, tokenizer, texts, seq_len=config.seq_len)
    if scored:
        scored(score.bpb)
    manifest = dataset.manifest
    train_bytes, train_tokens = dataset.n_bytes("train"), len(dataset.tokens("train")) - 1
    speed = trainer.tokens / state.seconds
    share = trainer.mfu(speed)
    summary: dict[str, Any] = {
        **description(files.name, model.config, score, config.seq_len),
        "train": {
            "batch_size": config.batch_size,
            "seq_len": config.seq_len,
            "steps": state.step,
            "tokens": trainer.tokens,
            "epochs": trainer.loader.epoch,
            "seconds": state.seconds,
            "minutes_wall": state.wall / 60,
            "tokens_per_second": speed,
            "mfu": share,
            "peak_gflops": trainer.precision.peak / 1e9,
            "precision": trainer.precision.name,
            "precision_reason": trainer.precision.reason,
            "fused_kernels": problem is None,
            "threads": torch.get_num_threads(),
            "processes": trainer.world.size,
            "seed": config.seed,
            "lr_matrix": config.lr_matrix,
            "lr_embedding": config.lr_embedding,
            "lr_other": config.lr_other,
            "weight_decay": config.weight_decay,
            "budget": {"unit": trainer.budget.unit, "amount": trainer.budget.amount},
            "stopped": state.ended,
        },
        "best": state.best,
        "dataset": {
            "name": dataset.name,
            "spec": source,
            "sha256": manifest["sha256"],
            "tokenizer_sha256": dataset.tokenizer.sha256,
            "vocab_size": dataset.tokenizer.vocab_size,
            "train_bytes": train_bytes,
            "train_tokens": train_tokens,
            "valid_bytes": dataset.n_bytes("valid"),
            "valid_tokens": len(dataset.tokens("valid")) - 1,
            "bytes_per_token": train_bytes / train_tokens,
        },
        "expert_load": state.expert_load,
        "samples": state.samples,
        "provenance": provenance(seed=config.seed),
        **notes,
    }
    write_json(files.summary, summary)
    if not trainer.quiet:
        print(
            f"{files.name}: {score.bpb:.4f} bits per byte on the validation text "
            f"(step {state.best['step']} of {state.step}); {trainer.tokens:,} tokens in "
            f"{state.seconds:.0f} s, {speed:,.0f} tokens/s, {share:.0%} of the peak; "
            f"checkpoint {files.best}"
        )
    return summary


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


def first_bytes(documents: Iterator[bytes], enough: int = FINAL_BYTES) -> Iterator[bytes]:
    """Whole documents, until ``enough`` bytes are reached."""
    total = 0
    for document in documents:
        yield document
        total += len(document)
        if total >= enough:
            return


def _announce(
    name: str,
    shape: ModelConfig,
    config: TrainConfig,
    budget: Budget,
    dataset: Dataset,
    compute: Compute,
) -> None:
    """Say what was derived, and why."""
    c = cost(shape, config.seq_len)
    amount = f"{budget.amount:,.0f} tokens" if budget.unit == "tokens" else f"{budget.amount:.0f} s"
    print(
        f"{name}: {shape.pattern} x {shape.d_model}, {c.params_total:,} parameters "
        f"({c.params_active:,} active), {c.flops_forward / 1e6:.2f} MFLOP/token; "
        f"{dataset.name}: {len(dataset.tokens('train')):,} tokens, "
        f"vocabulary {dataset.tokenizer.vocab_size}; budget {amount}, "
        f"{config.batch_size} x {config.seq_len} tokens a step, "
        f"{torch.get_num_threads()} threads; {compute.precision.reason}"
    )
