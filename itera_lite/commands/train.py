"""The verb `train`: its arguments, and which of them exclude each other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from itera_lite.commands.options import WorkerCount
from itera_lite.config import NAMES, PRESETS, Family, ModelConfig, Unit, preset_of
from itera_lite.data.corpus import locate
from itera_lite.data.tokenizer import Tokenizer, check_vocab_size
from itera_lite.errors import ConfigError, UsageError
from itera_lite.model.cost import cost
from itera_lite.quantities import check_numbers, number_of, whole_number
from itera_lite.records import Summary
from itera_lite.train.continuation import Beginning
from itera_lite.train.events import check_tensorboard
from itera_lite.train.precision import Precision
from itera_lite.train.recipe import fit_to
from itera_lite.train.run_files import RunFiles, refuse_input
from itera_lite.train.train import TrainingRequest, train_models


def train(
    data: str = "python",
    *,
    model: Literal["itera", "transformer", "both"] = "both",
    init: Path | None = None,
    unit: Unit | None = None,
    config: str | None = None,
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
    patience: int | None = None,
    evaluations: int | None = None,
    precision: Precision = "auto",
    workers: WorkerCount = None,
    shard: bool | None = None,
    log: Literal["csv", "tensorboard"] = "csv",
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
        init: Folder of a checkpoint whose weights to begin with, instead of random ones; shape and
            tokenizer are its own.
        unit: What of the text becomes a document: give what the model is to score. By default
            document, or what it was for the checkpoint of --init or --tokenizer.
        config: Size: femto, pico, nano, tiny (the default), small or base; or reference, a
            conventional GPT-2 of 15 M; or reference_small, one of 5 M.
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
        name: Name of the run; by default model and size, such as itera_lite_tiny; with --init,
            the checkpoint's name and the set's.
        resume: Go on where the run of this name was stopped. Its settings are taken from there;
            a larger budget extends it.
        overwrite: Replace a model of this name, if there is one.
        patience: Stop early after this many evaluations without a better one, by default 6;
            0: never.
        evaluations: How often the run is scored on validation text, evenly over its budget; by
            default 20.
        precision: Of the matrix products; auto measures what this processor is fast at.
        workers: How many cores compute at once; by default all.
        shard: With torchrun: every process holds a part of the model (FSDP2), not all of it; by
            default from 8 million parameters.
        log: tensorboard writes event files into NAME_tensorboard too, beside the CSV.
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
    for option, value in (("batch_size", batch_size), ("seq_len", seq_len)):
        if value is not None:
            whole_number(option, value)
    if vocab_size is not None:
        check_vocab_size(vocab_size)
    if sum(given is not None for given in (epochs, minutes, tokens)) > 1:
        raise UsageError("--epochs, --minutes and --tokens are each a budget: give one of them")
    if params is not None and config is not None:
        raise UsageError("--params and --config are both a size: give one of them")
    if tokenizer is not None and vocab_size is not None:
        raise UsageError("--tokenizer has its own vocabulary: leave out --vocab-size")
    if pattern is not None and (
        model == "transformer" or (config is not None and "itera" not in PRESETS.get(config, NAMES))
    ):
        raise UsageError("--pattern is for the Itera model: the others have attention only")
    if log == "tensorboard":
        check_tensorboard()
    given = None if tokenizer is None else Tokenizer.load(tokenizer)
    folders = Path(checkpoints), Path(results)
    beginning = None
    if init is not None:
        beginning = Beginning.load(Path(init))
        _check_agreement(beginning, model, config, params, pattern, vocab_size, given)
        given = beginning.tokenizer
        files = RunFiles(name or _continued_name(beginning, data), *folders)
        refuse_input(files, beginning.folder)
        runs = {beginning.shape.family: files}
    else:
        both: list[Family] = [*PRESETS.get(config or "tiny", NAMES)]
        families = both if model == "both" else [model]
        if name is not None and len(families) > 1:
            raise UsageError("--name needs one model: add --model itera or --model transformer")
        size = params or config or "tiny"
        names = {
            family: f"{NAMES[family]}_{size.replace('.', '_')}" if family in NAMES else size
            for family in families
        }
        runs = {family: RunFiles(name or names[family], *folders) for family in families}
    return train_models(
        TrainingRequest(
            data,
            runs,
            unit=unit,
            config=config,
            params=None if params is None else number_of("params", params),
            pattern=pattern,
            epochs=epochs,
            minutes=minutes,
            tokens=tokens,
            vocab_size=None if beginning else vocab_size,
            tokenizer=given,
            beginning=beginning,
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
            shard=shard,
            events=log == "tensorboard",
            quiet=quiet,
        )
    )


def _check_agreement(
    beginning: Beginning,
    model: str,
    config: str | None,
    params: str | None,
    pattern: str | None,
    vocab_size: int | None,
    tokenizer: Tokenizer | None,
) -> None:
    """Refuse options that ask for another model than the checkpoint's; those that agree may stay.

    Raises:
        UsageError: names the option, and what the checkpoint has.
    """
    shape, own = beginning.shape, beginning.tokenizer
    size = preset_of(shape.to_dict())
    if model not in ("both", shape.family):
        asked, has = f"--model {model}", f"a model of the family {shape.family}"
    elif params is not None and not _is_fit(shape, params, pattern):
        asked, has = f"--params {params}", f"{cost(shape).params_total:,} parameters"
    elif config is not None and config != size:
        asked, has = f"--config {config}", f"the size {size}" if size else "a size of its own"
    elif pattern is not None and pattern != shape.pattern:
        asked, has = f"--pattern {pattern}", f"the pattern {shape.pattern}"
    elif vocab_size is not None and vocab_size != own.vocab_size:
        asked, has = f"--vocab-size {vocab_size}", f"a vocabulary of {own.vocab_size}"
    elif tokenizer is not None and tokenizer.sha256 != own.sha256:
        asked, has = "--tokenizer", "a tokenizer of its own, which is another one"
    else:
        return
    raise UsageError(
        f"{asked} doesn't agree with --init '{beginning.folder}', which has {has}. Shape and "
        "tokenizer come from the checkpoint: leave the option out, or --init"
    )


def _is_fit(shape: ModelConfig, params: str, pattern: str | None) -> bool:
    """Whether a model has the shape that a number of parameters asks for."""
    wanted = number_of("params", params)
    try:
        return fit_to(shape.family, wanted, shape.vocab_size, pattern) == shape
    except ConfigError:
        return False


def _continued_name(beginning: Beginning, data: str) -> str:
    """The name of a run that goes on from a checkpoint: the checkpoint's and the set's."""
    text = re.sub(r"[^\w.-]+", "_", locate(data).name)
    return f"{beginning.name}_{text}"
