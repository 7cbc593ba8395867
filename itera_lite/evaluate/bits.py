"""Bits per byte: how many bits a model needs for each byte of a text.

Two measurements share `Score`:

- `score_documents` is the one that is reported. Every document starts fresh after
  ``<|endoftext|>``, every token is scored exactly once, and the token that ends the document is
  scored as well although it stands for no byte. The sum is therefore the length of a complete code
  for the documents: it can be compared with a compressor's.
- `stream_bits` is a quick one for the training loop: plain windows of a token stream.

Workers share the batches, and the sums are added in the order of the batches: the score is the same
bit for bit with any number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itera_lite.config import TrainConfig
from itera_lite.errors import DataError, UsageError
from itera_lite.evaluate.score import Score
from itera_lite.model import LanguageModel
from itera_lite.workers import Task, Workers

# Runs tasks, and returns their results in the tasks' order; see `stream_bits` and `score_documents`
Run = Callable[[Sequence[Task[Score]]], Iterable[Score]]
IGNORED = -100  # target of a position that isn't scored
# Tokens of a batch on a processor: of 256 to 4,096 the fastest, with one worker and with two.
BATCH_TOKENS = 1024
LOGITS_PER_BATCH = 2**23  # 32 MiB of float32 logits at most, in each worker
BLOCK_BYTES = 2**18  # documents are sorted by length within blocks of this much text
FINAL_BYTES = 2_000_000  # of validation text for a training's last score; `itera eval` takes all


class TextCodec(Protocol):
    """What scoring needs of a tokenizer."""

    @property
    def eot_id(self) -> int: ...

    @property
    def token_bytes(self) -> Sequence[bytes]: ...

    def encode_batch(self, texts: Sequence[bytes]) -> list[list[int]]: ...


@dataclass(frozen=True)
class Window:
    """Predictions ``start+1 .. end`` of a token row, of which the first ``skip`` aren't scored."""

    row: int
    start: int
    end: int
    skip: int

    @property
    def length(self) -> int:
        return self.end - self.start


def windows(row: int, n_predictions: int, seq_len: int) -> Iterator[Window]:
    """Cut a row into windows in which each prediction is scored exactly once.

    The first window scores everything. A later one is a full window again that ends at
    most half a window further on and scores only what is new, so a scored token sees
    at least half a window of context where the document has that much.
    """
    stride = seq_len - seq_len // 2
    scored = min(seq_len, n_predictions)
    yield Window(row, 0, scored, 0)
    while scored < n_predictions:
        end = min(scored + stride, n_predictions)
        start = end - seq_len
        yield Window(row, start, end, scored - start)
        scored = end


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, and the former mode again afterwards.

    Not ``inference_mode``: what a module caches in it could never be trained with again.
    """
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def token_losses(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of each position in nats and whether it was guessed, both (B, L).

    Positions whose target is `IGNORED` have loss 0 and count as not guessed.
    """
    losses = F.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return losses.view(targets.shape), logits.argmax(-1) == targets


