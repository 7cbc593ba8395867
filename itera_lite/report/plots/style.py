"""One look for all plots: colours that colour-blind readers tell apart, direct labels, units.

matplotlib is imported inside the functions, so that `import itera_lite` stays quick,
and figures are made without pyplot: no window, no global state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itera_lite.report.results import ModelResults

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, darkened a little where it must carry text on white.
SHADES = {
    "itera": ("#0067A5", "#4FA3D8", "#003A5D"),
    "transformer": ("#C75000", "#F08A4B", "#7A3100"),
    None: ("#555555", "#888888", "#222222"),
}
INK, MUTED, GRID = "#1F2328", "#656D76", "#E4E7EB"
WIDTH = 9.0  # inches; 1,440 pixels at DPI, shown at about 900 in a README
DPI = 160

RC: Any = {
    "figure.facecolor": "white",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same plots everywhere
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 10.5,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.edgecolor": "#C9CFD6",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelpad": 6,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 2.2,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
}


@contextmanager
def figure(columns: int = 1, rows: int = 1, height: float = 3.9) -> Iterator[tuple[Figure, Any]]:
    """A figure in the common style and its axes, an array (rows, columns)."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with matplotlib.rc_context(RC):
        layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, wspace=0.06)
        fig = Figure(figsize=(WIDTH, height), dpi=DPI, layout=layout)
        FigureCanvasAgg(fig)
        yield fig, fig.subplots(rows, columns, squeeze=False)


def save(fig: Figure, path: Path) -> Path:
    """Write the figure as PNG, byte for byte the same for the same numbers."""
    import io

    from itera_lite.files import write_bytes

    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", metadata={"Software": None})
    return write_bytes(path, buffer.getvalue())


def color(model: ModelResults, models: Sequence[ModelResults]) -> str:
    """Its family's colour; a second or third model of a family gets another shade.

    Args:
        model: One of ``models``.
        models: All of the report, drawn or not, so that a model looks the same in every plot.
    """
    siblings = [m.name for m in models if m.family == model.family]
    shades = SHADES[model.family]
    return shades[siblings.index(model.name) % len(shades)]


def label(model: ModelResults, models: Sequence[ModelResults]) -> str:
    """``Itera`` where all ``models`` (of the report) are of one size, else with the size."""
    family = {"itera": "Itera", "transformer": "Transformer"}.get(model.family or "")
    if family is None:
        return model.name
    alone = sum(m.family == model.family for m in models) == 1
    if alone and len({m.size for m in models}) == 1:
        return family
    return f"{family} {model.size or model.name}"


def label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]], *, gap: float = 0.075) -> None:
    """Write each line's name at the right edge, at its height, moved apart where they overlap.

    Args:
        axes: Its limits must be final.
        ends: (y, text, colour) of each line's last point.
        gap: Height of a line of text as a share of the axes.
    """
    to_share = axes.transData + axes.transAxes.inverted()
    heights = [gap * (text.count("\n") + 1) for _, text, _ in ends]
    wanted = [float(to_share.transform((1, y))[1]) for y, _, _ in ends]
    for place, (_, text, ink) in zip(spread(wanted, heights), ends, strict=True):
        axes.annotate(
            text,
            (1, place),
            xycoords="axes fraction",
            xytext=(6, 0),
            textcoords="offset points",
            color=ink,
            fontweight="bold",
            fontsize=10,
            va="center",
            annotation_clip=False,
        )


def spread(wanted: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Centres near ``wanted`` for labels of these heights, so that none overlaps another."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    groups: list[list[int]] = []
    for index in order:
        groups.append([index])
        while len(groups) > 1 and _top(groups[-2], wanted, heights) > _bottom(
            groups[-1], wanted, heights
        ):
            groups[-2:] = [groups[-2] + groups[-1]]
    places = [0.0] * len(wanted)
    for group in groups:
        edge = _bottom(group, wanted, heights)
        for index in group:
            places[index] = edge + heights[index] / 2
            edge += heights[index]
    return places


def _middle(group: list[int], wanted: Sequence[float]) -> float:
    return sum(wanted[i] for i in group) / len(group)


def _bottom(group: list[int], wanted: Sequence[float], heights: Sequence[float]) -> float:
    return _middle(group, wanted) - sum(heights[i] for i in group) / 2


def _top(group: list[int], wanted: Sequence[float], heights: Sequence[float]) -> float:
    return _middle(group, wanted) + sum(heights[i] for i in group) / 2


def plain_log(axis: Any, ticks: Sequence[float] | None = None) -> None:
    """Plain numbers, not powers of ten, on a logarithmic axis: at ``ticks``, or 1, 2, 5, 10 …"""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    axis.set_minor_locator(NullLocator())
    axis.set_major_locator(FixedLocator(list(ticks)) if ticks else LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def model_ticks(axes: Axes, models: Sequence[ModelResults], every: Sequence[ModelResults]) -> None:
    """The names of ``models`` (of ``every`` one) below bars at 0, 1, 2 …, slanted if many."""
    axes.set_xticks(range(len(models)), [label(m, every) for m in models])
    axes.tick_params(axis="x", labelcolor=INK)
    if len(models) > 2:
        for text in axes.get_xticklabels():
            text.set(rotation=35, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.6, len(models) - 0.4)
    axes.grid(axis="x", visible=False)


def subtitle(fig: Figure, text: str) -> None:
    """A quiet line above the panels."""
    fig.suptitle(text, x=0.01, ha="left", fontsize=10, color=MUTED)


def legend(fig: Figure, models: Sequence[ModelResults], every: Sequence[ModelResults]) -> None:
    """The colours of ``models`` (of ``every`` one) above the panels."""
    from matplotlib.patches import Patch

    handles: list[Any] = [Patch(color=color(m, every), label=label(m, every)) for m in models]
    fig.legend(
        handles=handles,
        loc="outside upper left",
        ncols=len(models),
        labelcolor="linecolor",
        handlelength=1,
        handleheight=1,
        prop={"weight": "bold", "size": 10.5},
    )


def short(value: float) -> str:
    """``128``, ``1K``, ``8K``, ``0.05``, ``2.5M``: for ticks and bar labels."""
    for step, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= step:
            return f"{value / (1e3 if suffix == 'k' else step):.3g}{suffix}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
