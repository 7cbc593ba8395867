"""The ladder as the report shows it: rungs, factors against both references, verdicts, in words.

Everything is read off the record. The two references are the same conventional model, as
`transformers` runs it (rung 0) and in llama.cpp with quantised weights; a record of an earlier
version lacks the second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from itera_lite.records import Ladder, Reference, Rung, Teaching
from itera_lite.report.text import (
    MISSING,
    code,
    count,
    escape,
    fixed,
    percent,
    significant,
    table,
)
from itera_lite.stats.comparison import times
from itera_lite.stats.samples import Stat
from itera_lite.stats.targets import Target

IN_LLAMA = "the same model in llama.cpp"
NOT_IN_LLAMA = (
    f"Against {IN_LLAMA}: not measured. `itera ladder` measures it where llama.cpp is installed "
    "(`pip install 'itera-lite[llama]'`)."
)


@dataclass(frozen=True)
class RungCost:
    """A measured cost of a rung; lower is better for all of them."""

    key: str
    label: str
    unit: str
    scale: float = 1.0  # from the record's unit to the one shown

    def of(self, rung: Rung) -> float:
        """The cost of a rung in the record's unit; of a repeated measurement the median, and 0
        where it wasn't measured."""
        value: float | Stat | None = getattr(rung, self.key)
        return value.median if isinstance(value, Stat) else value or 0.0


DISK = RungCost("bytes_on_disk", "Size on disk", "MB", 1e-6)
COMPRESSED = RungCost("bytes_compressed", "Size on disk, both compressed", "MB", 1e-6)
MEMORY = RungCost("peak_rss_bytes", "Peak resident memory", "MB", 1e-6)
CPU = RungCost("cpu_seconds_per_kb", "CPU time per 1,000 bytes of text", "s")
RUNG_COSTS = (
    DISK,
    MEMORY,
    CPU,
    RungCost("flops_per_byte", "FLOPs per byte of text", "MFLOPs", 1e-6),
    RungCost("joules_per_kb", "Energy per 1,000 bytes of text", "J"),
    RungCost("ms_per_byte", "Time per byte of text", "ms"),
    RungCost("train_minutes", "Time to train", "min"),
)
JUDGED = (CPU, DISK, COMPRESSED, MEMORY)  # costs that have a target against one of the references


def rung_quality(rung: Rung) -> str:
    """Bits per byte, with the range of the seeds where a rung was trained with several."""
    bpb = rung.bpb
    if bpb.repeats == 1:
        return fixed(bpb.median)
    return f"{fixed(bpb.median)} ({fixed(bpb.min)} to {fixed(bpb.max)})"


def rungs_table(ladder: Ladder) -> str:
    """The ladder as measured, a row a rung, each cost with its ratio to the references."""
    references = [ladder.rungs[0], *([ladder.quantized] if ladder.quantized else [])]
    named = [(f"{i}: {escape(rung.name)}", rung) for i, rung in enumerate(ladder.rungs)]
    if ladder.quantized:
        named.insert(1, (escape(ladder.quantized.name), ladder.quantized))
    rows = []
    for name, rung in named:
        against = [r for r in references if r is not rung and rung is not references[0]]
        cells = [name, rung_quality(rung)]
        for cost in RUNG_COSTS:
            ratios = " / ".join(change(cost.of(r), cost.of(rung)) for r in against)
            cells.append(significant(cost.of(rung) * cost.scale) + (ratios and f" ({ratios})"))
        rows.append(cells)
    headers = ["Rung", "bits/byte", *(f"{c.label}, {c.unit}" for c in RUNG_COSTS)]
    both = f" / against {IN_LLAMA}" if ladder.quantized else ""
    note = f"In brackets: against rung 0{both}, measured end to end. Lower is better everywhere."
    most = max(rung.bpb.repeats for rung in ladder.rungs)
    seeds = f" Bits per byte: the median of {most} seeds, and their range." if most > 1 else ""
    return f"{table(headers, rows)}\n\n{note}{seeds}"


def change(before: float, after: float) -> str:
    """``12.3× lower``."""
    if before <= 0 or after <= 0:
        return MISSING
    if after == before:
        return "equal"
    return f"{times(after / before)} {'lower' if after < before else 'higher'}"


def findings(ladder: Ladder) -> tuple[str, ...]:
    """What follows from the rungs: factors and verdicts, and how the references came about."""
    return (
        factor_table(ladder),
        lost_quality(ladder),
        references_tried(ladder.references),
        steadiness(ladder),
        types_tried(ladder),
        teaching(ladder.teaching),
        unused_tokens(ladder.rungs),
    )


def factors(ladder: Ladder) -> Iterator[tuple[str, list[str], list[str]]]:
    """For each judged cost: its label, and against each reference what was found, what was wanted
    and the verdict."""
    judged = {(0, target.key): target for target in ladder.targets}
    judged |= {(1, target.key): target for target in ladder.quantized_targets}
    for cost in JUDGED:
        if not any(key == cost.key for _, key in judged):
            continue
        yield (
            cost.label,
            *(
                _factor(ladder, cost, reference, judged.get((i, cost.key)))
                for i, reference in enumerate((ladder.rungs[0], ladder.quantized))
            ),  # type: ignore[misc]
        )