def score_documents(
    model: nn.Module,
    tokenizer: TextCodec,
    documents: Iterable[bytes],
    *,
    seq_len: int = 256,
    batch_tokens: int | None = None,
    progress: Callable[[int], None] | None = None,
    workers: Workers | None = None,
    run: Run | None = None,
) -> Score:
    """Score every byte of every document exactly once.

    Args:
        model: maps token ids (B, L) to logits (B, L, V); causal.
        tokenizer: the model's own.
        documents: UTF-8 texts. Empty ones are skipped.
        seq_len: longest window, in tokens. See `windows` for longer documents.
        batch_tokens: tokens a batch at most; by default `usual_batch`.
        progress: called with the number of bytes done since the last call.
        workers: that share the batches; None: the calling thread does all.
        run: instead of ``workers``, such as several processes that score a part each.

    Raises:
        DataError: where there is no text, or the tokenizer loses bytes of it.
        UsageError: where ``seq_len`` is below 1.
    """
    if seq_len < 1:
        raise UsageError(f"seq_len={seq_len}: expected at least 1 token")
    lengths = np.array([len(piece) for piece in tokenizer.token_bytes], dtype=np.int64)
    batch_tokens = batch_tokens or max(seq_len, usual_batch(model, len(lengths)))
    score = Score()

    def add(part: Score) -> None:
        score.add(part)
        if progress is not None:
            progress(part.bytes)

    with evaluating(model):
        for block in _blocks(documents):
            rows = _token_rows(tokenizer, block, lengths)
            todo = [w for i, row in enumerate(rows) for w in windows(i, len(row) - 1, seq_len)]
            todo.sort(key=lambda w: w.length, reverse=True)
            tasks = [
                partial(_score_batch, model, rows, batch, tokenizer.eot_id, lengths)
                for batch in _batches(todo, batch_tokens)
            ]
            _fold(tasks, add, workers, run)
    if not score.tokens:
        raise DataError("there is no text to score: expected at least one document of one byte")
    score.by_position = dict(sorted(score.by_position.items()))
    return score


def validation_score(
    model: LanguageModel,
    tokenizer: TextCodec,
    documents: Iterable[bytes],
    workers: Workers | None = None,
) -> Score:
    """Score in float32, in windows of the length that trainings use by default."""
    window = min(TrainConfig().seq_len, model.config.max_seq_len)
    return score_documents(model, tokenizer, documents, seq_len=window, workers=workers)


def usual_batch(model: nn.Module, vocab_size: int) -> int:
    """Tokens of a batch: few enough for a processor's caches, or as many as a GPU needs."""
    most = LOGITS_PER_BATCH // vocab_size
    return min(most, BATCH_TOKENS) if next(model.parameters()).device.type == "cpu" else most


def first_bytes(documents: Iterable[bytes], enough: int = FINAL_BYTES) -> Iterator[bytes]:
    """Whole documents, until ``enough`` bytes are reached."""
    total = 0
    for document in documents:
        yield document
        total += len(document)
        if total >= enough:
            return


