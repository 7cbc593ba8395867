"""Sections 9 and 10: what compression can give, and promised against measured."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from itera_lite.report.context import Context, Row
from itera_lite.report.ladder import RUNG_COSTS, rung_quality, rung_value, seeds_of
from itera_lite.report.metrics import Pair
from itera_lite.report.results import ModelResults, number
from itera_lite.report.text import (
    MISSING,
    code,
    count,
    escape,
    fixed,
    paragraphs,
    percent,
    quantity,
    significant,
    table,
)
from itera_lite.stats.comparison import Measurement, times

# Bits per weight of the GGUF block types: 32 weights and one 16-bit scale.
BITS_PER_WEIGHT = {"8-bit (Q8_0)": 8 + 16 / 32, "4-bit (Q4_0)": 4 + 16 / 32}

# What the project's first report promised, and the words that mark the rung that measures it.
PROMISES = (
    ("Vocabulary from 32K to 2K", ("vocab",)),
    ("8-bit weights", ("8-bit", "q8", "int8")),
    ("4-bit weights", ("4-bit", "q4", "int4")),
    ("Distillation", ("distil",)),
)
NO_LADDER = "not measured (no `ladder.json` among the results)"


def compression(context: Context) -> str:
    """9. Compression potential."""
    sized = [m for m in context.models if number(m.params, "total")]
    bounds: list[Row] = [
        ("As trained, measured", _weights),
        ("Half the vocabulary: saves (bound, not measured)", _half_vocabulary),
        *[(f"{name} storage (bound, not measured)", _stored(bits))
          for name, bits in BITS_PER_WEIGHT.items()],
    ]  # fmt: skip
    return paragraphs(
        "## 9. Compression potential",
        "The bounds are arithmetic on the number of parameters. They are the best case for bytes "
        "and say nothing about quality: half the vocabulary shrinks only the embedding, and the "
        "same text then takes more tokens; block types store a 16-bit scale with every 32 "
        "weights, and small tensors stay in full precision. Distillation has no such bound: it "
        "changes quality, not bytes." if sized else "",
        context.model_table(bounds, sized) if sized else "",
        context.gap("train", "the parameters", lambda m: number(m.params, "total")),
        f"Measured, the compression ladder:\n\n{rungs_table(context.results.ladder)}"
        if context.results.ladder
        else "> **Not measured:** the compression ladder (no `ladder.json` among the results).",
        context.figure("ladder", "The compression ladder: quality against each measured cost."),
    )  # fmt: skip


def path(context: Context) -> str:
    """10. Path to 100-300x."""
    return paragraphs(
        "## 10. Path to 100-300x",
        "The project's first report promised 300x and more 'with all optimisations', by "
        "multiplying estimates. Here a reduction counts only when it is measured end to end on the "
        "artifact that results, at equal or better bits per byte. Nothing below is a product of "
        "other factors.",
        _promises(context.results.ladder),
        target_table(context.results.ladder_targets),
        references_tried(context.results.ladder_references),
        unused_tokens(context.results.ladder) if context.results.ladder else "",
        _time_to_train(context.results.ladder),
        *[_so_far(pair, len(context.pairs) > 1) for pair in context.pairs],
        ""
        if context.pairs
        else f"> **Not measured:** Itera against the Transformer. {context.both()}, fill this gap.",
    )


def _weights(model: ModelResults) -> str:
    size, total = number(model.benchmark, "memory", "weights_bytes"), number(model.params, "total")
    if size is None or not total:
        return MISSING
    return f"{quantity(size, 'bytes')} ({significant(8 * size / total)} bits a weight)"


def _half_vocabulary(model: ModelResults) -> str:
    embedding, total = number(model.params, "embedding"), number(model.params, "total")
    if embedding is None or not total:
        return MISSING
    saved = embedding / 2
    return f"{quantity(saved * 4, 'bytes')} in fp32, {percent(saved / total)} of the model"


def _stored(bits: float) -> Any:
    def read(model: ModelResults) -> str:
        total = number(model.params, "total")
        if not total:
            return MISSING
        return f"{quantity(total * bits / 8, 'bytes')} ({bits:g} bits a weight)"

    return read


def rungs_table(rungs: list[dict[str, Any]]) -> str:
    """The ladder as measured, a row a rung, each cost with its ratio to the reference."""
    costs = [c for c in RUNG_COSTS if any(rung_value(r, c.key) is not None for r in rungs)]
    rows = []
    for index, rung in enumerate(rungs):
        cells = [f"{index}: {escape(rung.get('name', 'unnamed'))}", rung_quality(rung)]
        for cost in costs:
            value, first = rung_value(rung, cost.key), rung_value(rungs[0], cost.key)
            text = significant(None if value is None else value * cost.scale)
            if index and value and first:
                text += f" ({_change(first, value)})"
            cells.append(text)
        rows.append(cells)
    headers = ["Rung", "bits/byte", *(f"{c.label}, {c.unit}" for c in costs)]
    note = "In brackets: against rung 0, measured end to end. Lower is better everywhere."
    note = f"{note} {seeds_of(rungs)}".strip()
    return f"{table(headers, rows)}\n\n{note}"


def _change(before: float, after: float) -> str:
    if after == before:
        return "equal"
    return f"{times(after / before)} {'lower' if after < before else 'higher'}"


def _promises(rungs: list[dict[str, Any]]) -> str:
    rows = [[f"{promise}", _rung_effect(rungs, words)] for promise, words in PROMISES]
    rows.append(["All together: 100-300x", _end_to_end(rungs)])
    return table(["Promised", "Measured"], rows, "ll")


def _rung_effect(rungs: list[dict[str, Any]], words: tuple[str, ...]) -> str:
    """What one rung changed against the one before it."""
    if not rungs:
        return NO_LADDER
    for before, rung in pairwise(rungs):
        if not any(word in str(rung.get("name", "")).lower() for word in words):
            continue
        parts = []
        sizes = [rung_value(r, "bytes_on_disk") for r in (before, rung)]
        if sizes[0] and sizes[1]:
            parts.append(f"{_change(sizes[0], sizes[1])} on disk than the rung before")
        quality = [rung_value(r, "bpb") for r in (before, rung)]
        if quality[0] is not None and quality[1] is not None:
            parts.append(f"{quality[1] - quality[0]:+.4f} bits per byte")
        return ", ".join(parts) or "not measured"
    return "not measured (no such rung)"


def _end_to_end(rungs: list[dict[str, Any]]) -> str:
    """The last rung that is as good as the reference, against the reference."""
    bar = Measurement.read(rungs[0].get("bpb")) if rungs else None
    if bar is None:
        return NO_LADDER
    good = [r for r in rungs[1:] if (m := Measurement.read(r.get("bpb"))) and m.high <= bar.low]
    if not good:
        return "none: no rung reaches the quality of the reference"
    parts = [
        f"{cost.label[:1].lower() + cost.label[1:] if cost.label[1:2].islower() else cost.label} "
        f"{_change(first, value)}"
        for cost in RUNG_COSTS
        if (first := rung_value(rungs[0], cost.key)) and (value := rung_value(good[-1], cost.key))
    ]
    return (
        f"rung '{escape(good[-1].get('name', 'unnamed'))}' at equal or better bits per byte: "
        + (", ".join(parts) or "no cost measured")
    )


def references_tried(references: list[dict[str, Any]]) -> str:
    """Which conventional models were trained, and that the better one is the reference."""
    if len(references) < 2:
        return ""
    parts = [
        f"{significant((number(r, 'params') or 0) / 1e6)} M parameters, "
        f"{significant(number(r, 'train_minutes'))} minutes, {significant(number(r, 'epochs'))} "
        f"passes over the text: {fixed(number(r, 'valid_bpb'))}"
        + (" (rung 0)" if r.get("chosen") else "")
        for r in references
    ]
    return (
        f"Rung 0 is the best of {len(references)} conventional models that were trained, by bits "
        f"per byte on the validation text: {'; '.join(parts)}."
    )


def unused_tokens(rungs: list[dict[str, Any]]) -> str:
    """What the reference would weigh without the tokens that its text doesn't use."""
    first, last = rungs[0], rungs[-1]
    size, shipped = (rung_value(rung, "bytes_on_disk") for rung in (first, last))
    total, used = number(first, "vocab_size"), number(first, "tokens_in_use")
    width = number(first, "d_model")
    if not (size and shipped and total and used and width):
        return ""
    without = size - 4 * width * (total - used)
    return (
        f"Of the reference's {count(total)} tokens {count(used)} occur in its training text. "
        f"Without the rows of the others it would have {significant(without / 1e6)} MB, "
        f"{significant(without / shipped)} times the last rung (computed, not measured)."
    )


