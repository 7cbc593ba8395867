"""Sections 7 and 8: quality on held-out text, and every verdict in one table."""

from __future__ import annotations

from typing import Any

from itera_lite.report.context import Context, Row
from itera_lite.report.metrics import Pair
from itera_lite.report.metrics import quality as read_quality
from itera_lite.report.results import ModelResults, get, number
from itera_lite.report.text import (
    MISSING,
    bullets,
    code,
    count,
    escape,
    fence,
    fixed,
    measured,
    paragraphs,
    percent,
    significant,
    table,
)
from itera_lite.stats.comparison import SIDE_NAMES

LONGEST_SAMPLE = 700  # characters


def quality(context: Context) -> str:
    """7. Quality."""
    rows: list[Row] = [
        ("Bits per byte", lambda m: fixed(read_quality(m, "bpb"))),
        ("Loss, nats per token", lambda m: fixed(read_quality(m, "loss"))),
        ("Perplexity per token", lambda m: significant(read_quality(m, "ppl"), 4)),
        ("Perplexity per word", lambda m: significant(read_quality(m, "word_ppl"), 4)),
        ("Next token right", lambda m: percent(read_quality(m, "accuracy"))),
        ("Text, bytes", lambda m: count(_evaluated(m, "bytes"))),
        ("Text, tokens", lambda m: count(_evaluated(m, "tokens"))),
        ("Split", lambda m: escape(_source(m))),
    ]
    return paragraphs(
        "## 7. Quality",
        "Bits per byte come first: they are the only measure here that compares across "
        "tokenizers. Lower is better for all but the share of tokens guessed right.",
        context.model_table(rows),
        context.verdicts("bpb", "bpb_time", "bpb_tokens"),
        _policies(context),
        _floors(context),
        context.figure("quality_cost", "Held-out quality against training compute and time."),
        context.figure("position", "Held-out loss by position in the document."),
        context.figure("seeds", "Every seed's held-out bits per byte."),
        _seeds(context),
        _word_note(context),
        context.gap("eval", "quality on the whole split, with the floors,", lambda m: m.evaluation),
        _samples(context),
    )


def comparison(context: Context) -> str:
    """8. Efficiency comparison."""
    head = "## 8. Efficiency comparison"
    if not context.pairs:
        return paragraphs(
            head,
            "> **Not measured:** no Itera model and Transformer of one size. "
            f"{context.both()}, fill this gap.",
        )
    rules = (
        "The ratio is Itera against the Transformer. A count is exact. Of timed numbers a side "
        "is better only where the two intervals don't touch; else there is no clear difference. "
        "One training run a side ranks these two checkpoints, not the architectures."
    )
    return paragraphs(
        head, rules, *[_pair(pair, context) for pair in context.pairs], context.alone()
    )


def tally(pair: Pair) -> str:
    """How many metrics each side wins, and how many nobody does."""
    judged = [c for c in pair.comparisons if c.ours and c.other and c.comparable]
    wins = {side: sum(c.winner == side for c in judged) for side in SIDE_NAMES}
    parts = [f"{SIDE_NAMES[side]} better on {n}" for side, n in wins.items()]
    rest = len(judged) - sum(wins.values())
    return f"{', '.join(parts)}, no clear difference on {rest}, of {len(judged)} metrics compared"


def _pair(pair: Pair, context: Context) -> str:
    rows = []
    for c in pair.comparisons:
        note = f" ({c.note})" if c.note == "estimated" else ""
        rows.append(
            [
                f"{c.metric.label}{note}",
                measured(c.ours, c.metric.unit),
                measured(c.other, c.metric.unit),
                f"{c.metric.better} is better",
                c.ratio_text,
                c.verdict,
            ]
        )
    headers = ["Metric", "Itera", "Transformer", "Direction", "Ratio", "Verdict"]
    title = f"### {code(pair.itera.name)} against {code(pair.transformer.name)}"
    shown = title if len(context.pairs) > 1 else ""
    return paragraphs(
        shown,
        table(headers, rows, "lrrlll"),
        f"In all: {tally(pair)}. The count is no score: many of these depend on each other.",
    )


def _evaluated(model: ModelResults, key: str) -> float | None:
    if number(model.evaluation, "bpb") is not None:
        return number(model.evaluation, key)
    return number(model.summary, "valid", key)


def _source(model: ModelResults) -> str:
    if number(model.evaluation, "bpb") is None:
        return "end of training" if read_quality(model, "bpb") is not None else MISSING
    sampled = ", a part of its documents" if model.evaluation.get("sampled") else ""
    return str(model.evaluation.get("split") or "evaluated") + sampled


def _policies(context: Context) -> str:
    found = {str(m.evaluation["policy"]) for m in context.models if m.evaluation.get("policy")}
    return "\n\n".join(f"How it was scored: {escape(policy)}." for policy in sorted(found))


def _floors(context: Context) -> str:
    """What compressors and count-based models reach on the same text."""
    for first in context.models:
        table_: dict[str, Any] = first.evaluation.get("baselines") or {}
        floors = {
            name: (bpb, get(entry, "how"))
            for name, entry in table_.items()
            if (bpb := number(entry, "bpb")) is not None
        }
        if floors:
            break
    else:
        return ""
    lines = [
        f"{escape(name.replace('_', ' '))}, {fixed(bpb)} bits per byte"
        + (f": {escape(how)}" if how else "")
        for name, (bpb, how) in sorted(floors.items(), key=lambda item: -item[1][0])
    ]
    best = min(bpb for bpb, _ in floors.values())
    beaten = [
        f"{code(m.name)} is {'below' if value < best else '**not** below'} the best of them"
        for m in context.models
        if (value := number(m.evaluation, "bpb")) is not None
        and m.evaluation.get("bytes") == first.evaluation.get("bytes")  # the same text
    ]
    return f"Floors on the same text:\n\n{bullets(lines)}\n\n{'; '.join(beaten)}."


def _seeds(context: Context) -> str:
    if context.results.seeds:
        return ""
    return (
        "> **Not measured:** spread over seeds (no `seeds.json` among the results). Until then "
        "quality is of one run each."
    )


def _word_note(context: Context) -> str:
    if all(read_quality(m, "word_ppl") is None for m in context.models):
        return ""
    return (
        "Perplexity per word counts line ends as words, as the literature does. Here `<unk>` is "
        "spelt out in bytes, there it is one word of a closed vocabulary: compare with care."
    )


def _samples(context: Context) -> str:
    parts = []
    for model in context.models:
        samples = model.summary.get("samples")
        last = samples[-1] if isinstance(samples, list) and samples else None
        text = get(last, "text")
        if not isinstance(text, str) or not text.strip():
            continue
        prompt = str(get(last, "prompt") or "")
        cut = len(text) > LONGEST_SAMPLE
        shown = prompt + text[:LONGEST_SAMPLE] + (" […]" if cut else "")
        begun = (
            "From an empty prompt"
            if not prompt
            else f"It was given the first {len(prompt)} characters"
        )
        step = number(last, "step")
        when = "" if step is None else f", step {count(step)}"
        parts.append(
            f"{code(model.name)}{when}. {begun}; the last sample of the run.\n\n{fence(shown)}"
        )
    return paragraphs("### Text samples", *parts) if parts else ""
