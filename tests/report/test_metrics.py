"""Check when two models are compared, and which direction of each metric is better."""

from dataclasses import replace

import pytest
from msgspec.structs import replace as changed

from itera_lite.records import BudgetRecord
from itera_lite.report import metrics
from itera_lite.report.metrics import (
    budget_words,
    budgets,
    compare_pairs,
    different_text,
    different_tokens,
    loads_of_seeds,
    of_one_budget,
    other_machine,
    unfair_session,
)
from itera_lite.report.results import load_results
from itera_lite.stats.load import Load

from .synthetic import seed_run, write_results, write_seeds

# Written by hand from what each number means: fewer parameters, more tokens a second.
BETTER = {
    "bpb": ("bits/byte", "lower", "run"),
    "loss": ("nats/token", "lower", "run"),
    "ppl": ("", "lower", "run"),
    "word_ppl": ("", "lower", "run"),
    "accuracy": ("", "higher", "run"),
    "params_total": ("parameters", "lower", "count"),
    "params_non_embedding": ("parameters", "lower", "count"),
    "params_active": ("parameters", "lower", "count"),
    "flops_forward": ("FLOPs", "lower", "count"),
    "flops_decode": ("FLOPs", "lower", "count"),
    "flops_train": ("FLOPs", "lower", "count"),
    "train_tokens_per_second": ("tokens/s", "higher", "run"),
    "weights_bytes": ("bytes", "lower", "count"),
    "peak_rss": ("bytes", "lower", "timing"),
    "energy": ("J", "lower", "timing"),
    "cpu_seconds": ("ms", "lower", "timing"),
    "load_ms": ("ms", "lower", "timing"),
    "first_token_ms": ("ms", "lower", "timing"),
    "bpb_time": ("bits/byte", "lower", "run"),
    "bpb_tokens": ("bits/byte", "lower", "run"),
    "decode_": ("tokens/s", "higher", "timing"),
    "prefill_": ("tokens/s", "higher", "timing"),
    "state_": ("bytes", "lower", "count"),
}


@pytest.fixture
def pair(results):
    """Both models, each with records of its own, so that a test may change one of them."""
    return load_results(results).pairs[0]


def test_every_metric_has_its_unit_and_direction(results):
    write_seeds(results)
    (pair,) = compare_pairs(load_results(results))
    found = {c.metric.key: c.metric for c in pair.comparisons}
    assert len(found) == len(pair.comparisons) > 30
    used = set()
    for key, metric in found.items():
        kind = key if key in BETTER else f"{key.partition('_')[0]}_"
        used.add(kind)
        assert (metric.unit, metric.better, metric.kind) == BETTER[kind], key
        assert metric.log == (key in ("ppl", "word_ppl"))
    # Perplexity per word isn't in these records: its declaration alone is checked.
    metric = metrics.QUALITY["word_ppl"]
    assert (metric.unit, metric.better, metric.kind) == BETTER["word_ppl"] and metric.log
    assert used | {"word_ppl"} == BETTER.keys()


@pytest.mark.parametrize("key", [*BETTER])
def test_the_better_number_wins(results, key):
    """The side with the better number wins, whichever of the two sides it is."""
    write_seeds(results)
    found = {c.metric.key: c.metric for c in compare_pairs(load_results(results))[0].comparisons}
    metric = found.get(key) or metrics.QUALITY.get(key)
    metric = metric or next(m for k, m in found.items() if k.startswith(key))
    small, large = (metrics.Measurement(v, v, v, 9) for v in (1.0, 2.0))
    best = small if BETTER[key][1] == "lower" else large
    other = large if best is small else small
    assert metrics.compare(metric, best, other).winner == "ours"
    assert metrics.compare(metric, other, best).winner == "other"


