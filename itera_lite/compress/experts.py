"""Smaller mixtures of experts: which experts a text uses, and models with fewer of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from itera_lite.data.prepare import Dataset
from itera_lite.errors import DataError
from itera_lite.evaluate.bits import evaluating
from itera_lite.model import LanguageModel
from itera_lite.model.moe import MoE

BATCH = 16  # windows at a time


@dataclass(frozen=True)
class Usage:
    """How much a text uses each expert; a row a layer, each row sums to 1.

    Attributes:
        tokens: (layers, E) share of the tokens' top-k files.
        weight: (layers, E) share of the gate weight: a place counts as much as the expert's
            output does in it.
        read: tokens of text that were read for it.
    """

    tokens: Tensor
    weight: Tensor
    read: int

    def most_used(self, n: int) -> list[Tensor]:
        """The ``n`` experts of each layer with the most gate weight, in their order."""
        return list(self.weight.topk(n, dim=-1).indices.sort(dim=-1).values)


def mixtures(model: LanguageModel) -> list[MoE]:
    """The mixture of each layer; none in a dense model."""
    return [block.ffn for block in model.blocks if isinstance(block.ffn, MoE)]


def measure_usage(model: LanguageModel, dataset: Dataset, seq_len: int, n_tokens: int) -> Usage:
    """Read windows that are evenly spread over the train split, and see where they are sent.

    Args:
        dataset: prepared with the model's tokenizer.
        n_tokens: of text to read at most.

    Raises:
        DataError: where the text doesn't fill one window.
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
    config, moes = model.config, mixtures(model)
    counts = torch.zeros(len(moes), config.n_experts, dtype=torch.float64)
    weights = torch.zeros_like(counts)

    def note(layer: int, _module: object, _inputs: object, logits: Tensor) -> None:
        top, index = logits.float().topk(config.top_k, dim=-1)
        gates = top.softmax(dim=-1).double()
        counts[layer] += torch.bincount(index.flatten(), minlength=config.n_experts)
        weights[layer].index_add_(0, index.flatten(), gates.flatten())

    hooks = [
        moe.router.register_forward_hook(partial(note, layer)) for layer, moe in enumerate(moes)
    ]
    try:
        with evaluating(model):
            for first in range(0, wanted, BATCH):
                rows = [stream[s : s + seq_len].tolist() for s in starts[first : first + BATCH]]
                model.hidden(torch.tensor(rows))
    finally:
        for hook in hooks:
            hook.remove()
    return Usage(
        counts / counts.sum(dim=-1, keepdim=True),
        weights / weights.sum(dim=-1, keepdim=True),
        wanted * seq_len,
    )


def drop(model: LanguageModel, keep: Sequence[Tensor]) -> LanguageModel:
    """The model with these experts of each layer alone, the same number in every layer.

    A token that was sent to a dropped expert goes to its next best one.
    """

    def chosen(moe: MoE, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return moe.router.weight[kept], moe.gate_up[kept], moe.down[kept]

    return _with_mixtures(model, keep, chosen)


def merge(model: LanguageModel, keep: Sequence[Tensor], weight: Tensor) -> LanguageModel:
    """As `drop`, but each expert that goes is averaged into the most similar one that stays.

    The router's rows are averaged likewise. Two experts are similar where the router sends them
    the same inputs: where their rows of it point the same way. The order of the units inside an
    expert means nothing, so they are paired by likeness before they are averaged.

    Args:
        weight: (layers, E), how much each counts in an average: `Usage.weight`.
    """
    shares = iter(weight)

    def merged(moe: MoE, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        share = next(shares).float().clamp(min=1e-9)
        router, gate_up, down = moe.router.weight, moe.gate_up, moe.down
        likeness = F.normalize(router, dim=-1) @ F.normalize(router[kept], dim=-1).T
        group = likeness.argmax(dim=-1)  # (E,), a place in `kept`
        group[kept] = torch.arange(len(kept))
        total = torch.zeros(len(kept)).index_add_(0, group, share)
        sums = [torch.zeros_like(tensor[kept]) for tensor in (router, gate_up, down)]
        for expert, place in enumerate(group.tolist()):
            target = int(kept[place])
            order = paired_units(gate_up[target], down[target], gate_up[expert], down[expert])
            both = torch.cat([order, order + len(order)])  # the gate's rows, then the up rows
            part = share[expert] / total[place]
            sums[0][place] += part * router[expert]
            sums[1][place] += part * gate_up[expert][both]
            sums[2][place] += part * down[expert][:, order]
        return sums[0], sums[1], sums[2]

    return _with_mixtures(model, keep, merged)


def paired_units(
    gate_up: Tensor, down: Tensor, other_gate_up: Tensor, other_down: Tensor
) -> Tensor:
    """For each hidden unit of an expert the unit of the other that is most like it.

    Args:
        gate_up: (2F, D). down: (D, F). The others likewise.

    Returns:
        (F,), each unit of the other once; the likest pair is taken first, then the next.
    """

    def units(gate_up: Tensor, down: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2)
        return torch.cat([F.normalize(part, dim=-1) for part in (gate, up, down.T)], dim=-1)

    likeness = units(gate_up, down) @ units(other_gate_up, other_down).T
    order = torch.empty(len(likeness), dtype=torch.long)
    for _ in range(len(likeness)):
        mine, its = divmod(int(likeness.argmax()), len(likeness))
        order[mine] = its
        likeness[mine], likeness[:, its] = -torch.inf, -torch.inf
    return order


@torch.no_grad()
def _with_mixtures(
    model: LanguageModel,
    keep: Sequence[Tensor],
    make: Callable[[MoE, Tensor], tuple[Tensor, Tensor, Tensor]],
) -> LanguageModel:
    """A copy of the model whose mixtures have the router, gate_up and down that ``make`` gives."""
    smaller = LanguageModel(model.config.replace(n_experts=len(keep[0])))
    weights = model.state_dict()
    for layer, (moe, kept) in enumerate(zip(mixtures(model), keep, strict=True)):
        router, gate_up, down = make(moe, kept)
        prefix = f"layers.{layer}.ffn."
        weights |= {
            f"{prefix}router.weight": router,
            f"{prefix}gate_up": gate_up,
            f"{prefix}down": down,
        }
    smaller.load_state_dict(weights)
    return smaller.eval()
