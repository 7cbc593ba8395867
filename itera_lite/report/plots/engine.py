"""The plot of the native engine: decoded tokens a second, a bar a runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

from itera_lite.report.plots import style
from itera_lite.report.results import ModelResults, Results
from itera_lite.report.sections.engine import decode_speeds

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def engine(results: Results) -> Figure | None:
    """Tokens a second of every runtime and type of weights, on a logarithmic axis."""
    speeds = {model.name: _speeds(model) for model in results.models}
    models = [model for model in results.models if speeds[model.name]]
    if not models:
        return None
    bars = max(len(speeds[model.name]) for model in models)
    columns = min(2, len(models))
    lines = -(-len(models) // columns)
    with style.figure(columns, lines, height=lines * (1.4 + 0.34 * bars)) as (fig, axes):
        highest = max(max(speeds[model.name].values()) for model in models)
        lowest = min(min(speeds[model.name].values()) for model in models)
        for panel in axes.flat[len(models) :]:
            panel.set_axis_off()
        for panel, model in zip(axes.flat, models, strict=False):
            ranked = sorted(speeds[model.name].items(), key=lambda item: item[1])
            ink = style.color(model, results.models)
            for place, (name, speed) in enumerate(ranked):
                ours = name.startswith("itera-lite")
                panel.barh(place, speed, color=ink, alpha=1.0 if ours else 0.4, height=0.7)
                panel.annotate(
                    f"{speed:,.0f}",
                    (speed, place),
                    xytext=(4, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=9.5,
                    color=style.INK,
                )
            panel.set_yticks(range(len(ranked)), [name for name, _ in ranked])
            panel.tick_params(axis="y", labelcolor=style.INK, labelsize=9.5)
            panel.set_xscale("log")
            panel.set_xlim(lowest / 2, highest * 5)
            panel.grid(axis="y", visible=False)
            style.plain_log(panel.xaxis, [10**i for i in range(1, 7)])
            panel.set(title=model.name, xlabel="decoded tokens/s (higher is better)")
        return fig


def _speeds(model: ModelResults) -> dict[str, float]:
    return {
        f"{runtime} {kind.upper()}": speed.tokens_per_second.median
        for kind, runtime, speed in decode_speeds(model)
        if speed.tokens_per_second.median > 0
    }
