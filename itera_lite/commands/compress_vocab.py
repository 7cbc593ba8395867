"""The verb `compress vocab`: a smaller vocabulary, made for the user's own text."""

from __future__ import annotations

import sys
from pathlib import Path

from itera_lite.commands.options import WorkerCount
from itera_lite.compress.start import Job, Start, TextOptions
from itera_lite.compress.vocabulary import choose_size, resize
from itera_lite.data.tokenizer import MAX_VOCAB, MIN_VOCAB
from itera_lite.errors import UsageError
from itera_lite.quantities import check_numbers, share_of, whole_number
from itera_lite.records import Summary, VocabularyChange, VocabularyChoice
from itera_lite.terminal import table
from itera_lite.train.compute import Compute

DEFAULT_SIZE = 2048


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
    workers: WorkerCount = None,
    quiet: bool = False,
    checkpoints: Path = Path("checkpoints"),
    results: Path = Path("results"),
) -> Summary:
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
        workers: How many cores compute at once; by default all.
        quiet: No progress bar.
        checkpoints: Folder of the checkpoints.
        results: Folder of the result files.

    Returns:
        The summary. Its ``compression`` says what it began from, and bits per byte before,
        right after the embedding was carried over, and after the adaptation.
    """
    text = TextOptions(data, minutes, tokens, seed, resume)
    check_numbers(workers=workers)
    if size is not None:
        whole_number("size", size, least=MIN_VOCAB, most=MAX_VOCAB)
    if auto and size is not None:
        raise UsageError("--auto chooses the size: leave out --size")
    tolerance = share_of("max-loss", max_loss)
    start = Start.load(checkpoint)
    size = DEFAULT_SIZE if size is None else size
    default = f"{start.name}_vauto" if auto else f"{start.name}_v{size}"

    def show(summary: Summary) -> None:
        if not quiet:
            print(describe_vocabulary(summary))

    with start.claimed(
        name, default, checkpoints, results, resume=resume, overwrite=overwrite
    ) as files:
        compute = Compute.prepare(files.precision(resume), workers, quiet)
        job = Job(start, text, compute, files)
        if not auto:
            summary = resize(job, size)
            show(summary)
            return summary
        summary = choose_size(job, tolerance, show)
    assert isinstance(summary.compression, VocabularyChange) and summary.compression.sizes
    choice = summary.compression.sizes
    warn_of_loss(choice, tolerance)
    if not quiet:
        print(_table(choice))
        print(f"{summary.model.name}: {choice.chosen:,} tokens: {choice.rule}")
    return summary


def describe_vocabulary(summary: Summary) -> str:
    """What the new vocabulary changed, in a line."""
    made, model = summary.compression, summary.model
    assert isinstance(made, VocabularyChange) and made.start and summary.dataset
    bpb, length = made.bpb, made.bytes_per_token
    adapted = "" if bpb.adapted is None else f", {bpb.adapted:.4f} adapted"
    return (
        f"{model.name}: vocabulary {made.start.vocab_size:,} -> {summary.dataset.vocab_size:,}, "
        f"{length.before:.2f} -> {length.after:.2f} bytes a token, "
        f"{made.start.params:,} -> {model.params.total:,} parameters; bits per "
        f"byte {bpb.before:.4f} before, {bpb.carried_over:.4f} carried over{adapted}"
    )


def warn_of_loss(choice: VocabularyChoice, tolerance: float) -> None:
    """Warn where even the chosen size is worse than the model as it was, by the tolerance."""
    now = next(each.bpb for each in choice.tried if each.size == choice.chosen)
    before = choice.before.bpb
    if now / before - 1 > tolerance:
        print(
            f"warning: {choice.chosen:,} tokens are {now / before - 1:.1%} above the model as it "
            f"was ({now:.4f} against {before:.4f} bits per byte): adapt for longer (--minutes), "
            "or keep the model",
            file=sys.stderr,
        )


def _table(choice: VocabularyChoice) -> str:
    """The sizes side by side, and the model as it was."""
    rows = []
    for each in (*choice.tried, choice.before):
        remark = "chosen" if each.size == choice.chosen else ""
        rows.append(
            (
                f"{each.size:,}",
                f"{each.bpb:.4f}",
                "-" if each.file_q8_0 is None else f"{each.file_q8_0 / 1e6:.2f} MB",
                f"{each.file_f32 / 1e6:.2f} MB",
                f"{each.flops_per_byte:,.0f}",
                f"{each.tokens_per_byte:.4f}",
                "as it was" if each is choice.before else remark,
            )
        )
    header = ("vocabulary", "bits/byte", "Q8_0", "F32", "FLOPs/byte", "tokens/byte", "")
    return table(header, rows, "rrrrrrl")
