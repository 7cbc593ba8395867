"""Plots of the training run: curves, quality against its cost, use of the experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from itera_lite.report.plots import style
from itera_lite.report.results import ModelResults, Results
from itera_lite.report.seeds import Runs, budgets

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BPB = "bits per byte (lower is better)"


def training_curves(results: Results) -> Figure | None:
    """Bits per byte over tokens and over time: training thin, validation thick."""
    models = [m for m in results.models if len(m.series("tokens", "valid_bpb")[0]) > 1]
    if not models:
        return None
    with style.figure(columns=2) as (fig, axes):
        for panel, (column, scale, title, unit) in zip(
            axes[0],
            (
                ("tokens", 1e-6, "By training tokens", "million tokens"),
                ("seconds", 1 / 60, "By training time", "minutes, evaluation not counted"),
            ),
            strict=True,
        ):
            ends = []
            for model in models:
                ink = style.color(model, results.models)
                x, y = _smooth(*model.series(column, "train_bpb"))
                panel.plot([v * scale for v in x], y, color=ink, lw=1, alpha=0.35)
                x, y = model.series(column, "valid_bpb")
                panel.plot([v * scale for v in x], y, color=ink, marker="o", ms=3.5)
                if x:
                    text = f"{style.label(model, results.models)}\n{y[-1]:.3f}"
                    ends.append((y[-1], text, ink))
            panel.set(title=title, xlabel=unit, ylim=_focus(models, start=0.2))
            panel.set_xlim(left=0)
            panel.locator_params(axis="x", nbins=5)
            style.label_ends(panel, ends)
        axes[0, 0].set_ylabel(BPB)
        style.subtitle(fig, "Thick: held-out text.  Thin: training text, smoothed.")
        return fig


def quality_cost(results: Results) -> Figure | None:
    """Held-out bits per byte against training FLOPs and against time, with the floors."""
    models = [m for m in results.models if len(_positive(m, "flops")[0]) > 1]
    if not models:
        return None
    floors = _floors(models)
    with style.figure(columns=2) as (fig, axes):
        for panel, (column, scale, title, unit) in zip(
            axes[0],
            (
                ("flops", 1e-12, "Quality for compute", "training TFLOPs"),
                ("seconds", 1.0, "Quality for time", "training seconds"),
            ),
            strict=True,
        ):
            ends = []
            low, high = _focus(models, start=0.1)
            for model in models:
                x, y = _positive(model, column)
                ink = style.color(model, results.models)
                panel.plot([v * scale for v in x], y, color=ink, marker="o", ms=3.5)
                if x:
                    ends.append((y[-1], style.label(model, results.models), ink))
            panel.set_xscale("log")
            style.plain_log(panel.xaxis)
            panel.set(title=title, xlabel=f"{unit} (log scale)", ylim=(low, high))
            for name, value in floors:
                if low < value < high:
                    panel.axhline(value, color=style.MUTED, lw=1, ls=(0, (4, 3)))
                    panel.annotate(
                        f"{name} {value:.2f}",
                        (0.99, value),
                        xycoords=("axes fraction", "data"),
                        xytext=(0, 3),
                        textcoords="offset points",
                        ha="right",
                        fontsize=9,
                        color=style.MUTED,
                    )
            style.label_ends(panel, ends)
        axes[0, 0].set_ylabel(BPB)
        return fig


def seeds(results: Results) -> Figure | None:
    """Every seed's bits per byte, a row a model.

    A panel a kind of budget: the one with the most models, of several the longest.
    """
    panels: dict[str, tuple[str, list[Runs]]] = {}
    for words, models in budgets(results.seeds):  # by rising length
        kind = models[0][0].budget
        if kind not in panels or len(models) >= len(panels[kind][1]):
            panels[kind] = words, models
    if not panels:
        return None
    rows = max(len(models) for _, models in panels.values())
    with style.figure(columns=len(panels), height=0.5 * rows + 1.8) as (fig, axes):
        for panel, (words, models) in zip(axes[0], panels.values(), strict=True):
            for row, runs in enumerate(models):
                values = [run.valid_bpb for run in runs]
                ink = style.SHADES[runs[0].family][0]
                panel.plot(values, [row] * len(values), "o", color=ink, ms=9, alpha=0.65, mew=0)
            labels = [f"{first.family.capitalize()} {first.size}" for first, *_ in models]
            panel.set(title=f"After {words}", xlabel=BPB, ylim=(len(models) - 0.5, -0.5))
            panel.set_yticks(range(len(models)), labels)
            panel.tick_params(axis="y", labelcolor=style.INK)
            panel.margins(x=0.15)
            panel.grid(axis="y", visible=False)
        return fig


def position(results: Results) -> Figure | None:
    """Loss over the position in the document: what a model makes of a longer context."""
    curves = {m.name: m.evaluation.by_position for m in results.models if m.evaluation}
    models = [m for m in results.models if len(curves.get(m.name, ())) > 2]
    if not models:
        return None
    with style.figure() as (fig, axes):
        panel = axes[0, 0]
        ends = []
        for model in models:
            ink = style.color(model, results.models)
            x, y = zip(*curves[model.name], strict=True)
            panel.plot(x, y, color=ink, marker="o", ms=4.5)
            ends.append((y[-1], style.label(model, results.models), ink))
        panel.set_xscale("log", base=2)
        longest = max((curves[m.name] for m in models), key=len)
        style.plain_log(panel.xaxis, [x for x, _ in longest][:: 1 + len(longest) // 10])
        panel.set_title("Held-out loss by position in the document")
        panel.set(xlabel="tokens into the document, up to (log scale)", ylabel="nats per token")
        style.label_ends(panel, ends)
        return fig


def experts(results: Results) -> Figure | None:
    """Share of tokens of each expert in each layer, and the balance in training: first model."""
    loads = {m.name: m.summary.expert_load for m in results.models if m.summary}
    models = [m for m in results.models if loads.get(m.name)]
    if not models:
        return None
    model = models[0]
    load = loads[model.name]
    tokens, largest = model.series("tokens", "expert_load_max")
    width = max(len(row) for row in load)
    with style.figure(columns=2) as (fig, axes):
        heat, curve = axes[0]
        top = max(max(row) * len(row) for row in load)
        grid = [
            [share * len(row) for share in row] + [float("nan")] * (width - len(row))
            for row in load
        ]
        limit = max(2.0, top)
        image = heat.imshow(grid, cmap="Blues", vmin=0, vmax=limit, aspect="auto")
        for i, row in enumerate(grid):
            for j, value in enumerate(row[: len(load[i])]):
                if width <= 16:
                    digits, size = (2, 10) if width <= 8 else (1, 8)
                    heat.text(
                        j, i, f"{value:.{digits}f}", ha="center", va="center", fontsize=size,
                        color="white" if value > 0.6 * limit else style.INK,
                    )  # fmt: skip
        if width > 16:  # too narrow for numbers in the cells
            fig.colorbar(image, ax=heat, shrink=0.9, pad=0.03)
        heat.set_title("Use of each expert, end of training")
        heat.set(xlabel="expert   (1 = its even share of the tokens)", ylabel="layer")
        shown = [i for i in range(width) if width <= 16 or (i + 1) % 4 == 0]
        heat.set_xticks(shown, [str(i + 1) for i in shown])
        heat.set_yticks(range(len(load)), [str(i + 1) for i in range(len(load))])
        heat.grid(False)
        heat.spines[:].set_visible(False)
        ink = style.color(model, results.models)
        curve.plot([t * 1e-6 for t in tokens], largest, color=ink)
        curve.axhline(1, color=style.MUTED, lw=1, ls=(0, (4, 3)))
        curve.annotate("perfect balance", (0.99, 1), xycoords=("axes fraction", "data"),
                       xytext=(0, 4), textcoords="offset points", ha="right", fontsize=9,
                       color=style.MUTED)  # fmt: skip
        curve.set_title("Busiest expert, mean over layers")
        curve.set(xlabel="million tokens", ylabel="times its even share")
        curve.set_xlim(left=0)
        curve.set_ylim(0.9, max([1.5, *largest]) * 1.05)
        if len(models) > 1:  # one is shown; the others are told in words
            style.subtitle(fig, model.name)
        return fig


def _positive(model: ModelResults, column: str) -> tuple[list[float], list[float]]:
    """Held-out bits per byte over a column, without the rows at zero (log axes)."""
    x, y = model.series(column, "valid_bpb")
    kept = [(a, b) for a, b in zip(x, y, strict=True) if a > 0]
    return [a for a, _ in kept], [b for _, b in kept]


def _smooth(x: list[float], y: list[float], decay: float = 0.9) -> tuple[list[float], list[float]]:
    """Running mean with exponential weights, without the pull of the first value."""
    smooth, total, weight = [], 0.0, 0.0
    for value in y:
        total = decay * total + (1 - decay) * value
        weight = decay * weight + (1 - decay)
        smooth.append(total / weight)
    return x, smooth


def _focus(models: list[ModelResults], start: float) -> tuple[float, float]:
    """Limits that show the end of training well: the first part may run off the top.

    Args:
        models: Those drawn.
        start: Share of the evaluations that need not be seen.
    """
    values = [v for model in models if (v := model.series("tokens", "valid_bpb")[1])]
    low = min(min(v) for v in values)
    high = max(max(v[int(len(v) * start) :]) for v in values)
    margin = 0.06 * (high - low) or 0.05
    return low - margin, high + margin


def _floors(models: list[ModelResults]) -> list[tuple[str, float]]:
    """Bits per byte of the compressors, from the first evaluation that has them."""
    for model in models:
        if model.evaluation and model.evaluation.baselines:
            return [(name, found.bpb) for name, found in model.evaluation.baselines.items()]
    return []
