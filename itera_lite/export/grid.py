"""Weights that lie on a type's grid already, stored as exactly what they are.

Plain rounding takes the scale of a block from its largest weight. Weights that a better method
has rounded may need another scale: it is found here, so that what was chosen survives the export
and every later one.
"""

from __future__ import annotations

import numpy as np
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray

BLOCK = 32
# What the largest weight of a block may be, in steps; the likeliest first. Q4_0 has -8 to 7, and
# a scale of either sign; but for -8 it is symmetric, and a positive scale will do.
_PEAKS = {Type.Q4_0: (-8, *range(7, 0, -1)), Type.Q8_0: tuple(range(127, 0, -1))}
_LEVELS = {Type.Q4_0: (-8, 7), Type.Q8_0: (-127, 127)}
GRIDS = tuple(_PEAKS)


def exact_blocks(
    weights: NDArray[np.float32], kind: Type
) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
    """Which blocks of 32 weights are on the grid of ``kind``, and these as they are stored.

    Args:
        weights: (..., row), rows of a multiple of 32.

    Returns:
        (n,) for each block whether it can be stored without any rounding; (m, bytes) the blocks
        that can. Blocks of zeros are left to plain rounding, which keeps them: they count as on
        the grid only in `is_exact`.
    """
    blocks = weights.reshape(-1, BLOCK)
    low, high = _LEVELS[kind]
    at = np.abs(blocks).argmax(axis=1)
    peak = blocks[np.arange(len(blocks)), at]
    scale = np.zeros(len(blocks), dtype=np.float16)
    steps = np.zeros(blocks.shape, dtype=np.int8)
    todo = np.flatnonzero(peak)
    for k in _PEAKS[kind]:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            most = peak[todo] if k < 0 else np.abs(peak[todo])
            d = (most / np.float32(k)).astype(np.float16)
            hit = (d.astype(np.float32) * np.float32(k) == most) & (d != 0) & np.isfinite(d)
            # Products of a float16 and a few bits are exact in float32, and so is their quotient
            at, d = todo[hit], d[hit]
            q = blocks[at] / d[:, None].astype(np.float32)
            whole = ((q == np.rint(q)) & (q >= low) & (q <= high)).all(axis=1)
        scale[at[whole]], steps[at[whole]] = d[whole], q[whole].astype(np.int8)
        todo = np.setdiff1d(todo, at[whole], assume_unique=True)
    found = scale != 0
    return found, _stored(scale[found], steps[found], kind)


def is_exact(weights: NDArray[np.float32], kind: Type) -> bool:
    """Whether every weight can be stored as ``kind`` without any rounding."""
    if weights.shape[-1] % BLOCK:
        return False
    found, _ = exact_blocks(weights, kind)
    return bool(found[weights.reshape(-1, BLOCK).any(axis=1)].all())


def _stored(scale: NDArray[np.float16], steps: NDArray[np.int8], kind: Type) -> NDArray[np.uint8]:
    if kind == Type.Q8_0:
        values: NDArray[np.uint8] = steps.view(np.uint8)
    else:  # the first half of the block in the low four bits, the second in the high ones
        halves = (steps + 8).astype(np.uint8).reshape(-1, 2, BLOCK // 2)
        values = halves[:, 0] | halves[:, 1] << np.uint8(4)
    return np.concatenate([scale[:, None].view(np.uint8), values], axis=1)
