"""Muon's update of a stack of matrices, each while it is in the cache."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from torch import Tensor

from itera_lite.ops.library import call


class _Step(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in "rows columns iterations".split()),
        ("coefficients", ctypes.POINTER(ctypes.c_float)),
        *((name, ctypes.c_float) for name in "clip momentum rate keep".split()),
    ]


def muon(
    weights: Tensor,
    gradients: Tensor,
    momentum: Tensor,
    coefficients: Sequence[tuple[float, float, float]],
    *,
    clip: float,
    inertia: float,
    rate: float,
    keep: float,
) -> bool:
    """One step of Muon, as `itera_lite.train.optim` defines it.

    Args:
        weights: (K,) int64, the addresses of float32 matrices (m, n), which are updated.
        gradients: (K,) int64, the addresses of their gradients.
        momentum: (K, m, n) float32 and contiguous; updated.
        coefficients: of each iteration of the orthogonalisation.
        clip: factor of the gradients. inertia: share of the momentum that stays.
        rate: of the orthogonal matrix that is subtracted. keep: factor of the weights.

    Returns:
        Whether it was done: False, without a change, on a processor without AVX512-BF16.
    """
    count, rows, columns = momentum.shape
    numbers = [number for each in coefficients for number in each]
    array = (ctypes.c_float * len(numbers))(*numbers)
    step = _Step(rows, columns, len(coefficients), array, clip, inertia, rate, keep)
    return bool(call("muon", weights, gradients, momentum, count, ctypes.byref(step)))
