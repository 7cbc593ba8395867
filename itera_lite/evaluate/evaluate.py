"""The quality of a model on held-out text of a prepared set."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

from itera_lite import ops
from itera_lite.config import Unit
from itera_lite.data.prepare import Dataset, prepare
from itera_lite.data.tokenizer import Tokenizer
from itera_lite.errors import CheckpointError, OutputError, UsageError
from itera_lite.evaluate.bits import score_documents
from itera_lite.evaluate.documents import read_documents
from itera_lite.evaluate.score import count_words, perplexity
from itera_lite.files import cache_folder, check_writable
from itera_lite.machine.peak import torch_threads
from itera_lite.machine.provenance import Provenance
from itera_lite.model import LanguageModel
from itera_lite.model.cost import describe
from itera_lite.ops.library import keep_memory
from itera_lite.records import Evaluation
from itera_lite.workers import Workers


@contextmanager
def prepared(source: str, tokenizer: Tokenizer) -> Iterator[Dataset]:
    """A set prepared with the tokenizer of a model; in a temporary folder where there is no cache
    that can be written.

    Raises:
        DataError: the set can't be used.
    """
    with tempfile.TemporaryDirectory(prefix="itera-") as spare:
        cache = Path(spare)
        with suppress(UsageError, OutputError):  # no home folder, or one that can't be written
            check_writable(cache_folder() / "set")
            cache = cache_folder()
        yield prepare(source, tokenizer=tokenizer, cache=cache, print_notes=False)


def evaluate_model(
    name: str,
    model: LanguageModel,
    dataset: Dataset,
    source: str,
    split: str,
    max_bytes: int | None,
    *,
    window: int,
    workers: Workers,
) -> Evaluation:
    """Score the documents of a split, in float32. The baselines are left to the caller.

    Args:
        name: of the checkpoint.
        dataset: prepared with the model's tokenizer; ``source``: how it was named.
        max_bytes: score a random choice of documents (fixed seed) of at most this size.
        window: longest window in tokens; never more than the model reads.
        workers: that share the text.

    Raises:
        UsageError: there is no such split.
        CheckpointError: the model gives probabilities that aren't finite.
    """
    if split not in dataset.splits:
        names = ", ".join(map(repr, dataset.splits))
        raise UsageError(f"split={split!r}: '{source}' has {names}")
    documents = read_documents(dataset, split, max_bytes)
    window = min(window, model.config.max_seq_len)
    fused = ops.enable() is None
    keep_memory()
    total = sum(map(len, documents))
    with (
        torch_threads(workers.count),  # for the provenance; each worker has one
        tqdm(total=total, unit="B", unit_scale=True, desc=name, disable=None) as bar,
    ):
        score = score_documents(
            *(model, dataset.tokenizer, documents),
            seq_len=window,
            progress=bar.update,
            workers=workers,
        )
        provenance = Provenance.now()
    if not math.isfinite(score.nats):
        raise CheckpointError(
            f"'{name}' gives no finite probabilities ({score.nats} nats): its weights are damaged. "
            "Take another checkpoint"
        )
    # The published text is the articles put together; units lack the white space between them.
    is_wikitext = (
        dataset.manifest["source"].get("format") == "wikitext" and dataset.unit == "document"
    )
    words = count_words(documents) if is_wikitext else None
    return Evaluation(
        model=describe(name, model.config),
        source=source,
        split=split,
        bpb=score.bpb,
        loss=score.loss,
        ppl=_finite(score.ppl),
        word_ppl=None if words is None else _finite(perplexity(score.nats, words)),
        accuracy=score.accuracy,
        tokens=score.tokens,
        bytes=score.bytes,
        words=words,
        documents=sum(map(bool, documents)),
        sampled=score.bytes < dataset.n_bytes(split),
        seq_len=window,
        policy=policy(window, dataset.unit),
        by_position=[(end, nats / n) for end, (nats, n) in score.by_position.items()],
        fused_operations=fused,
        provenance=provenance,
    )


def policy(window: int, unit: Unit = "document") -> str:
    """The context of each token in words; see docs/method.md."""
    cut = "" if unit == "document" else f"each {unit} of the text is a document; "
    return (
        f"{cut}each document starts fresh after <|endoftext|>; windows of {window} tokens, a "
        f"longer document in overlapping ones with at least {window // 2} tokens of context; every "
        "token is scored once, the one that ends a document included, which counts no byte"
    )


def _finite(perplexity: float) -> float | None:
    """The number; None where it is beyond what JSON holds."""
    return perplexity if math.isfinite(perplexity) else None
