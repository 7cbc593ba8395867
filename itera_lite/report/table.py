"""The comparison of two models as plain text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from itera_lite import terminal
from itera_lite.report.metrics import Pair, compare_pairs
from itera_lite.report.results import Results, load_results
from itera_lite.report.text import MISSING, quantity

# Rows worth a line in a terminal; the report has all of them.
KEYS = ("bpb", "bpb_time", "bpb_tokens", "ppl", "accuracy", "params_total", "params_active",
        "flops_forward", "train_tokens_per_second", "weights_bytes", "peak_rss", "energy",
        "load_ms", "first_token_ms", "decode_1_", "prefill_1_", "state_")  # fmt: skip


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


def comparison_rows(pair: Pair, keys: Sequence[str] = KEYS) -> list[list[str]]:
    """Cells of the chosen metrics: label, our value, the Transformer's value, verdict.

    Args:
        pair: Two models and their comparisons.
        keys: Metrics by their key; one that ends in ``_`` stands for all that begin with it.
    """
    rows = []
    for c in pair.comparisons:
        key = c.metric.key
        if key not in keys and not key.startswith(tuple(k for k in keys if k.endswith("_"))):
            continue
        sides = (
            MISSING if x is None else quantity(x.value, c.metric.unit) for x in (c.ours, c.other)
        )
        rows.append([c.label, *sides, c.verdict])
    return rows


def _table(pair: Pair) -> str:
    header = ["", pair.ours.name, pair.other.name, "verdict"]
    return terminal.table(header, comparison_rows(pair), "lrrl")
