"""Section 11: recommendations, each the outcome of a rule on the numbers."""

from __future__ import annotations

from collections.abc import Iterator

from itera_lite.report.context import Context, command
from itera_lite.report.metrics import Pair
from itera_lite.report.results import ModelResults
from itera_lite.report.sections.models import embedding_share
from itera_lite.report.text import (
    bullets,
    code,
    fixed,
    paragraphs,
    percent,
    quantity,
    significant,
)
from itera_lite.stats.comparison import SIDE_NAMES, Side

LOW_MFU = 0.35
UNEVEN = 1.5  # busiest expert, times its even share
LARGE_EMBEDDING = 0.25
SMALL_WEIGHTS = 0.1  # of the resident memory
STILL_LEARNING = 0.01  # relative gain over the last tenth of the evaluations' time
OVERFITTED = 1.01  # final over best bits per byte


def recommendations(context: Context) -> str:
    """11. Recommendations."""
    advice = [line for pair in context.pairs for line in _of_pair(pair)]
    advice += [line for model in context.models for line in _of_model(model)]
    advice += _missing(context)
    head = "## 11. Recommendations"
    if not advice:
        return paragraphs(head, "No rule applies to these numbers.")
    return paragraphs(head, "Each line is the outcome of a fixed rule.", bullets(advice))


def _of_pair(pair: Pair) -> Iterator[str]:
    names = f" (size {code(pair.ours.size or pair.ours.name)})"
    quality_verdict = _winner(pair, "bpb_time", "bpb_tokens", "bpb")
    flops = _winner(pair, "flops_forward")
    if quality_verdict and flops:
        if quality_verdict == flops:
            yield (
                f"{SIDE_NAMES[flops]} has both the lower bits per byte and fewer FLOPs a token: "
                f"take it where neither speed nor memory below speaks against it{names}."
            )
        else:
            yield (
                f"{SIDE_NAMES[quality_verdict]} has the lower bits per byte, {SIDE_NAMES[flops]} "
                f"fewer FLOPs a token: quality or compute decides{names}."
            )
    elif flops:
        yield f"{SIDE_NAMES[flops]} needs fewer FLOPs a token; quality settles nothing yet{names}."
    yield from _decoding(pair, names)
    speed = _faster_overall(pair)
    if flops and speed and flops != speed:
        yield (
            f"{SIDE_NAMES[flops]} has fewer FLOPs a token but {SIDE_NAMES[speed]} decodes faster "
            "at every context measured: FLOPs don't set the speed here. Look at memory traffic and "
            f"the cost of small operations first{names}."
        )
    if pair.both("bpb") and not pair.both("bpb_time", "bpb_tokens"):
        yield f"Quality is of one run a side: repeat both with three seeds{names}."


def _decoding(pair: Pair, names: str) -> Iterator[str]:
    """Where each side is faster at batch 1."""
    by_side: dict[Side, list[str]] = {"ours": [], "other": []}
    for c in pair.decoding():
        if c.winner:
            by_side[c.winner].append(f"{int(c.metric.key.rpartition('_')[2]):,}")
    for side, lengths in by_side.items():
        if lengths:
            where = " and ".join(filter(None, [", ".join(lengths[:-1]), lengths[-1]]))
            yield f"{SIDE_NAMES[side]} decodes one sequence faster at context {where}{names}."


def _faster_overall(pair: Pair) -> Side | None:
    winners = {c.winner for c in pair.decoding()}
    return winners.pop() if len(winners) == 1 else None


def _of_model(model: ModelResults) -> Iterator[str]:
    name = code(model.name)
    yield from _training(model, name)
    busiest = model.last("expert_load_max")
    if busiest is not None and busiest > UNEVEN:
        yield (
            f"{name}: the busiest expert has {significant(busiest)} times its even share at "
            "the end: balance more strongly, or use fewer experts."
        )
    share = embedding_share(model)
    if share is not None and share > LARGE_EMBEDDING:
        yield (
            f"{name}: the embedding is {percent(share)} of the parameters: measure a smaller "
            "vocabulary, in bits per byte."
        )
    if model.benchmark is None:
        return
    weights = model.benchmark.memory.weights_bytes
    peak = model.benchmark.memory.peak_rss_bytes.median
    if weights < SMALL_WEIGHTS * peak:
        yield (
            f"{name}: weights are {percent(weights / peak)} of the {quantity(peak, 'bytes')} "
            "resident memory: a native runtime saves more than fewer parameters would."
        )
    if model.benchmark.energy.method == "estimated":
        yield f"{name}: energy is estimated; measure it where RAPL or NVML can be read."


def _training(model: ModelResults, name: str) -> Iterator[str]:
    mfu = model.training and model.training.mfu
    if mfu is not None and mfu < LOW_MFU:
        yield (
            f"{name}: training reaches {percent(mfu)} of the measured peak, under "
            f"{percent(LOW_MFU, 0)}: a larger batch or wider layers are worth a try."
        )
    x, y = model.series("tokens", "valid_bpb")
    if y and y[-1] > OVERFITTED * min(y):
        yield (
            f"{name}: ended at {fixed(y[-1])} bits per byte after a best of {fixed(min(y))}: it "
            "overfits. Train for less, or on more text."
        )
    if len(y) > 2:
        earlier = [b for a, b in zip(x, y, strict=True) if a <= 0.9 * x[-1]]
        gain = (earlier[-1] - y[-1]) / y[-1] if earlier else 0.0
        if gain > STILL_LEARNING:
            yield (
                f"{name}: held-out bits per byte still fell by {percent(gain)} over the last tenth "
                "of training: a longer run is likely to pay."
            )
    evaluation = model.evaluation
    if evaluation is None or not evaluation.baselines:
        return
    floor = min(baseline.bpb for baseline in evaluation.baselines.values())
    if evaluation.bpb >= floor:
        yield (
            f"{name}: no better than the best floor ({fixed(floor)} bits per byte): "
            "train for longer before using it."
        )


def _missing(context: Context) -> Iterator[str]:
    if not context.pairs:
        yield f"Nothing is compared yet: {context.both()}."
    kinds = {
        "train": ("training", lambda m: m.summary),
        "eval": ("quality with its floors", lambda m: m.evaluation),
        "bench": ("speed, memory and energy", lambda m: m.benchmark),
    }
    for kind, (what, have) in kinds.items():
        lacking = [m for m in context.models if not have(m)]
        if lacking:
            names = ", ".join(code(m.name) for m in lacking)
            yield f"Measure {what} of {names}: `{command(kind, lacking[0], context.models)}`."


def _winner(pair: Pair, *keys: str) -> Side | None:
    """The winner of the first of these metrics that has both sides."""
    return next((c.winner for c in pair.both(*keys)), None)
