"""The verb `train`: its arguments, and which of them exclude each other."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from itera_lite.commands.options import WorkerCount
from itera_lite.config import NAMES, PRESETS, Family
from itera_lite.data.tokenizer import Tokenizer
from itera_lite.errors import UsageError
from itera_lite.quantities import check_numbers, number_of, whole_number
from itera_lite.records import Summary
from itera_lite.train.loop import EVALUATIONS
from itera_lite.train.precision import Precision
from itera_lite.train.run_files import RunFiles
from itera_lite.train.train import TrainingRequest, train_models


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
    workers: WorkerCount = None,
    quiet: bool = False,
    checkpoints: Path = Path("checkpoints"),
    results: Path = Path("results"),
) -> dict[str, Summary]:
    """Train a model, or both in turns.

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
        workers: How many cores compute at once; by default all.
        quiet: No progress bar.
        checkpoints: Folder of the checkpoints.
        results: Folder of the result files.

    Returns:
        Each run's summary, by its name.
    """
    check_numbers(
        tokens=tokens,
        minutes=minutes,
        epochs=epochs,
        evaluations=evaluations,
        patience=patience,
        seed=seed,
        workers=workers,
    )
    if batch_size is not None:
        whole_number("batch_size", batch_size)
    if sum(given is not None for given in (epochs, minutes, tokens)) > 1:
        raise UsageError("--epochs, --minutes and --tokens are each a budget: give one of them")
    if params is not None and config != "tiny":
        raise UsageError("--params and --config are both a size: give one of them")
    if tokenizer is not None and vocab_size is not None:
        raise UsageError("--tokenizer has its own vocabulary: leave out --vocab-size")
    if pattern is not None and model == "transformer":
        raise UsageError("--pattern is for the Itera model: the Transformer has attention only")
    both: list[Family] = [*PRESETS.get(config, NAMES)]
    families = both if model == "both" else [model]
    if name is not None and len(families) > 1:
        raise UsageError("--name needs one model: add --model itera or --model transformer")
    size = config if params is None else params
    names = {
        family: f"{NAMES[family]}_{size.replace('.', '_')}" if family in NAMES else size
        for family in families
    }
    folders = Path(checkpoints), Path(results)
    return train_models(
        TrainingRequest(
            data,
            {family: RunFiles(name or names[family], *folders) for family in families},
            config=config,
            params=None if params is None else number_of("params", params),
            pattern=pattern,
            epochs=epochs,
            minutes=minutes,
            tokens=tokens,
            vocab_size=vocab_size,
            tokenizer=None if tokenizer is None else Tokenizer.load(tokenizer),
            overrides={
                "batch_size": batch_size,
                "seq_len": seq_len,
                "lr_matrix": lr_matrix,
                "lr_embedding": lr_embedding,
                "lr_other": lr_other,
                "weight_decay": weight_decay,
            },
            seed=seed,
            resume=resume,
            overwrite=overwrite,
            patience=patience,
            evaluations=evaluations,
            precision=precision,
            workers=workers,
            quiet=quiet,
        )
    )
