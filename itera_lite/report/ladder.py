"""What the report reads from ``results/ladder.json``: a list of rungs, the reference first.

A rung is an object with a ``name``, its ``bpb`` on held-out text, and any of the
costs below. A value is a number or a STAT (its median counts). Beside the rungs the file holds
``targets``: what the last rung reaches against the first, each with its verdict.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from itera_lite.report.text import fixed
from itera_lite.stats.comparison import Measurement


@dataclass(frozen=True)
class RungCost:
    """A measured cost of a rung; lower is better for all of them."""

    key: str
    label: str
    unit: str
    scale: float = 1.0  # from the file's unit to the one shown


RUNG_COSTS = (
    RungCost("bytes_on_disk", "Size on disk", "MB", 1e-6),
    RungCost("peak_rss_bytes", "Peak resident memory", "MB", 1e-6),
    RungCost("cpu_seconds_per_kb", "CPU time per 1,000 bytes of text", "s"),
    RungCost("flops_per_byte", "FLOPs per byte of text", "MFLOPs", 1e-6),
    RungCost("joules_per_kb", "Energy per 1,000 bytes of text", "J"),
    RungCost("ms_per_byte", "Time per byte of text", "ms"),
    RungCost("train_minutes", "Time to train", "min"),
)


def rung_value(rung: dict[str, Any], key: str) -> float | None:
    """The number of a rung, in the file's unit; None where it wasn't measured."""
    value = Measurement.read(rung.get(key))
    return None if value is None else value.value


def rung_quality(rung: dict[str, Any]) -> str:
    """Bits per byte, with the range of the seeds where a rung was trained with several."""
    value = Measurement.read(rung.get("bpb"))
    if value is None or value.repeats == 1:
        return fixed(value and value.value)
    return f"{fixed(value.value)} ({fixed(value.low)} to {fixed(value.high)})"


def seeds_of(rungs: list[dict[str, Any]]) -> str:
    """What the ranges in a table of rungs are; empty where there are none."""
    counts = {v.repeats for rung in rungs if (v := Measurement.read(rung.get("bpb")))}
    most = max(counts, default=1)
    return f"Bits per byte: the median of {most} seeds, and their range." if most > 1 else ""