def test_budgets_are_equal_within_their_tolerance(pair):
    a, b = pair

    def of(seconds, tokens):
        b.summary.training = changed(a.training, seconds=seconds, tokens=tokens)
        return budgets(a, b), budgets(b, a)

    seconds, tokens = 1000.0, 1_000_000
    a.summary.training = changed(a.training, seconds=seconds, tokens=tokens)
    assert of(1050.0, 1_020_000) == ((True, True), (True, True))
    assert of(1051.0, 1_021_000) == ((False, False), (False, False))
    assert of(960.0, 985_000) == ((True, True), (True, True))
    assert of(940.0, 970_000) == ((False, False), (False, False))
    assert of(0.0, 0) == ((None, None), (None, None))
    b.summary.training = None
    assert budgets(a, b) == budgets(b, a) == (None, None)
    assert budget_words(a, b) == ""


@pytest.mark.parametrize(
    ("seconds", "tokens", "words"),
    [
        (1.0, 1.0, "equal training time and tokens"),
        (1.0, 2.0, "equal training time"),
        (2.0, 1.0, "equal training tokens"),
        (2.0, 2.0, "different training time and tokens"),
        (0.0, 1.0, "equal training tokens"),
        (1.0, 0.0, "equal training time"),
        (0.0, 0.0, ""),
    ],
)
def test_the_budget_in_words(pair, seconds, tokens, words):
    a, b = pair
    b.summary.training = changed(
        a.training, seconds=seconds * a.training.seconds, tokens=int(tokens * a.training.tokens)
    )
    assert budget_words(a, b) == words


def test_a_better_one_with_more_of_everything_is_not_compared(pair):
    a, b = pair  # ours is the better one
    base = b.training
    for seconds, tokens, expected in ((2, 2, True), (0.5, 0.5, False), (2, 0.5, False)):
        a.summary.training = changed(
            base, seconds=seconds * base.seconds, tokens=int(tokens * base.tokens)
        )
        refused = "the better one trained for longer and on more tokens"
        assert metrics._unfair_budget(a, b) == (refused if expected else "")
        assert metrics._unfair_budget(b, a) == (refused if expected else "")


def test_text_tokenizer_and_scoring_must_be_alike(pair):
    a, b = pair
    assert different_text(a, b) == different_tokens(a, b) == ""
    kept = b.summary.dataset
    b.summary.dataset = changed(kept, tokenizer_sha256="x")
    assert (different_tokens(a, b), different_text(a, b)) == ("different tokenizers", "")
    for field in ("name", "sha256"):
        b.summary.dataset = changed(kept, **{field: "x"})
        assert different_text(a, b) == "trained on different text"
        assert different_tokens(a, b) == ""
    b.summary.dataset = None
    assert different_text(a, b) == different_tokens(a, b) == ""
    whole = b.evaluation
    for field, words in (("source", "data"), ("split", "split"), ("policy", "policy")):
        b.evaluation = changed(whole, **{field: "x"})
        assert different_text(a, b) == f"evaluated with a different {words}"
    b.evaluation = changed(whole, bytes=1)
    assert different_text(a, b) == "evaluated with a different bytes"
    b.evaluation = None
    assert different_text(a, b) == "only one was evaluated; run `itera eval` on both"
    a.evaluation = None
    assert different_text(a, b) == ""


def test_timings_are_of_one_machine_and_one_session(pair):
    a, b = pair
    assert unfair_session(a, b) == ""
    alone = "not measured in one run; run `itera bench` with both models"
    together, a.benchmark.interleaved_with = a.benchmark.interleaved_with, []
    assert unfair_session(a, b) == unfair_session(b, a) == alone  # one was measured again
    a.benchmark.interleaved_with = together
    date, a.benchmark.provenance.date = a.benchmark.provenance.date, "2026-01-01T00:00:00+00:00"
    assert unfair_session(a, b) == unfair_session(b, a) == alone  # in another run with a `b`
    a.benchmark.provenance.date = date
    assert unfair_session(a, b) == ""
    machine = b.benchmark.provenance.machine
    for field, value in (("cpu", "x"), ("threads", 7)):
        b.benchmark.provenance.machine = changed(machine, **{field: value})
        assert other_machine(a.benchmark, b.benchmark) == f"measured with different {field}"
        assert unfair_session(a, b) == f"measured with different {field}"
    b.benchmark.provenance.machine = changed(machine, cores=64)
    assert other_machine(a.benchmark, b.benchmark) == ""
    b.benchmark.provenance.machine = None
    assert other_machine(a.benchmark, b.benchmark) == other_machine(None, a.benchmark) == ""
    b.benchmark = None
    assert unfair_session(a, b) == alone


