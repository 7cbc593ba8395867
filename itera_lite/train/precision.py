"""Chooses the float type of the matrix products by measuring both on this processor."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch

from itera_lite.machine.peak import measured_peak

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


def choose(wanted: Precision, device: str) -> PrecisionChoice:
    """Measure the matrix-product peak and pick the type of the products.

    Weights, residual stream, norms, state-space scan and loss are float32 in either case. A process
    measures once for each number of threads.
    """
    return _choose(wanted, device, torch.get_num_threads())


@cache
def _choose(wanted: Precision, device: str, threads: int) -> PrecisionChoice:
    if wanted == "fp32":
        peak = measured_peak(torch.float32, seconds=SECONDS, device=device)
        return PrecisionChoice(torch.float32, peak, "asked for")
    half = measured_peak(torch.bfloat16, seconds=SECONDS, device=device)
    if wanted == "bf16":
        return PrecisionChoice(torch.bfloat16, half, "asked for")
    full = measured_peak(torch.float32, seconds=SECONDS, device=device)
    measured = f"bf16 products measured {half / 1e9:.0f}, fp32 {full / 1e9:.0f} GFLOP/s"
    if half > GAIN * full:
        return PrecisionChoice(torch.bfloat16, half, measured)
    return PrecisionChoice(torch.float32, full, measured)
