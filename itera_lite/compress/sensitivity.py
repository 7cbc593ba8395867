"""Measures what four bits cost in each group of matrices, and finds the best mix for a size."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from torch import Tensor

from itera_lite.compress.rounding import matrix_shapes, rounded
from itera_lite.errors import UsageError
from itera_lite.evaluate.bits import batches_of, evaluating, token_losses
from itera_lite.export.types import BLOCK, packed_bytes
from itera_lite.model import LanguageModel
from itera_lite.workers import Workers

UNIT = 32  # bytes: every tensor of a file is padded to a multiple of it
IDLE = 1e-12  # nats a byte
UNITS_AT_MOST = 2**17  # of a budget: above it, sizes are counted in coarser steps
_GROUPS = (  # a matrix's GGUF name without "blk.N." -> what it is part of
    ("embedding", r"token_embd"),
    ("Mamba input", r"ssm_in"),
    ("Mamba output", r"ssm_out"),
    ("attention", r"attn_"),
    ("experts gate and up", r"ffn_(gate|up)_exps"),  # the engine wants one type for both
    ("experts down", r"ffn_down_exps"),
    ("shared expert gate and up", r"ffn_(gate|up)_shexp"),
    ("shared expert down", r"ffn_down_shexp"),
    ("feed-forward gate and up", r"ffn_(gate|up)"),
    ("feed-forward down", r"ffn_down"),
)


@dataclass(frozen=True)
class Group:
    """Matrices that get their type together.

    Attributes:
        name: such as ``layer 2 experts down``.
        matrices: GGUF names.
        bytes: in a file, by type.
        cost: rise of the calibration text's loss, in nats a token, when only this group is stored
            in four bits. Below zero where rounding happens to help.
    """

    name: str
    matrices: tuple[str, ...]
    bytes: Mapping[Type, int]
    cost: float = math.nan

    @property
    def saved(self) -> int:
        """Bytes that four bits save against eight."""
        return self.bytes[Type.Q8_0] - self.bytes[Type.Q4_0]


def groups_of(model: LanguageModel) -> tuple[list[Group], dict[str, Type]]:
    """The groups that can have eight or four bits, and the type of each matrix that can't.

    The latter have rows that blocks of 32 don't divide: they are stored in F16.
    """
    shapes = matrix_shapes(model)
    fixed = {name: Type.F16 for name, shape in shapes.items() if shape[-1] % BLOCK}
    members: dict[str, list[str]] = {}
    for name in shapes:
        if name not in fixed:
            members.setdefault(_group(name), []).append(name)
    groups = []
    for group, names in members.items():
        sizes = {
            kind: sum(packed_bytes(shapes[name], kind) for name in names)
            for kind in (Type.Q8_0, Type.Q4_0)
        }
        groups.append(Group(group, tuple(names), sizes))
    return groups, fixed


def _group(name: str) -> str:
    part = next(group for group, pattern in _GROUPS if re.search(pattern, name))
    found = re.match(r"blk\.(\d+)\.", name)
    return f"layer {found[1]} {part}" if found else part


def sensitivity(
    model: LanguageModel, groups: list[Group], windows: Tensor, workers: Workers | None = None
) -> list[Group]:
    """Measure what four bits cost in each group: plainly rounded, all else as it is.

    Args:
        groups: see `groups_of`.
        windows: (W, L) token ids, the same ones for each group.
        workers: see `mean_loss`.

    Returns:
        The groups with their costs.
    """
    exact = mean_loss(model, windows, workers)
    found = []
    for group in groups:
        only = rounded(model, dict.fromkeys(group.matrices, Type.Q4_0))
        cost = mean_loss(only, windows, workers) - exact
        found.append(replace(group, cost=cost))
    return found


def mean_loss(model: LanguageModel, windows: Tensor, workers: Workers | None = None) -> float:
    """Nats a token on (W, L) token ids.

    Args:
        workers: that share the windows; None: the calling thread does all.
    """

    def nats(part: Tensor) -> float:
        losses, _ = token_losses(model(part[:, :-1]), part[:, 1:])
        return losses.double().sum().item()

    with evaluating(model):
        parts = (workers or Workers()).map(partial(nats, part) for part in batches_of(windows))
    return sum(parts) / (windows.shape[0] * (windows.shape[1] - 1))


def room_above(groups: list[Group], rest: int, max_bytes: int) -> int:
    """Bytes that are left when all groups are in four bits.

    Args:
        rest: bytes of the file that no group is part of.
        max_bytes: of the whole file.

    Raises:
        UsageError: where four bits throughout are too large; the message has their size.
    """
    least = rest + sum(group.bytes[Type.Q4_0] for group in groups)
    if least > max_bytes:
        raise UsageError(
            f"--max-bytes {max_bytes}: expected {least} or more, the size of this file with "
            f"every matrix in 4 bits ({rest:,} bytes of it are tokenizer, keys and what isn't "
            "rounded). Make the model or its vocabulary smaller first"
        )
    return max_bytes - least


def assign(groups: list[Group], room: int) -> dict[str, Type]:
    """Eight or four bits for each matrix: the least cost with which the file fits.

    A knapsack, solved exactly, with costs taken as if they added up: they do nearly, as long as
    they are small.

    Args:
        groups: with their costs, see `sensitivity`.
        room: see `room_above`.
    """
    # A group is worth the loss that it costs in four bits; eight bits weigh what they add.
    unit = UNIT * max(1, math.ceil(room / UNIT / UNITS_AT_MOST))
    capacity = room // unit
    best = np.zeros(capacity + 1)
    taken = np.zeros((len(groups), capacity + 1), dtype=bool)
    for i, group in enumerate(groups):
        weight = -(-group.saved // unit)
        if weight > capacity:
            continue
        # Where rounding seems to cost nothing, or to help, room that is left is still used.
        with_it = best[: capacity + 1 - weight] + max(group.cost, IDLE * group.saved)
        taken[i, weight:] = with_it > best[weight:]
        best[weight:] = np.maximum(best[weight:], with_it)
    kinds: dict[str, Type] = {}
    left = capacity
    for i in reversed(range(len(groups))):
        group, eight = groups[i], bool(taken[i, left])
        left -= -(-group.saved // unit) if eight else 0
        kinds |= dict.fromkeys(group.matrices, Type.Q8_0 if eight else Type.Q4_0)
    return kinds


def calibration(tokens: np.ndarray, seq_len: int, n_tokens: int, least: int) -> Tensor:
    """Windows (W, seq_len) spread evenly over a token stream.

    Args:
        n_tokens: about this many tokens in all, where there are as many.
        least: fewer windows than this are too few.

    Raises:
        UsageError: the stream is too short.
    """
    available = len(tokens) // seq_len
    if available < least:
        raise UsageError(
            f"the calibration text has {len(tokens):,} tokens: expected {least * seq_len:,} or "
            f"more, {least} windows of {seq_len}. Give a larger set with --data, or --method plain"
        )
    wanted = min(available, max(least, n_tokens // seq_len))
    starts = (np.arange(wanted) * available // wanted) * seq_len
    rows = np.stack([tokens[start : start + seq_len] for start in starts])
    return torch.from_numpy(rows.astype(np.int64))
