"""The metrics of the comparison, and the conditions under which one may be compared.

Each metric declares its unit, the direction that is better and how it varies;
`itera_lite.stats.comparison` does the judging. The conditions are here because
they need the result files: same text, a fair training budget, one session.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from itera_lite.report.results import ModelResults, Results, get, number
from itera_lite.report.seeds import length_words, of_one_budget
from itera_lite.stats.comparison import Comparison, Measurement, Metric, compare, is_number

SAME_SECONDS = 0.05  # training times within 5 % count as equal
SAME_TOKENS = 0.02  # and training tokens within 2 %

PARAMETERS = {
    "total": Metric("params_total", "Parameters, total", "parameters", "lower", "count", "size"),
    "non_embedding": Metric(
        "params_non_embedding",
        "Parameters without the embedding",
        "parameters",
        "lower",
        "count",
        "size",
    ),
    "active": Metric(
        "params_active", "Parameters active per token", "parameters", "lower", "count", "size"
    ),
}
FLOPS = {
    "forward": Metric("flops_forward", "FLOPs/token, forward", "FLOPs", "lower", "count", "flops"),
    "decode": Metric("flops_decode", "FLOPs/token, decoding", "FLOPs", "lower", "count", "flops"),
    "train": Metric("flops_train", "FLOPs/token, training", "FLOPs", "lower", "count", "flops"),
}
QUALITY = {
    "bpb": Metric("bpb", "Bits per byte", "bits/byte", "lower", "run", "quality"),
    "loss": Metric("loss", "Loss per token", "nats/token", "lower", "run", "quality"),
    "ppl": Metric("ppl", "Perplexity per token", "", "lower", "run", "quality", log=True),
    "word_ppl": Metric("word_ppl", "Perplexity per word", "", "lower", "run", "quality", log=True),
    "accuracy": Metric("accuracy", "Next-token accuracy", "", "higher", "run", "quality"),
}
BUDGETS = {"time": "equal training time", "tokens": "equal training tokens"}
TRAINING_SPEED = Metric(
    "train_tokens_per_second", "Training speed", "tokens/s", "higher", "run", "speed"
)
WEIGHTS = Metric("weights_bytes", "Weights", "bytes", "lower", "count", "memory")
PEAK_RSS = Metric("peak_rss", "Peak resident memory", "bytes", "lower", "timing", "memory")
ENERGY = Metric("energy", "Energy per token", "J", "lower", "timing", "system")
CPU_SECONDS = Metric("cpu_seconds", "CPU time per token", "ms", "lower", "timing", "system")
LOAD = Metric("load_ms", "Model load time", "ms", "lower", "timing", "system")
FIRST_TOKEN = Metric("first_token_ms", "Time to first token", "ms", "lower", "timing", "system")


@dataclass(frozen=True)
class Pair:
    """An Itera model, the Transformer beside it, and every verdict on the two."""

    itera: ModelResults
    transformer: ModelResults
    comparisons: list[Comparison]

    def find(self, key: str) -> Comparison | None:
        """The comparison of that key; None where neither side was measured."""
        return next((c for c in self.comparisons if c.metric.key == key), None)

    def group(self, *groups: str) -> list[Comparison]:
        return [c for c in self.comparisons if c.metric.group in groups]


def compare_pairs(results: Results) -> list[Pair]:
    """Compare every Itera model with the Transformer of its size."""
    return [
        Pair(a, b, [c for c in _comparisons(a, b, results.seeds) if c.ours or c.other])
        for a, b in results.pairs
    ]


def same_tokenizer(*models: ModelResults) -> bool:
    """Whether all known tokenizer hashes are equal (loss per token compares only then)."""
    hashes = {get(m.summary, "dataset", "tokenizer_sha256") for m in models} - {None}
    return len(hashes) <= 1


def different_tokens(a: ModelResults, b: ModelResults) -> str:
    """Why numbers per token don't compare; empty where a token is the same for both."""
    return "" if same_tokenizer(a, b) else "different tokenizers"


def quality(model: ModelResults, key: str) -> float | None:
    """A quality number: from the evaluation, else from the end of training (validation)."""
    if number(model.evaluation, "bpb") is not None:
        return number(model.evaluation, key)
    return number(model.summary, "valid", key)


