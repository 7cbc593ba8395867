"""Compare whole reports and the numbers of every plot with files that a person has read.

    python -m tests.report.test_expected    # writes them again; read the difference before a commit

The other tests of this folder check single rules. These find any change of a sign, a direction, a
unit, a constant or a word. The records are invented (`synthetic`), in several states: everything
measured, sizes and a compressed model, a Transformer that wins, a ladder alone, one model alone.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from itera_lite.machine.provenance import Machine
from itera_lite.records import (
    Benchmark,
    Decode,
    Evaluation,
    Ladder,
    Record,
    Seeds,
    Summary,
    TrainingSpeed,
    read_any,
)
from itera_lite.report.build import to_markdown
from itera_lite.report.filter import filter_notes, filter_rows
from itera_lite.report.plots import PLOTS, style
from itera_lite.report.plots.scores import draw_scores
from itera_lite.report.results import Results, load_results
from itera_lite.report.seeds import seeds_table
from itera_lite.report.table import comparison_table
from itera_lite.stats.histogram import Histogram
from itera_lite.stats.targets import Target

from .synthetic import filtering, seed_run, write_ladder, write_model, write_results, write_seeds

EXPECTED = Path(__file__).parent / "expected"
OURS, OTHER = "itera_lite_tiny", "transformer_tiny"


def change(path: Path, edit: Callable[[Any], None]) -> None:
    """Read a record from a file, let ``edit`` change the object, and write it again."""
    record: Record = read_any(path)
    edit(record)
    record.write(path)


def whole(folder: Path) -> None:
    write_results(folder)
    write_seeds(folder)
    write_ladder(folder, in_llama=True)


def other_wins(folder: Path) -> None:
    """The Transformer is better at everything that varies; one was measured on a busy machine."""
    write_results(
        folder, itera_bpb=0.82, transformer_bpb=0.77, itera_speed=600.0, transformer_speed=1900.0
    )
    write_seeds(folder, gap=-0.05)
    write_ladder(folder, worse=0.1, in_llama=True)

    def worse(ladder: Ladder) -> None:
        for target in (*ladder.targets, *ladder.quantized_targets):
            target.verdict, target.reason = "missed", "the quality is lower"
        ladder.targets[0].goal, ladder.targets[0].goal_verdict = 300.0, "missed"
        assert ladder.steadiness and ladder.teaching
        ladder.steadiness.verdict = "missed"
        ladder.teaching.taught_bpb, ladder.teaching.teacher_minutes = None, None
        ladder.rungs[-1].outside_teacher = "somebody's"
        ladder.rungs[-1].train_minutes = 35.0

    def busy(record: Benchmark | Summary | TrainingSpeed) -> None:
        record.provenance.load_by_others = 0.9

    change(folder / "ladder.json", worse)
    for kind in ("benchmark", "summary", "training_speed"):
        change(folder / f"{OURS}_{kind}.json", busy)

    def uneven(record: Summary) -> None:
        record.expert_load = [[0.7, 0.1, 0.1, 0.1]] * 4
        assert record.training
        record.training.mfu = 0.2

    change(folder / f"{OURS}_summary.json", uneven)


def sizes(folder: Path) -> None:
    """Two presets, one of them without its pair, a compressed model, and seeds of both sizes."""
    write_results(folder)
    write_model(folder, "itera_lite_small", "itera", bpb=0.70, speed=500, partner="", seed=1)
    write_model(folder, "itera_cut_tiny", "itera", bpb=0.78, speed=1500, partner="", seed=2)

    def wide(record: Summary) -> None:
        record.expert_load = [[0.08, 0.01, *[0.91 / 22] * 22]] * 4

    change(folder / f"{OURS}_summary.json", wide)

    def cut(record: Summary) -> None:
        record.model.made = "compressed"
        record.training, record.expert_load = None, []

    def here(record: Benchmark | Decode) -> None:
        record.provenance.machine = Machine(
            cpu="Another CPU", cores=4, threads=4, isa=[], memory_bytes=None, os="Linux"
        )
        if isinstance(record, Benchmark):
            record.energy.method, record.energy.watts = "rapl", None
        else:
            record.targets = [
                Target("a", "Low", "at most", 2, unit="ms", value=1.5, verdict="met"),
                Target("b", "Share", "at least", 0.5, unit="%", goal=0.9, value=0.7, low=0.4,
                       high=0.8, verdict="not clear", goal_verdict="missed"),
            ]  # fmt: skip

    change(folder / "itera_cut_tiny_summary.json", cut)
    for kind in ("benchmark", "decode"):
        change(folder / f"itera_lite_small_{kind}.json", here)


def ladder_alone(folder: Path) -> None:
    write_ladder(folder)


def one_alone(folder: Path) -> None:
    """Only a training, of a single model: everything else is missing, with its command."""
    write_results(folder)
    for path in folder.iterdir():
        if path.name not in (f"{OURS}_summary.json", f"{OURS}_metrics.csv"):
            path.unlink()


def without_pairs(folder: Path) -> None:
    """Five Itera models, the first without a score."""
    for number, size in enumerate(("pico", "nano", "tiny", "small", "base")):
        write_model(
            folder, f"m{number}_{size}", "itera", bpb=0.7 + number / 100, speed=500, partner=""
        )
    for path in folder.iterdir():
        if not path.name.endswith("_summary.json"):
            path.unlink()

    def unscored(record: Summary) -> None:
        record.valid = None  # type: ignore[assignment]

    change(folder / "m0_pico_summary.json", unscored)


def rare(folder: Path) -> None:
    """What seldom happens: perplexity per word, an empty prompt and a long text, PyTorch's own
    operations, a training that overfits, ten experts, summaries of two machines, seeds of one
    kind of budget, and a Transformer that lacks most of its files."""
    write_results(folder)
    write_seeds(folder)
    write_ladder(folder)
    for kind in ("eval.json", "decode.json", "metrics.csv"):
        (folder / f"{OTHER}_{kind}").unlink()

    def by_words(record: Evaluation) -> None:
        record.word_ppl, record.words = 31.4, 150_000

    def unusual(record: Summary) -> None:
        even = [0.1] * 10
        record.expert_load = [even, [0.19, 0.01, *even[2:]], even, even]
        record.samples[-1].prompt, record.samples[-1].text = "", "word " * 200
        assert record.training
        record.training.seconds *= 3
        record.provenance.machine.cpu = "Another CPU"

    def slow(record: TrainingSpeed) -> None:
        record.fused_operations = False

    def by_tokens(record: Seeds) -> None:
        record.runs = [run for run in record.runs if run.budget == "tokens"]

    def short(record: Ladder) -> None:
        del record.rungs[2:]
        record.rungs[1].bpb = record.rungs[0].bpb

    change(folder / f"{OURS}_eval.json", by_words)
    change(folder / f"{OURS}_summary.json", unusual)
    change(folder / f"{OURS}_training_speed.json", slow)
    change(folder / "seeds.json", by_tokens)
    change(folder / "ladder.json", short)
    log = folder / f"{OURS}_metrics.csv"
    *rows, last = log.read_text("utf-8").splitlines()
    assert last.count(",") == rows[0].count(",")
    cells = last.split(",")
    cells[rows[0].split(",").index("valid_bpb")] = "0.95"
    log.write_text("\n".join([*rows, ",".join(cells)]) + "\n", "utf-8")


STATES: dict[str, Callable[[Path], None]] = {
    state.__name__: state
    for state in (whole, other_wins, sizes, ladder_alone, one_alone, without_pairs, rare)
}
DRAWN = ("whole", "sizes", "rare")


def texts(results: Results) -> str:
    """The report, and what a terminal shows of it."""
    results.folder = Path("results")
    page = to_markdown(results, {name: Path(f"{name}.png") for name in PLOTS})
    return page if not results.models else f"{page}\n{comparison_table(results)}\n"


def seeds_of_two_sizes() -> str:
    """Make the table of seeds for two sizes of each model, trained with two budgets."""
    more: dict[str, Any] = {"amount": 9.0, "flops_forward": 1_590_000.0}
    runs = [
        seed_run(name, budget, bits, seed=seed, **(more if budget == "time" else {}))
        for budget in ("tokens", "time")
        for name, first in ((OURS, 0.77), (OTHER, 0.80))
        for seed, bits in enumerate((first, first + 0.002, first + 0.004))
    ]
    for run in list(runs):
        small = run.name.replace("tiny", "small")
        runs.append(
            seed_run(small, run.budget, run.valid_bpb - 0.05, seed=run.seed, amount=run.amount)
        )
        runs[-1].size = "small"
    return seeds_table(runs) + "\n"


def filters() -> str:
    """Rows and notes of the filter's benchmark: with KenLM, and with an n-gram as the peer."""
    shown = []
    for record in (filtering(), filtering(kenlm=False)):
        header, rows = filter_rows(record)
        notes = filter_notes(record)
        shown += [" | ".join(row) for row in (header, *rows)] + notes + [""]
    return "\n".join(shown)


