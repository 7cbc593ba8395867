"""The comparison as plain text for a terminal, and as Markdown for the README.

``python -m itera_lite.report.table README.md`` writes the README's tables again.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from itera_lite.files import write_text
from itera_lite.report.engine_table import engine_table
from itera_lite.report.ladder_table import ladder_table
from itera_lite.report.metrics import Pair, compare_pairs
from itera_lite.report.results import Results, load_results
from itera_lite.report.text import MISSING, quantity
from itera_lite.stats.comparison import Measurement

# Rows worth a line in a terminal; the report has all of them.
KEYS = ("bpb", "bpb_time", "bpb_tokens", "ppl", "accuracy", "params_total", "params_active",
        "flops_forward", "train_tokens_per_second", "weights_bytes", "peak_rss", "energy",
        "load_ms", "first_token_ms")  # fmt: skip


def comparison_table(results: Results | str | Path = "results") -> str:
    """Both models side by side with the verdicts, about 100 columns wide.

    Args:
        results: Loaded results, or their folder.

    Returns:
        A table a pair of models; a line that says what is missing where there is no pair.

    Raises:
        IteraError: where the folder has no results.
    """
    if not isinstance(results, Results):
        results = load_results(results)
    pairs = compare_pairs(results)
    if not pairs:
        names = ", ".join(model.name for model in results.models)
        return f"Nothing to compare: found {names}, expected an Itera model and a Transformer."
    return "\n\n".join(map(_table, pairs))


# What the README shows of them.
README_KEYS = ("bpb", "bpb_time", "bpb_tokens", "word_ppl", "accuracy", "params_total",
               "params_active", "flops_forward", "train_tokens_per_second", "prefill_1_1024",
               "decode_1_128", "decode_1_8192", "state_8192", "peak_rss", "energy")  # fmt: skip


def markdown_table(folder: str | Path, keys: tuple[str, ...] = README_KEYS) -> str:
    """The comparison of the first pair as a Markdown table, for the README.

    Args:
        folder: Of the result files.
        keys: Metrics to show, where both sides have them.
    """
    pair = compare_pairs(load_results(folder))[0]
    lines = [
        f"| | {pair.itera.name} | {pair.transformer.name} | verdict |",
        "| --- | --- | --- | --- |",
    ]
    for comparison in pair.comparisons:
        c = comparison
        if c.metric.key not in keys or c.ours is None or c.other is None:
            continue
        label = c.metric.label + (f" ({c.note})" if c.note == "estimated" else "")
        unit = c.metric.unit
        values = f"{_short(c.ours, unit)} | {_short(c.other, unit)}"
        lines.append(f"| {label} | {values} | {c.verdict} |")
    return "\n".join(lines)


def renew(page: Path) -> None:
    """Write every table of a Markdown page again that stands between its marks.

    ``<!-- table: FOLDER -->`` and ``<!-- end -->``, FOLDER beside the page: both models side by
    side. ``<!-- table: engine FOLDER -->`` is the native engine beside its peers,
    ``<!-- table: ladder FOLDER -->`` the compression ladder.
    """

    def table(found: re.Match[str]) -> str:
        kind, folder = found.groups()
        make = {"engine ": engine_table, "ladder ": ladder_table}.get(kind, markdown_table)
        return f"<!-- table: {kind or ''}{folder} -->\n{make(page.parent / folder)}\n<!-- end -->"

    text = page.read_text(encoding="utf-8")
    pattern = r"<!-- table: (engine |ladder )?(\S+) -->\n.*?<!-- end -->"
    write_text(page, re.sub(pattern, table, text, flags=re.DOTALL))


def _table(pair: Pair) -> str:
    chosen = [c for c in map(pair.find, KEYS) if c] + [
        c
        for c in pair.comparisons
        if c.metric.key.startswith(("decode_1_", "prefill_1_", "state_"))
    ]
    chosen.sort(key=pair.comparisons.index)
    rows = [["", pair.itera.name, pair.transformer.name, "verdict"]]
    for c in chosen:
        label = c.metric.label + (f" ({c.note})" if c.note == "estimated" else "")
        unit = c.metric.unit
        rows.append([label, _short(c.ours, unit), _short(c.other, unit), c.verdict])
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = [
        f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}".rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _short(value: Measurement | None, unit: str) -> str:
    return MISSING if value is None else quantity(value.value, unit)


if __name__ == "__main__":
    renew(Path(sys.argv[1]))