def batches_of(windows: Tensor) -> Sequence[Tensor]:
    """(W, L) token ids in batches for a worker each."""
    return windows.split(max(1, BATCH_TOKENS // windows.shape[1]))


def stream_bits(
    model: nn.Module,
    tokens: np.ndarray,
    token_byte_lengths: np.ndarray,
    *,
    seq_len: int,
    batch_tokens: int | None = None,
    max_tokens: int | None = None,
    workers: Workers | None = None,
    run: Run | None = None,
) -> Score:
    """A quick score on plain windows of a token stream, the same ones at each call.

    Windows of ``seq_len`` don't overlap and start without context, so the result is a
    little worse than that of `score_documents`. With ``max_tokens`` the windows are
    spread evenly over the stream.

    Args:
        model: maps token ids (B, L) to logits (B, L, V).
        tokens: the stream (T,), any integer type.
        token_byte_lengths: bytes of each token id (V,).
        seq_len: predictions a window.
        batch_tokens: tokens a batch, at least one window; by default `usual_batch`.
        max_tokens: score about this many tokens at most; at least one window.
        workers, run: as in `score_documents`.

    Raises:
        DataError: where the stream has fewer than two tokens.
    """
    if len(tokens) < 2:
        raise DataError(f"a stream of {len(tokens)} tokens: expected at least 2 to score one")
    seq_len = min(seq_len, len(tokens) - 1)
    available = (len(tokens) - 1) // seq_len
    wanted = available if max_tokens is None else max(1, min(available, max_tokens // seq_len))
    starts = (np.arange(wanted) * available // wanted) * seq_len
    device = next(model.parameters()).device
    batch_tokens = batch_tokens or usual_batch(model, len(token_byte_lengths))
    size = max(1, batch_tokens // seq_len)

    def score_windows(starts: np.ndarray) -> Score:
        rows = np.stack([tokens[s : s + seq_len + 1] for s in starts]).astype(np.int64)
        ids = torch.from_numpy(rows).to(device)
        losses, guessed = token_losses(model(ids[:, :-1]), ids[:, 1:])
        return Score(
            nats=losses.double().sum().item(),
            tokens=len(rows) * seq_len,
            bytes=int(token_byte_lengths[rows[:, 1:]].sum()),
            correct=int(guessed.sum()),
        )

    score = Score()
    tasks = [partial(score_windows, starts[i : i + size]) for i in range(0, wanted, size)]
    with evaluating(model):
        _fold(tasks, score.add, workers, run)
    return score


def _fold(
    tasks: Sequence[Task[Score]],
    add: Callable[[Score], None],
    workers: Workers | None,
    run: Run | None,
) -> None:
    """Run the tasks, and call ``add`` with each result in their order."""
    if run is None:
        (workers or Workers()).fold(tasks, add)
        return
    for part in run(tasks):
        add(part)


def _blocks(documents: Iterable[bytes]) -> Iterator[list[bytes]]:
    block: list[bytes] = []
    size = 0
    for document in documents:
        if not document:
            continue
        block.append(document)
        size += len(document)
        if size >= BLOCK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def _token_rows(tokenizer: TextCodec, block: list[bytes], lengths: np.ndarray) -> list[np.ndarray]:
    """Each document as ``<|endoftext|>``, its tokens, ``<|endoftext|>``."""
    eot = tokenizer.eot_id
    rows = []
    for document, ids in zip(block, tokenizer.encode_batch(block), strict=True):
        row = np.array([eot, *ids, eot], dtype=np.int64)
        if lengths[row].sum() != len(document):
            raise DataError(
                f"the tokenizer turned a document of {len(document)} bytes into tokens of "
                f"{lengths[row].sum()} bytes: expected a byte-level tokenizer that keeps every "
                "byte and UTF-8 text; check that the tokenizer belongs to the model"
            )
        rows.append(row)
    return rows


def _batches(todo: list[Window], batch_tokens: int) -> Iterator[list[Window]]:
    """Groups windows that are sorted by length, longest first."""
    start = 0
    while start < len(todo):
        size = max(1, batch_tokens // todo[start].length)
        yield todo[start : start + size]
        start += size


def _score_batch(
    model: nn.Module,
    rows: list[np.ndarray],
    batch: list[Window],
    padding: int,
    lengths: np.ndarray,
) -> Score:
    """Score windows of token rows.

    Args:
        batch: the windows, the longest first.
        padding: any token.
        lengths: (V,) bytes of each token.
    """
    width = batch[0].length
    ids = np.full((len(batch), width), padding, dtype=np.int64)
    targets = np.full((len(batch), width), IGNORED, dtype=np.int64)
    position = np.zeros((len(batch), width), dtype=np.int64)
    for b, w in enumerate(batch):
        row = rows[w.row]
        ids[b, : w.length] = row[w.start : w.end]
        targets[b, w.skip : w.length] = row[w.start + w.skip + 1 : w.end + 1]
        position[b, : w.length] = np.arange(w.start + 1, w.end + 1)
    device = next(model.parameters()).device
    target_ids = torch.from_numpy(targets).to(device)
    losses, guessed = token_losses(model(torch.from_numpy(ids).to(device)), target_ids)
    scored = targets != IGNORED
    nats = losses.double().cpu().numpy()[scored]
    exponent = np.ceil(np.log2(position[scored])).astype(np.int64)
    sums = np.bincount(exponent, weights=nats)
    counts = np.bincount(exponent)
    return Score(
        nats=float(nats.sum()),
        tokens=int(scored.sum()),
        bytes=int(lengths[targets[scored]].sum()),
        correct=int(guessed.sum()),
        by_position={1 << int(e): (float(sums[e]), int(counts[e])) for e in np.flatnonzero(counts)},
    )