def scores() -> dict[str, Any]:
    """Draw the plot of `itera score`: with a threshold, with texts outside its reach, without."""
    made: dict[str, Any] = {}

    def keep(figure: Figure, path: Path) -> Path:
        made[path.stem] = drawn(figure)
        return path

    some, far = Histogram(), Histogram()
    some.add([1.0, 1.25, 1.26, 1.5, 1.5, 2.75])
    far.add([-1e6, *(0.5 + i / 400 for i in range(400)), 1e6])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "save", keep)
        for name, histogram, limit in (("kept", some, 1.5), ("all", some, None), ("far", far, 0.8)):
            draw_scores(
                histogram, Path(name), title=f"Texts: {name}", unit="bits/byte", threshold=limit
            )
    return made


def rounded(values: Any) -> Any:
    """Round every number to four significant digits, which show a wrong sign or unit."""
    if isinstance(values, str | bool | None):
        return values
    if isinstance(values, list | tuple | np.ndarray):
        return [rounded(value) for value in values]
    number = float(f"{float(values):.4g}")
    return None if np.isnan(number) else number


def drawn(figure: Figure) -> dict[str, Any]:
    """Collect what a figure shows: sizes, words, the numbers of lines, bars, pictures and marks."""
    figure.draw_without_rendering()
    title = figure.get_suptitle()
    return {
        "inches": rounded(figure.get_size_inches()),
        **({"title": title} if title else {}),
        "legends": [
            [(text.get_text(), to_hex(patch.get_facecolor())) for text, patch in zip(
                legend.get_texts(), legend.get_patches(), strict=True)]
            for legend in figure.legends
        ],
        "panels": [panel(axes) for axes in figure.axes],
    }  # fmt: skip


