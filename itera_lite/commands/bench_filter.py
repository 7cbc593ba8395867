"""The verb `bench filter`: how well scores separate clean text from bad, and how fast."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from itera_lite.config import Unit
from itera_lite.errors import UsageError
from itera_lite.files import check_writable
from itera_lite.quantities import check_numbers, seed_of, whole_number
from itera_lite.records import Filtering

REPEATS, QUICK_REPEATS = 9, 3
LINES, QUICK_LINES = 2000, 300
MOST_LINES = 1_000_000


def bench_filter(
    *models: Path,
    good: Path | None = None,
    bad: Path | None = None,
    data: str = "python",
    split: str = "valid",
    unit: Unit | None = None,
    lines: int | None = None,
    others: Sequence[str] | None = None,
    lmplz: Path | None = None,
    quick: bool = False,
    repeats: int | None = None,
    seed: int = 0,
    results: Path = Path("results"),
) -> Filtering:
    """Measure how well models separate clean text from bad, beside KenLM and a byte n-gram.

    Held-out lines against the same with noise, and against lines of other sources: AUC with a
    bootstrap interval, and MB/s of a core in turns. KenLM and the n-gram are trained on the
    training text of the set, and all score the same lines. Writes filter.json.

    Args:
        models: GGUF files, or folders of checkpoints; by default checkpoints/itera_lite_tiny, else
            the model that comes with Itera-Lite.
        good: With --bad: also score by the bits per byte of this model less those of the other.
        bad: The other model.
        data: Set or path that the models were trained on.
        split: Part of the set that the lines are of: valid, or test where the set has one.
        unit: What a line is; by default what the first model was trained on, else a sentence.
        lines: How many are judged; by default 2,000. As many others choose each scorer's statistic.
        others: Other sources, sets or paths; by default gutenberg-children and wikitext-2 where
            ITERA_DATA has them, else Python's documentation and source.
        lmplz: KenLM's builder, or its folder; by default it is looked for on PATH.
        quick: 300 lines and three repeats.
        repeats: Turns of each; by default 9, or 3 with quick.
        seed: Of the choice of lines and of the noise.
        results: Folder of the result file.
    """
    check_numbers(repeats=repeats)
    seed_of(seed)
    count = LINES if lines is None else whole_number("lines", lines, least=20, most=MOST_LINES)
    if (good is None) != (bad is None):
        raise UsageError("--good and --bad are a pair of models: give both")
    output = Path(results) / "filter.json"
    check_writable(output)

    from itera_lite.bench.filter import measure_filter
    from itera_lite.engine.find import find_model
    from itera_lite.report.filter import filter_notes, filter_rows
    from itera_lite.terminal import table

    given = [Path(model) for model in models]
    if not given and good is None:
        given = [find_model()]
    record = measure_filter(
        [find_model(model) for model in given],
        contrast=None if good is None or bad is None else (Path(good), Path(bad)),
        data=data,
        split=split,
        unit=unit,
        lines=min(count, QUICK_LINES) if quick else count,
        others=others,
        lmplz=None if lmplz is None else Path(lmplz),
        repeats=repeats or (QUICK_REPEATS if quick else REPEATS),
        seed=seed,
    )
    print(table(*filter_rows(record)))
    print()
    print("\n".join(filter_notes(record)))
    for target in record.targets:
        label, found, wanted, result = target.cells
        print(f"{label}: {found}, {wanted}: {result}")
    record.write(output)
    print(f"\nWritten to {output}")
    return record
