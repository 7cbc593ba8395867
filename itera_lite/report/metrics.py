"""The metrics of the comparison, and the conditions under which one may be compared.

Each metric declares its unit, the direction that is better and how it varies;
`itera_lite.stats.comparison` does the judging. The conditions are here because
they need the records: same text, a fair training budget, one session.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from itera_lite.records import (
    Benchmark,
    DecodeSpeed,
    Evaluation,
    PrefillSpeed,
    SeedRun,
    StepLatency,
    Summary,
)
from itera_lite.report.results import ModelResults, Results
from itera_lite.stats.comparison import Comparison, Measurement, Metric, compare
from itera_lite.stats.load import Load
from itera_lite.stats.samples import Stat

Loads = tuple[Load | None, Load | None]  # beside ours and beside the other
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
    """An Itera model (ours), the Transformer beside it, and every verdict on the two."""

    ours: ModelResults
    other: ModelResults
    comparisons: list[Comparison]

    def find(self, key: str) -> Comparison | None:
        """The comparison of that key; None where neither side was measured."""
        return next((c for c in self.comparisons if c.metric.key == key), None)

    def both(self, *keys: str) -> list[Comparison]:
        """The comparisons of these keys that have both sides."""
        return [c for c in map(self.find, keys) if c and c.ours and c.other]

    def group(self, *groups: str) -> list[Comparison]:
        return [c for c in self.comparisons if c.metric.group in groups]

    def decoding(self) -> list[Comparison]:
        """Decoding at batch 1, by rising context."""
        return [c for c in self.group("decode") if c.metric.key.startswith("decode_1_")]


def compare_pairs(results: Results) -> list[Pair]:
    """Compare every Itera model with the Transformer of its size."""
    return [
        Pair(a, b, [c for c in _comparisons(a, b, results.seeds) if c.ours or c.other])
        for a, b in results.pairs
    ]


def different_tokens(a: ModelResults, b: ModelResults) -> str:
    """Why numbers per token don't compare; empty where a token is the same for both."""
    hashes = {m.dataset.tokenizer_sha256 for m in (a, b) if m.dataset}
    return "different tokenizers" if len(hashes) > 1 else ""


def quality(model: ModelResults, key: str) -> float | None:
    """A number of the model's quality; None where it wasn't measured."""
    value: float | None = getattr(model.quality, key, None)
    return value


def speeds(model: ModelResults, kind: str) -> dict[tuple[int, int], Stat]:
    """Tokens a second in the benchmark by (batch, context), in that order.

    Args:
        kind: ``prefill`` or ``decode``.
    """
    rows: list[PrefillSpeed | DecodeSpeed] = getattr(model.benchmark, kind, [])
    return dict(sorted(((row.batch, row.context), row.tokens_per_second) for row in rows))


def latencies(model: ModelResults) -> dict[int, StepLatency]:
    """Milliseconds of a decoded token at batch 1 by context, ascending."""
    rows = model.benchmark.decode if model.benchmark else ()
    return dict(sorted((row.context, row.latency_ms) for row in rows if row.batch == 1))


def state_bytes(model: ModelResults) -> dict[int, int]:
    """Bytes of decoding state by context length, ascending."""
    return dict(sorted(model.benchmark.memory.state_bytes.items())) if model.benchmark else {}


def unfair_session(a: ModelResults, b: ModelResults) -> str:
    """Why timings of the two don't compare; empty where they do."""
    if machine := other_machine(a.benchmark, b.benchmark):
        return machine
    beside = [m.benchmark.interleaved_with if m.benchmark else [] for m in (a, b)]
    dates = {m.benchmark.provenance.date for m in (a, b) if m.benchmark}
    if b.name not in beside[0] or a.name not in beside[1] or len(dates) > 1:
        return "not measured in one run; run `itera bench` with both models"
    return ""


def other_machine(x: Benchmark | Summary | None, y: Benchmark | Summary | None) -> str:
    """Why two records can't share a timing; empty where machine and threads agree."""
    machines = [record and record.provenance.machine for record in (x, y)]
    if machines[0] is None or machines[1] is None:
        return ""
    if machines[0].cpu != machines[1].cpu or machines[0].isa != machines[1].isa:
        return "measured with different cpu"
    return "measured with different threads" if _threads(x) != _threads(y) else ""


def _threads(record: Benchmark | Summary | None) -> int | None:
    """Threads that computed: of a training its workers, for PyTorch has one thread in each."""
    if isinstance(record, Summary) and record.training:
        return record.training.threads
    machine = record.provenance.machine if record else None
    return machine.threads if machine else None


