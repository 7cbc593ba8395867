"""Sections 9 and 10: what compression can give, and promised against measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from itera_lite.records import Ladder, Params, Reference, Rung
from itera_lite.report.context import Context, Row
from itera_lite.report.ladder import DISK, RUNG_COSTS, rung_quality, seeds_of
from itera_lite.report.metrics import Pair
from itera_lite.report.results import ModelResults
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
from itera_lite.stats.comparison import times
from itera_lite.stats.targets import Target

# Bits per weight of the GGUF block types: 32 weights and one 16-bit scale.
BITS_PER_WEIGHT = {"8-bit (Q8_0)": 8 + 16 / 32, "4-bit (Q4_0)": 4 + 16 / 32}

# What the project's first report promised, and the stage of the ladder that measures it.
PROMISES = {
    "Vocabulary from 32K to 2K": "vocabulary",
    "8-bit weights": "q8_0",
    "4-bit weights": "q4_0",
    "Distillation": "distilled",
}
NO_LADDER = "not measured (no `ladder.json` among the results)"


def compression(context: Context) -> str:
    """9. Compression potential."""
    sized = [m for m in context.models if m.params]
    bounds: list[Row] = [
        ("As trained, measured", _weights),
        _bound("Half the vocabulary: saves (bound, not measured)", _half_vocabulary),
        *[_bound(f"{name} storage (bound, not measured)", _stored(bits))
          for name, bits in BITS_PER_WEIGHT.items()],
    ]  # fmt: skip
    ladder = context.results.ladder
    return paragraphs(
        "## 9. Compression potential",
        "The bounds are arithmetic on the number of parameters. They are the best case for bytes "
        "and say nothing about quality: half the vocabulary shrinks only the embedding, and the "
        "same text then takes more tokens; block types store a 16-bit scale with every 32 "
        "weights, and small tensors stay in full precision. Distillation has no such bound: it "
        "changes quality, not bytes." if sized else "",
        context.model_table(bounds, sized) if sized else "",
        context.gap("train", "the parameters", lambda m: m.params),
        f"Measured, the compression ladder:\n\n{rungs_table(ladder.rungs)}"
        if ladder
        else "> **Not measured:** the compression ladder (no `ladder.json` among the results).",
        context.figure("ladder", "The compression ladder: quality against each measured cost."),
    )  # fmt: skip


def path(context: Context) -> str:
    """10. Path to 100-300x."""
    ladder = context.results.ladder
    return paragraphs(
        "## 10. Path to 100-300x",
        "The project's first report promised 300x and more 'with all optimisations', by "
        "multiplying estimates. Here a reduction counts only when it is measured end to end on the "
        "artifact that results, at equal or better bits per byte. Nothing below is a product of "
        "other factors.",
        _promises(ladder.rungs if ladder else []),
        *(_of_ladder(ladder) if ladder else ()),
        *[_so_far(pair, len(context.pairs) > 1) for pair in context.pairs],
        ""
        if context.pairs
        else f"> **Not measured:** Itera against the Transformer. {context.both()}, fill this gap.",
    )


def _of_ladder(ladder: Ladder) -> tuple[str, ...]:
    return (
        target_table(ladder.targets),
        references_tried(ladder.references),
        unused_tokens(ladder.rungs),
        _time_to_train(ladder.rungs),
    )


def _weights(model: ModelResults) -> str:
    if model.benchmark is None or model.params is None:
        return MISSING
    size = model.benchmark.memory.weights_bytes
    return f"{quantity(size, 'bytes')} ({significant(8 * size / model.params.total)} bits a weight)"


def _bound(name: str, read: Callable[[Params], str]) -> Row:
    """A row computed from the parameters."""
    return name, lambda m: MISSING if m.params is None else read(m.params)


def _half_vocabulary(params: Params) -> str:
    if params.embedding is None:
        return MISSING
    saved = params.embedding / 2
    return f"{quantity(saved * 4, 'bytes')} in fp32, {percent(saved / params.total)} of the model"


def _stored(bits: float) -> Callable[[Params], str]:
    return lambda params: f"{quantity(params.total * bits / 8, 'bytes')} ({bits:g} bits a weight)"


def rungs_table(rungs: Sequence[Rung]) -> str:
    """The ladder as measured, a row a rung, each cost with its ratio to the reference."""
    rows = []
    for index, rung in enumerate(rungs):
        cells = [f"{index}: {escape(rung.name)}", rung_quality(rung)]
        for cost in RUNG_COSTS:
            against = f" ({_change(cost.of(rungs[0]), cost.of(rung))})" if index else ""
            cells.append(significant(cost.of(rung) * cost.scale) + against)
        rows.append(cells)
    headers = ["Rung", "bits/byte", *(f"{c.label}, {c.unit}" for c in RUNG_COSTS)]
    note = "In brackets: against rung 0, measured end to end. Lower is better everywhere."
    return f"{table(headers, rows)}\n\n{note} {seeds_of(rungs)}".strip()


def _change(before: float, after: float) -> str:
    if after == before:
        return "equal"
    if before <= 0:
        return MISSING
    return f"{times(after / before)} {'lower' if after < before else 'higher'}"


def _promises(rungs: Sequence[Rung]) -> str:
    rows = [[promise, _effect(rungs, stage)] for promise, stage in PROMISES.items()]
    rows.append(["All together: 100-300x", _end_to_end(rungs)])
    return table(["Promised", "Measured"], rows, "ll")


def _effect(rungs: Sequence[Rung], stage: str) -> str:
    """What the rung of a stage changed against the one before it."""
    if not rungs:
        return NO_LADDER
    for before, rung in pairwise(rungs):
        if rung.stage == stage:
            size = _change(DISK.of(before), DISK.of(rung))
            bits = rung.bpb.median - before.bpb.median
            return f"{size} on disk than the rung before, {bits:+.4f} bits per byte"
    return "not measured (no such rung)"


def _end_to_end(rungs: Sequence[Rung]) -> str:
    """The last rung that is as good as the reference, against the reference."""
    if not rungs:
        return NO_LADDER
    good = [rung for rung in rungs[1:] if rung.bpb.max <= rungs[0].bpb.min]
    if not good:
        return "none: no rung reaches the quality of the reference"
    parts = [
        f"{cost.label[:1].lower() + cost.label[1:] if cost.label[1:2].islower() else cost.label} "
        f"{_change(cost.of(rungs[0]), cost.of(good[-1]))}"
        for cost in RUNG_COSTS
    ]
    return f"rung '{escape(good[-1].name)}' at equal or better bits per byte: {', '.join(parts)}"


def references_tried(references: Sequence[Reference]) -> str:
    """Which conventional models were trained, and that the better one is the reference."""
    if len(references) < 2:
        return ""
    parts = [
        f"{significant(r.params / 1e6)} M parameters, {significant(r.train_minutes)} minutes, "
        f"{significant(r.epochs)} passes over the text: {fixed(r.valid_bpb)}"
        + (" (rung 0)" if r.chosen else "")
        for r in references
    ]
    return (
        f"Rung 0 is the best of {len(references)} conventional models that were trained, by bits "
        f"per byte on the validation text: {'; '.join(parts)}."
    )


def unused_tokens(rungs: Sequence[Rung]) -> str:
    """What the reference would weigh without the tokens that its text doesn't use."""
    first, last = rungs[0], rungs[-1]
    without = DISK.of(first) - 4 * first.d_model * (first.vocab_size - first.tokens_in_use)
    return (
        f"Of the reference's {count(first.vocab_size)} tokens {count(first.tokens_in_use)} occur "
        f"in its training text. Without the rows of the others it would have "
        f"{significant(without / 1e6)} MB, {significant(without / DISK.of(last))} times the last "
        "rung (computed, not measured)."
    )


