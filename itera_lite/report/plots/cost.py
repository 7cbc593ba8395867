"""Plots of what a model costs to run: speed, latency, memory, and the compression ladder."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING

from itera_lite.report.ladder import costs_of
from itera_lite.report.metrics import latencies, speeds, state_bytes
from itera_lite.report.plots import style
from itera_lite.report.results import Results
from itera_lite.stats.comparison import Measurement

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def speed(results: Results) -> Figure | None:
    """Tokens a second at batch 1, prefill and decoding, a group of bars a context length."""
    models = [m for m in results.models if m.benchmark]
    if not models:
        return None
    with style.figure(columns=2) as (fig, axes):
        for panel, (kind, title) in zip(
            axes[0],
            (("prefill", "Reading a prompt (prefill)"), ("decode", "Writing (decoding)")),
            strict=True,
        ):
            rates = [
                {
                    c: Measurement.of_samples(s.samples)
                    for (b, c), s in speeds(m, kind).items()
                    if b == 1
                }
                for m in models
            ]
            contexts = sorted({c for table in rates for c in table})
            inks = [style.color(m, results.models) for m in models]
            _bars(panel, inks, contexts, rates)
            panel.set(title=title, xlabel="context, tokens (batch 1)")
        axes[0, 0].set_ylabel("tokens/s (higher is better)")
        style.legend(fig, models, results.models)
        return fig


def latency(results: Results) -> Figure | None:
    """Milliseconds a decoded token over the context length: median and 99th percentile."""
    tables = {m.name: latencies(m) for m in results.models}
    models = [m for m in results.models if tables[m.name]]
    if not models:
        return None
    with style.figure() as (fig, axes):
        panel = axes[0, 0]
        ends = []
        contexts = sorted({c for m in models for c in tables[m.name]})
        for model in models:
            ink = style.color(model, results.models)
            x, steps = zip(*tables[model.name].items(), strict=True)
            middle = [step.p50 for step in steps]
            panel.plot(x, middle, color=ink, marker="o", ms=6)
            slow = [step.p99 for step in steps]
            panel.plot(x, slow, color=ink, lw=1.3, ls=(0, (3, 2)), alpha=0.8)
            ends.append((middle[-1], style.label(model, results.models), ink))
        panel.set_xscale("log", base=2)
        style.plain_log(panel.xaxis, contexts)
        panel.set_ylim(bottom=0)
        panel.set_title("Latency per token, batch 1")
        panel.set(xlabel="context, tokens (log scale)", ylabel="ms per token (lower is better)")
        style.label_ends(panel, ends)
        panel.set_title("solid: median   dashed: 99th percentile", loc="right", fontsize=10,
                        fontweight="normal", color=style.MUTED)  # fmt: skip
        return fig


def memory(results: Results) -> Figure | None:
    """Weights, decoding state over the context length, peak resident memory."""
    found = {m.name: m.benchmark.memory for m in results.models if m.benchmark}
    models = [m for m in results.models if m.name in found]
    if not models:
        return None
    with style.figure(columns=3, height=3.7) as (fig, axes):
        weights, state, peak = axes[0]
        for panel, key, title in (
            (weights, "weights_bytes", "Weights"),
            (peak, "peak_rss_bytes", "Peak resident"),
        ):
            values = [Measurement.of(getattr(found[m.name], key)) for m in models]
            for place, (model, value) in enumerate(zip(models, values, strict=True)):
                if value is None:
                    continue
                ink = style.color(model, results.models)
                panel.bar(place, value.value / 1e6, color=ink, width=0.62)
                _whisker(panel, place, value, 1e-6)
                panel.annotate(
                    f"{value.value / 1e6:.3g} MB", (place, value.high / 1e6), xytext=(0, 4),
                    textcoords="offset points", ha="center", fontweight="bold", color=ink,
                )  # fmt: skip
            panel.set(title=title, ylabel="MB")
            panel.margins(y=0.14)
            style.model_ticks(panel, models, results.models)
        ends, contexts = [], set()
        for model in models:
            table = {c: b for c, b in state_bytes(model).items() if b > 0}
            if table:
                ink = style.color(model, results.models)
                sizes = [b / 1e6 for b in table.values()]
                state.plot(list(table), sizes, color=ink, marker="o", ms=5)
                ends.append((sizes[-1], style.label(model, results.models), ink))
                contexts |= set(table)
        state.set(title="State of one sequence", xlabel="context, tokens", ylabel="MB (log scale)")
        if contexts:
            state.set_xscale("log", base=2)
            state.set_yscale("log")
            style.plain_log(state.xaxis, sorted(contexts))
            style.plain_log(state.yaxis)
            style.label_ends(state, ends)
        return fig


def ladder(results: Results) -> Figure | None:
    """Every rung of the compression ladder: quality against each measured cost."""
    if results.ladder is None:
        return None
    rungs, costs = results.ladder.rungs, costs_of(results.ladder.rungs)[:4]
    quantized = results.ladder.quantized
    with style.figure(columns=2, rows=2, height=7.2) as (fig, axes):
        for panel, cost in zip(axes.flat, costs, strict=True):
            points = [
                (cost.of(rung) * cost.scale, rung.bpb.median, i)
                for i, rung in enumerate(rungs)
                if cost.of(rung) > 0
            ]
            if not points:
                panel.set_visible(False)
                continue
            panel.plot([p[0] for p in points], [p[1] for p in points], color=style.GRID, lw=1.5)
            for x, y, name in _together(points):
                panel.plot(x, y, "o", ms=15 + 5 * (len(name) > 2), mew=0,
                           color=style.SHADES["itera"][0])  # fmt: skip
                panel.annotate(name, (x, y), ha="center", va="center_baseline", color="white",
                               fontsize=9, fontweight="bold")  # fmt: skip
            if (
                quantized is not None and cost.of(quantized) > 0
            ):  # its quality is nearly that of rung 0
                x = cost.of(quantized) * cost.scale
                panel.plot(x, quantized.bpb.median, "s", ms=9, mew=0, color=style.MUTED)
            panel.set_xscale("log")
            few, many = min(p[0] for p in points), max(p[0] for p in points)
            decades = range(math.floor(math.log10(few)), math.ceil(math.log10(many)) + 1)
            style.plain_log(panel.xaxis, [10.0**d for d in decades] if many > 200 * few else None)
            panel.axhline(rungs[0].bpb.median, color=style.MUTED, lw=1, ls=(0, (4, 3)))
            panel.set(xlabel=f"{cost.label}, {cost.unit} (log scale)", ylabel="bits per byte")
            panel.margins(0.12)
        names = "   ".join(f"{i}: {rung.name}" for i, rung in enumerate(rungs))
        square = "" if quantized is None else f"; square: {quantized.name}"
        style.subtitle(fig, textwrap.fill(f"{names}   (dashed: quality of rung 0{square})", 112))
        return fig


def _together(points: list[tuple[float, float, int]]) -> list[tuple[float, float, str]]:
    """Rungs (cost, quality, number) that would lie on one another share a mark: ``4-6``."""
    wide = math.log(max(x for x, _, _ in points) / min(x for x, _, _ in points)) or 1.0
    high = max(y for _, y, _ in points) - min(y for _, y, _ in points) or 1.0
    groups: list[list[tuple[float, float, int]]] = []
    for point in points:
        x, y, _ = groups[-1][0] if groups else point
        near = abs(math.log(point[0] / x)) < 0.05 * wide and abs(point[1] - y) < 0.05 * high
        if groups and near:
            groups[-1].append(point)
        else:
            groups.append([point])
    return [
        (
            group[0][0],
            group[0][1],
            "-".join(dict.fromkeys(str(g[2]) for g in (group[0], group[-1]))),
        )
        for group in groups
    ]


def _bars(
    panel: Axes,
    inks: list[str],
    contexts: list[int],
    tables: list[dict[int, Measurement]],
) -> None:
    width = 0.8 / len(inks)
    for i, (ink, table) in enumerate(zip(inks, tables, strict=True)):
        for group, context in enumerate(contexts):
            if (value := table.get(context)) is None:
                continue
            place = group + (i - (len(inks) - 1) / 2) * width
            panel.bar(place, value.value, width=width * 0.92, color=ink)
            _whisker(panel, place, value)
            panel.annotate(
                style.short(value.value), (place, value.high), xytext=(0, 3), ha="center",
                textcoords="offset points", fontsize=8.5 if len(inks) < 3 else 7, color=ink,
            )  # fmt: skip
    panel.set_xticks(range(len(contexts)), [f"{c:,}" for c in contexts])
    if panel.get_ylim()[1] >= 1e4:
        panel.yaxis.set_major_formatter(lambda value, _: f"{value / 1e3:g}k" if value else "0")
    else:
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:,.4g}")
    panel.grid(axis="x", visible=False)
    panel.margins(y=0.12)


def _whisker(panel: Axes, x: float, value: Measurement, scale: float = 1.0) -> None:
    """The interval of a measurement as a thin bar."""
    if value.repeats > 1:
        middle = value.value * scale
        below, above = middle - value.low * scale, value.high * scale - middle
        panel.errorbar(
            x, middle, yerr=[[below], [above]], color=style.INK, lw=1.1, capsize=3
        )  # fmt: skip
