"""The verb `train`: from a set and a few overrides to trained checkpoints."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from itera_lite.config import (
    DEFAULT_VOCABULARY,
    NAMES,
    PRESETS,
    REFERENCE_VOCABULARY,
    Family,
    ModelConfig,
    preset,
)
from itera_lite.data.prepare import Dataset, prepare, prepare_general
from itera_lite.data.tokenizer import Tokenizer
from itera_lite.errors import UsageError
from itera_lite.quantities import (
    finite_number,
    minutes_of,
    number_of,
    seed_of,
    threads_of,
    whole_number,
)
from itera_lite.train.distributed import World
from itera_lite.train.loop import EVALUATIONS
from itera_lite.train.precision import Precision
from itera_lite.train.recipe import DEFAULT_MINUTES, Budget, budget_of, fit_to, train_config
from itera_lite.train.resume import RunFiles, settings_of
from itera_lite.train.session import Compute, run_training, threads_restored


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
    seed: int | None = None,
    name: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
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
    (to resume from), NAME_metrics.csv and NAME_summary.json. Ctrl-C saves and stops, and so do
    SIGTERM and SIGHUP.

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
        seed: Of the weights and of the order of the text; 0 by default.
        name: Name of the run; by default model and size, such as itera_lite_tiny.
        resume: Go on where the run of this name was stopped. Its settings are taken from there;
            a larger budget extends it.
        overwrite: Replace a model of this name, if there is one.
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
    if minutes is not None:
        minutes_of(minutes)
    if epochs is not None:
        finite_number("epochs", epochs, above=0)
    whole_number("evaluations", evaluations)
    whole_number("patience", patience, least=0)
    if seed is not None:
        seed_of(seed)
    if threads is not None:
        threads_of(threads)
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
    if resume and overwrite:
        raise UsageError("--resume goes on and --overwrite begins anew: give one of them")
    size = config if params is None else params
    files = {
        family: RunFiles(
            name or (f"{NAMES[family]}_{_file_name(size)}" if family in NAMES else size),
            Path(checkpoints),
            Path(results),
        )
        for family in chosen
    }
    overrides = {
        "batch_size": batch_size,
        "seq_len": seq_len,
        "lr_matrix": lr_matrix,
        "lr_embedding": lr_embedding,
        "lr_other": lr_other,
        "weight_decay": weight_decay,
    }

    def shape_of(family: Family, vocabulary: int) -> ModelConfig:
        if params is None:
            shape = preset(family, config, vocabulary)
            layers = pattern if family == "itera" else None
            return shape if layers is None else shape.replace(pattern=layers)
        number = number_of("params", params)
        return fit_to(family, number, vocabulary, pattern if family == "itera" else None)

    # What can fail without the text fails before it is prepared.
    for family in chosen:
        shape = shape_of(family, vocab_size or DEFAULT_VOCABULARY)
        asked = train_config(shape, Budget("seconds", 60 * DEFAULT_MINUTES), overrides)
        if asked.seq_len > shape.max_seq_len:
            raise UsageError(
                f"--seq-len {asked.seq_len}: this model reads at most {shape.max_seq_len} tokens"
            )
    if tokenizer is not None:
        own_tokenizer = Tokenizer.load(tokenizer)
    world = World.join()
    with ExitStack() as stack:
        stack.callback(world.leave)
        stack.enter_context(threads_restored())
        world.lead(lambda: _claim(files, stack, resume, overwrite))
        going_on = {family for family in chosen if resume and files[family].resumable}
        for family in chosen if resume and world.leads else ():
            if family not in going_on:
                print(f"{files[family].name}: nothing is saved yet, so it begins anew")
        # What isn't given is taken from the run that goes on.
        kept = {family: settings_of(files[family]) for family in going_on}
        for settings in kept.values():
            saved = settings["model"]["vocab_size"]
            general = chosen == ["gpt2"] and saved == REFERENCE_VOCABULARY  # see prepare_general
            vocab_size = vocab_size or (None if tokenizer or general else saved)
            precision = settings["precision"] if precision == "auto" else precision
        if batch_size is not None:
            world.share_of(batch_size)

        made: list[tuple[Dataset, Compute]] = []

        def prepare_all() -> None:
            silent = quiet or not world.leads
            if tokenizer is not None:
                dataset = prepare(data, tokenizer=own_tokenizer, quiet=silent)
            elif vocab_size is None and chosen == ["gpt2"]:
                dataset = prepare_general(data, REFERENCE_VOCABULARY, quiet=silent)
            else:
                dataset = prepare(data, vocab_size=vocab_size or DEFAULT_VOCABULARY, quiet=silent)
            made.append((dataset, Compute.prepare(precision, threads, quiet, world)))

        world.lead(prepare_all)
        if not world.leads:
            prepare_all()  # finds what the leader has prepared and compiled
        ((dataset, compute),) = made
        summaries = {}
        for family in chosen:
            shape = shape_of(family, dataset.tokenizer.vocab_size)
            budget = budget_of(dataset, epochs, minutes, tokens)
            own, first_seed = dict(overrides), 0
            if family in kept:
                if not given:
                    budget = Budget(**kept[family]["budget"])
                own = {key: kept[family]["train"].get(key) for key in own} | {
                    key: value for key, value in own.items() if value is not None
                }
                first_seed = kept[family]["train"].get("seed", 0)
            summaries[files[family].name] = run_training(
                shape,
                train_config(shape, budget, own, first_seed if seed is None else seed),
                dataset,
                budget,
                files[family],
                compute,
                source=data,
                resume=family in going_on,
                patience=patience,
                evaluations=evaluations,
            )
        return summaries if world.leads else {}


def _claim(files: dict[Family, RunFiles], stack: ExitStack, resume: bool, overwrite: bool) -> None:
    """Claim the files of all runs before any work is done."""
    for each in files.values():
        stack.enter_context(each.claimed(resume=resume, overwrite=overwrite))


def _file_name(size: str) -> str:
    """A size as a part of a file's name: ``1.5M`` -> ``1_5M``."""
    return size.replace(".", "_")
