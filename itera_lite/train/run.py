"""The verb `train`: from a set and a few wishes to trained checkpoints."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from itera_lite import kernels
from itera_lite.bench.provenance import provenance, usable_cores
from itera_lite.config import NAMES, Family, ModelConfig, TrainConfig, preset
from itera_lite.data.shards import Dataset, prepare
from itera_lite.errors import UsageError
from itera_lite.evaluate.bits import score_documents
from itera_lite.files import write_json
from itera_lite.kernels.build import keep_memory
from itera_lite.train.budget import Budget, budget_of, number_of
from itera_lite.train.checkpoint import load_checkpoint
from itera_lite.train.distributed import World
from itera_lite.train.loop import EVALUATIONS, Trainer
from itera_lite.train.metrics import expert_loads
from itera_lite.train.precision import Precision, choose
from itera_lite.train.resume import Places, go_on
from itera_lite.train.sizing import fit_to

FINAL_BYTES = 2_000_000  # of validation text for the last score; more is sampled by `itera eval`


def train(
    data: str = "python",
    *,
    model: Literal["itera", "transformer", "both"] = "both",
    config: str = "tiny",
    params: str | None = None,
    pattern: str | None = None,
    epochs: float | None = None,
    minutes: float | None = None,
    tokens: str | None = None,
    vocab_size: int = 2048,
    batch_size: int | None = None,
    seq_len: int | None = None,
    lr_matrix: float | None = None,
    lr_embedding: float | None = None,
    lr_other: float | None = None,
    weight_decay: float | None = None,
    seed: int = 0,
    name: str | None = None,
    resume: bool = False,
    patience: int = 6,
    evaluations: int = EVALUATIONS,
    precision: Precision = "auto",
    threads: int | None = None,
    quiet: bool = False,
    checkpoints: Path = Path("checkpoints"),
    results: Path = Path("results"),
) -> dict[str, dict[str, Any]]:
    """Train a model, or both.

    Writes checkpoints/NAME (the best model, a Hugging Face folder), checkpoints/NAME-last
    (to resume from), NAME_metrics.csv and NAME_summary.json. Ctrl-C saves and stops.

    Args:
        data: Set or path: python, tinystories, wikitext-2, a file, a folder, hf:OWNER/NAME.
        model: Which of the two to train.
        config: Size: tiny, small or base.
        params: Size as a number of parameters instead, such as 3M.
        pattern: Layers of the Itera model: m for Mamba-2, a for attention, such as mmam.
        epochs: Train for this many passes over the text.
        minutes: Train for this long (10 by default); evaluation isn't counted.
        tokens: Train on this many tokens, such as 20M.
        vocab_size: Size of the tokenizer that is trained on the text.
        batch_size: Sequences a step; by default 16, and 8 in a short run.
        seq_len: Tokens a sequence.
        lr_matrix: Learning rate of Muon.
        lr_embedding: Learning rate of AdamW for the embedding.
        lr_other: Learning rate of AdamW for everything else.
        weight_decay: Decoupled weight decay.
        seed: Of the weights and of the order of the text.
        name: Name of the run; by default model and size, such as itera_lite_tiny.
        resume: Go on where the run of this name was stopped.
        patience: Stop early after this many evaluations without a better one; 0: never.
        evaluations: How often the run is scored on validation text, evenly over its budget.
        precision: Of the matrix products; auto measures what this processor is fast at.
        threads: Processor threads; by default one a core.
        quiet: No progress bar.
        checkpoints: Folder of the checkpoints.
        results: Folder of the result files.

    Returns:
        Each run's summary, by its name.
    """
    chosen: list[Family] = ["itera", "transformer"] if model == "both" else [model]
    given = [x for x in (epochs, minutes, tokens) if x is not None]
    if len(given) > 1:
        raise UsageError("--epochs, --minutes and --tokens are each a budget: give one of them")
    if tokens is not None:
        number_of("tokens", tokens)
    elif given and not float(given[0]) > 0:
        raise UsageError(f"a budget of {given[0]}: expected more than 0")
    if evaluations < 1:
        raise UsageError(f"--evaluations {evaluations}: expected 1 or more, the last is at the end")
    if params is not None and config != "tiny":
        raise UsageError("--params and --config are both a size: give one of them")
    if name is not None and model == "both":
        raise UsageError("--name needs one model: add --model itera or --model transformer")
    if pattern is not None and model == "transformer":
        raise UsageError("--pattern is for the Itera model: the Transformer has attention only")
    world = World.join()
    try:
        torch.set_num_threads(threads or max(1, usable_cores() // world.local_size))
        if not world.leads:
            world.wait()  # the leader prepares the set and compiles; the others find it done
        dataset = prepare(data, vocab_size=vocab_size, quiet=quiet or not world.leads)
        problem = kernels.enable()
        keep_memory()
        if world.leads:
            world.wait()
        choice = choose(precision, world.device)
        used = budget_of(dataset, epochs, minutes, tokens)
        wishes: dict[str, Any] = {
            key: value
            for key, value in (
                ("batch_size", used.batch_size if batch_size is None else batch_size),
                ("seq_len", seq_len),
                ("lr_matrix", lr_matrix),
                ("lr_embedding", lr_embedding),
                ("lr_other", lr_other),
                ("weight_decay", weight_decay),
            )
            if value is not None
        }
        train_config = replace(TrainConfig(seed=seed), **wishes)
        summaries = {}
        for family in chosen:
            size = config if params is None else params
            run_name = name or f"{NAMES[family]}_{size.replace('.', '_')}"
            places = Places(run_name, Path(checkpoints), Path(results))
            vocabulary = dataset.tokenizer.vocab_size
            if params is None:
                shape = preset(family, config, vocabulary)
            else:
                shape = fit_to(family, number_of("params", params), vocabulary)
            if pattern is not None and family == "itera":
                shape = shape.replace(pattern=pattern)
            if world.leads and not quiet:
                _announce(run_name, shape, train_config, used, dataset, choice.reason, problem)
            trainer = Trainer(
                *(shape, train_config, dataset, used, places, choice, world),
                patience=patience,
                quiet=quiet,
                evaluations=evaluations,
            )
            if resume:
                go_on(trainer)
            begin = time.time()
            ended = trainer.run()
            if world.leads:
                summaries[run_name] = _finish(trainer, ended, time.time() - begin, data, problem)
            world.wait()
        return summaries
    finally:
        world.leave()


def _finish(
    trainer: Trainer, ended: str, wall: float, spec: str, problem: str | None
) -> dict[str, Any]:
    """Score the best model on the validation text, in float32, and write the summary."""
    places, dataset, config, state = trainer.places, trainer.dataset, trainer.config, trainer.state
    loads = [[round(x, 5) for x in load.tolist()] for load in expert_loads(trainer.model)]
    model, tokenizer = load_checkpoint(places.best)
    score = score_documents(
        model, tokenizer, _first_bytes(dataset.documents("valid")), seq_len=config.seq_len
    )
    counts, manifest = trainer.cost, dataset.manifest
    train_bytes, train_tokens = dataset.n_bytes("train"), len(dataset.tokens("train")) - 1
    speed = trainer.tokens / state.seconds
    share = trainer.mfu(speed)
    summary: dict[str, Any] = {
        "name": places.name,
        "family": model.config.family,
        "config": model.config.to_dict(),
        "train": {
            "batch_size": config.batch_size,
            "seq_len": config.seq_len,
            "steps": state.step,
            "tokens": trainer.tokens,
            "epochs": trainer.loader.epoch,
            "seconds": state.seconds,
            "minutes_wall": wall / 60,
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
            "stopped": ended,
        },
        "params": {
            "total": counts.params_total,
            "embedding": counts.params_embedding,
            "non_embedding": counts.params_non_embedding,
            "active": counts.params_active,
        },
        "flops_per_token": {"forward": counts.flops_forward, "train": counts.flops_train},
        "flops_breakdown": counts.breakdown,
        "valid": {
            "bpb": score.bpb,
            "loss": score.loss,
            "ppl": score.ppl,
            "tokens": score.tokens,
            "bytes": score.bytes,
        },
        "best": state.best,
        "dataset": {
            "name": dataset.name,
            "spec": spec,
            "sha256": manifest["sha256"],
            "tokenizer_sha256": dataset.tokenizer.sha256,
            "vocab_size": dataset.tokenizer.vocab_size,
            "train_bytes": train_bytes,
            "train_tokens": train_tokens,
            "valid_bytes": dataset.n_bytes("valid"),
            "valid_tokens": len(dataset.tokens("valid")) - 1,
            "bytes_per_token": train_bytes / train_tokens,
        },
        "expert_load": loads,
        "samples": state.samples,
        "provenance": provenance(seed=config.seed),
    }
    write_json(places.summary, summary)
    if not trainer.quiet:
        print(
            f"{places.name}: {score.bpb:.4f} bits per byte on the validation text "
            f"(step {state.best['step']} of {state.step}); {trainer.tokens:,} tokens in "
            f"{state.seconds:.0f} s, {speed:,.0f} tokens/s, {share:.0%} of the peak; "
            f"checkpoint {places.best}"
        )
    return summary


def _first_bytes(documents: Iterator[bytes]) -> Iterator[bytes]:
    """Whole documents, until `FINAL_BYTES` are reached."""
    total = 0
    for document in documents:
        yield document
        total += len(document)
        if total >= FINAL_BYTES:
            return


def _announce(
    name: str,
    shape: ModelConfig,
    config: TrainConfig,
    budget: Budget,
    dataset: Dataset,
    precision: str,
    problem: str | None,
) -> None:
    """Say what was derived, and why."""
    from itera_lite.model.cost import cost

    c = cost(shape, config.seq_len)
    amount = f"{budget.amount:,.0f} tokens" if budget.unit == "tokens" else f"{budget.amount:.0f} s"
    print(
        f"{name}: {shape.pattern} x {shape.d_model}, {c.params_total:,} parameters "
        f"({c.params_active:,} active), {c.flops_forward / 1e6:.2f} MFLOP/token; "
        f"{dataset.name}: {len(dataset.tokens('train')):,} tokens, "
        f"vocabulary {dataset.tokenizer.vocab_size}; budget {amount}, "
        f"{config.batch_size} x {config.seq_len} tokens a step, "
        f"{torch.get_num_threads()} threads; {precision}"
    )
    if problem:
        print(f"{name}: plain PyTorch, without the fused kernels: {problem}")
