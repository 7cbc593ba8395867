"""Gives a model a smaller vocabulary, of a given size or of the cheapest that is good enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from itera_lite.checkpoint.weights import weight_files
from itera_lite.compress.rounding import kinds_of
from itera_lite.compress.start import Job, Start, remove_folders
from itera_lite.config import TrainConfig
from itera_lite.data.tokenizer import Tokenizer
from itera_lite.errors import ExportError, TextTooSmall, UsageError
from itera_lite.evaluate.bits import first_bytes, validation_score
from itera_lite.export.gguf import check_engine_runs
from itera_lite.export.types import SCHEMES
from itera_lite.files import exists
from itera_lite.model import LanguageModel
from itera_lite.model.cost import cost
from itera_lite.records import (
    BeforeAfter,
    Summary,
    VocabularyBits,
    VocabularyChange,
    VocabularyChoice,
    VocabularySize,
)

MINUTES = 2.0  # of adaptation, where none are given
RATE = 0.2  # of a new model's learning rates: found by a search (experiments/LOG.md)
SIZES = (512, 1024, 2048, 4096)  # that are tried
RULE = (
    "of the sizes tried whose bits per byte are at most {tolerance:.3g} % above the lowest, "
    "the one with the smallest product of file size and FLOPs per byte of text"
)


def pieces_of(new: Tokenizer, old: Tokenizer) -> list[list[int]]:
    """For each new token the old ones that make up its bytes: itself, where it is one."""
    known = {piece: index for index, piece in enumerate(old.token_bytes) if piece}
    pieces = [[known[piece]] if piece in known else old.encode(piece) for piece in new.token_bytes]
    pieces[new.eot_id] = [old.eot_id]
    return pieces


@torch.no_grad()
def carry_over(model: LanguageModel, old: Tokenizer, new: Tokenizer) -> LanguageModel:
    """A copy of the model with the vocabulary of ``new``; all but the embedding is the same.

    A token that the old vocabulary has keeps its row, another one gets the mean of the rows of
    its old pieces. Of the weightings that were tried no other was better (experiments/LOG.md).
    """
    rows = model.embedding.weight
    carried: Tensor = torch.stack([rows[pieces].mean(dim=0) for pieces in pieces_of(new, old)])
    smaller = LanguageModel(model.config.replace(vocab_size=new.vocab_size))
    smaller.load_state_dict({**model.state_dict(), "embedding.weight": carried})
    return smaller.eval()


def resize(job: Job, size: int) -> Summary:
    """Write the model with a vocabulary of ``size``, made for the text and adapted to it.

    Raises:
        UsageError: the vocabulary isn't smaller than the model's.
        DataError: the text doesn't support one of this size.
    """
    start = job.start
    if size >= start.tokenizer.vocab_size:
        raise UsageError(
            f"--size {size}: '{start.folder}' has a vocabulary of {start.tokenizer.vocab_size:,} "
            "already, and a smaller one is what this makes. Give a smaller --size"
        )
    dataset = job.prepare(size)
    new = dataset.tokenizer
    carried = carry_over(start.model, start.tokenizer, new)
    documents = list(first_bytes(dataset.documents("valid")))
    before = start.score(documents, job.workers)
    after = validation_score(carried, new, documents, job.workers)
    exact = sum(len(pieces) == 1 for pieces in pieces_of(new, start.tokenizer))

    def record(adapted: float | None) -> VocabularyChange:
        return VocabularyChange(
            start=start.record(before),
            bytes_per_token=BeforeAfter(before.bytes / before.tokens, after.bytes / after.tokens),
            rows_kept=exact,
            rows_made=new.vocab_size - exact,
            bpb=VocabularyBits(before.bpb, after.bpb, adapted),
        )

    return job.train_or_save(carried, dataset, after, MINUTES, RATE, record)


def cheapest(tried: Sequence[VocabularySize], tolerance: float) -> VocabularySize:
    """The size that `RULE` names."""
    limit = min(each.bpb for each in tried) * (1 + tolerance)
    return min((each for each in tried if each.bpb <= limit), key=cost_of)


def cost_of(size: VocabularySize) -> float:
    """Bytes of the file times FLOPs: a percent of the one counts as much as of the other."""
    return (size.file_q8_0 or size.file_f32) * size.flops_per_byte


def choose_size(job: Job, tolerance: float, progress: Callable[[Summary], None]) -> Summary:
    """Try each size that the model and the text allow, keep the cheapest good one.

    The sizes are tried in folders beside the result, which go at the end. Sizes that were
    finished before are taken as they are where a stopped run is resumed.

    Args:
        tolerance: share by which bits per byte may be above the lowest.
        progress: called with the summary of each size, right after it was made.

    Returns:
        The summary of the chosen size; its compression has ``sizes``.

    Raises:
        UsageError: no size is below the vocabulary of the model and supported by the text.
    """
    start, resume = job.start, job.text.resume
    trials = {size: job.trial(f"{job.files.name}_{size}") for size in supported_sizes(job)}
    tried, summaries = [], {}
    for size, trial in trials.items():
        files = trial.files
        if resume and exists(files.summary):
            summary = Summary.read(files.summary)
        else:
            if not trial.resume:
                files.discard()
            with files.claimed(resume=resume):
                summary = resize(trial, size)
            progress(summary)
        assert summary.valid and summary.flops_per_token
        per_byte = summary.valid.tokens / summary.valid.bytes
        flops = summary.flops_per_token.forward
        costs = _costs(Start.load(files.best), summary.valid.bpb, flops, per_byte)
        costs.cost = cost_of(costs)
        tried.append(costs)
        summaries[size] = summary
    chosen = cheapest(tried, tolerance).size
    summary = summaries[chosen]
    change = summary.compression
    assert isinstance(change, VocabularyChange) and change.start
    flops = cost(start.model.config, TrainConfig().seq_len).flops_forward
    before = _costs(start, change.start.bpb, flops, 1 / change.start.bytes_per_token)
    rule = RULE.format(tolerance=100 * tolerance)
    change.sizes = VocabularyChoice(rule, chosen, tried, before)
    job.adopt(trials[chosen].files, summary)
    for trial in trials.values():
        trial.files.discard()
        remove_folders(trial.files)
    return summary


def supported_sizes(job: Job) -> list[int]:
    """Those of `SIZES` that are below the model's vocabulary and that the text supports."""
    now = job.start.tokenizer.vocab_size
    sizes: list[int] = []
    with suppress(TextTooSmall):  # nor does it support a larger one
        for size in SIZES:
            if size < now:
                job.prepare(size)
                sizes.append(size)
    if not sizes:
        raise UsageError(
            f"--auto: none of {', '.join(map(str, SIZES))} is below the vocabulary of "
            f"'{job.start.folder}' ({now:,}) and supported by '{job.text.data}'. Name a --size, "
            "or give more text"
        )
    return sizes


def _costs(
    start: Start, bpb: float, flops_per_token: float, tokens_per_byte: float
) -> VocabularySize:
    q8_0, f32 = (_gguf_bytes(start, type) for type in ("q8_0", "f32"))
    return VocabularySize(
        size=start.tokenizer.vocab_size,
        bpb=bpb,
        file_q8_0=q8_0,
        file_f32=f32 or sum(file.stat().st_size for file in weight_files(start.folder)),
        flops_per_byte=flops_per_token * tokens_per_byte,
        tokens_per_byte=tokens_per_byte,
    )


def _gguf_bytes(start: Start, type: str) -> int | None:
    """Bytes of the model as a GGUF file of a type; None where it can't be stored so."""
    try:
        check_engine_runs(start.folder, start.model.config)
        return start.file_bytes(kinds_of(start.model, SCHEMES[type]))
    except ExportError:
        return None
