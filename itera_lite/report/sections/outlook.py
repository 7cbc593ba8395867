"""Sections 9 and 10: what compression can give, and promised against measured."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from itera_lite.records import Ladder, Params
from itera_lite.report.context import Context, Row
from itera_lite.report.ladder import (
    DISK,
    IN_LLAMA,
    NOT_IN_LLAMA,
    RUNG_COSTS,
    change,
    findings,
    lower,
    rungs_table,
    time_to_train,
)
from itera_lite.report.metrics import Pair
from itera_lite.report.results import ModelResults
from itera_lite.report.text import (
    MISSING,
    code,
    escape,
    paragraphs,
    percent,
    quantity,
    significant,
    table,
)

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
        f"Measured, the compression ladder:\n\n{rungs_table(ladder)}"
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
        _promises(ladder),
        *((*findings(ladder), time_to_train(ladder.rungs)) if ladder else ()),
        *[_so_far(pair, len(context.pairs) > 1) for pair in context.pairs],
        ""
        if context.pairs
        else f"> **Not measured:** Itera against the Transformer. {context.both()}, fill this gap.",
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


def _promises(ladder: Ladder | None) -> str:
    rows = [[promise, _effect(ladder, stage)] for promise, stage in PROMISES.items()]
    rows.append(["All together: 100-300x", _end_to_end(ladder)])
    return table(["Promised", "Measured"], rows, "ll")


def _effect(ladder: Ladder | None, stage: str) -> str:
    """What the rung of a stage changed against the one before it."""
    if ladder is None:
        return NO_LADDER
    for before, rung in pairwise(ladder.rungs):
        if rung.stage == stage:
            size = change(DISK.of(before), DISK.of(rung))
            bits = rung.bpb.median - before.bpb.median
            return f"{size} on disk than the rung before, {bits:+.4f} bits per byte"
    if stage == "distilled" and ladder.teaching is not None:
        return "no gain: the student that was trained alone is as good or better"
    return "not measured (no such rung)"


def _end_to_end(ladder: Ladder | None) -> str:
    """The last rung that is as good as both references, against each."""
    if ladder is None:
        return NO_LADDER
    references = [ladder.rungs[0], *([ladder.quantized] if ladder.quantized else [])]
    best = min(reference.bpb.min for reference in references)
    good = [rung for rung in ladder.rungs[1:] if rung.bpb.max <= best]
    if not good:
        return "none: no rung reaches the quality of the reference"
    found = []
    for reference, name in zip(references, ("", f" Against {IN_LLAMA}: "), strict=False):
        parts = [
            f"{lower(cost.label)} {change(cost.of(reference), cost.of(good[-1]))}"
            for cost in RUNG_COSTS
        ]
        found.append(name + ", ".join(parts) + ".")
    if ladder.quantized is None:
        found.append(f" {NOT_IN_LLAMA}")
    return f"rung '{escape(good[-1].name)}' at equal or better bits per byte: {''.join(found)}"


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
