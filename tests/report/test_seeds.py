"""Check the order of the table of seeds, and which model a Transformer is compared with."""

from msgspec.structs import replace

from itera_lite.report.metrics import of_one_budget
from itera_lite.report.seeds import seeds_table

from .synthetic import seed_run


def runs(name, budget, amount, bits, tokens):
    size = name.rsplit("_", 1)[1]
    made = [
        seed_run(name, budget, bpb, seed=seed, amount=amount, tokens=tokens)
        for seed, bpb in enumerate(bits)
    ]
    return [replace(run, size=size) for run in made]


def test_every_budget_has_its_rows_and_verdicts():
    found = [
        *runs("transformer_tiny", "tokens", "8M", [0.742, 0.748, 0.745], 8_000_000),
        *runs("itera_lite_tiny", "tokens", "8M", [0.762, 0.768, 0.765], 8_000_000),
        *runs("transformer_lean", "tokens", "8M", [0.812, 0.818, 0.815], 8_000_000),
        *runs("itera_lite_tiny", "time", "8M", [0.692, 0.698, 0.695], 14_000_000),
        *runs("transformer_tiny", "time", "8M", [0.742, 0.748, 0.745], 8_000_000),
        *runs("itera_lite_small", "time", "8M", [0.652, 0.658, 0.655], 9_000_000),
        *runs("transformer_small", "time", "8M", [0.712, 0.718, 0.715], 5_000_000),
    ]
    lines = [[cell.strip() for cell in line.split("|")] for line in seeds_table(found).splitlines()]
    rows = [line[1:-1] for line in lines[2:]]
    assert [(row[0], row[1].strip("`")) for row in rows] == [
        ("the time of 8M tokens", "itera_lite_tiny"),
        ("the time of 8M tokens", "itera_lite_small"),
        ("the time of 8M tokens", "transformer_tiny"),
        ("the time of 8M tokens", "transformer_small"),
        ("the time of 8M tokens", "the best sizes: `itera_lite_small` and `transformer_small"),
        ("8M tokens", "itera_lite_tiny"),
        ("8M tokens", "transformer_tiny"),
        ("8M tokens", "transformer_lean"),
    ]
    verdicts = {(row[0], row[1].strip("`")): row[6] for row in rows}
    assert verdicts["8M tokens", "transformer_tiny"].startswith("Transformer better by 1.027×")
    lean = verdicts["8M tokens", "transformer_lean"]
    assert lean.startswith("Itera better by 1.065×")
    assert lean.endswith("(against `itera_lite_tiny`)")
    assert rows[4][6].startswith("Itera better by 1.092×")
    assert rows[0][2:4] == ["3", "14 M"]
    assert rows[0][5] == "0.6950 [0.6920 – 0.6980]"


def test_runs_of_two_processors_are_two_comparisons():
    slow = {"precision": "fp32", "cpu": "Old"}
    fast = {"precision": "bf16", "cpu": "New"}
    found = [
        replace(run, **where)
        for where, bits, tokens in ((slow, 0.9, 3_000_000), (fast, 0.7, 9_000_000))
        for name in ("itera_lite_tiny", "transformer_tiny")
        for run in runs(name, "time", 10.0, [bits, bits + 0.001, bits + 0.002], tokens)
    ]
    words = [line.split("|")[1].strip() for line in seeds_table(found).splitlines()[2:]]
    assert words == ["10 minutes (fp32, Old)"] * 2 + ["10 minutes (bf16, New)"] * 2
    sides = of_one_budget(found, ("itera_lite_tiny", "transformer_tiny"), "time")
    assert {run.cpu for runs in sides for run in runs} == {"New"}
    assert [len(runs) for runs in sides] == [3, 3]


def test_nothing_was_trained():
    assert seeds_table([]) == ""