def shared_runs(model: ModelResults, kind: str) -> dict[tuple[int, int], dict[str, Any]]:
    """The ``prefill`` or ``decode`` rows of a benchmark by (batch, context), in that order."""
    rows = model.benchmark.get(kind) or ()
    keyed = {
        (row["batch"], row["context"]): row
        for row in rows
        if is_number(get(row, "batch")) and is_number(get(row, "context"))
    }
    return dict(sorted(keyed.items()))


def state_bytes(model: ModelResults) -> dict[int, float]:
    """Bytes of decoding state by context length, ascending."""
    table = get(model.benchmark, "memory", "state_bytes") or {}
    return {int(k): table[k] for k in sorted(table, key=int) if is_number(table[k])}


def unfair_session(a: ModelResults, b: ModelResults) -> str:
    """Why timings of the two don't compare; empty where they do."""
    if machine := other_machine(a.benchmark, b.benchmark):
        return machine
    interleaved = [m.benchmark.get("interleaved_with") or () for m in (a, b)]
    if b.name not in interleaved[0] and a.name not in interleaved[1]:
        return "not measured in one run; run `itera bench` with both models"
    return ""


def other_machine(x: dict[str, Any], y: dict[str, Any]) -> str:
    """Why two result files can't share a timing; empty where machine and threads agree."""
    machines = [get(record, "provenance", "machine") or {} for record in (x, y)]
    for key in ("cpu", "threads"):
        if all(machines) and machines[0].get(key) != machines[1].get(key):
            return f"measured with different {key}"
    return ""


def different_text(a: ModelResults, b: ModelResults) -> str:
    """Why quality of the two can't be compared at all; empty where it can."""
    both = [m.summary.get("dataset") or {} for m in (a, b)]
    for key in ("name", "sha256"):
        if all(d.get(key) for d in both) and both[0][key] != both[1][key]:
            return "trained on different text"
    if bool(a.evaluation) != bool(b.evaluation):
        return "only one was evaluated; run `itera eval` on both"
    records = [m.evaluation or m.summary.get("valid") or {} for m in (a, b)]
    for key in ("data", "split", "bytes", "policy"):
        values = [record.get(key) for record in records]
        if all(v is not None for v in values) and values[0] != values[1]:
            return f"evaluated with a different {key}"
    return ""


def budgets(a: ModelResults, b: ModelResults) -> tuple[bool | None, bool | None]:
    """Whether the training (time, tokens) of the two were equal; None where unknown."""

    def equal(key: str, tolerance: float) -> bool | None:
        x, y = (number(m.summary, "train", key) for m in (a, b))
        if x is None or y is None or x <= 0 or y <= 0:
            return None
        return max(x, y) / min(x, y) <= 1 + tolerance

    return equal("seconds", SAME_SECONDS), equal("tokens", SAME_TOKENS)


def budget_words(a: ModelResults, b: ModelResults) -> str:
    """What was equal between the two runs, as a phrase; empty where unknown."""
    time, tokens = budgets(a, b)
    if time is None and tokens is None:
        return ""
    if time and tokens:
        return "equal training time and tokens"
    if time:
        return BUDGETS["time"]
    return BUDGETS["tokens"] if tokens else "different training time and tokens"


def _unfair_budget(a: ModelResults, b: ModelResults) -> str:
    """A better model that had more of everything proves nothing."""
    if budgets(a, b) != (False, False):
        return ""
    x, y = quality(a, "bpb"), quality(b, "bpb")
    if x is None or y is None:
        return ""
    better, other = (a, b) if x < y else (b, a)
    more = [
        number(better.summary, "train", key) > number(other.summary, "train", key)  # type: ignore[operator]
        for key in ("seconds", "tokens")
    ]
    return "the better one trained for longer and on more tokens" if all(more) else ""


def _comparisons(
    a: ModelResults, b: ModelResults, seeds: list[dict[str, Any]]
) -> Iterator[Comparison]:
    yield from _quality(a, b, seeds)
    for key, metric in PARAMETERS.items():
        yield _once(metric, number(a.params, key), number(b.params, key))
    for key, metric in FLOPS.items():
        x, y = number(a.flops, key), number(b.flops, key)
        yield _once(metric, x, y, refuse=different_tokens(a, b))
    yield from _speed(a, b)
    yield from _memory(a, b)
    yield from _system(a, b)


