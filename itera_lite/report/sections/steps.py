"""The part of section 4 on training speed: what `itera bench train` measured."""

from __future__ import annotations

from typing import Any

from itera_lite.report.context import Context
from itera_lite.report.results import ModelResults, get, number
from itera_lite.report.text import (
    MISSING,
    bullets,
    code,
    count,
    escape,
    measured,
    paragraphs,
    percent,
    significant,
    table,
)
from itera_lite.stats.comparison import Comparison, Measurement, Metric, compare

OURS, PEER = "itera-lite", "transformers"  # how the labels of the contenders begin
STEP_SPEED = Metric("step_speed", "Whole training steps", "tokens/s", "higher", "timing", "speed")

EXPLAINED = (
    "Whole training steps (forward, backward, clipping, optimizer) on the same weights and batch, "
    "in turn. `transformers` runs at the faster precision for it, of float32 and bfloat16. The "
    "share is model FLOPs over time, of the matrix-product peak measured in between with the same "
    "precision and threads. The spread is the interquartile range. Ratio and verdict are of the "
    "first row of each model against the others."
)


def training_steps(context: Context) -> str:
    """Speed of training, a row a contender, with the ratio to the fastest of ours."""
    shown = steps_table(context.models)
    return paragraphs(
        f"Training, tokens/s (higher is better):\n\n{shown}" if shown else "",
        EXPLAINED if shown else "",
        bullets(filter(None, map(_measured_on, context.models))),
        context.gap("steps", "training steps beside `transformers`", _has_peer),
    )


def steps_table(models: list[ModelResults]) -> str:
    """A row a contender, ours with the most threads first; empty where nothing was measured."""
    rows = [row for model in models for row in _rows(model)]
    headers = ["Model", "Trained by", "Precision", "tokens/s", "Spread", "Share of the peak",
               "Ratio", "Verdict"]  # fmt: skip
    return table(headers, rows, "lllrrrll") if rows else ""


def against_first(model: ModelResults) -> dict[str, Comparison]:
    """Our training with the most threads, compared with every other contender, by its label."""
    contenders = _contenders(model)
    first = _first(contenders)
    if first is None:
        return {}
    speeds = {k: Measurement.read(get(v, "tokens_per_second")) for k, v in contenders.items()}
    return {
        label: compare(STEP_SPEED, speeds[first], speed, names={"ours": first, "other": label})
        for label, speed in speeds.items()
        if label != first
    }


def _contenders(model: ModelResults) -> dict[str, dict[str, Any]]:
    found = model.training_speed.get("contenders")
    return {
        label: row
        for label, row in (found if isinstance(found, dict) else {}).items()
        if Measurement.read(get(row, "tokens_per_second")) is not None
    }


def _first(contenders: dict[str, dict[str, Any]]) -> str | None:
    ours = [label for label in contenders if label.startswith(OURS)]
    return max(ours, key=lambda label: number(contenders[label], "threads") or 0, default=None)


def _has_peer(model: ModelResults) -> bool:
    contenders = _contenders(model)
    return _first(contenders) is not None and any(k.startswith(PEER) for k in contenders)


def _rows(model: ModelResults) -> list[list[str]]:
    contenders = _contenders(model)
    comparisons = against_first(model)
    order = sorted(contenders, key=lambda label: label in comparisons)  # the first one to the top
    rows = []
    for label in order:
        record, comparison = contenders[label], comparisons.get(label)
        rows.append(
            [
                code(model.name),
                escape(label),
                escape(record.get("precision") or MISSING),
                measured(
                    Measurement.read(record["tokens_per_second"]), "tokens/s", unit_shown=False
                ),
                significant(number(record, "tokens_per_second", "spread")),
                _share(record),
                comparison.ratio_text if comparison else MISSING,
                escape(comparison.verdict) if comparison else MISSING,
            ]
        )
    return rows


def _share(record: dict[str, Any]) -> str:
    share, peak = number(record, "share_of_peak"), number(record, "peak_gflops")
    if share is None:
        return MISSING
    return percent(share) + ("" if peak is None else f" of {significant(peak)} GFLOPS")


def _measured_on(model: ModelResults) -> str:
    """The shape that was timed: it may differ from the model that was trained."""
    record = model.training_speed
    params, batch, length = (number(record, key) for key in ("params", "batch_size", "seq_len"))
    if not _contenders(model) or params is None or batch is None or length is None:
        return ""
    fused = record.get("fused_kernels")
    kernels = "" if fused is None else f", {'with' if fused else 'without'} compiled kernels"
    trained = number(model.params, "total")
    other = "" if trained in (None, params) else f" (the trained model has {count(trained)})"
    return (
        f"Timed for {code(model.name)}: {count(params)} parameters{other}, {count(batch)} "
        f"sequences of {count(length)} random tokens a step{kernels}."
    )
