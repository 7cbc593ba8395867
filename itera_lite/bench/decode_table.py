"""`bench decode` on the terminal."""

from __future__ import annotations

from typing import Any

from itera_lite.stats.targets import lines


def print_record(record: dict[str, Any]) -> None:
    """Prints the medians of a ``NAME_decode.json`` record, and its targets."""
    print(
        f"\n{record['name']}: {record['params']:,} parameters; decoding one text after "
        f"{record['context']} tokens, one thread"
    )
    for kind, row in record["types"].items():
        for runtime, speed in row["runtimes"].items():
            share = row["roofline"]["share"]
            tail = f", {share:.0%} of the roofline" if runtime == "itera-lite" and share else ""
            _speed(kind, runtime, speed, tail)
    for runtime, speed in record["torch"].items():
        _speed("fp32", runtime, speed)
    for row in record["ratios"]:
        against = f"{row['peer']} ({row['peer_type']})"
        print(f"  {row['type']:5} against {against:24} {row['ratio']:7.1f}×   {row['verdict']}")
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
    if targets := record.get("targets"):
        print("  Targets:")
        print("\n".join("  " + line for line in lines(targets)))


def _speed(kind: str, runtime: str, speed: dict[str, Any], tail: str = "") -> None:
    found = speed["tokens_per_second"]
    print(
        f"  {kind:5} {runtime:24} {found['median']:10,.0f} tokens/s "
        f"(spread {found['spread']:,.0f}){tail}"
    )
