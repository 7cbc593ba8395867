"""The verb `bench playground`: decoding in a browser, ours and wllama's."""

from __future__ import annotations

from pathlib import Path

from itera_lite.files import check_writable
from itera_lite.quantities import check_numbers, whole_number
from itera_lite.records import BrowserDecoding

REPEATS, QUICK_REPEATS = 9, 3
LOADS = 5


def bench_playground(
    model: Path | None = None,
    *,
    wllama: Path | None = None,
    quick: bool = False,
    repeats: int | None = None,
    tokens: int = 128,
    results: Path = Path("results"),
) -> BrowserDecoding:
    """Measure the playground's engine in a browser, beside wllama.

    Both decode the same file greedily in the system's Chromium, in turns, with one thread each.
    Writes browser.json.

    Args:
        model: A GGUF file; by default the one that comes with the package.
        wllama: Folder of the npm package @wllama/wllama; by default npm fetches it into the cache.
        quick: Three repeats.
        repeats: Turns of each; by default 9, or 3 with quick.
        tokens: Of a pass.
        results: Folder of the result file.
    """
    check_numbers(repeats=repeats)
    whole_number("tokens", tokens, most=10_000)
    out = Path(results) / "browser.json"
    check_writable(out)

    from itera_lite.bench.browser import find_wllama, measure_browser
    from itera_lite.bench.table import print_browser
    from itera_lite.engine.find import BOX

    record = measure_browser(
        Path(model) if model is not None else next(BOX.glob("*.gguf")),
        find_wllama(wllama),
        repeats=repeats or (QUICK_REPEATS if quick else REPEATS),
        tokens=tokens,
        loads=LOADS,
    )
    print_browser(record)
    record.write(out)
    print(f"\nWritten to {out}")
    return record