def test_a_load_counts_where_time_was_the_budget(pair):
    a, b = pair
    a.summary.provenance.load_by_others, b.summary.provenance.load_by_others = 0.4, 1.5
    both = (Load(0.4, 2), Load(1.5, 2))
    assert metrics._loads_of_budget(a, b) == both
    for model in (a, b):
        model.summary.training = changed(model.training, budget=BudgetRecord("tokens", 5e6))
    assert metrics._loads_of_budget(a, b) == (None, None)
    b.summary.training = changed(b.training, budget=BudgetRecord("seconds", 60))
    assert metrics._loads_of_budget(a, b) == both
    assert metrics._loads(None, b.summary) == (None, Load(1.5, 2))


def test_a_load_beside_seeds_counts_where_the_amount_is_minutes():
    quiet, busy = Load(0.1, 2), Load(0.5, 2)
    tokens = [seed_run("a", "tokens", 0.7, load=busy)]
    minutes = [
        seed_run("a", "time", 0.7, amount=9.0, load=load, seed=i)
        for i, load in enumerate((quiet, busy))
    ]
    assert loads_of_seeds((tokens, minutes)) == (None, Load(pytest.approx(0.3), 2))
    unknown = [*minutes, seed_run("a", "time", 0.7, amount=9.0)]
    assert loads_of_seeds((unknown, [])) == (None, None)


def test_seeds_of_another_text_or_vocabulary_are_not_mixed():
    def both(**more):
        return [[seed_run(name, "tokens", 0.7, seed=i, **more) for i in range(2)] for name in "ab"]

    first = both()
    for more in ({"source": "x"}, {"vocab_size": 5}, {"amount": "1M"}):
        other = [side[:1] for side in both(**more)]
        found = of_one_budget(
            [run for side in (*other, *first) for run in side], ("a", "b"), "tokens"
        )
        assert found == first  # the one with more seeds
    long = both(amount="9M", tokens=9_000_000)
    mixed = [run for side in (*first, *long) for run in side]
    assert of_one_budget(mixed, ("a", "b"), "tokens") == long  # as many seeds: the longer one


def test_rows_of_speed_are_sorted_and_of_one_batch(pair):
    a, _ = pair
    found = metrics.speeds(a, "decode")
    assert [*found] == sorted(found) and {batch for batch, _ in found} == {1, 8}
    a.benchmark.decode = a.benchmark.decode[::-1]
    assert [*metrics.speeds(a, "decode")] == [*found]
    assert [*metrics.latencies(a)] == [128, 1024, 8192]
    one = {row.context: row.latency_ms for row in a.benchmark.decode if row.batch == 1}
    assert metrics.latencies(a) == one
    assert [*metrics.state_bytes(a)] == [128, 1024, 8192]
    a.benchmark = None
    assert metrics.speeds(a, "decode") == metrics.latencies(a) == metrics.state_bytes(a) == {}


def test_time_of_the_processor_is_shown_in_milliseconds(tmp_path):
    results = load_results(write_results(tmp_path))
    (pair,) = compare_pairs(results)
    found = pair.find("cpu_seconds")
    seconds = results.pairs[0][0].benchmark.energy.cpu_seconds_per_token.median
    assert found.ours.value == pytest.approx(1000 * seconds)
    assert found.metric.unit == "ms"
    assert pair.find("nothing") is None
    assert [c.metric.key for c in pair.both("bpb", "word_ppl", "ppl")] == ["bpb", "ppl"]
    assert {c.metric.group for c in pair.group("memory", "size")} == {"memory", "size"}
    assert [c.metric.key for c in pair.decoding()] == [
        "decode_1_128", "decode_1_1024", "decode_1_8192",
    ]  # fmt: skip


def test_a_model_without_its_pair_is_not_compared(pair, results):
    found = load_results(results)
    alone = replace(found, models=found.models[:1])
    assert compare_pairs(alone) == []
