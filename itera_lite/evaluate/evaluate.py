"""The quality of a model on held-out text of a prepared set."""

from __future__ import annotations

import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from itera_lite import ops
from itera_lite.data.prepare import prepare
from itera_lite.data.tokenizer import Tokenizer
from itera_lite.errors import CheckpointError, UsageError
from itera_lite.evaluate.baselines import MAX_TRAIN_BYTES
from itera_lite.evaluate.bits import score_documents
from itera_lite.evaluate.documents import read_documents
from itera_lite.evaluate.score import count_words, perplexity
from itera_lite.files import cache_folder
from itera_lite.machine.peak import torch_threads
from itera_lite.machine.provenance import Provenance
from itera_lite.model import LanguageModel
from itera_lite.model.cost import describe
from itera_lite.records import Evaluation


@dataclass(frozen=True)
class HeldOutDocuments:
    """Documents to score, and training documents for the baselines.

    Attributes:
        source: name or path of the set; ``split``: the part of it.
        documents: to score; ``sampled``: whether they are a random choice of the split's.
        training: documents of the train split; empty unless they were asked for.
        count_words: whether perplexity per word is usual for this set: it is WikiText.
    """

    source: str
    split: str
    documents: list[bytes]
    sampled: bool
    training: list[bytes]
    count_words: bool

    @classmethod
    def read(
        cls, source: str, tokenizer: Tokenizer, split: str, max_bytes: int | None, training: bool
    ) -> HeldOutDocuments:
        """Prepare a set with the model's tokenizer, or find it prepared, and read its documents.

        Args:
            max_bytes: read a random choice of documents (fixed seed) of at most this size.
            training: read training documents too, as many as `baselines` uses.

        Raises:
            DataError: the set can't be used.
            UsageError: it has no such split.
        """
        with tempfile.TemporaryDirectory(prefix="itera-") as folder:
            cache = _cache(Path(folder))
            dataset = prepare(source, tokenizer=tokenizer, cache=cache, print_notes=False)
            if split not in dataset.splits:
                names = ", ".join(map(repr, dataset.splits))
                raise UsageError(f"split={split!r}: '{source}' has {names}")
            documents = read_documents(dataset, split, max_bytes)
            return cls(
                source,
                split,
                documents,
                sampled=len(documents) < dataset.manifest["splits"][split]["documents"],
                training=read_documents(dataset, "train", MAX_TRAIN_BYTES) if training else [],
                count_words=dataset.manifest["source"].get("format") == "wikitext",
            )


def _cache(spare: Path) -> Path:
    """The folder for prepared sets; ``spare`` where none can be written."""
    try:
        cache = cache_folder()
    except UsageError:
        return spare
    there = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    return cache if there.is_dir() and os.access(there, os.W_OK) else spare


def evaluate_model(
    name: str,
    model: LanguageModel,
    tokenizer: Tokenizer,
    text: HeldOutDocuments,
    *,
    window: int,
    threads: int,
) -> Evaluation:
    """Score held-out documents, in float32. The baselines are left to the caller.

    Args:
        name: of the checkpoint.
        tokenizer: the model's own.
        window: longest window in tokens; never more than the model reads.
        threads: of PyTorch.

    Raises:
        CheckpointError: the model gives probabilities that aren't finite.
    """
    window = min(window, model.config.max_seq_len)
    fused = ops.enable() is None
    total = sum(map(len, text.documents))
    with (
        torch_threads(threads),
        tqdm(total=total, unit="B", unit_scale=True, desc=name, disable=None) as bar,
    ):
        score = score_documents(
            model, tokenizer, text.documents, seq_len=window, progress=bar.update
        )
        provenance = Provenance.now()
    if not math.isfinite(score.nats):
        raise CheckpointError(
            f"'{name}' gives no finite probabilities ({score.nats} nats): its weights are damaged. "
            "Take another checkpoint"
        )
    words = count_words(text.documents) if text.count_words else None
    return Evaluation(
        model=describe(name, model.config),
        source=text.source,
        split=text.split,
        bpb=score.bpb,
        loss=score.loss,
        ppl=_finite(score.ppl),
        word_ppl=None if words is None else _finite(perplexity(score.nats, words)),
        accuracy=score.accuracy,
        tokens=score.tokens,
        bytes=score.bytes,
        words=words,
        documents=sum(map(bool, text.documents)),
        sampled=text.sampled,
        seq_len=window,
        policy=policy(window),
        by_position=[(end, nats / n) for end, (nats, n) in score.by_position.items()],
        fused_operations=fused,
        provenance=provenance,
    )


def policy(window: int) -> str:
    """The context of each token in words; see docs/method.md."""
    return (
        f"each document starts fresh after <|endoftext|>; windows of {window} tokens, a longer "
        f"document in overlapping ones with at least {window // 2} tokens of context; every token "
        "is scored once, the one that ends a document included, which counts no byte"
    )


def _finite(perplexity: float) -> float | None:
    """The number; None where it is beyond what JSON holds."""
    return perplexity if math.isfinite(perplexity) else None
