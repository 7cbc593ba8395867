"""The verb `bench seeds`: both models again and again, for the spread of their quality."""

from __future__ import annotations

from pathlib import Path

from itera_lite.commands.options import WorkerCount
from itera_lite.config import DEFAULT_VOCABULARY, Family, preset
from itera_lite.data.tokenizer import MAX_VOCAB, MIN_VOCAB
from itera_lite.errors import UsageError
from itera_lite.files import check_writable
from itera_lite.quantities import check_numbers, seed_of, whole_number
from itera_lite.records import Seeds
from itera_lite.studies.seeds import SeedStudy

MOST_RUNS = 10_000


def bench_seeds(
    data: str = "python",
    *,
    config: str = "tiny",
    transformer: str | None = None,
    seeds: int = 3,
    first_seed: int = 0,
    minutes: float | None = None,
    tokens: str | None = None,
    equal_time: bool = False,
    vocab_size: int = DEFAULT_VOCABULARY,
    workers: WorkerCount = None,
    results: Path = Path("results"),
) -> Seeds:
    """Train both models with several seeds.

    Each run has the same budget: equal tokens, or equal training time; those of a seed train in
    turns. Adds to seeds.json, which the report reads; a run that is there already (same name,
    seed, budget, vocabulary and processor) is kept, and after Ctrl-C the same command goes on.

    With ``equal_time``, both training speeds are measured first, in turns, and the faster
    model is also trained on the tokens that it reads while the slower one reads ``tokens``:
    equal time that other programs on the machine don't disturb.

    Args:
        data: Set or path.
        config: Size: femto, pico, nano, tiny, small or base.
        transformer: Size of the Transformer, where it is another one; lean has about the FLOPs
            a token of the tiny Itera model.
        seeds: How many; at least 2.
        first_seed: The first of them.
        minutes: Training time of each run.
        tokens: Tokens of each run instead, such as 3M.
        equal_time: With tokens: add runs of equal time, by the two measured speeds.
        vocab_size: Size of the tokenizer.
        workers: How many cores compute at once; by default all.
        results: Folder of the result files.

    Returns:
        What seeds.json holds: ``runs``, ``speeds`` (where measured) and ``provenance``.
    """
    if whole_number("seeds", seeds, most=MOST_RUNS) < 2:
        raise UsageError(f"--seeds {seeds}: expected 2 or more, a spread needs that")
    seed_of(seed_of(first_seed, "first_seed") + seeds - 1, "first_seed")
    check_numbers(minutes=minutes, tokens=tokens, workers=workers)
    whole_number("vocab_size", vocab_size, least=MIN_VOCAB, most=MAX_VOCAB)
    if (minutes is None) == (tokens is None):
        raise UsageError("give each run a budget: either --minutes or --tokens")
    if equal_time and tokens is None:
        raise UsageError("--equal-time adds to runs of equal --tokens; --minutes is equal time")
    if equal_time and transformer not in (None, config):
        raise UsageError("--equal-time measures both models of one size: leave out --transformer")
    sizes: dict[Family, str] = {"itera": config, "transformer": transformer or config}
    for family, size in sizes.items():
        preset(family, size, vocab_size)
    path = Path(results) / "seeds.json"
    check_writable(path)
    study = SeedStudy(path, data, sizes, vocab_size, minutes, tokens, equal_time, workers)
    return study.run(range(first_seed, first_seed + seeds))