def panel(axes: Any) -> dict[str, Any]:
    if not (axes.get_visible() and axes.axison):
        return {}
    found: dict[str, Any] = {
        "titles": [axes.get_title(loc=place) for place in ("left", "right")],
        "labels": [axes.get_xlabel(), axes.get_ylabel()],
        "scales": [axes.get_xscale(), axes.get_yscale()],
        "limits": rounded([axes.get_xlim(), axes.get_ylim()]),
        "ticks": [
            [text.get_text() for text in axis.get_ticklabels()] for axis in (axes.xaxis, axes.yaxis)
        ],
        "lines": [
            {
                "xy": rounded(line.get_xydata()),
                "look": rounded([to_hex(line.get_color()), line.get_linewidth(),
                                 line.get_linestyle(), line.get_marker(), line.get_markersize(),
                                 line.get_alpha()]),
            }
            for line in axes.lines
        ],
        "bars": [
            rounded([*bar.get_bbox().bounds, to_hex(bar.get_facecolor()), bar.get_alpha()])
            for bar in axes.patches
        ],
        "whiskers": [
            rounded(segments.get_segments()) for segments in axes.collections
            if hasattr(segments, "get_segments")
        ],
        "words": [
            rounded([text.get_text(), *text.xy, text.get_ha(), text.get_va(),
                     to_hex(text.get_color()), text.get_fontsize()])
            if hasattr(text, "xy")
            else rounded([text.get_text(), *text.get_position(), to_hex(text.get_color())])
            for text in axes.texts
        ],
        "pictures": [rounded([*image.get_clim(), image.get_array().tolist()])
                     for image in axes.images],
    }  # fmt: skip
    return {key: value for key, value in found.items() if value}


