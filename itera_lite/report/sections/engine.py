"""The part of section 4 on the native engine: what `itera bench decode` and `score` measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from itera_lite.records import RuntimeDecoding, SpeedRatio
from itera_lite.report.context import Context
from itera_lite.report.results import ModelResults
from itera_lite.report.text import (
    MISSING,
    bullets,
    code,
    count,
    escape,
    paragraphs,
    percent,
    rate,
    significant,
    table,
)
from itera_lite.stats.comparison import times
from itera_lite.stats.targets import Target

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
    length = next((m.decode.decoding.context for m in context.models if m.decode), None)
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


def decode_speeds(model: ModelResults) -> Iterator[tuple[str, str, RuntimeDecoding]]:
    """(type of the weights, runtime, its speed) of every runtime that decoded."""
    if model.decode is None:
        return
    for kind, row in model.decode.decoding.types.items():
        for runtime, speed in row.runtimes.items():
            yield kind, runtime, speed
    for runtime, speed in model.decode.decoding.torch.items():
        yield "fp32", runtime, speed


def ratio_to(ratios: Sequence[SpeedRatio], kind: str, peer: str) -> SpeedRatio | None:
    """Our engine against a peer, with weights of a type; None where it wasn't measured."""
    return next((row for row in ratios if (row.type, row.peer) == (kind, peer)), None)


def _decoding(model: ModelResults) -> Iterator[list[str]]:
    if model.decode is None:
        return
    found = model.decode.decoding
    for kind, runtime, speed in decode_speeds(model):
        against = ratio_to(found.ratios, found.main_type if kind == "fp32" else kind, runtime)
        share = found.types[kind].roofline.share if runtime == OURS else None
        yield [
            code(model.name),
            escape(kind.upper()),
            escape(runtime),
            rate(speed.tokens_per_second),
            percent(share, 0),
            *_against(against),
        ]


def _scoring(model: ModelResults) -> Iterator[list[str]]:
    if model.scoring is None:
        return
    found = model.scoring
    for row in found.runtimes:
        kind = found.main_type if row.type == "fp32" else row.type
        yield [
            code(model.name),
            escape(row.type.upper()),
            escape(row.runtime) + (f" ({escape(row.note)})" if row.note else ""),
            count(row.threads),
            rate(row.tokens_per_second),
            *_against(ratio_to(found.ratios, kind, row.runtime)),
        ]


def _against(ratio: SpeedRatio | None) -> list[str]:
    """How much faster our engine is, and the verdict."""
    if ratio is None:
        return [MISSING, MISSING]
    word = "faster" if ratio.ratio >= 1 else "slower"
    return [
        f"{times(ratio.ratio)} {word} ({escape(ratio.type.upper())})",
        escape(ratio.verdict),
    ]


def _long(model: ModelResults) -> str:
    """What a long text costs, in words."""
    growth = model.decode and model.decode.decoding.growth
    row = growth and growth.runtimes.get(OURS)
    if not (model.decode and growth and row):
        return ""
    attention = growth.profile_microseconds.get("attention over the context")
    layer = (
        "" if attention is None else f"; attention over it takes {significant(attention)} µs of it"
    )
    return (
        f"{code(model.name)}: a token after {count(growth.context)} takes "
        f"{significant(row.ratio)} times as long as after "
        f"{count(model.decode.decoding.context)}, {significant(row.added_microseconds)} µs "
        f"more{layer}."
    )


def _profiles(context: Context) -> str:
    """Where the time of a token goes: a column a model and type."""
    columns = {
        f"{model.name} {kind.upper()}": row.profile_microseconds
        for model in context.models
        if model.decode
        for kind, row in model.decode.decoding.types.items()
        if row.profile_microseconds
    }
    if not columns:
        return ""
    parts = dict.fromkeys(part for column in columns.values() for part in column)
    rows = [
        [escape(part), *(significant(column.get(part)) for column in columns.values())]
        for part in sorted(parts, key=lambda part: {"rest": 1, "total": 2}.get(part, 0))
    ]
    return (
        "Where the engine's time goes, µs a token ('rest' is choosing experts, copying and calls; "
        "the parts come from a run with clocks in it, whose cost is subtracted):\n\n"
        + table(["", *map(code, columns)], rows)
    )


def targets(model: ModelResults) -> list[Target]:
    """All judged targets of a model, those of decoding first."""
    return [t for record in (model.decode, model.scoring) if record for t in record.targets]


def _targets(context: Context) -> str:
    rows = [[code(m.name), *map(escape, t.cells)] for m in context.models for t in targets(m)]
    if not rows:
        return ""
    headers = ["Model", "Target", "Found", "Wanted", "Verdict"]
    return "What the engine is meant to reach:\n\n" + table(headers, rows, "llrrl")
