"""The part of section 4 on the native engine: what `itera bench decode` and `score` measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from itera_lite.report.context import Context
from itera_lite.report.results import ModelResults, get, number
from itera_lite.report.text import (
    MISSING,
    bullets,
    code,
    count,
    escape,
    measured,
    paragraphs,
    percent,
    significant,
    table,
)
from itera_lite.stats.comparison import Measurement, times
from itera_lite.stats.targets import number as with_unit

OURS = "itera-lite"
EXPLAINED = (
    "One text, one thread, the same GGUF file for the engine and llama.cpp, in turn; llama.cpp's "
    "time is that inside its library alone. `transformers` computes in float32. The roofline is "
    "the time that reading a token's weights and state takes at the read bandwidth measured in "
    "the same run, over the time that the token took."
)


def engine(context: Context) -> str:
    """Decoding and scoring beside the peers, the targets, and where a token's time goes."""
    speeds = [row for model in context.models for row in _decoding(model)]
    scores = [row for model in context.models for row in _scoring(model)]
    if not speeds and not scores:
        return ""
    length = next((c for m in context.models if (c := number(m.engine_decode, "context"))), None)
    after = "" if length is None else f" after {count(length)} tokens"
    headers = ["Model", "Weights", "Runtime", "tokens/s", "Of the roofline", "Engine is", "Verdict"]
    return paragraphs(
        "### The native engine",
        EXPLAINED,
        f"Decoding{after}, tokens/s (higher is better):\n\n{table(headers, speeds, 'lllrrll')}"
        if speeds
        else "",
        context.figure("engine", "Decoded tokens per second by runtime; a logarithmic axis."),
        bullets(filter(None, map(_long, context.models))),
        _profiles(context),
        "Scoring whole documents, tokens/s (higher is better); ours includes cutting the text "
        "into tokens and the softmax:\n\n"
        + table(
            ["Model", "Weights", "Runtime", "Threads", "tokens/s", "Engine is", "Verdict"],
            scores,
            "lllrrll",
        )
        if scores
        else "",
        _targets(context),
    )


def decode_speeds(model: ModelResults) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(type, runtime, speed record) of everybody who decoded."""
    types = model.engine_decode.get("types")
    for kind, row in (types if isinstance(types, dict) else {}).items():
        for runtime, speed in (get(row, "runtimes") or {}).items():
            yield kind, runtime, speed
    for runtime, speed in (get(model.engine_decode, "torch") or {}).items():
        yield "fp32", runtime, speed


def best_ratio(record: dict[str, Any], kind: str, peer: str) -> dict[str, Any]:
    """Our engine against a peer, with weights of a type; empty where it wasn't measured."""
    rows = record.get("ratios")
    for row in rows if isinstance(rows, list) else []:
        if get(row, "type") == kind and get(row, "peer") == peer:
            return dict(row)
    return {}


def _decoding(model: ModelResults) -> Iterator[list[str]]:
    record = model.engine_decode
    main = str(record.get("main_type"))
    for kind, runtime, speed in decode_speeds(model):
        against = best_ratio(record, main if kind == "fp32" else kind, runtime)
        share = get(record, "types", kind, "roofline", "share") if runtime == OURS else None
        yield [
            code(model.name),
            escape(kind.upper()),
            escape(runtime),
            _rate(speed),
            percent(share, 0),
            _faster(against),
            escape(against.get("verdict", MISSING)),
        ]


def _scoring(model: ModelResults) -> Iterator[list[str]]:
    record = model.engine_scoring
    main = str(record.get("main_type"))
    rows = record.get("scorers")
    for row in rows if isinstance(rows, list) else []:
        kind, runtime = str(row.get("type")), str(row.get("runtime"))
        against = best_ratio(record, main if kind == "fp32" else kind, runtime)
        yield [
            code(model.name),
            escape(kind.upper()),
            escape(runtime) + (f" ({escape(row['note'])})" if row.get("note") else ""),
            count(row.get("threads")),
            _rate(row),
            _faster(against),
            escape(against.get("verdict", MISSING)),
        ]


def _rate(record: dict[str, Any]) -> str:
    value = Measurement.read(get(record, "tokens_per_second"))
    return measured(value, "tokens/s", unit_shown=False)


def _faster(against: dict[str, Any]) -> str:
    ratio = number(against, "ratio")
    if not ratio:
        return MISSING
    kind = escape(str(against.get("type")).upper())
    return f"{times(ratio)} {'faster' if ratio >= 1 else 'slower'} ({kind})"


def _long(model: ModelResults) -> str:
    """What a long text costs, in words."""
    growth = get(model.engine_decode, "growth")
    row = get(growth, "runtimes", OURS)
    ratio, added = number(row, "ratio"), number(row, "added_microseconds")
    length, short = number(growth, "context"), number(model.engine_decode, "context")
    if None in (ratio, added, length, short):
        return ""
    attention = number(growth, "profile_microseconds", "attention over the context")
    layer = (
        "" if attention is None else f"; attention over it takes {significant(attention)} µs of it"
    )
    return (
        f"{code(model.name)}: a token after {count(length)} takes {significant(ratio)} times as "
        f"long as after {count(short)}, {significant(added)} µs more{layer}."
    )


def _profiles(context: Context) -> str:
    """Where the time of a token goes: a column a model and type."""
    columns: dict[str, dict[str, float]] = {}
    for model in context.models:
        for kind, row in (model.engine_decode.get("types") or {}).items():
            if parts := get(row, "profile_microseconds"):
                columns[f"{model.name} {kind.upper()}"] = parts
    if not columns:
        return ""
    parts = dict.fromkeys(part for column in columns.values() for part in column)
    order = sorted(parts, key=_late)
    rows = [
        [escape(part), *(significant(column.get(part)) for column in columns.values())]
        for part in order
    ]
    return (
        "Where the engine's time goes, µs a token ('rest' is choosing experts, copying and calls; "
        "the parts come from a run with clocks in it, whose cost is subtracted):\n\n"
        + table(["", *map(code, columns)], rows)
    )


def _late(part: str) -> int:
    return {"rest": 1, "total": 2}.get(part, 0)


def targets(model: ModelResults) -> list[dict[str, Any]]:
    """All judged targets of a model, those of decoding first."""
    found = []
    for record in (model.engine_decode, model.engine_scoring):
        rows = record.get("targets")
        found += [row for row in (rows if isinstance(rows, list) else []) if get(row, "label")]
    return found


def target_cells(row: dict[str, Any]) -> list[str]:
    """Label, what was found, what was wanted, verdict."""
    unit = str(row.get("unit", ""))
    value = number(row, "value")
    return [
        escape(row["label"]),
        MISSING if value is None else with_unit(value, unit),
        f"{row.get('sense')} {with_unit(number(row, 'target') or 0.0, unit)}",
        escape(row.get("verdict", MISSING)),
    ]


def _targets(context: Context) -> str:
    rows = [[code(m.name), *target_cells(row)] for m in context.models for row in targets(m)]
    if not rows:
        return ""
    headers = ["Model", "Target", "Found", "Wanted", "Verdict"]
    return "What the engine is meant to reach:\n\n" + table(headers, rows, "llrrl")