def figures(results: Results) -> dict[str, Any]:
    made = {name: plot(results) for name, plot in PLOTS.items()}
    return {name: drawn(figure) for name, figure in made.items() if figure is not None}


def lines(shown: dict[str, Any]) -> str:
    """Write JSON with a line for each drawn line, bar or word, so that a difference is readable."""
    text = json.dumps(shown, ensure_ascii=False, indent=1)
    return text if len(shown) == 0 else _flat(shown, 0) + "\n"


def _flat(value: Any, depth: int) -> str:
    if depth < 5 and isinstance(value, dict | list) and value:
        pad = "\n" + " " * (depth + 1)
        if isinstance(value, dict):
            inner = [f"{json.dumps(k)}: {_flat(v, depth + 1)}" for k, v in value.items()]
            return "{" + pad + f",{pad}".join(inner) + "}"
        return "[" + pad + f",{pad}".join(_flat(v, depth + 1) for v in value) + "]"
    return json.dumps(value, ensure_ascii=False)


OTHERS: dict[str, Callable[[], str]] = {
    "seeds.md": seeds_of_two_sizes,
    "filters.md": filters,
    "scores.json": lambda: lines(scores()),
}


def read(state: str, folder: Path) -> Results:
    STATES[state](folder)
    results = load_results(folder)
    assert not results.left_out
    return results


def holds(name: str, text: str) -> None:
    assert text.splitlines() == (EXPECTED / name).read_text("utf-8").splitlines(), (
        f"{name} differs: if that is meant, run `python -m tests.report.test_expected`, and read "
        "the difference"
    )


@pytest.mark.parametrize("state", STATES)
def test_report_is_as_expected(state: str, tmp_path: Path) -> None:
    holds(f"{state}.md", texts(read(state, tmp_path / "results")))


@pytest.mark.parametrize("state", DRAWN)
def test_plots_are_as_expected(state: str, tmp_path: Path) -> None:
    holds(f"{state}.json", lines(figures(read(state, tmp_path / "results"))))


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_outside_of_reports_is_as_expected(name: str) -> None:
    holds(name, OTHERS[name]())


def test_every_plot_is_held_and_no_file_is_left_over() -> None:
    """Check that a plot can't drop out of all states, nor a file go on without its state."""
    names = {f"{state}.md" for state in STATES} | {f"{state}.json" for state in DRAWN}
    assert {path.name for path in EXPECTED.iterdir()} == {*names, *OTHERS}
    shown = json.loads((EXPECTED / "whole.json").read_text("utf-8"))
    assert shown.keys() == PLOTS.keys()


def main() -> None:
    EXPECTED.mkdir(exist_ok=True)
    for name, write in OTHERS.items():
        (EXPECTED / name).write_text(write(), "utf-8")
    for state in STATES:
        with tempfile.TemporaryDirectory() as place:
            results = read(state, Path(place) / "results")
            (EXPECTED / f"{state}.md").write_text(texts(results), "utf-8")
            if state in DRAWN:
                (EXPECTED / f"{state}.json").write_text(lines(figures(results)), "utf-8")


if __name__ == "__main__":
    main()
