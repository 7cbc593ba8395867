"""Chooses the float type of the matrix products by measuring both on this processor."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch

from itera_lite.machine.peak import measured_peak
from itera_lite.workers import Workers

Precision = Literal["auto", "bf16", "fp32"]
SECONDS = 0.6  # of each measurement
GAIN = 1.3  # how much faster bfloat16 products must be to be worth their rounding


@dataclass(frozen=True)
class PrecisionChoice:
    """A precision, the matrix-product peak that comes with it (FLOP/s), and the reason."""

    dtype: torch.dtype
    peak: float
    reason: str

    @property
    def name(self) -> str:
        return "bf16" if self.dtype == torch.bfloat16 else "fp32"


def choose(wanted: Precision, device: str, workers: Workers) -> PrecisionChoice:
    """Measure the matrix-product peak of all workers and pick the type of the products.

    Weights, residual stream, norms, state-space scan and loss are float32 in either case. A process
    measures once for each number of workers.
    """
    key = wanted, device, workers.count
    if key not in _choices:
        _choices[key] = _choose(wanted, device, workers)
    return _choices[key]


_choices: dict[tuple[str, str, int], PrecisionChoice] = {}


def _choose(wanted: Precision, device: str, workers: Workers) -> PrecisionChoice:
    def peak(dtype: torch.dtype) -> float:
        measure = partial(measured_peak, dtype, seconds=SECONDS, device=device)
        return sum(workers.map([measure] * (workers.count if device == "cpu" else 1)))

    if wanted == "fp32":
        return PrecisionChoice(torch.float32, peak(torch.float32), "asked for")
    half = peak(torch.bfloat16)
    if wanted == "bf16":
        return PrecisionChoice(torch.bfloat16, half, "asked for")
    full = peak(torch.float32)
    measured = f"bf16 products measured {half / 1e9:.0f}, fp32 {full / 1e9:.0f} GFLOP/s"
    if half > GAIN * full:
        return PrecisionChoice(torch.bfloat16, half, measured)
    return PrecisionChoice(torch.float32, full, measured)
