"""The benchmark's table on the terminal: a column a model, then a column a peer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Record = dict[str, Any]


def print_table(records: Mapping[str, Record]) -> None:
    """Prints the medians of ``NAME_benchmark.json`` records."""
    rows = list(_rows(records))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for label, *values in rows:
        cells = [value.rjust(width) for value, width in zip(values, widths[1:], strict=True)]
        print("  ".join([label.ljust(widths[0]), *cells]).rstrip())


def _rows(records: Mapping[str, Record]) -> Iterator[list[str]]:
    columns = list(records.values())
    peers = [(c, peer) for c in columns for peer in c.get("peers", {})]

    def row(label: str, values: Sequence[str]) -> list[str]:
        return [label, *values, *([""] * len(peers))]

    yield ["", *records, *(f"{peer}: {c['name']}" for c, peer in peers)]
    yield row("parameters", [f"{c['params']['total']:,}" for c in columns])
    yield row("FLOPs/token, forward", [f"{c['flops_per_token']['forward']:,.0f}" for c in columns])
    for part in ("prefill", "decode"):
        for first in columns[0][part]:
            label = f"{part} tokens/s, batch {first['batch']}, context {first['context']:,}"
            sides = [c[part] for c in columns] + [c["peers"][peer][part] for c, peer in peers]
            yield [label, *(_speed(side, first) for side in sides)]
    yield row("time to load, ms", [f"{c['load_ms']['median']:.0f}" for c in columns])
    yield row("time to first token, ms", [f"{c['first_token_ms']['median']:.1f}" for c in columns])
    yield row(
        "peak resident memory, MB",
        [f"{c['memory']['peak_rss_bytes']['median'] / 1e6:.0f}" for c in columns],
    )
    how = columns[0]["energy"]["method"]
    yield row(
        f"energy per token, mJ ({how})",
        [f"{1e3 * c['energy']['joules_per_token']['median']:.3g}" for c in columns],
    )


def _speed(rows: Sequence[Record], cell: Record) -> str:
    """Tokens a second in the cell that ``cell`` is of; peers don't have all of them."""
    for row in rows:
        if (row["batch"], row["context"]) == (cell["batch"], cell["context"]):
            return f"{row['tokens_per_second']['median']:,.0f}"
    return "-"
