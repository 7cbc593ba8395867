"""Sections 7 and 8: quality on held-out text, and every verdict in one table."""

from __future__ import annotations

from itera_lite.report.context import Context, Row
from itera_lite.report.metrics import Pair
from itera_lite.report.metrics import quality as number
from itera_lite.report.results import ModelResults
from itera_lite.report.seeds import seeds_table
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
        ("Bits per byte", lambda m: fixed(number(m, "bpb"))),
        ("Loss, nats per token", lambda m: fixed(number(m, "loss"))),
        ("Perplexity per token", lambda m: significant(number(m, "ppl"), 4)),
        ("Perplexity per word", lambda m: significant(number(m, "word_ppl"), 4)),
        ("Next token right", lambda m: percent(number(m, "accuracy"))),
        ("Text, bytes", lambda m: count(number(m, "bytes"))),
        ("Text, tokens", lambda m: count(number(m, "tokens"))),
        ("Split", lambda m: escape(_split(m))),
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
        seeds_table(context.results.seeds),
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
    compared = [c for c in pair.comparisons if c.ours and c.other and c.comparable]
    judged = [c for c in compared if not c.withheld]
    wins = {side: sum(c.winner == side for c in judged) for side in SIDE_NAMES}
    parts = [f"{SIDE_NAMES[side]} better on {n}" for side, n in wins.items()]
    rest = len(judged) - sum(wins.values())
    if withheld := len(compared) - len(judged):
        parts.append(f"not judged, for the load by other programs, on {withheld}")
    return f"{', '.join(parts)}, no clear difference on {rest}, of {len(compared)} metrics compared"


def _pair(pair: Pair, context: Context) -> str:
    rows = [
        [
            c.label,
            measured(c.ours, c.metric.unit),
            measured(c.other, c.metric.unit),
            f"{c.metric.better} is better",
            c.ratio_text,
            c.verdict,
        ]
        for c in pair.comparisons
    ]
    headers = ["Metric", "Itera", "Transformer", "Direction", "Ratio", "Verdict"]
    title = f"### {code(pair.ours.name)} against {code(pair.other.name)}"
    return paragraphs(
        title if len(context.pairs) > 1 else "",
        table(headers, rows, "lrrlll"),
        f"In all: {tally(pair)}. The count is no score: many of these depend on each other.",
    )


def _split(model: ModelResults) -> str:
    if model.evaluation is None:
        return "end of training" if model.quality else MISSING
    return model.evaluation.split + (
        ", a part of its documents" if model.evaluation.sampled else ""
    )


def _policies(context: Context) -> str:
    found = {m.evaluation.policy for m in context.models if m.evaluation}
    return "\n\n".join(f"How it was scored: {escape(policy)}." for policy in sorted(found))


def _floors(context: Context) -> str:
    """What compressors and count-based models reach on the same text."""
    evaluations = {m.name: m.evaluation for m in context.models if m.evaluation}
    first = next((e for e in evaluations.values() if e.baselines), None)
    if first is None:
        return ""
    ranked = sorted(first.baselines.items(), key=lambda item: -item[1].bpb)
    lines = [
        f"{escape(name.replace('_', ' '))}, {fixed(floor.bpb)} bits per byte: {escape(floor.how)}"
        for name, floor in ranked
    ]
    best = min(floor.bpb for floor in first.baselines.values())
    beaten = [
        f"{code(name)} is {'below' if found.bpb < best else '**not** below'} the best of them"
        for name, found in evaluations.items()
        if found.bytes == first.bytes  # the same text
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
    if all(number(m, "word_ppl") is None for m in context.models):
        return ""
    return (
        "Perplexity per word counts line ends as words, as the literature does. Here `<unk>` is "
        "spelt out in bytes, there it is one word of a closed vocabulary: compare with care."
    )


def _samples(context: Context) -> str:
    parts = []
    for model in context.models:
        samples = model.summary.samples if model.summary else []
        if not samples or not samples[-1].text.strip():
            continue
        last = samples[-1]
        cut = " […]" if len(last.text) > LONGEST_SAMPLE else ""
        begun = (
            f"It was given the first {len(last.prompt)} characters"
            if last.prompt
            else "From an empty prompt"
        )
        parts.append(
            f"{code(model.name)}, step {count(last.step)}. {begun}; the last sample of the run."
            f"\n\n{fence(last.prompt + last.text[:LONGEST_SAMPLE] + cut)}"
        )
    return paragraphs("### Text samples", *parts) if parts else ""
