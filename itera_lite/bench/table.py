"""The benchmark's tables on the terminal: a column a model, then its peers beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Record = dict[str, Any]
MISSING = "-"


def print_table(records: Mapping[str, Record]) -> None:
    """Prints the medians of ``NAME_benchmark.json`` records."""
    _print(list(_rows(records)))
    if any(record.get("peers") for record in records.values()):
        print("\nTokens/s with the same weights in float32")
        _print(list(_peer_rows(records)))


def _print(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for label, *values in rows:
        cells = [value.rjust(width) for value, width in zip(values, widths[1:], strict=True)]
        print("  ".join([label.ljust(widths[0]), *cells]).rstrip())


def _rows(records: Mapping[str, Record]) -> Iterator[list[str]]:
    columns = list(records.values())
    yield ["", *records]
    yield ["parameters", *(f"{c['params']['total']:,}" for c in columns)]
    yield ["FLOPs/token, forward", *(f"{c['flops_per_token']['forward']:,.0f}" for c in columns)]
    for part in ("prefill", "decode"):
        for cell in columns[0][part]:
            label = f"{part} tokens/s, {_where(cell)}"
            yield [label, *(_speed(c[part], cell) for c in columns)]
    yield ["time to load, ms", *(f"{c['load_ms']['median']:.0f}" for c in columns)]
    yield ["time to first token, ms", *(f"{c['first_token_ms']['median']:.1f}" for c in columns)]
    yield [
        "peak resident memory, MB",
        *(f"{c['memory']['peak_rss_bytes']['median'] / 1e6:.0f}" for c in columns),
    ]
    how = columns[0]["energy"]["method"]
    yield [
        f"energy per token, mJ ({how})",
        *(f"{1e3 * c['energy']['joules_per_token']['median']:.3g}" for c in columns),
    ]


def _peer_rows(records: Mapping[str, Record]) -> Iterator[list[str]]:
    """A line for each model and each cell that a peer was measured in."""
    kinds = list(dict.fromkeys(kind for c in records.values() for kind in c.get("peers", {})))
    yield ["", "our PyTorch", *kinds]
    for name, record in records.items():
        peers = record.get("peers", {})
        for part in ("prefill", "decode"):
            for cell in record[part]:
                speeds = [_speed(peers.get(kind, {}).get(part, ()), cell) for kind in kinds]
                if any(speed != MISSING for speed in speeds):
                    label = f"{name}, {part}, {_where(cell)}"
                    yield [label, _speed(record[part], cell), *speeds]


def _where(cell: Record) -> str:
    return f"batch {cell['batch']}, context {cell['context']:,}"


def _speed(rows: Sequence[Record], cell: Record) -> str:
    """Tokens a second in the same cell; not everybody is measured in all of them."""
    for row in rows:
        if (row["batch"], row["context"]) == (cell["batch"], cell["context"]):
            return f"{row['tokens_per_second']['median']:,.0f}"
    return MISSING
