"""Check that report and terminal withhold verdicts where other programs kept the cores busy."""

import pytest

from itera_lite.records import Seeds
from itera_lite.report.table import comparison_table
from itera_lite.stats.load import Load

from .reading import ITERA, TRANSFORMER, edit, markdown, row, section, verdict
from .synthetic import provenance, seed_run

BENCH = ("Decoding, batch 1, context 128", "Energy per token (estimated)", "Time to first token")
WITHHELD = "not judged: other programs used"


def set_load(results, name, kind, cores, **fields):
    def change(record):
        record["provenance"]["load_by_others"] = cores
        record.update(fields)

    edit(results / f"{name}_{kind}.json", change)


def set_loads(results, kind, ours, other, **fields):
    set_load(results, ITERA, kind, ours, **fields)
    set_load(results, TRANSFORMER, kind, other, **fields)


def test_a_busy_training_withholds_its_speed_and_quality_after_equal_time(results):
    quiet = verdict(markdown(results), "Training speed")
    assert "Itera better" in quiet
    set_loads(results, "summary", 0.9, 0.1)
    text = markdown(results)
    words = (
        "not judged: other programs used 0.9 of 2 cores (Itera) and 0.1 of 2 cores (Transformer): "
        "measure again on a quieter machine"
    )
    assert verdict(text, "Training speed") == words
    assert verdict(text, "Bits per byte") == words
    assert WITHHELD in text.split("**Quality.**")[1].splitlines()[0]
    withheld = section(text, "8. Efficiency comparison").count(f"| {words} |")
    assert withheld == 5  # speed, bits, loss, perplexity, accuracy
    assert f"not judged, for the load by other programs, on {withheld}, " in text
    for label in ("Parameters, total", "FLOPs/token, forward", *BENCH):
        assert WITHHELD not in verdict(text, label)
    assert row(text, "Other programs used meanwhile, training")[1:] == ["0.90 cores", "0.10 cores"]


def test_quality_at_equal_tokens_is_judged_on_a_busy_machine_too(results):
    quiet = verdict(markdown(results), "Bits per byte")
    set_loads(results, "summary", 0.9, 0.1)
    for name in (ITERA, TRANSFORMER):
        path = results / f"{name}_summary.json"
        edit(path, lambda r: r["training"].update(budget={"unit": "tokens", "amount": 5e6}))
    text = markdown(results)
    assert verdict(text, "Bits per byte") == quiet
    assert WITHHELD in verdict(text, "Training speed")


@pytest.mark.parametrize(("load", "withheld"), [(0.9, True), (0.3, False)])
def test_a_benchmark_on_a_busy_machine(results, load, withheld):
    set_loads(results, "benchmark", load, load, repeated_rounds=4)
    text = markdown(results)
    for label in BENCH:
        assert (WITHHELD in verdict(text, label)) == withheld, label
    for label in ("State, context 128", "Weights", "Training speed", "Bits per byte"):
        assert WITHHELD not in verdict(text, label)
    assert row(text, "Rounds measured again, for other programs")[1:] == ["4", "4"]
    assert ("decodes one sequence faster" in section(text, "11. Recommendations")) != withheld


def test_training_steps_on_a_busy_machine(results):
    set_loads(results, "training_speed", 0.9, 0.9)
    steps = section(markdown(results), "4. Computational efficiency")
    lines = [x for x in steps.splitlines() if x.startswith(f"| `{ITERA}` | transformers, ")]
    assert len(lines) == 1 and WITHHELD in lines[0] and "(not judged)" in lines[0]


def test_the_table_of_the_demo_has_the_same_words(results):
    set_loads(results, "summary", 0.9, 0.1)
    lines = comparison_table(results).splitlines()
    (line,) = (line for line in lines if line.startswith("Training speed"))
    assert "not judged: other programs used 0.9 of 2 cores (Itera) and 0.1" in line


def test_older_records_make_no_claim(results):
    text = markdown(results)
    assert "other programs" not in section(text, "4. Computational efficiency")
    assert WITHHELD not in text


@pytest.mark.parametrize(
    ("budget", "amount", "judged"),
    [("time", 10.0, False), ("time", "4.9M", True), ("tokens", "4.9M", True)],
)
def test_seeds_whose_budget_was_the_clock(results, budget, amount, judged):
    runs = [
        seed_run(name, budget, bpb + 0.001 * seed, seed=seed, amount=amount, load=Load(others, 2))
        for name, bpb, others in ((ITERA, 0.7, 0.1), (TRANSFORMER, 0.8, 0.4))
        for seed in range(3)
    ]
    Seeds(runs=runs, provenance=provenance("itera bench seeds")).write(results / "seeds.json")
    words = "equal training time" if budget == "time" else "equal training tokens"
    found = verdict(markdown(results), f"Bits per byte, {words} (4.9 M tokens)")
    if judged:
        assert found.startswith("Itera better by 1.14×")
    else:
        assert "0.1 of 2 cores (Itera) and 0.4 of 2 cores (Transformer)" in found
