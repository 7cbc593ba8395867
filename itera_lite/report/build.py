"""Builds the report: Markdown, the same as one HTML page, and plots."""

from __future__ import annotations

from pathlib import Path

from itera_lite.files import write_text
from itera_lite.report.context import Context
from itera_lite.report.metrics import compare_pairs
from itera_lite.report.page import to_html
from itera_lite.report.plots import draw, print_left_out, require_writable
from itera_lite.report.results import Results, load_results
from itera_lite.report.sections import LADDER_SECTIONS, SECTIONS
from itera_lite.report.text import code, paragraphs

NAME = "efficiency_report"


def build_report(results: Path, reports: Path) -> dict[str, Path]:
    """Write the report of the result files in ``results`` to the folder ``reports``.

    Returns:
        Path by ``markdown``, ``html`` and the name of each plot.

    Raises:
        IteraError: there are no results, a file is damaged, or the folder can't be written.
    """
    found = load_results(results)
    require_writable(reports)
    print_left_out(found)
    plots = draw(found, reports)
    markdown = to_markdown(found, plots)
    return {
        "markdown": write_text(reports / f"{NAME}.md", markdown),
        "html": write_text(reports / f"{NAME}.html", to_html(markdown, reports)),
        **plots,
    }


def to_markdown(results: Results, plots: dict[str, Path]) -> str:
    """The whole report as Markdown.

    Args:
        results: What was measured.
        plots: The plots that were drawn, by name; they lie beside the report.
    """
    context = Context(results, compare_pairs(results), plots)
    intro = (
        "Itera-Lite beside a Transformer baseline. This page is made by "
        f"`itera report` from the files in {code(results.folder.as_posix())} and holds nothing "
        "else."
    )
    title = paragraphs("# Efficiency report", intro)
    sections = SECTIONS if results.models else LADDER_SECTIONS
    return paragraphs(title, *(section(context) for section in sections)) + "\n"
