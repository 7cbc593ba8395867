"""What the benchmarks print: their records' medians, ratios and targets, as plain text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from itera_lite.stats.targets import lines

Record = dict[str, Any]
MISSING = "-"


def print_speed(records: Mapping[str, Record]) -> None:
    """Prints the medians of ``NAME_benchmark.json`` records: a column a model, then its peers."""
    print_table(list(_rows(records)))
    if any(record.get("peers") for record in records.values()):
        print("\nTokens/s with the same weights in float32")
        print_table(list(_peer_rows(records)))


def print_decoding(record: Record) -> None:
    """Prints a ``NAME_decode.json`` record."""
    _title(record, f"decoding one text after {record['context']} tokens, one thread")
    for kind, row in record["types"].items():
        for runtime, speed in row["runtimes"].items():
            share = row["roofline"]["share"]
            tail = f", {share:.0%} of the roofline" if runtime == "itera-lite" and share else ""
            _speed(f"{kind:5} {runtime:24}", speed, tail)
    for runtime, speed in record["torch"].items():
        _speed(f"fp32  {runtime:24}", speed)
    _ratios(record)
    growth = record.get("growth") or {"runtimes": {}}
    for runtime, row in growth["runtimes"].items():
        print(
            f"  {growth['type']:5} {runtime:24} context {growth['context']:,}: {row['ratio']:.2f}× "
            f"the time, {row['added_microseconds']:,.0f} µs more a token"
        )
    for kind, row in record["types"].items():
        if row["profile_microseconds"]:
            parts = (f"{part} {us:.1f}" for part, us in row["profile_microseconds"].items())
            print(f"  {kind:5} µs a token: {', '.join(parts)}")
    _targets(record)


def print_scoring(record: Record) -> None:
    """Prints a ``NAME_scoring.json`` record."""
    _title(record, f"scoring {record['documents']} documents, {record['tokens']:,} tokens")
    for row in record["scorers"]:
        n = row["threads"]
        who = f"{row['runtime']}, {n} thread{'s' if n > 1 else ''}"
        _speed(f"{row['type']:5} {who:24}", row, f", {row['note']}" if row["note"] else "")
    _ratios(record)
    _targets(record)


def print_training(record: Record) -> None:
    """Prints a ``NAME_training_speed.json`` record."""
    size = f"batch {record['batch_size']} x {record['seq_len']}"
    _title(record, f"{size}, whole training steps", ",")
    for label, row in record["contenders"].items():
        tail = f", {row['share_of_peak']:.0%} of {row['peak_gflops']:,.0f} GFLOP/s"
        _speed(f"{label:26} {row['precision']}", row, tail)
    for label, ratio in record["speedup_of_first"].items():
        first = next(iter(record["contenders"]))
        print(f"  {first}: {ratio:.2f} times as fast as {label}")


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Prints aligned columns, the first one to the left; the first row holds the titles."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for label, *values in rows:
        cells = [value.rjust(width) for value, width in zip(values, widths[1:], strict=True)]
        print("  ".join([label.ljust(widths[0]), *cells]).rstrip())


def _title(record: Record, what: str, mark: str = ";") -> None:
    print(f"\n{record['name']}: {record['params']:,} parameters{mark} {what}")


def _speed(label: str, row: Record, tail: str = "") -> None:
    found = row["tokens_per_second"]
    print(f"  {label} {found['median']:10,.0f} tokens/s (spread {found['spread']:,.0f}){tail}")


def _ratios(record: Record) -> None:
    for row in record["ratios"]:
        against = f"{row['peer']} ({row['peer_type']})"
        print(f"  {row['type']:5} against {against:24} {row['ratio']:7.1f}×   {row['verdict']}")


def _targets(record: Record) -> None:
    if record["targets"]:
        print("  Targets:")
        print("\n".join("  " + line for line in lines(record["targets"])))


def _rows(records: Mapping[str, Record]) -> Iterator[list[str]]:
    columns = list(records.values())
    yield ["", *records]
    yield ["parameters", *(f"{c['params']['total']:,}" for c in columns)]
    yield ["FLOPs/token, forward", *(f"{c['flops_per_token']['forward']:,.0f}" for c in columns)]
    for part in ("prefill", "decode"):
        for cell in columns[0][part]:
            label = f"{part} tokens/s, {_where(cell)}"
            yield [label, *(_speed_in(c[part], cell) for c in columns)]
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
                speeds = [_speed_in(peers.get(kind, {}).get(part, ()), cell) for kind in kinds]
                if any(speed != MISSING for speed in speeds):
                    label = f"{name}, {part}, {_where(cell)}"
                    yield [label, _speed_in(record[part], cell), *speeds]


def _where(cell: Record) -> str:
    return f"batch {cell['batch']}, context {cell['context']:,}"


def _speed_in(rows: Sequence[Record], cell: Record) -> str:
    """Tokens a second in the same cell; not everybody is measured in all of them."""
    for row in rows:
        if (row["batch"], row["context"]) == (cell["batch"], cell["context"]):
            return f"{row['tokens_per_second']['median']:,.0f}"
    return MISSING