def _once(
    metric: Metric, x: float | None, y: float | None, note: str = "", refuse: str = ""
) -> Comparison:
    sides = (None if v is None else Measurement.once(v) for v in (x, y))
    return compare(metric, *sides, note=note, refuse=refuse)


def _quality(a: ModelResults, b: ModelResults, seeds: list[dict[str, Any]]) -> Iterator[Comparison]:
    refuse = different_text(a, b) or _unfair_budget(a, b)
    words = budget_words(a, b)
    for key, metric in QUALITY.items():
        per_token = different_tokens(a, b) if key in ("loss", "ppl", "accuracy") else ""
        yield _once(
            metric,
            quality(a, key),
            quality(b, key),
            words,
            refuse or per_token,
        )
    for budget, label in BUDGETS.items():
        runs = of_one_budget(seeds, (a.name, b.name), budget)
        title = f"Bits per byte, {label}{length_words(runs)}"
        metric = Metric(f"bpb_{budget}", title, "bits/byte", "lower", "run", "quality")
        sides = ([float(run["valid_bpb"]) for run in side] for side in runs)
        yield compare(metric, *(Measurement.of_samples(s) if s else None for s in sides))


def _speed(a: ModelResults, b: ModelResults) -> Iterator[Comparison]:
    refuse = different_tokens(a, b) or unfair_session(a, b)
    for kind, label in (("decode", "Decoding"), ("prefill", "Prefill")):
        rows = [shared_runs(m, kind) for m in (a, b)]
        for batch, context in sorted(set(rows[0]) | set(rows[1])):
            metric = Metric(
                f"{kind}_{batch}_{context}",
                f"{label}, batch {batch}, context {context:,}",
                "tokens/s",
                "higher",
                "timing",
                kind,
            )
            values = (
                Measurement.read(get(r.get((batch, context)), "tokens_per_second")) for r in rows
            )
            yield compare(metric, *values, refuse=refuse)
    yield _once(
        TRAINING_SPEED,
        number(a.summary, "train", "tokens_per_second"),
        number(b.summary, "train", "tokens_per_second"),
        refuse=different_tokens(a, b) or other_machine(a.summary, b.summary),
    )


def _memory(a: ModelResults, b: ModelResults) -> Iterator[Comparison]:
    x, y = (number(m.benchmark, "memory", "weights_bytes") for m in (a, b))
    yield _once(WEIGHTS, x, y)
    states = [state_bytes(m) for m in (a, b)]
    for context in sorted(set(states[0]) | set(states[1])):
        metric = Metric(
            f"state_{context}", f"State, context {context:,}", "bytes", "lower", "count", "memory"
        )
        yield _once(metric, states[0].get(context), states[1].get(context))
    peaks = (Measurement.read(get(m.benchmark, "memory", "peak_rss_bytes")) for m in (a, b))
    yield compare(PEAK_RSS, *peaks, refuse=unfair_session(a, b))


def _system(a: ModelResults, b: ModelResults) -> Iterator[Comparison]:
    refuse = different_tokens(a, b) or unfair_session(a, b)
    methods = [get(m.benchmark, "energy", "method") for m in (a, b)]
    mixed = (
        "energy was found in different ways"
        if None not in methods and len(set(methods)) > 1
        else ""
    )
    energy = [Measurement.read(get(m.benchmark, "energy", "joules_per_token")) for m in (a, b)]
    note = "estimated" if "estimated" in methods else ""
    yield compare(ENERGY, *energy, note=note, refuse=refuse or mixed)
    cpu = [Measurement.read(get(m.benchmark, "energy", "cpu_seconds_per_token")) for m in (a, b)]
    milliseconds = (
        None if c is None else Measurement(c.value * 1e3, c.low * 1e3, c.high * 1e3, c.repeats)
        for c in cpu
    )
    yield compare(CPU_SECONDS, *milliseconds, refuse=refuse)
    for metric in (LOAD, FIRST_TOKEN):
        values = (Measurement.read(m.benchmark.get(metric.key)) for m in (a, b))
        yield compare(metric, *values, refuse=refuse)
