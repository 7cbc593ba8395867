"""The verb `compress experts`: a mixture without the experts that the user's text doesn't use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from itera_lite.compress import experts as mixture
from itera_lite.compress.experts import Usage
from itera_lite.compress.start import Start, budget_for, check_numbers, save_untrained
from itera_lite.config import TrainConfig
from itera_lite.data.prepare import prepare
from itera_lite.errors import UsageError
from itera_lite.evaluate.bits import first_bytes, validation_score
from itera_lite.machine.peak import torch_threads
from itera_lite.model import LanguageModel
from itera_lite.quantities import share_of, whole_number
from itera_lite.train.compute import Compute
from itera_lite.train.recipe import gentle
from itera_lite.train.train import run_training

USAGE_TOKENS = 131_072  # of the training text, to see which experts it uses
PART_BYTES = 100_000  # of the validation text, to search the number of experts on
RATE = 0.2  # of a new model's learning rates, for the training that follows

Make = Callable[[int], LanguageModel]


def experts(
    checkpoint: Path,
    *,
    data: str,
    keep: int | None = None,
    max_loss: str | None = None,
    merge: bool = False,
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
    """Take out the experts that your text hardly uses.

    Measures how much the text uses each expert, and drops or merges the least used ones, the
    same number in every layer. The checkpoint itself stays as it is.

    Args:
        checkpoint: Folder of an Itera model with experts.
        data: Set or path whose use of the experts counts, as in train.
        keep: Experts to keep in each layer.
        max_loss: Instead, as few as keep bits per byte within this of before; by default 1%.
        merge: Average the experts that go into those most like them, instead of dropping them.
        minutes: Training afterwards; none by default. --max-loss holds before it.
        tokens: Train on this many tokens afterwards instead, such as 2M.
        seed: Of the order of the text.
        name: Name of the result; by default the checkpoint's with _e and the number kept.
        resume: Go on where the training afterwards was stopped.
        overwrite: Replace a model of this name, if there is one.
        threads: Processor threads; by default one a core.
        quiet: No progress bar.
        checkpoints: Folder of the checkpoints.
        results: Folder of the result files.

    Returns:
        The summary. Under ``compress`` it says what it began from, how much each expert was
        used, and bits per byte before, after dropping, after merging and after training.
    """
    check_numbers(seed=seed, threads=threads, minutes=minutes, tokens=tokens)
    limit = share_of("max-loss", "1%" if max_loss is None else max_loss)
    if keep is not None:
        whole_number("keep", keep)
    start = Start.load(checkpoint)
    config = start.model.config
    if not config.n_experts:
        raise UsageError(
            f"'{start.folder}' is a dense model: there are no experts to take out. Expected an "
            "Itera model with experts"
        )
    if keep is not None and max_loss is not None:
        raise UsageError("--keep and --max-loss each decide how many stay: give one of them")
    least = max(2, config.top_k)
    if keep is not None and not least <= keep < config.n_experts:
        raise UsageError(
            f"--keep {keep}: '{start.folder}' has {config.n_experts} experts a layer and sends a "
            f"token to {config.top_k}: expected {least} to {config.n_experts - 1}"
        )
    with torch_threads():
        compute = Compute.prepare(threads=threads, quiet=quiet)
        dataset = prepare(data, tokenizer=start.tokenizer, quiet=quiet)
        budget = budget_for(dataset, minutes, tokens, default=0.0)
        usage = mixture.measure_usage(start.model, dataset, TrainConfig().seq_len, USAGE_TOKENS)
        documents = list(first_bytes(dataset.documents("valid")))
        before = start.score(documents)
        make = _merging(start.model, usage) if merge else _dropping(start.model, usage)
        if keep is None:
            keep = fewest(start, make, documents, before.bpb, limit, least)
        smaller = make(keep)
        dropped = validation_score(_dropping(start.model, usage)(keep), start.tokenizer, documents)
        after = validation_score(smaller, start.tokenizer, documents) if merge else dropped
        record: dict[str, Any] = {
            "verb": "experts",
            "from": start.record(before),
            "keep": keep,
            "merge": merge,
            "max_loss": None if max_loss is None else limit,
            "usage": {
                "tokens_read": usage.read,
                "share_of_tokens": _rounded(usage.tokens),
                "share_of_weight": _rounded(usage.weight),
                "weight_lost": [
                    round(1 - float(row[kept].sum()), 5)
                    for row, kept in zip(usage.weight, usage.most_used(keep), strict=True)
                ],
            },
            "bpb": {
                "before": before.bpb,
                "dropped": dropped.bpb,
                "merged": after.bpb if merge else None,
                "trained": None,
            },
        }
        with start.claimed(
            *(name, f"{start.name}_e{keep}", checkpoints, results),
            resume=resume,
            overwrite=overwrite,
        ) as files:
            if resume:
                budget = budget_for(dataset, minutes, tokens, default=0.0, going_on=files)
            notes = {"compress": record}
            if budget is None:
                summary = save_untrained(
                    smaller, dataset, files, after, source=data, seed=seed, notes=notes
                )
            else:
                summary = run_training(
                    smaller.config,
                    gentle(config, budget, RATE, seed),
                    dataset,
                    budget,
                    files,
                    compute,
                    source=data,
                    initial=smaller,
                    resume=resume and files.resumable,
                    patience=0,
                    notes=notes,
                    scored=lambda bpb: record["bpb"].update(trained=bpb),
                )
            if not quiet:
                print(_in_words(summary))
            return summary


def _dropping(model: LanguageModel, usage: Usage) -> Make:
    return lambda n: mixture.drop(model, usage.most_used(n))


def _merging(model: LanguageModel, usage: Usage) -> Make:
    return lambda n: mixture.merge(model, usage.most_used(n), usage.weight)


def fewest(
    start: Start, make: Make, documents: Sequence[bytes], bpb: float, limit: float, least: int
) -> int:
    """The smallest number of experts whose bits per byte stay within ``limit`` of before.

    Halved down on a part of the validation text, then confirmed on all of it, with more
    experts where that says so.

    Raises:
        UsageError: not one expert can go.
    """
    part = list(_part(documents))
    total = start.model.config.n_experts

    def loss(n: int, texts: Sequence[bytes], base: float) -> float:
        return validation_score(make(n), start.tokenizer, texts).bpb / base - 1

    base = bpb if len(part) == len(documents) else start.score(part).bpb
    low, high = least, total  # `high` is good, below `low` nothing is allowed
    while low < high:
        middle = (low + high) // 2
        if loss(middle, part, base) <= limit:
            high = middle
        else:
            low = middle + 1
    lost = 0.0
    while high < total:
        lost = loss(high, documents, bpb)
        if lost <= limit:
            return high
        high += 1
    lost = lost or loss(total - 1, documents, bpb)
    raise UsageError(
        f"--max-loss {limit:.3%}: without one expert of {total} bits per byte are already "
        f"{lost:.3%} above before. Give a larger --max-loss, or --keep and --minutes"
    )


def _part(documents: Sequence[bytes]) -> Iterator[bytes]:
    total = 0
    for document in documents:
        if total >= PART_BYTES:
            return
        yield document
        total += len(document)


def _rounded(shares: Any) -> list[list[float]]:
    return [[round(share, 5) for share in row] for row in shares.tolist()]


def _in_words(summary: dict[str, Any]) -> str:
    record = summary["compress"]
    began, bpb = record["from"], record["bpb"]
    lost = max(record["usage"]["weight_lost"])
    steps = [
        f"{bpb[key]:.4f} {word}"
        for key, word in (("dropped", "dropped"), ("merged", "merged"), ("trained", "trained"))
        if bpb[key] is not None
    ]
    return (
        f"{summary['name']}: {began['n_experts']} -> {record['keep']} experts a layer, which "
        f"had all but {lost:.1%} of the gate weight or more; {began['params']:,} -> "
        f"{summary['params']['total']:,} parameters; bits per byte {bpb['before']:.4f} before, "
        + ", ".join(steps)
    )
