"""The five lines at the top: computed verdicts, or the command that would give one."""

from __future__ import annotations

from itera_lite.report.context import Context, against, command
from itera_lite.report.ladder import rung_value
from itera_lite.report.metrics import Pair, quality
from itera_lite.report.results import number
from itera_lite.report.text import bullets, code, escape, fixed, paragraphs, significant
from itera_lite.stats.comparison import Comparison


def summary(context: Context) -> str:
    """Five lines: quality, size, compute, speed, memory and energy. A sixth on the ladder."""
    climbed = _ladder(context)
    if not context.pairs:
        return paragraphs("## Summary", bullets([*_without_a_pair(context), *climbed]))
    pair = context.pairs[0]
    more = ", ".join(
        f"{code(p.itera.name)} against {code(p.transformer.name)}" for p in context.pairs[1:]
    )
    others = f"Section 8 also compares {more}." if more else ""
    intro = (
        f"{code(pair.itera.name)} (Itera) against {code(pair.transformer.name)} (Transformer). "
        "Every verdict is computed from the numbers and their spread; none is typed."
    )
    return paragraphs(
        "## Summary",
        f"{intro} {others}".strip(),
        bullets([*headlines(pair), *climbed]),
        context.alone(),
    )


def headlines(pair: Pair) -> list[str]:
    """Exactly five lines, in Markdown."""
    seeds = [c for c in map(pair.find, ("bpb_time", "bpb_tokens")) if c and c.ours]
    best = seeds[0] if seeds else pair.find("bpb")
    train, bench = command("train", pair.itera), command("bench", pair.itera)
    return [
        _line("Quality", command("eval", pair.itera), best),
        _line("Size", train, pair.find("params_total"), pair.find("params_active")),
        _line("Compute", train, pair.find("flops_forward")),
        _line("Speed", bench, *_decoding(pair)),
        _line(
            "Memory and energy", bench, pair.find("peak_rss"), _longest_state(pair),
            pair.find("energy"),
        ),
    ]  # fmt: skip


def _line(title: str, line: str, *comparisons: Comparison | None) -> str:
    found = [c for c in comparisons if c is not None and c.ours and c.other]
    if not found:
        return f"**{title}.** Not measured on both sides: run `{line}`."
    parts = [f"{c.metric.label}: **{c.verdict}**. {against(c)}." for c in found]
    return f"**{title}.** " + " ".join(parts)


def _decoding(pair: Pair) -> list[Comparison]:
    """Decoding at batch 1: the shortest and the longest context."""
    single = [c for c in pair.group("decode") if c.metric.key.startswith("decode_1_")]
    return [single[0], single[-1]] if len(single) > 1 else single


def _longest_state(pair: Pair) -> Comparison | None:
    states = [c for c in pair.group("memory") if c.metric.key.startswith("state_")]
    return states[-1] if states else None


def _ladder(context: Context) -> list[str]:
    """What the last rung of the compression ladder reaches against the first."""
    targets, rungs = context.results.ladder_targets, context.results.ladder
    if not targets:
        return []
    parts = [
        f"{escape(t.get('label', '?'))} {significant(number(t, 'factor'))}× lower "
        f"({'reached' if t.get('reached') else '**missed**'}: wanted "
        f"{significant(number(t, 'least'))}×)"
        for t in targets
    ]
    quality = [fixed(rung_value(rungs[i], "bpb")) for i in (0, -1)]
    return [
        f"**Compression.** The last rung of the ladder against the conventional reference: "
        f"{'; '.join(parts)}; bits per byte {quality[1]} against {quality[0]}. Section 10 has more."
    ]


def _without_a_pair(context: Context) -> list[str]:
    if not context.models:
        return ["Nothing is compared: no training or benchmark is among the results."]
    lines = []
    for model in context.models[:4]:
        bpb = quality(model, "bpb")
        shown = "its quality isn't measured" if bpb is None else f"{fixed(bpb)} bits per byte"
        kind = f" ({model.family})" if model.family else ""
        lines.append(f"{code(model.name)}{escape(kind)}: {shown}.")
    lines.append(
        "Nothing is compared: that needs an Itera model and a Transformer of one size. "
        f"`{command('train', context.models[0])}` trains both."
    )
    return lines