def different_text(a: ModelResults, b: ModelResults) -> str:
    """Why quality of the two can't be compared at all; empty where it can."""
    if a.dataset and b.dataset and _text(a) != _text(b):
        return "trained on different text"
    if bool(a.evaluation) != bool(b.evaluation):
        return "only one was evaluated; run `itera eval` on both"
    x, y = a.quality, b.quality
    if isinstance(x, Evaluation) and isinstance(y, Evaluation):
        for key, words in (("source", "data"), ("split", "split"), ("policy", "policy")):
            if getattr(x, key) != getattr(y, key):
                return f"evaluated with a different {words}"
    return "evaluated with a different bytes" if x and y and x.bytes != y.bytes else ""


def _text(model: ModelResults) -> tuple[str, str] | None:
    return model.dataset and (model.dataset.name, model.dataset.sha256)


def budgets(a: ModelResults, b: ModelResults) -> tuple[bool | None, bool | None]:
    """Whether the training (time, tokens) of the two were equal; None where unknown."""
    if a.training is None or b.training is None:
        return None, None

    def equal(x: float, y: float, tolerance: float) -> bool | None:
        return None if min(x, y) <= 0 else max(x, y) / min(x, y) <= 1 + tolerance

    return (
        equal(a.training.seconds, b.training.seconds, SAME_SECONDS),
        equal(a.training.tokens, b.training.tokens, SAME_TOKENS),
    )


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


def _loads(x: Benchmark | Summary | None, y: Benchmark | Summary | None) -> Loads:
    """Load by others beside what was timed in two records."""
    return x and x.provenance.load, y and y.provenance.load


def _loads_of_budget(a: ModelResults, b: ModelResults) -> Loads:
    """Load by others beside two trainings, where a budget in time made quality depend on it."""
    timed = any(m.training and m.training.budget.unit == "seconds" for m in (a, b))
    return _loads(a.summary, b.summary) if timed else (None, None)


def loads_of_seeds(sides: Sequence[Sequence[SeedRun]]) -> Loads:
    """The same for runs of several seeds; an amount in words is one of tokens."""
    a, b = (
        Load.mean([run.load for run in side])
        if any(not isinstance(run.amount, str) for run in side)
        else None
        for side in sides
    )
    return a, b


def _unfair_budget(a: ModelResults, b: ModelResults) -> str:
    """A better model that had more of everything proves nothing."""
    x, y = quality(a, "bpb"), quality(b, "bpb")
    if budgets(a, b) != (False, False) or x is None or y is None:
        return ""
    better, other = (a.training, b.training) if x < y else (b.training, a.training)
    assert better and other  # budgets() knows both
    more = better.seconds > other.seconds and better.tokens > other.tokens
    return "the better one trained for longer and on more tokens" if more else ""


class Budget(NamedTuple):
    """What runs that are compared have alike."""

    kind: str  # what is equal
    source: str
    amount: str | float
    vocab_size: int
    text: str | None  # its hash
    precision: str | None
    cpu: str | None

    @classmethod
    def of(cls, run: SeedRun) -> Budget:
        text = run.source, run.amount, run.vocab_size, run.dataset_sha256
        return cls(run.budget, *text, run.precision, run.cpu)

    @property
    def words(self) -> str:
        if isinstance(self.amount, float | int):
            return f"{self.amount:g} minutes"
        tokens = f"{self.amount} tokens"
        return tokens if self.kind == "tokens" else f"the time of {tokens}"


def of_one_budget(
    seeds: Sequence[SeedRun], names: Sequence[str], budget: str
) -> list[list[SeedRun]]:
    """Each name's runs of a kind of budget, of one text, amount, vocabulary and processor.

    Of several the one with the most seeds on all sides is taken, then the one with
    the most tokens: a mixture would compare lengths, not models.

    Args:
        budget: ``time`` or ``tokens``.
    """
    groups: dict[Budget, list[list[SeedRun]]] = defaultdict(lambda: [[] for _ in names])
    for run in seeds:
        if run.budget == budget and run.name in names:
            groups[Budget.of(run)][names.index(run.name)].append(run)

    def worth(sides: list[list[SeedRun]]) -> tuple[int, int]:
        return min(map(len, sides)), max(run.tokens for runs in sides for run in runs)

    return max(groups.values(), key=worth, default=[[] for _ in names])


def length_words(sides: Sequence[Sequence[SeedRun]]) -> str:
    """`` (3 M tokens)``, or `` (4.4 M and 3 M tokens)``; nothing where a side has no run."""
    if not all(sides):
        return ""
    millions = [f"{median(run.tokens for run in runs) / 1e6:.3g} M" for runs in sides]
    return f" ({' and '.join(dict.fromkeys(millions))} tokens)"


