"""Muon's update of a stack of matrices, each while it is in the cache."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from itera_lite.ops.library import call, has_bf16


class _Step(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in "rows columns iterations".split()),
        ("coefficients", ctypes.POINTER(ctypes.c_float)),
        *((name, ctypes.c_float) for name in "clip momentum rate keep".split()),
    ]


class MuonStep(NamedTuple):
    """The numbers of a step.

    Attributes:
        coefficients: of each iteration of the orthogonalisation.
        clip: factor of the gradients.
        momentum: share of the momentum that stays.
        rate: of the orthogonal matrix that is subtracted.
        keep: factor of the weights.
    """

    coefficients: Sequence[tuple[float, float, float]]
    clip: float
    momentum: float
    rate: float
    keep: float


def muon(weights: Tensor, gradients: Tensor, momentum: Tensor, step: MuonStep) -> None:
    """One step of Muon, as `itera_lite.train.optim` defines it.

    Args:
        weights: (K,) int64, the addresses of float32 matrices (m, n), which are updated.
        gradients: (K,) int64, the addresses of their gradients.
        momentum: (K, m, n) float32 and contiguous; updated.
    """
    count, rows, columns = momentum.shape
    numbers = [number for each in step.coefficients for number in each]
    array = (ctypes.c_float * len(numbers))(*numbers)
    given = _Step(rows, columns, len(step.coefficients), array, *step[1:])
    kind = "b16" if has_bf16() else "f32"  # of the iteration's products
    call(f"muon_{kind}", weights, gradients, momentum, count, ctypes.byref(given))
