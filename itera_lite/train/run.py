"""The verb `train`: from a set and a few wishes to trained checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from itera_lite.config import (
    NAMES,
    PRESETS,
    REFERENCE_VOCABULARY,
    Family,
    ModelConfig,
    TrainConfig,
    preset,
    reference_recipe,
)
from itera_lite.data.general import prepare_general
from itera_lite.data.shards import prepare
from itera_lite.data.tokenizer import Tokenizer
from itera_lite.errors import UsageError
from itera_lite.train.budget import Budget, budget_of, number_of
from itera_lite.train.distributed import World
from itera_lite.train.loop import EVALUATIONS
from itera_lite.train.precision import Precision
from itera_lite.train.resume import Places
from itera_lite.train.session import Setting, run_training
from itera_lite.train.sizing import fit_to


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
    vocab_size: int | None = None,
    tokenizer: Path | None = None,
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
        config: Size: pico, nano, tiny, small or base; or reference, a conventional GPT-2 of 15 M;
            or reference_small, one of 5 M.
        params: Size as a number of parameters instead, such as 3M.
        pattern: Layers of the Itera model: m for Mamba-2, a for attention, such as mmam.
        epochs: Train for this many passes over the text.
        minutes: Train for this long (10 by default); evaluation isn't counted.
        tokens: Train on this many tokens, such as 20M.
        vocab_size: Size of the tokenizer that is trained on the text; 2048 by default.
        tokenizer: Use this tokenizer instead: a tokenizer.json, or a checkpoint's folder.
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
    both = list(PRESETS[config]) if config in PRESETS else list(NAMES)
    chosen: list[Family] = both if model == "both" else [model]
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
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"--batch-size {batch_size}: expected 1 or more")
    if tokenizer is not None and vocab_size is not None:
        raise UsageError("--tokenizer has its own vocabulary: leave out --vocab-size")
    if name is not None and len(chosen) > 1:
        raise UsageError("--name needs one model: add --model itera or --model transformer")
    if pattern is not None and model == "transformer":
        raise UsageError("--pattern is for the Itera model: the Transformer has attention only")
    world = World.join()
    try:
        if not world.leads:
            world.wait()  # the leader prepares the set and compiles; the others find it done
        silent = quiet or not world.leads
        if tokenizer is not None:
            dataset = prepare(data, tokenizer=Tokenizer.load(tokenizer), quiet=silent)
        elif vocab_size is None and chosen == ["gpt2"]:
            dataset = prepare_general(data, REFERENCE_VOCABULARY, quiet=silent)
        else:
            dataset = prepare(data, vocab_size=vocab_size or 2048, quiet=silent)
        setting = Setting.prepare(precision, threads, quiet, world)
        if world.leads:
            world.wait()
        used = budget_of(dataset, epochs, minutes, tokens)
        wishes = {
            "batch_size": batch_size,
            "seq_len": seq_len,
            "lr_matrix": lr_matrix,
            "lr_embedding": lr_embedding,
            "lr_other": lr_other,
            "weight_decay": weight_decay,
        }
        summaries = {}
        for family in chosen:
            size = config if params is None else params
            default = f"{NAMES[family]}_{size.replace('.', '_')}" if family in NAMES else size
            vocabulary = dataset.tokenizer.vocab_size
            if params is None:
                shape = preset(family, config, vocabulary)
            else:
                shape = fit_to(family, number_of("params", params), vocabulary)
            if pattern is not None and family == "itera":
                shape = shape.replace(pattern=pattern)
            run_name = name or default
            summaries[run_name] = run_training(
                shape,
                train_config(shape, used, wishes, seed),
                dataset,
                used,
                Places(run_name, Path(checkpoints), Path(results)),
                setting,
                spec=data,
                resume=resume,
                patience=patience,
                evaluations=evaluations,
            )
        return summaries if world.leads else {}
    finally:
        world.leave()


def train_config(
    shape: ModelConfig, budget: Budget, wishes: dict[str, Any], seed: int = 0
) -> TrainConfig:
    """What follows from the budget, over it a family's recipe, over it what was asked for.

    Args:
        shape: of the model; a gpt2 has a recipe of its own.
        wishes: fields of `TrainConfig`; None where nothing was asked for.
    """
    derived = {"batch_size": budget.batch_size}
    recipe = reference_recipe(shape.d_model) if shape.family == "gpt2" else {}
    asked = {key: value for key, value in wishes.items() if value is not None}
    return replace(TrainConfig(seed=seed), **(derived | recipe | asked))