def _comparisons(a: ModelResults, b: ModelResults, seeds: list[SeedRun]) -> Iterator[Comparison]:
    yield from _quality(a, b, seeds)
    for key, metric in PARAMETERS.items():
        yield _judge(metric, (getattr(m.params, key, None) for m in (a, b)))
    for key, metric in FLOPS.items():
        sides = (getattr(m.flops, key, None) for m in (a, b))
        yield _judge(metric, sides, refuse=different_tokens(a, b))
    yield from _speed(a, b)
    yield from _memory(a, b)
    yield from _system(a, b)


def _judge(
    metric: Metric,
    sides: Iterable[float | Stat | None],
    note: str = "",
    refuse: str = "",
    loads: Loads = (None, None),
) -> Comparison:
    ours, other = map(Measurement.of, sides)
    return compare(metric, ours, other, note=note, refuse=refuse, loads=loads)


def _quality(a: ModelResults, b: ModelResults, seeds: list[SeedRun]) -> Iterator[Comparison]:
    refuse = different_text(a, b) or _unfair_budget(a, b)
    words = budget_words(a, b)
    for key, metric in QUALITY.items():
        per_token = different_tokens(a, b) if key in ("loss", "ppl", "accuracy") else ""
        sides = (quality(m, key) for m in (a, b))
        yield _judge(metric, sides, words, refuse or per_token, _loads_of_budget(a, b))
    for budget, label in BUDGETS.items():
        runs = of_one_budget(seeds, (a.name, b.name), budget)
        title = f"Bits per byte, {label}{length_words(runs)}"
        metric = Metric(f"bpb_{budget}", title, "bits/byte", "lower", "run", "quality")
        bits = ([run.valid_bpb for run in side] for side in runs)
        found = (Measurement.of_samples(samples) if samples else None for samples in bits)
        yield compare(metric, *found, loads=loads_of_seeds(runs))


def _speed(a: ModelResults, b: ModelResults) -> Iterator[Comparison]:
    refuse = different_tokens(a, b) or unfair_session(a, b)
    for kind, label in (("decode", "Decoding"), ("prefill", "Prefill")):
        rows = [speeds(m, kind) for m in (a, b)]
        for batch, context in sorted({*rows[0], *rows[1]}):
            metric = Metric(
                f"{kind}_{batch}_{context}",
                f"{label}, batch {batch}, context {context:,}",
                "tokens/s",
                "higher",
                "timing",
                kind,
            )
            sides = (row.get((batch, context)) for row in rows)
            yield _judge(metric, sides, refuse=refuse, loads=_loads(a.benchmark, b.benchmark))
    yield _judge(
        TRAINING_SPEED,
        (m.training and m.training.tokens_per_second for m in (a, b)),
        refuse=different_tokens(a, b) or other_machine(a.summary, b.summary),
        loads=_loads(a.summary, b.summary),
    )


def _memory(a: ModelResults, b: ModelResults) -> Iterator[Comparison]:
    memory = [m.benchmark and m.benchmark.memory for m in (a, b)]
    yield _judge(WEIGHTS, (found and found.weights_bytes for found in memory))
    states = [state_bytes(m) for m in (a, b)]
    for context in sorted({*states[0], *states[1]}):
        metric = Metric(
            f"state_{context}", f"State, context {context:,}", "bytes", "lower", "count", "memory"
        )
        yield _judge(metric, (state.get(context) for state in states))
    peaks = (found and found.peak_rss_bytes for found in memory)
    yield _judge(PEAK_RSS, peaks, refuse=unfair_session(a, b))


def _system(a: ModelResults, b: ModelResults) -> Iterator[Comparison]:
    refuse = different_tokens(a, b) or unfair_session(a, b)
    loads = _loads(a.benchmark, b.benchmark)
    energy = [m.benchmark.energy if m.benchmark else None for m in (a, b)]
    methods = {found.method for found in energy if found}
    mixed = "energy was found in different ways" if len(methods) > 1 else ""
    yield _judge(
        ENERGY,
        (found.joules_per_token if found else None for found in energy),
        note="estimated" if "estimated" in methods else "",
        refuse=refuse or mixed,
        loads=loads,
    )
    cpu = (Measurement.of(found.cpu_seconds_per_token) if found else None for found in energy)
    yield compare(CPU_SECONDS, *(c and c.scaled(1e3) for c in cpu), refuse=refuse, loads=loads)
    for metric in (LOAD, FIRST_TOKEN):
        times = (getattr(m.benchmark, metric.key, None) for m in (a, b))
        yield _judge(metric, times, refuse=refuse, loads=loads)