def _factor(
    ladder: Ladder, cost: RungCost, reference: Rung | None, target: Target | None
) -> list[str]:
    wanted = verdict = MISSING
    if target is not None:
        wanted = f"{target.sense} {significant(target.target)}×"
        verdict = target.verdict_text
        if target.goal is not None:
            wanted += f", goal {significant(target.goal)}×"
            verdict += f", the goal {target.goal_verdict}"
        if target.reason and target.verdict == "missed":
            verdict = f"missed: {target.reason}"
    if reference is None:
        return [MISSING, wanted, verdict]
    return [change(cost.of(reference), cost.of(ladder.rungs[-1])), wanted, verdict]


def factor_table(ladder: Ladder) -> str:
    """A row a cost, with the factors against both references; empty without targets."""
    rows = [
        [label, *(_bold(escape(cell)) for cell in (*first, *second))]
        for label, first, second in factors(ladder)
    ]
    if not rows:
        return ""
    in_llama = escape(ladder.quantized.name) if ladder.quantized else IN_LLAMA
    headers = ["the last rung", "against rung 0", "wanted", "verdict"]
    headers += [f"against {in_llama}", "wanted", "verdict"]
    note = "" if ladder.quantized else f"\n\n{NOT_IN_LLAMA}"
    return table(headers, rows, "lrrlrrl") + note


def _bold(cell: str) -> str:
    """A verdict that something was missed, in bold."""
    return f"**missed**{cell.removeprefix('missed')}" if cell.startswith("missed") else cell


def lost_quality(ladder: Ladder) -> str:
    """That no factor counts, where the last rung is worse than a reference; else empty."""
    lost = []
    for targets, reference in (
        (ladder.targets, ladder.rungs[0]),
        (ladder.quantized_targets, ladder.quantized),
    ):
        if reference and any(t.reason and t.verdict == "missed" for t in targets):
            lost.append(f"{reference.name} ({fixed(reference.bpb.min)})")
    if not lost:
        return ""
    worst = fixed(ladder.rungs[-1].bpb.max)
    return (
        f"The last rung is worse ({worst}) than {' and than '.join(lost)}: no factor counts there."
    )


def references_tried(references: Sequence[Reference]) -> str:
    """Which conventional models were trained, and that the best one is the reference."""
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


def steadiness(ladder: Ladder) -> str:
    """How far apart the reference's seeds are, and whether that is near enough."""
    target, bpb = ladder.steadiness, ladder.rungs[0].bpb
    if bpb.repeats == 1:
        return "The reference has one seed: how far its seeds are apart isn't known."
    apart = percent((bpb.max - bpb.min) / bpb.median if bpb.median else None)
    found = f"The reference's {bpb.repeats} seeds are {apart} apart"
    if target is None:
        return f"{found}."
    within = "within" if target.verdict == "met" else "**not within**"
    return f"{found}: {within} the {percent(target.target, 0)} that a steady reference keeps to."


def types_tried(ladder: Ladder) -> str:
    """In which types llama.cpp ran the reference, and which one was taken; empty without it."""
    if not ladder.quantized_types:
        return ""
    parts = [
        f"{tried.type} {significant(tried.bytes / 1e6)} MB, {fixed(tried.valid_bpb)}"
        + (" (taken)" if tried.chosen else "")
        for tried in ladder.quantized_types
    ]
    return (
        "The reference in llama.cpp, bits per byte by llama.cpp on validation text: "
        f"{'; '.join(parts)}. The smallest file whose quality is within 1 % of Q8_0's is taken."
    )


def teaching(found: Teaching | None) -> str:
    """Whether a teacher taught the deployed model, and why; empty for older records."""
    if found is None:
        return ""
    minutes = found.teacher_minutes
    after = "brought along" if minutes is None else f"{significant(minutes)} minutes"
    begin = (
        f"The teacher ({after}) reached {fixed(found.teacher_bpb)} bits per byte on the validation "
        f"text, the student alone {fixed(found.alone_bpb)} in {significant(found.alone_minutes)} "
        "minutes"
    )
    if found.taught_bpb is None:
        return (
            f"{begin}: the teacher isn't better, so it taught nobody, and the student that was "
            "trained alone is deployed."
        )
    end = "taught" if found.chosen == "distilled" else "trained alone"
    taught = fixed(found.taught_bpb)
    return f"{begin}, the taught one {taught}: the student that was {end} is deployed."


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


def time_to_train(rungs: Sequence[Rung]) -> str:
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


def headline(ladder: Ladder) -> str:
    """The last rung against both references, in a sentence; empty without targets."""
    if not ladder.targets:
        return ""

    def against(place: Callable[[tuple[str, list[str], list[str]]], list[str]]) -> str:
        parts = []
        for row in factors(ladder):
            found, wanted, verdict = place(row)
            if found != MISSING:
                judged = verdict if verdict == "met" else f"**{escape(verdict)}**"
                judged = "" if wanted == MISSING else f" (wanted {wanted}: {judged})"
                parts.append(f"{lower(row[0])} {found}{judged}")
        return "; ".join(parts)

    last, first, second = ladder.rungs[-1], ladder.rungs[0], ladder.quantized
    in_llama = NOT_IN_LLAMA
    if second is not None:
        in_llama = (
            f"Against {escape(second.name)}: {against(lambda row: row[2])}; bits per byte "
            f"{fixed(last.bpb.median)} against {fixed(second.bpb.median)}."
        )
    return (
        f"The last rung of the ladder against the conventional reference: "
        f"{against(lambda row: row[1])}; bits per byte {fixed(last.bpb.median)} against "
        f"{fixed(first.bpb.median)}. {in_llama}"
    )


def lower(label: str) -> str:
    """A label inside a sentence; an abbreviation stays in capitals."""
    return label[:1].lower() + label[1:] if label[1:2].islower() else label
