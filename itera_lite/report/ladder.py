"""The costs of the ladder's rungs, and their quality, as the report shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from itera_lite.records import Rung
from itera_lite.report.text import fixed
from itera_lite.stats.comparison import Measurement
from itera_lite.stats.samples import Stat


@dataclass(frozen=True)
class RungCost:
    """A measured cost of a rung; lower is better for all of them."""

    key: str
    label: str
    unit: str
    scale: float = 1.0  # from the record's unit to the one shown

    def of(self, rung: Rung) -> float:
        """The cost of a rung in the record's unit; of a repeated measurement the median."""
        value: float | Stat = getattr(rung, self.key)
        return value.median if isinstance(value, Stat) else value


DISK = RungCost("bytes_on_disk", "Size on disk", "MB", 1e-6)
CPU = RungCost("cpu_seconds_per_kb", "CPU time per 1,000 bytes of text", "s")
RUNG_COSTS = (
    DISK,
    RungCost("peak_rss_bytes", "Peak resident memory", "MB", 1e-6),
    CPU,
    RungCost("flops_per_byte", "FLOPs per byte of text", "MFLOPs", 1e-6),
    RungCost("joules_per_kb", "Energy per 1,000 bytes of text", "J"),
    RungCost("ms_per_byte", "Time per byte of text", "ms"),
    RungCost("train_minutes", "Time to train", "min"),
)


def rung_quality(rung: Rung) -> str:
    """Bits per byte, with the range of the seeds where a rung was trained with several."""
    value = Measurement.of_samples(rung.bpb.samples)
    if value.repeats == 1:
        return fixed(value.value)
    return f"{fixed(value.value)} ({fixed(value.low)} to {fixed(value.high)})"


def seeds_of(rungs: Sequence[Rung]) -> str:
    """What the ranges in a table of rungs are; empty where there are none."""
    most = max(rung.bpb.repeats for rung in rungs)
    return f"Bits per byte: the median of {most} seeds, and their range." if most > 1 else ""
