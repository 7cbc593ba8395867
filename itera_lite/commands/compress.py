"""The verb `compress`: a size or a loss is given, and what fits is picked and applied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itera_lite.commands.compress_quantize import Type, file_bytes, quantize
from itera_lite.compress.rounding import kinds_of, rounded
from itera_lite.compress.start import Start, adopt, check_numbers, trials
from itera_lite.data.prepare import prepare
from itera_lite.errors import UsageError
from itera_lite.evaluate.bits import first_bytes, validation_score
from itera_lite.export.gguf import check_exportable
from itera_lite.export.types import SCHEMES
from itera_lite.model import LanguageModel
from itera_lite.quantities import bytes_of, share_of
from itera_lite.train.run_files import RunFiles

SMALLEST_FIRST: tuple[Type, ...] = ("q4_0", "mixed", "q8_0")


@dataclass(frozen=True)
class _Wish:
    """What every step is told."""

    data: str
    options: dict[str, Any]
    say: Callable[[str], None]
    tried: list[RunFiles]  # what the steps write; only the last one may become the result


def compress(
    checkpoint: Path,
    *,
    data: str,
    target_bytes: str | None = None,
    max_loss: str | None = None,
    minutes: float | None = None,
    seed: int = 0,
    name: str | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    quiet: bool = False,
    checkpoints: Path = Path("checkpoints"),
    results: Path = Path("results"),
) -> dict[str, Any]:
    """Make a model smaller: say how small, or how much worse it may get.

    With a size, the mildest way that fits: 8 bits; else 8 or 4 bits for each matrix; else 4 bits
    and fewer experts. With a loss, the smallest way that stays within it: 4 bits, 4 bits with
    the embedding in 8, or 8 bits. Says what it does and why, and writes a checkpoint with its
    GGUF file inside. The checkpoint given stays as it is.

    Args:
        checkpoint: Folder of the model.
        data: Set or path to train on and to measure with.
        target_bytes: Size of the file at most, such as 1MB.
        max_loss: How much bits per byte may rise, such as 1%.
        minutes: Length of each training that a step needs; 3 by default.
        seed: Of the order of the text.
        name: Name of the result; by default the checkpoint's with _small.
        overwrite: Replace a model of this name, if there is one.
        threads: Processor threads; by default one a core.
        quiet: Say nothing.
        checkpoints: Folder of the checkpoints.
        results: Folder of the result files.

    Returns:
        The result's summary. Under ``compress`` it has ``steps``: what was done and why.
    """
    if (target_bytes is None) == (max_loss is None):
        raise UsageError("say how small or how good: give one of --target-bytes and --max-loss")
    check_numbers(seed=seed, threads=threads, minutes=minutes)
    limit = None if target_bytes is None else bytes_of("target-bytes", target_bytes)
    loss = None if max_loss is None else share_of("max-loss", max_loss)
    start = Start.load(checkpoint)
    check_exportable(start.folder, start.model.config)
    files = start.files(name, f"{start.name}_small", checkpoints, results)
    steps: list[str] = []

    def say(text: str) -> None:
        steps.append(text)
        if not quiet:
            print(text)

    with files.claimed(overwrite=overwrite), trials(files) as folders:
        trial = RunFiles(files.name, *folders)
        options: dict[str, Any] = {
            "seed": seed,
            "overwrite": True,
            "threads": threads,
            "quiet": quiet,
            "checkpoints": trial.checkpoints,
            "results": trial.results,
        }
        wish = _Wish(data, options, say, [trial])
        try:
            if limit is not None:
                summary = _to_size(start, files.name, limit, minutes, wish)
            else:
                assert loss is not None
                summary = _within(start, files.name, loss, minutes, wish)
            summary["compress"]["steps"] = steps
            adopt(trial, files, summary)
        finally:
            for each in wish.tried:
                each.discard()
    if not quiet:
        print(f"Written to {summary['compress']['file']}")
    return summary


def _size(start: Start, name: str, kind: str, options: dict[str, Any]) -> int:
    """Bytes of the file with every matrix in one scheme."""
    return file_bytes(start, options["checkpoints"] / name, kinds_of(start.model, SCHEMES[kind]))


def _to_size(
    start: Start, name: str, limit: int, minutes: float | None, wish: _Wish
) -> dict[str, Any]:
    eight, four = (_size(start, name, kind, wish.options) for kind in ("q8_0", "q4_0"))
    wish.say(f"{start.name}: {eight:,} bytes in 8 bits, {four:,} in 4; wanted {limit:,} at most")
    if eight <= limit:
        wish.say("8 bits fit, and cost next to nothing: every matrix in 8 bits")
        return quantize(start.folder, type="q8_0", data=wish.data, name=name, **wish.options)
    if four > limit:
        start = _fewer_experts(start, name, limit, four, minutes, wish)
        wish.say("every matrix in 4 bits, with a short training that rounds as the file does")
        return quantize(
            start.folder, type="q4_0", data=wish.data, name=name, minutes=minutes, **wish.options
        )
    wish.say(
        "between the two: each matrix gets 8 or 4 bits, 4 where they cost least, with a short "
        "training that rounds as the file does"
    )
    return quantize(
        start.folder,
        max_bytes=str(limit),
        data=wish.data,
        name=name,
        minutes=minutes,
        **wish.options,
    )


def _fewer_experts(
    start: Start, name: str, limit: int, four: int, minutes: float | None, wish: _Wish
) -> Start:
    """The model with as many experts as fit in 4 bits.

    Raises:
        UsageError: not even the fewest fit; says how small the file can become.
    """
    from itera_lite.commands.compress_experts import experts

    config = start.model.config
    least = max(2, config.top_k) if config.n_experts else 0

    def size(n: int) -> int:
        smaller = LanguageModel(config.replace(n_experts=n))
        return _size(Start(start.folder, smaller, start.tokenizer), name, "q4_0", wish.options)

    sizes = {n: size(n) for n in range(config.n_experts - 1, least - 1, -1)} if least else {}
    fitting = [n for n, bytes_ in sizes.items() if bytes_ <= limit]
    if not fitting:
        smallest = min(sizes.values(), default=four)
        raise UsageError(
            f"--target-bytes {limit:,}: the smallest that '{start.folder}' can become this way is "
            f"{smallest:,} bytes. For less, take a smaller vocabulary first (itera compress "
            "vocab), or let a smaller model learn from this one (itera compress distill)"
        )
    keep = max(fitting)
    wish.say(
        f"4 bits alone don't fit: {keep} of {config.n_experts} experts stay, those that the text "
        "uses most, and a short training makes up for the others"
    )
    minutes = 3.0 if minutes is None else minutes
    made = RunFiles(f"{name}_e{keep}", wish.options["checkpoints"], wish.options["results"])
    wish.tried.append(made)
    own: dict[str, Any] = {"keep": keep, "minutes": minutes, "name": made.name}
    experts(start.folder, data=wish.data, **own, **wish.options)
    return Start.load(made.best)


def _within(
    start: Start, name: str, loss: float, minutes: float | None, wish: _Wish
) -> dict[str, Any]:
    dataset = prepare(wish.data, tokenizer=start.tokenizer, quiet=True)
    documents = list(first_bytes(dataset.documents("valid")))
    before = start.score(documents).bpb
    most = before * (1 + loss)
    wish.say(f"{start.name}: {before:.4f} bits per byte; {most:.4f} at most")
    after = before
    for kind in SMALLEST_FIRST:
        made = rounded(start.model, kinds_of(start.model, SCHEMES[kind]))
        after = validation_score(made, start.tokenizer, documents).bpb
        if after <= most:
            wish.say(f"{kind}, plainly rounded: {after:.4f}, good enough")
            return quantize(
                start.folder, type=kind, method="plain", data=wish.data, name=name, **wish.options
            )
        wish.say(f"{kind}, plainly rounded: {after:.4f}, too much")
        if kind == "q8_0":
            break
        summary = quantize(
            start.folder,
            type=kind,
            method="qat",
            data=wish.data,
            minutes=minutes,
            name=name,
            **wish.options,
        )
        after = summary["compress"]["bpb"]["after_engine"]
        if after <= most:
            wish.say(f"{kind}, trained for its rounding: {after:.4f}, good enough")
            return summary
        wish.say(f"{kind}, trained for its rounding: {after:.4f}, too much")
    raise UsageError(
        f"--max-loss {loss:.3%}: even 8 bits cost {after / before - 1:.3%} ({after:.4f} bits per "
        "byte). Give a larger --max-loss"
    )
