"""The part of section 4 on training speed: what `itera bench train` measured."""

from __future__ import annotations

from itera_lite.records import RuntimeTraining
from itera_lite.report.context import Context
from itera_lite.report.results import ModelResults
from itera_lite.report.text import (
    MISSING,
    bullets,
    code,
    count,
    escape,
    paragraphs,
    percent,
    rate,
    significant,
    table,
)
from itera_lite.stats.comparison import Comparison, Measurement, Metric, compare

OURS, PEER = "itera-lite", "transformers"  # how the labels of the runtimes begin
STEP_SPEED = Metric("step_speed", "Whole training steps", "tokens/s", "higher", "timing", "speed")

EXPLAINED = (
    "Whole training steps (forward, backward, clipping, optimizer) on the same weights and batch, "
    "in turn; a busy program is one that the benchmark itself ran. `transformers` runs at the "
    "faster precision for it, of float32 and bfloat16. The share is model FLOPs over time, of the "
    "matrix-product peak measured in between with the same precision on as many cores. The spread "
    "is the interquartile range. Ratio and verdict are of the first row of each model against the "
    "others."
)


def training_steps(context: Context) -> str:
    """Speed of training, a row a runtime, with the ratio to the fastest of ours."""
    shown = steps_table(context.models)
    return paragraphs(
        f"Training, tokens/s (higher is better):\n\n{shown}" if shown else "",
        EXPLAINED if shown else "",
        targets_table(context.models),
        bullets(filter(None, map(_measured_on, context.models))),
        context.gap("steps", "training steps beside `transformers`", _has_peer),
    )


def steps_table(models: list[ModelResults]) -> str:
    """A row a runtime, ours with the most threads first; empty where nothing was measured."""
    rows = [row for model in models for row in _rows(model)]
    headers = ["Model", "Trained by", "Precision", "tokens/s", "Spread", "Share of the peak",
               "Ratio", "Verdict"]  # fmt: skip
    return table(headers, rows, "lllrrrll") if rows else ""


def targets_table(models: list[ModelResults]) -> str:
    """What training is meant to reach, and what it does; empty where nothing was measured."""
    rows = [
        [code(model.name), *map(escape, target.cells)]
        for model in models
        if model.training_speed
        for target in model.training_speed.targets
    ]
    return table(["Model", "Target", "Found", "Wanted", "Verdict"], rows, "llrrl") if rows else ""


def against_first(model: ModelResults) -> dict[str, Comparison]:
    """Our training with the most threads, compared with every other runtime, by its label."""
    runtimes = _runtimes(model)
    ours = [label for label in runtimes if label.startswith(OURS)]
    first = max(ours, key=lambda label: runtimes[label].threads, default=None)
    if first is None:
        return {}
    speeds = {k: Measurement.of(row.tokens_per_second) for k, row in runtimes.items()}
    load = model.training_speed and model.training_speed.provenance.load
    return {
        label: compare(
            STEP_SPEED,
            speeds[first],
            speed,
            loads=(load, load),
            names={"ours": first, "other": label},
        )
        for label, speed in speeds.items()
        if label != first
    }


def _runtimes(model: ModelResults) -> dict[str, RuntimeTraining]:
    return model.training_speed.runtimes if model.training_speed else {}


def _has_peer(model: ModelResults) -> bool:
    return any(label.startswith(PEER) for label in against_first(model))


def _rows(model: ModelResults) -> list[list[str]]:
    runtimes, comparisons = _runtimes(model), against_first(model)
    rows = []
    for label in sorted(runtimes, key=lambda label: label in comparisons):  # the first to the top
        row, comparison = runtimes[label], comparisons.get(label)
        peak = f" of {significant(row.peak_gflops)} GFLOPS" if row.peak_gflops else ""
        rows.append(
            [
                code(model.name),
                escape(label),
                escape(row.precision),
                rate(row.tokens_per_second),
                significant(row.tokens_per_second.spread),
                percent(row.share_of_peak) + peak,
                comparison.ratio_text if comparison else MISSING,
                escape(comparison.verdict) if comparison else MISSING,
            ]
        )
    return rows


def _measured_on(model: ModelResults) -> str:
    """The shape that was timed: it may differ from the model that was trained."""
    record = model.training_speed
    if record is None:
        return ""
    total = record.model.params.total
    trained = model.params and model.params.total
    other = "" if trained in (None, total) else f" (the trained model has {count(trained)})"
    return (
        f"Timed for {code(model.name)}: {count(total)} parameters{other}, "
        f"{count(record.batch_size)} sequences of {count(record.seq_len)} random tokens a step, "
        f"{'with' if record.fused_operations else 'without'} compiled kernels."
    )