def target_table(targets: Sequence[Target]) -> str:
    """A row a target, with the factor found and its computed verdict; empty without targets."""
    rows = []
    for target in targets:
        wanted = f"at least {significant(target.target)}×"
        verdict = "reached" if target.verdict == "met" else f"**{target.verdict_text}**"
        if target.goal is not None:
            wanted += f", goal {significant(target.goal)}×"
            reached = target.goal_verdict == "met"
            verdict += ", the goal too" if reached else ", the goal missed"
        if target.reason:
            verdict = f"**{target.verdict}**: {escape(target.reason)}"
        label = escape(target.label)
        found = f"{significant(target.value)}× lower"
        rows.append([label[:1].upper() + label[1:], found, wanted, verdict])
    headers = ["last rung against rung 0", "found", "wanted", "verdict"]
    return table(headers, rows, "lrrl") if rows else ""


def _time_to_train(rungs: Sequence[Rung]) -> str:
    """Which had more time: the reference, or all that the last rung was made from."""
    first, last = rungs[0].train_minutes, rungs[-1].train_minutes
    if not first or not last:
        return ""
    most = (
        f"{significant(last / first)} times as long as the reference, which could use more time too"
        if last > first
        else "no longer than the reference had"
    )
    teacher = rungs[-1].outside_teacher
    taught = f"but for its teacher {code(teacher)}, who was brought along" if teacher else "in all"
    return (
        f"Time to train: the reference {significant(first)} minutes, everything that the last rung "
        f"was made from {significant(last)} minutes {taught}: {most}. Quality is compared "
        "at these times; a reference that is trained until it gains nothing more was not measured."
    )


def _so_far(pair: Pair, named: bool) -> str:
    """Each measured ratio of the pair, alone."""
    found = pair.both("params_total", "params_active", "flops_forward", "weights_bytes", "peak_rss",
                      "energy", "bpb", "bpb_time", "bpb_tokens")  # fmt: skip
    found += [c for c in pair.decoding() if c.ours and c.other]
    if not found:
        return ""
    rows = [[c.label, c.ratio_text, c.verdict] for c in found]
    whose = f" ({code(pair.ours.name)})" if named else ""
    return (
        f"Measured so far, Itera against the Transformer of this report{whose}, each number "
        f"alone:\n\n{table(['Metric', 'Ratio', 'Verdict'], rows, 'lll')}"
    )
