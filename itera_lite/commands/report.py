"""The verb `report`: from result files to Markdown, one HTML page and plots."""

from __future__ import annotations

from pathlib import Path

from itera_lite.report.build import build_report


def report(*, results: Path = Path("results"), reports: Path = Path("reports")) -> dict[str, Path]:
    """Write the report from the result files.

    Makes efficiency_report.md, the same as one HTML file, and the plots. It reads
    the files that train, eval and bench wrote and nothing else; the same files give
    the same report. What wasn't measured is said, with the command that measures it.

    Args:
        results: Folder of the result files.
        reports: Folder for the report and its plots.

    Returns:
        Path by ``markdown``, ``html`` and the name of each plot.

    Raises:
        IteraError: where there are no results, or a file is damaged.
    """
    written = build_report(Path(results), Path(reports))
    print(
        f"Report: {written['markdown']} and {written['html']}, {len(written) - 2} plots beside them"
    )
    return written
