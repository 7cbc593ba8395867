"""The verb `bench data`: preparing text, ours and the tokenizer's library alone."""

from __future__ import annotations

from itera_lite.commands.options import WorkerCount
from itera_lite.quantities import check_numbers, whole_number

REPEATS = 3


def bench_data(
    data: str = "python",
    *,
    vocab_size: int = 2048,
    workers: WorkerCount = None,
    repeats: int = REPEATS,
) -> dict[str, dict[str, float]]:
    """Measure how fast text is prepared, beside the tokenizer's library alone.

    Preparing reads, splits, drops copies, tokenises and writes; the library alone encodes the
    same text from memory, and nothing else. Both take turns, each in a fresh process, with the
    same tokenizer. The set is prepared once before, for its tokenizer.

    Args:
        data: The text, as for itera data.
        vocab_size: Size of the tokenizer, from 256 (bytes only) to 65,536.
        workers: Processes of ours, and threads of the library; by default one a core.
        repeats: Turns of each.

    Returns:
        For ``itera`` and ``tokenizers`` the medians of ``mb_per_second`` and
        ``peak_rss_bytes``.
    """
    from itera_lite.bench.preparing import measure_preparing
    from itera_lite.data.tokenizer import MAX_VOCAB, MIN_VOCAB
    from itera_lite.stats.samples import Stat
    from itera_lite.terminal import table

    check_numbers(workers=workers, repeats=repeats)
    whole_number("vocab_size", vocab_size, least=MIN_VOCAB, most=MAX_VOCAB)
    ours, alone = measure_preparing(data, vocab_size, workers, repeats)
    rows, result = [], {}
    for name, title, samples in (
        ("itera", "itera data", ours),
        ("tokenizers", "tokenizers alone", alone),
    ):
        speed = Stat.of([sample.bytes / 1e6 / sample.seconds for sample in samples])
        memory = Stat.of([float(sample.peak_rss_bytes) for sample in samples])
        result[name] = {"mb_per_second": speed.median, "peak_rss_bytes": memory.median}
        rows.append(
            [
                title,
                f"{samples[0].bytes / 1e6:,.0f}",
                f"{speed.median:.2f}",
                f"{speed.min:.2f}-{speed.max:.2f}",
                f"{memory.median / 1e6:,.0f}",
            ]
        )
    print(f"\nMedians of {repeats} repeats, their range, and the peak memory of all processes")
    print(table(("", "MB of text", "MB/s", "range", "MB of memory"), rows))
    return result
