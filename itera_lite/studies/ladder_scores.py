"""Quality of the ladder's rungs on a text: in PyTorch, in the native engine, and in llama.cpp.

A score is kept in a file, and used again for the same weights and text.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from itera_lite.bench.runtimes import LLAMA, Llama, installed
from itera_lite.checkpoint.folder import load_checkpoint
from itera_lite.compress.quantize import engine_score
from itera_lite.config import REFERENCE_VOCABULARY, TrainConfig
from itera_lite.data.prepare import prepare_general
from itera_lite.errors import IteraError
from itera_lite.evaluate.bits import TextCodec, first_bytes, score_documents, validation_score
from itera_lite.export.gguf import export_gguf
from itera_lite.machine.provenance import Provenance
from itera_lite.records import HeldOut, QuantizedReference
from itera_lite.studies.ladder_stages import QUANTIZED, LadderPlan, chosen_reference

WINDOW = TrainConfig().seq_len
# Types of the reference's weights in llama.cpp, the smallest file first. The smallest whose quality
# is within LOSS of the last one's is taken: that is how such models are passed on.
TYPES = ("q4_0", "mixed", "q8_0")
LOSS = 0.01
CHOICE_BYTES = 500_000  # of validation text, that the type is chosen on
Sums = tuple[float, int, int]  # nats, tokens, bytes


class LlamaLogits(nn.Module):
    """A GGUF file in llama.cpp, as a model that `score_documents` scores: ids (B, L) -> logits."""

    def __init__(self, file: Path, window: int, threads: int) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.empty(0))  # a model's device is that of its parameters
        self.runtime = Llama(file, window, batch=window, threads=threads)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, L) -> (B, L, V) float32, a row at a time."""
        rows = [torch.from_numpy(self.runtime.logits(row).copy()) for row in ids.tolist()]
        return torch.stack(rows)


def llama_score(
    file: Path, tokenizer: TextCodec, documents: Sequence[bytes], threads: int = 1
) -> Sums:
    """Nats, tokens and bytes of documents by llama.cpp, in the windows of `validation_score`."""
    model = LlamaLogits(file, WINDOW, threads)
    try:
        score = score_documents(model, tokenizer, documents, seq_len=WINDOW)
    finally:
        model.runtime.close()
    return score.nats, score.tokens, score.bytes


def kept_score(
    plan: LadderPlan,
    name: str,
    weights: Path,
    documents: Sequence[bytes],
    score: Callable[[], Sums],
) -> HeldOut:
    """The score of a file of weights; from NAME_heldout.json where it is there already.

    Args:
        name: of the score.
        score: computes it.
    """
    text = hashlib.sha256(b"\0".join(documents)).hexdigest()
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    path = plan.results / f"{name}_heldout.json"
    try:
        record = HeldOut.read(path)
        if (record.text_sha256, record.weights_sha256) == (text, digest):
            return record
    except IteraError:  # missing or damaged
        pass
    if not plan.compute.quiet:
        print(f"scoring {name}")
    nats, tokens, size = score()
    record = HeldOut(
        name=name,
        bpb=nats / math.log(2) / size,
        bytes_per_token=size / tokens,
        bytes=size,
        window=WINDOW,
        text_sha256=text,
        weights_sha256=digest,
        provenance=Provenance.now(seed=plan.seed),
    )
    record.write(path)
    return record


def stage_scores(
    plans: Sequence[LadderPlan], stage: str, documents: Sequence[bytes]
) -> list[HeldOut]:
    """Scores of a stage's model, for each seed; of a quantised one by the native engine."""

    def score(plan: LadderPlan) -> Sums:
        if stage in QUANTIZED:
            return engine_score(plan.weights(stage), documents, plan.compute.workers.count)
        model, tokenizer = load_checkpoint(plan.folder(stage))
        found = validation_score(model, tokenizer, documents, plan.compute.workers)
        return found.nats, found.tokens, found.bytes

    return [
        kept_score(
            *(plan, plan.folder(stage).name, plan.weights(stage), documents),
            lambda plan=plan: score(plan),  # type: ignore[misc]
        )
        for plan in plans
    ]


@dataclass(frozen=True)
class QuantizedScores:
    """The reference as llama.cpp runs it.

    Attributes:
        tried: every type, on validation text.
        file: the first seed's, of the chosen type.
        scores: of that type on the held-out text, for each seed.
    """

    tried: list[QuantizedReference]
    file: Path
    scores: list[HeldOut]


def quantized_scores(
    plans: Sequence[LadderPlan], documents: Sequence[bytes]
) -> QuantizedScores | None:
    """Write the chosen reference as llama.cpp's users have it, and score it there.

    Returns:
        None where llama.cpp isn't installed.
    """
    if not installed(LLAMA):
        return None
    first, stage = plans[0], chosen_reference(plans[0])
    data = prepare_general(first.data, REFERENCE_VOCABULARY, quiet=True)
    enough = min(CHOICE_BYTES, first.valid_bytes)
    valid = list(first_bytes(data.documents("valid"), enough))

    def score(plan: LadderPlan, type: str, texts: Sequence[bytes], suffix: str = "") -> HeldOut:
        file = export_gguf(plan.folder(stage), type).path
        threads = plan.compute.workers.count
        return kept_score(
            *(plan, plan.files(f"{stage}-{type}{suffix}").name, file, texts),
            lambda: llama_score(file, data.tokenizer, texts, threads),
        )

    found = {type: score(first, type, valid, "-valid").bpb for type in TYPES}
    most = found[TYPES[-1]] * (1 + LOSS)
    chosen = next(type for type in TYPES if found[type] <= most)
    files = {type: first.folder(stage) / f"model-{type}.gguf" for type in TYPES}
    tried = [
        QuantizedReference(type, files[type].stat().st_size, bpb, type == chosen)
        for type, bpb in found.items()
    ]
    return QuantizedScores(tried, files[chosen], [score(p, chosen, documents) for p in plans])