def target_table(targets: list[dict[str, Any]]) -> str:
    """A row a target, with the factor found and its computed verdict; empty without targets."""
    if not targets:
        return ""
    rows = []
    for target in targets:
        least, goal = number(target, "least"), number(target, "goal")
        wanted = f"at least {significant(least)}×"
        if goal:
            wanted += f", goal {significant(goal)}×"
        verdict = "reached" if target.get("reached") else "**missed**"
        if goal:
            verdict += ", the goal too" if target.get("goal_reached") else ", the goal missed"
        if not target.get("as_good"):
            verdict = "**missed**: the quality is below the reference's"
        label = escape(target.get("label", "?"))
        rows.append(
            [
                label[:1].upper() + label[1:],
                f"{significant(number(target, 'factor'))}× lower",
                wanted,
                verdict,
            ]
        )
    return table(["last rung against rung 0", "found", "wanted", "verdict"], rows, "lrrl")


def _time_to_train(rungs: list[dict[str, Any]]) -> str:
    """Which had more time: the reference, or all that the last rung was made from."""
    if not rungs:
        return ""
    first, last = (rung_value(rungs[i], "train_minutes") for i in (0, -1))
    if not first or not last:
        return ""
    most = (
        f"{significant(last / first)} times as long as the reference, which could use more time too"
        if last > first
        else "no longer than the reference had"
    )
    teacher = rungs[-1].get("outside_teacher")
    taught = f"but for its teacher {code(teacher)}, who was brought along" if teacher else "in all"
    return (
        f"Time to train: the reference {significant(first)} minutes, everything that the last rung "
        f"was made from {significant(last)} minutes {taught}: {most}. Quality is compared "
        "at these times; a reference that is trained until it gains nothing more was not measured."
    )


def _so_far(pair: Pair, named: bool) -> str:
    """Each measured ratio of the pair, alone."""
    keys = ("params_total", "params_active", "flops_forward", "weights_bytes", "peak_rss",
            "energy", "bpb", "bpb_time", "bpb_tokens")  # fmt: skip
    found = [c for c in map(pair.find, keys) if c and c.ours and c.other]
    found += [c for c in pair.group("decode") if c.ours and c.other and "_1_" in c.metric.key]
    if not found:
        return ""
    rows = [
        [
            c.metric.label + (f" ({c.note})" if c.note == "estimated" else ""),
            c.ratio_text,
            c.verdict,
        ]
        for c in found
    ]
    whose = f" ({code(pair.itera.name)})" if named else ""
    return (
        f"Measured so far, Itera against the Transformer of this report{whose}, each number "
        f"alone:\n\n{table(['Metric', 'Ratio', 'Verdict'], rows, 'lll')}"
    )
