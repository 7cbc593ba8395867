"""The table of every budget that models were trained with for several seeds, and its verdicts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from statistics import median

from itera_lite.config import PRESETS
from itera_lite.records import SeedRun
from itera_lite.report.metrics import Budget, loads_of_seeds
from itera_lite.report.text import code, fixed, significant, table
from itera_lite.stats.comparison import Comparison, Measurement, Metric, compare

HEADERS = ["Trained for", "Model", "Seeds", "Tokens", "MFLOP/token", "Bits per byte", "Verdict"]
BITS = Metric("bpb", "Bits per byte", "bits/byte", "lower", "run", "quality")

Runs = list[SeedRun]  # of one model and budget, by seed


def seeds_table(seeds: Sequence[SeedRun]) -> str:
    """Every model at every budget, by rising budget; empty without runs.

    A Transformer is compared with the Itera model of its size, else with the smallest one. Where a
    family has several sizes, the best of each family are compared too.
    """
    rows = [row for budget in budgets(seeds) for row in _rows(*budget)]
    return table(HEADERS, rows, "llrrrrl") if rows else ""


def budgets(seeds: Sequence[SeedRun]) -> Iterator[tuple[str, list[Runs]]]:
    """Each budget in words, and its models: Itera first, by size.

    Where there are several of the same length, the words name processor, text and vocabulary.
    """
    found: dict[Budget, dict[str, Runs]] = defaultdict(dict)
    for run in sorted(seeds, key=lambda run: run.seed):
        found[Budget.of(run)].setdefault(run.name, []).append(run)

    def length(budget: Budget) -> tuple[str, float]:
        return budget.kind, median(run.tokens for runs in found[budget].values() for run in runs)

    order = list(PRESETS)
    times = Counter(budget.words for budget in found)
    for budget in sorted(found, key=length):
        models = sorted(
            found[budget].values(),
            key=lambda runs: (
                runs[0].family != "itera",
                order.index(runs[0].size) if runs[0].size in order else len(order),
            ),
        )
        by = ", ".join(filter(None, (*_of_text(budget, found), budget.precision, budget.cpu)))
        yield f"{budget.words} ({by})" if by and times[budget.words] > 1 else budget.words, models


def _of_text(budget: Budget, others: Iterable[Budget]) -> Iterator[str]:
    """What tells a budget's text from those of others of the same length."""
    alike = [other for other in others if other.words == budget.words]
    if len({other.source for other in alike}) > 1:
        yield budget.source
    if len({other.vocab_size for other in alike}) > 1:
        yield f"vocabulary {budget.vocab_size}"
    if len({other.text for other in alike if other.source == budget.source}) > 1:
        yield f"text {(budget.text or 'unknown')[:8]}"


def _rows(words: str, models: list[Runs]) -> Iterator[list[str]]:
    ours = [runs for runs in models if runs[0].family == "itera"]
    others = [runs for runs in models if runs[0].family != "itera"]
    for runs in models:
        first = runs[0]
        verdict = "—"
        if ours and runs in others:
            same = [own for own in ours if own[0].size == first.size]
            verdict = _verdict(_compared((same or ours)[0], runs), (same or ours)[0], runs)
        bits = Measurement.of_samples([run.valid_bpb for run in runs])
        yield [
            words,
            code(first.name),
            str(len(runs)),
            f"{median(run.tokens for run in runs) / 1e6:.3g} M",
            significant(first.flops_forward and first.flops_forward / 1e6, 3),
            f"{fixed(bits.value)} [{fixed(bits.low)} – {fixed(bits.high)}]",
            verdict,
        ]
    if len(ours) > 1 and len(others) > 1:
        best = [min(side, key=_bits) for side in (ours, others)]
        verdict = _verdict(_compared(*best), *best)
        names = " and ".join(code(runs[0].name) for runs in best)
        yield [words, f"the best sizes: {names}", "", "", "", "", verdict]


def _bits(runs: Runs) -> float:
    return median(run.valid_bpb for run in runs)


def _compared(ours: Runs, other: Runs) -> Comparison:
    sides = [Measurement.of_samples([run.valid_bpb for run in runs]) for runs in (ours, other)]
    return compare(BITS, *sides, loads=loads_of_seeds((ours, other)))


def _verdict(comparison: Comparison, ours: Runs, other: Runs) -> str:
    """With the name of the Itera model where the sizes differ."""
    if ours[0].size == other[0].size:
        return comparison.verdict
    return f"{comparison.verdict} (against {code(ours[0].name)})"
