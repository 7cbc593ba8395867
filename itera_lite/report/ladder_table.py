"""The compression ladder as Markdown: every rung against the first, and the targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from itera_lite.errors import IteraError
from itera_lite.report.ladder import rung_quality, rung_value, seeds_of
from itera_lite.report.results import load_results, number
from itera_lite.report.text import MISSING, count, escape, fixed, paragraphs, significant, table
from itera_lite.stats.comparison import times

SHOWN = (
    ("bytes_on_disk", "MB on disk", 1e-6),
    ("peak_rss_bytes", "peak MB", 1e-6),
    ("cpu_seconds_per_kb", "CPU ms per 1,000 bytes", 1e3),
    ("train_minutes", "minutes to train", 1.0),
)


def ladder_table(folder: str | Path) -> str:
    """The rungs and the targets, for the README.

    Args:
        folder: Of the result files.

    Raises:
        IteraError: where the ladder wasn't climbed.
    """
    results = load_results(folder)
    if not results.ladder:
        raise IteraError(f"'{folder}' has no ladder.json. Run `itera ladder` to make it.")
    first = results.ladder[0]
    rows = []
    for index, rung in enumerate(results.ladder):
        cells = [f"{index}: {escape(rung.get('name', 'unnamed'))}", rung_quality(rung)]
        for key, _, scale in SHOWN:
            value, bar = rung_value(rung, key), rung_value(first, key)
            if value is None:
                cells.append(MISSING)
                continue
            text = significant(value * scale)
            if index and bar and key != "train_minutes":
                text += f" ({times(value / bar)} {'lower' if value < bar else 'higher'})"
            cells.append(text)
        rows.append(cells)
    return paragraphs(
        table(["rung", "bits/byte", *(label for _, label, _ in SHOWN)], rows),
        seeds_of(results.ladder),
        target_table(results.ladder_targets),
        references_tried(results.ladder_references),
        unused_tokens(results.ladder),
    )


def references_tried(references: list[dict[str, Any]]) -> str:
    """Which conventional models were trained, and that the better one is the reference."""
    if len(references) < 2:
        return ""
    parts = [
        f"{significant((number(r, 'params') or 0) / 1e6)} M parameters, "
        f"{significant(number(r, 'train_minutes'))} minutes, {significant(number(r, 'epochs'))} "
        f"passes over the text: {fixed(number(r, 'valid_bpb'))}"
        + (" (rung 0)" if r.get("chosen") else "")
        for r in references
    ]
    return (
        f"Rung 0 is the best of {len(references)} conventional models that were trained, by bits "
        f"per byte on the validation text: {'; '.join(parts)}."
    )


def unused_tokens(rungs: list[dict[str, Any]]) -> str:
    """What the reference would weigh without the tokens that its text doesn't use."""
    first, last = rungs[0], rungs[-1]
    size, shipped = (rung_value(rung, "bytes_on_disk") for rung in (first, last))
    total, used = number(first, "vocab_size"), number(first, "tokens_in_use")
    width = number(first, "d_model")
    if not (size and shipped and total and used and width):
        return ""
    without = size - 4 * width * (total - used)
    return (
        f"Of the reference's {count(total)} tokens {count(used)} occur in its training text. "
        f"Without the rows of the others it would have {significant(without / 1e6)} MB, "
        f"{significant(without / shipped)} times the last rung (computed, not measured)."
    )


def target_table(targets: list[dict[str, Any]]) -> str:
    """A row a target, with the factor found and its computed verdict; empty without targets."""
    if not targets:
        return ""
    rows = []
    for target in targets:
        least, goal = number(target, "least"), number(target, "goal")
        wanted = f"at least {significant(least)}×"
        if goal:
            wanted += f", goal {significant(goal)}×"
        verdict = "reached" if target.get("reached") else "**missed**"
        if goal:
            verdict += ", the goal too" if target.get("goal_reached") else ", the goal missed"
        if not target.get("as_good"):
            verdict = "**missed**: the quality is below the reference's"
        rows.append(
            [
                _capital(escape(target.get("label", "?"))),
                f"{significant(number(target, 'factor'))}× lower",
                wanted,
                verdict,
            ]
        )
    return table(["last rung against rung 0", "found", "wanted", "verdict"], rows, "lrrl")


def _capital(label: str) -> str:
    return label[:1].upper() + label[1:]
