"""The five lines at the top: computed verdicts, or the command that would give one."""

from __future__ import annotations

from itera_lite.report.context import Context, against, command
from itera_lite.report.ladder import headline
from itera_lite.report.metrics import Pair, quality
from itera_lite.report.text import bullets, code, escape, fixed, paragraphs
from itera_lite.stats.comparison import Comparison


def summary(context: Context) -> str:
    """Five lines: quality, size, compute, speed, memory and energy. A sixth on the ladder."""
    ladder = _ladder(context)
    if not context.pairs:
        return paragraphs("## Summary", bullets([*_without_a_pair(context), *ladder]))
    pair = context.pairs[0]
    more = ", ".join(f"{code(p.ours.name)} against {code(p.other.name)}" for p in context.pairs[1:])
    others = f"Section 8 also compares {more}." if more else ""
    intro = (
        f"{code(pair.ours.name)} (Itera) against {code(pair.other.name)} (Transformer). "
        "Every verdict is computed from the numbers and their spread; none is typed."
    )
    return paragraphs(
        "## Summary",
        f"{intro} {others}".strip(),
        bullets([*headlines(pair), *ladder]),
        context.alone(),
    )


def headlines(pair: Pair) -> list[str]:
    """Exactly five lines, in Markdown."""
    seeds = [c for c in map(pair.find, ("bpb_time", "bpb_tokens")) if c and c.ours]
    best = seeds[0] if seeds else pair.find("bpb")
    train, bench = command("train", pair.ours), command("bench", pair.ours)
    decoding = pair.decoding()
    states = [c for c in pair.group("memory") if c.metric.key.startswith("state_")]
    return [
        _line("Quality", command("eval", pair.ours), best),
        _line("Size", train, pair.find("params_total"), pair.find("params_active")),
        _line("Compute", train, pair.find("flops_forward")),
        _line("Speed", bench, *decoding[:1], *decoding[1:][-1:]),
        _line("Memory and energy", bench, pair.find("peak_rss"), *states[-1:], pair.find("energy")),
    ]


def _line(title: str, line: str, *comparisons: Comparison | None) -> str:
    found = [c for c in comparisons if c is not None and c.ours and c.other]
    if not found:
        return f"**{title}.** Not measured on both sides: run `{line}`."
    parts = [f"{c.metric.label}: **{c.verdict}**. {against(c)}." for c in found]
    return f"**{title}.** " + " ".join(parts)


def _ladder(context: Context) -> list[str]:
    """What the last rung of the compression ladder reaches against the first."""
    ladder = context.results.ladder
    found = headline(ladder) if ladder else ""
    return [f"**Compression.** {found} Section 10 has more."] if found else []


def _without_a_pair(context: Context) -> list[str]:
    if not context.models:
        return ["Nothing is compared: no training or benchmark is among the results."]
    lines = []
    for model in context.models[:4]:
        bpb = quality(model, "bpb")
        shown = "its quality isn't measured" if bpb is None else f"{fixed(bpb)} bits per byte"
        kind = f" ({escape(model.family)})" if model.family else ""
        lines.append(f"{code(model.name)}{kind}: {shown}.")
    if more := len(context.models) - len(lines):
        lines.append(f"{more} more: section 1 has all.")
    lines.append(
        "Nothing is compared: that needs an Itera model and a Transformer of one size. "
        f"`{command('train', context.models[0])}` trains both."
    )
    return lines
