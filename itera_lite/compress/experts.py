"""Takes out experts: measures which of them a text uses, and drops or merges the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from itera_lite.compress.start import Job, Start
from itera_lite.config import TrainConfig
from itera_lite.data.prepare import Dataset
from itera_lite.errors import DataError, UsageError
from itera_lite.evaluate.bits import BATCH_TOKENS, evaluating, first_bytes, validation_score
from itera_lite.evaluate.score import Score
from itera_lite.model import LanguageModel
from itera_lite.model.moe import MoE
from itera_lite.records import ExpertsBits, ExpertUsage, FewerExperts, Summary
from itera_lite.workers import Workers

USAGE_TOKENS = 131_072  # of the training text, to measure which experts it uses
PART_BYTES = 100_000  # of the validation text, to search the number of experts on
MAX_LOSS = 0.01  # that may be lost where neither a number nor a loss is given
RATE = 0.2  # of a new model's learning rates, for the training that follows


@dataclass(frozen=True)
class Usage:
    """How much a text uses each expert; a row a layer, each row sums to 1.

    Attributes:
        tokens: (layers, E) share of all choices of an expert for a token, k a token.
        weight: (layers, E) share of the gates' weight: a choice counts as much as the expert's
            output does in it.
        read: tokens of text that were read to measure it.
    """

    tokens: Tensor
    weight: Tensor
    read: int

    def most_used(self, n: int) -> list[Tensor]:
        """The ``n`` experts of each layer with the most gate weight, by rising index."""
        return list(self.weight.topk(n, dim=-1).indices.sort(dim=-1).values)


def take_out_experts(
    start: Start,
    dataset: Dataset,
    workers: Workers,
    keep: int | None,
    max_loss: float | None = None,
    merging: bool = False,
) -> tuple[LanguageModel, Score, FewerExperts]:
    """Take out the experts that the text uses least.

    Args:
        dataset: prepared with the model's tokenizer.
        workers: that share the text.
        keep: experts to keep in each layer; None: as few as ``max_loss`` allows.
        max_loss: share by which bits per byte may rise; by default `MAX_LOSS`.
        merging: average those that go into the most similar ones.

    Returns:
        The smaller model, its score, and how it was made.

    Raises:
        UsageError: not one expert can go.
        DataError: the text is too short.
    """
    config = start.model.config
    usage = measure_usage(start.model, dataset, TrainConfig().seq_len, USAGE_TOKENS, workers)
    documents = list(first_bytes(dataset.documents("valid")))
    before = start.score(documents, workers)

    def smaller(n: int, merging: bool = merging) -> LanguageModel:
        kept = usage.most_used(n)
        return merge(start.model, kept, usage.weight) if merging else drop(start.model, kept)

    def score(model: LanguageModel, texts: Sequence[bytes] = documents) -> Score:
        return validation_score(model, start.tokenizer, texts, workers)

    def bpb(n: int, texts: Sequence[bytes]) -> float:
        return score(start.model if n == config.n_experts else smaller(n), texts).bpb

    if keep is None:
        limit = MAX_LOSS if max_loss is None else max_loss
        keep = fewest(bpb, documents, before.bpb, limit, max(2, config.top_k), config.n_experts)
    model = smaller(keep)
    dropped = score(smaller(keep, merging=False))
    after = score(model) if merging else dropped
    shares = zip(usage.weight, usage.most_used(keep), strict=True)
    record = FewerExperts(
        start=start.record(before),
        keep=keep,
        merge=merging,
        max_loss=max_loss,
        usage=ExpertUsage(
            tokens_read=usage.read,
            share_of_tokens=_rounded(usage.tokens),
            share_of_weight=_rounded(usage.weight),
            weight_lost=[round(1 - float(row[kept].sum()), 5) for row, kept in shares],
        ),
        bpb=ExpertsBits(before.bpb, dropped.bpb, after.bpb if merging else None),
    )
    return model, after, record


def write_mixture(
    job: Job, dataset: Dataset, model: LanguageModel, after: Score, record: FewerExperts
) -> Summary:
    """Write what `take_out_experts` made, after a training where one is asked for."""

    def with_training(bpb: float | None) -> FewerExperts:
        record.bpb.trained = bpb
        return record

    return job.train_or_save(model, dataset, after, 0.0, RATE, with_training)


def fewest(
    bpb: Callable[[int, Sequence[bytes]], float],
    documents: Sequence[bytes],
    before: float,
    max_loss: float,
    least: int,
    total: int,
) -> int:
    """The smallest number of experts whose bits per byte stay within ``max_loss`` of before.

    Bisected on a part of the validation text, then confirmed on all of it, with more experts
    where that is worse.

    Args:
        bpb: bits per byte of the model with a number of experts on a text.
        before: bits per byte with all experts on ``documents``.
        least, total: numbers of experts; not less than ``least`` may stay.

    Raises:
        UsageError: not one expert can go.
    """
    part: list[bytes] = []
    for document in documents:
        if sum(map(len, part)) >= PART_BYTES:
            break
        part.append(document)
    base = before if len(part) == len(documents) else bpb(total, part)
    low, high = least, total  # `high` is good, below `low` nothing is allowed
    while low < high:
        middle = (low + high) // 2
        if bpb(middle, part) / base - 1 <= max_loss:
            high = middle
        else:
            low = middle + 1
    lost = 0.0
    while high < total:
        lost = bpb(high, documents) / before - 1
        if lost <= max_loss:
            return high
        high += 1
    lost = lost or bpb(total - 1, documents) / before - 1
    raise UsageError(
        f"--max-loss {max_loss:.3%}: without one expert of {total} bits per byte are already "
        f"{lost:.3%} above before. Give a larger --max-loss, or --keep and --minutes"
    )


def _rounded(shares: Tensor) -> list[list[float]]:
    return [[round(share, 5) for share in row] for row in shares.tolist()]


def measure_usage(
    model: LanguageModel,
    dataset: Dataset,
    seq_len: int,
    n_tokens: int,
    workers: Workers | None = None,
) -> Usage:
    """Measure where the router sends windows that are evenly spread over the train split.

    Args:
        dataset: prepared with the model's tokenizer.
        seq_len: tokens of a window.
        n_tokens: tokens to read at most.
        workers: that share the text; None: the calling thread reads all.

    Raises:
        DataError: the text doesn't fill one window.
    """
    stream = dataset.tokens("train")
    available = (len(stream) - 1) // seq_len
    if not available:
        raise DataError(
            f"{dataset.name} has {len(stream) - 1} tokens to read, which don't fill a window of "
            f"{seq_len}: too short to tell which experts it uses. Give more text"
        )
    wanted = max(1, min(available, n_tokens // seq_len))
    starts = [i * available // wanted * seq_len for i in range(wanted)]
    config, moes = model.config, model.mixtures
    sums = torch.zeros(2, len(moes), config.n_experts, dtype=torch.float64)  # choices, weight
    own = threading.local()  # the sums of the windows that a worker reads

    def count(layer: int, _module: object, _inputs: object, logits: Tensor) -> None:
        top, index = logits.float().topk(config.top_k, dim=-1)
        gates = top.softmax(dim=-1).double()
        counts, weights = own.sums[:, layer]
        counts += torch.bincount(index.flatten(), minlength=config.n_experts)
        weights.index_add_(0, index.flatten(), gates.flatten())

    def read(starts: list[int]) -> Tensor:
        own.sums = torch.zeros_like(sums)
        model.hidden(torch.tensor([stream[s : s + seq_len].tolist() for s in starts]))
        found: Tensor = own.sums
        return found

    size = max(1, BATCH_TOKENS // seq_len)
    tasks = [partial(read, starts[first : first + size]) for first in range(0, wanted, size)]

    hooks = [
        moe.router.register_forward_hook(partial(count, layer)) for layer, moe in enumerate(moes)
    ]
    try:
        with evaluating(model):
            (workers or Workers()).fold(tasks, sums.add_)
    finally:
        for hook in hooks:
            hook.remove()
    tokens, weight = sums / sums.sum(dim=-1, keepdim=True)
    return Usage(tokens, weight, wanted * seq_len)


def drop(model: LanguageModel, keep: Sequence[Tensor]) -> LanguageModel:
    """A copy of the model with only these experts, the same number in every layer.

    A token that was sent to a dropped expert goes to the next best one.

    Args:
        keep: indices of the experts of each layer, rising.
    """

    def chosen(moe: MoE, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return moe.router.weight[kept], moe.gate_up[kept], moe.down[kept]

    return _with_mixtures(model, keep, chosen)


def merge(model: LanguageModel, keep: Sequence[Tensor], weight: Tensor) -> LanguageModel:
    """As `drop`, but each expert that goes is averaged into the most similar one that stays.

    The router's rows are averaged likewise. Two experts are similar if the router sends them the
    same inputs: if their rows of it point the same way. The order of the units inside an expert
    means nothing, so they are paired by similarity before they are averaged.

    Args:
        weight: (layers, E), of each expert in an average: `Usage.weight`.
    """
    shares = iter(weight)

    def merged(moe: MoE, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        share = next(shares).float().clamp(min=1e-9)
        router, gate_up, down = moe.router.weight, moe.gate_up, moe.down
        similarity = F.normalize(router, dim=-1) @ F.normalize(router[kept], dim=-1).T
        group = similarity.argmax(dim=-1)  # (E,), an index into `kept`
        group[kept] = torch.arange(len(kept))
        total = torch.zeros(len(kept)).index_add_(0, group, share)
        sums = [torch.zeros_like(tensor[kept]) for tensor in (router, gate_up, down)]
        for expert, index in enumerate(group.tolist()):
            target = int(kept[index])
            order = paired_units(gate_up[target], down[target], gate_up[expert], down[expert])
            both = torch.cat([order, order + len(order)])  # the gate's rows, then the up rows
            part = share[expert] / total[index]
            sums[0][index] += part * router[expert]
            sums[1][index] += part * gate_up[expert][both]
            sums[2][index] += part * down[expert][:, order]
        return sums[0], sums[1], sums[2]

    return _with_mixtures(model, keep, merged)


def paired_units(
    gate_up: Tensor, down: Tensor, other_gate_up: Tensor, other_down: Tensor
) -> Tensor:
    """Pair each hidden unit of an expert with the most similar one of another expert.

    Args:
        gate_up: (2F, D). down: (D, F). The others likewise.

    Returns:
        (F,) indices of the other's units, each once: greedily, the most similar pair first.
    """

    def units(gate_up: Tensor, down: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2)
        return torch.cat([F.normalize(part, dim=-1) for part in (gate, up, down.T)], dim=-1)

    similarity = units(gate_up, down) @ units(other_gate_up, other_down).T
    order = torch.empty(len(similarity), dtype=torch.long)
    for _ in range(len(similarity)):
        mine, its = divmod(int(similarity.argmax()), len(similarity))
        order[mine] = its
        similarity[mine], similarity[:, its] = -torch.inf, -torch.inf
    return order


@torch.no_grad()
def _with_mixtures(
    model: LanguageModel,
    keep: Sequence[Tensor],
    make: Callable[[MoE, Tensor], tuple[Tensor, Tensor, Tensor]],
) -> LanguageModel:
    """A copy of the model whose mixtures have the router, gate_up and down that ``make`` makes."""
    smaller = LanguageModel(model.config.replace(n_experts=len(keep[0])))
    weights = model.state_dict()
    for layer, (moe, kept) in enumerate(zip(model.mixtures, keep, strict=True)):
        router, gate_up, down = make(moe, kept)
        prefix = f"layers.{layer}.ffn."
        weights |= {
            f"{prefix}router.weight": router,
            f"{prefix}gate_up": gate_up,
            f"{prefix}down": down,
        }
    smaller.load_state_dict(weights)
    return smaller.eval()
