"""The verb `compress vocab`: a smaller vocabulary, made for the user's own text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from itera_lite.compress.start import Start, budget_for, check_numbers, save_untrained
from itera_lite.compress.vocabulary import choose
from itera_lite.data.prepare import Dataset, prepare
from itera_lite.data.tokenizer import MAX_VOCAB, MIN_VOCAB, Tokenizer
from itera_lite.errors import UsageError
from itera_lite.evaluate.bits import first_bytes, validation_score
from itera_lite.model import LanguageModel
from itera_lite.quantities import share_of, whole_number
from itera_lite.train.compute import Compute
from itera_lite.train.recipe import gentle
from itera_lite.train.run_files import RunFiles
from itera_lite.train.train import run_training

MINUTES = 2.0  # of adaptation, where nothing is said
RATE = 0.2  # of a new model's learning rates: found by a search (experiments/LOG.md)
DEFAULT_SIZE = 2048


def pieces_of(new: Tokenizer, old: Tokenizer) -> list[list[int]]:
    """For each new token the old ones that make up its bytes: itself, where it is one."""
    known = {piece: index for index, piece in enumerate(old.token_bytes) if piece}
    pieces = [[known[piece]] if piece in known else old.encode(piece) for piece in new.token_bytes]
    pieces[new.eot_id] = [old.eot_id]
    return pieces


@torch.no_grad()
def carry_over(model: LanguageModel, old: Tokenizer, new: Tokenizer) -> LanguageModel:
    """The same model with the vocabulary of ``new``; all but the embedding is copied.

    A token that the old vocabulary has keeps its row, another one gets the mean of the rows of
    its old pieces. Of the weightings that were tried no other was better (experiments/LOG.md).
    """
    rows = model.embedding.weight
    carried: Tensor = torch.stack([rows[pieces].mean(dim=0) for pieces in pieces_of(new, old)])
    smaller = LanguageModel(model.config.replace(vocab_size=new.vocab_size))
    smaller.load_state_dict({**model.state_dict(), "embedding.weight": carried})
    return smaller.eval()


@dataclass(frozen=True)
class Wish:
    """How each size is tried."""

    data: str
    minutes: float | None
    tokens: str | None
    seed: int
    resume: bool


def vocab(
    checkpoint: Path,
    *,
    data: str,
    size: int | None = None,
    auto: bool = False,
    max_loss: str = "1%",
    minutes: float | None = None,
    tokens: str | None = None,
    seed: int = 0,
    name: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    threads: int | None = None,
    quiet: bool = False,
    checkpoints: Path = Path("checkpoints"),
    results: Path = Path("results"),
) -> dict[str, Any]:
    """Give a model a smaller vocabulary, made for your text.

    Trains a tokenizer on the text, carries the embedding over to it, and adapts the model.
    The checkpoint itself stays as it is.

    Args:
        checkpoint: Folder of the model.
        data: Set or path that the vocabulary is for, as in train.
        size: Tokens of the new vocabulary; 2048 by default.
        auto: Try 512, 1024, 2048 and 4096 and take the cheapest that is good enough.
        max_loss: With --auto, how far bits per byte may be above those of the best size that was
            tried. Where that is as far above the model as it was, there is a warning.
        minutes: Adaptation, for each size that is tried; 2 by default, 0 for none.
        tokens: Adapt on this many tokens instead, such as 2M.
        seed: Of the order of the text.
        name: Name of the result; by default the checkpoint's with _v and the size.
        resume: Go on where the run of this name was stopped.
        overwrite: Replace a model of this name, if there is one.
        threads: Processor threads; by default one a core.
        quiet: No progress bar.
        checkpoints: Folder of the checkpoints.
        results: Folder of the result files.

    Returns:
        The summary. Under ``compress`` it says what it began from, and bits per byte before,
        right after the embedding was carried over, and after the adaptation.
    """
    check_numbers(seed=seed, threads=threads, minutes=minutes, tokens=tokens)
    if size is not None:
        whole_number("size", size, least=MIN_VOCAB, most=MAX_VOCAB)
    if auto and size is not None:
        raise UsageError("--auto chooses the size: leave out --size")
    tolerance = share_of("max-loss", max_loss)
    start = Start.load(checkpoint)
    size = DEFAULT_SIZE if size is None else size
    default = f"{start.name}_vauto" if auto else f"{start.name}_v{size}"
    with start.claimed(
        name, default, checkpoints, results, resume=resume, overwrite=overwrite
    ) as files:
        compute = Compute.prepare(threads=threads, quiet=quiet)
        wish = Wish(data, minutes, tokens, seed, resume)
        if not auto:
            return resize(start, size, files, wish, compute)
        return choose(
            start,
            data,
            files,
            tolerance,
            lambda size, trial: resize(start, size, trial, wish, compute),
            resume=resume,
            quiet=quiet,
        )


def resize(
    start: Start, size: int, files: RunFiles, wish: Wish, compute: Compute
) -> dict[str, Any]:
    """Write the model with a vocabulary of ``size`` to ``files``, adapted.

    Raises:
        UsageError: where the vocabulary isn't smaller than the model's.
        DataError: where the text doesn't support one of this size.
    """
    old = start.tokenizer
    if size >= old.vocab_size:
        raise UsageError(
            f"--size {size}: '{start.folder}' has a vocabulary of {old.vocab_size:,} already, and "
            "a smaller one is what this makes. Give a smaller --size"
        )
    dataset = prepare(wish.data, vocab_size=size, quiet=compute.quiet)
    going_on = files if wish.resume else None
    budget = budget_for(dataset, wish.minutes, wish.tokens, MINUTES, going_on)
    carried = carry_over(start.model, old, dataset.tokenizer)
    documents = list(first_bytes(dataset.documents("valid")))
    before = start.score(documents)
    after = validation_score(carried, dataset.tokenizer, documents)
    exact = sum(len(pieces) == 1 for pieces in pieces_of(dataset.tokenizer, old))
    record: dict[str, Any] = {
        "verb": "vocab",
        "from": start.record(before),
        "bytes_per_token": {
            "before": before.bytes / before.tokens,
            "after": after.bytes / after.tokens,
        },
        "rows_kept": exact,
        "rows_made": dataset.tokenizer.vocab_size - exact,
        "bpb": {"before": before.bpb, "carried_over": after.bpb},
        "learning_rates_times": RATE,
    }
    if budget is None:
        record["bpb"]["adapted"] = None
        summary = save_untrained(
            carried,
            dataset,
            files,
            after,
            source=wish.data,
            seed=wish.seed,
            notes={"compress": record},
        )
    else:
        summary = run_training(
            carried.config,
            gentle(carried.config, budget, RATE, wish.seed),
            dataset,
            budget,
            files,
            compute,
            source=wish.data,
            initial=carried,
            resume=wish.resume and files.resumable,
            patience=0,
            notes={"compress": record},
            scored=lambda bpb: record["bpb"].update(adapted=bpb),
        )
    if not compute.quiet:
        print(_in_words(summary, start, dataset))
    return summary


def _in_words(summary: dict[str, Any], start: Start, dataset: Dataset) -> str:
    record, size = summary["compress"], dataset.tokenizer.vocab_size
    bpb, length = record["bpb"], record["bytes_per_token"]
    adapted = "" if bpb["adapted"] is None else f", {bpb['adapted']:.4f} adapted"
    return (
        f"{summary['name']}: vocabulary {start.tokenizer.vocab_size:,} -> {size:,}, "
        f"{length['before']:.2f} -> {length['after']:.2f} bytes a token, "
        f"{record['from']['params']:,} -> {summary['params']['total']:,} parameters; bits per "
        f"byte {bpb['before']:.4f} before, {bpb['carried_over']:.4f} carried over{adapted}"
    )
