"""The verb `demo`: the whole chain on one text, in minutes."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from itera_lite.config import NAMES
from itera_lite.errors import UsageError
from itera_lite.files import check_writable
from itera_lite.quantities import minutes_of, seed_of

OVERHEAD_MINUTES = 2.0  # preparing the text, evaluation, benchmark and report, on two cores
EVAL_BYTES = 400_000


def demo(
    data: str = "python",
    *,
    minutes: float = 5.5,
    seed: int = 0,
    overwrite: bool = False,
    checkpoints: Path = Path("checkpoints"),
    results: Path = Path("results"),
    reports: Path = Path("reports"),
) -> dict[str, Any]:
    """Train, evaluate, benchmark and compare both models.

    Args:
        data: Set or path; by default the interpreter's own standard library.
        minutes: About how long it may take on two cores; more makes better models.
        seed: Of the weights and of the order of the text.
        overwrite: Replace the models of an earlier demo, or of a training with the same names.
        checkpoints: Folder of the checkpoints.
        results: Folder of the result files.
        reports: Folder of the report.

    Returns:
        The models' summaries, and the path of the report.
    """
    minutes, seed = minutes_of(minutes), seed_of(seed)
    check_writable(results / "itera_lite_tiny_summary.json")
    check_writable(reports / "efficiency_report.md")
    from itera_lite.checkpoint.folder import is_own
    from itera_lite.commands.bench import bench
    from itera_lite.commands.evaluate import evaluate
    from itera_lite.commands.report import report
    from itera_lite.commands.train import train
    from itera_lite.report.results import load_results
    from itera_lite.report.table import comparison_table

    paths = [checkpoints / f"{NAMES[family]}_tiny" for family in ("itera", "transformer")]
    taken = [path for path in paths if is_own(path)]
    if taken and not overwrite:
        raise UsageError(
            f"'{taken[0]}' is there already, from an earlier demo or a training: itera demo "
            "--overwrite replaces it, --checkpoints and --results name other folders"
        )
    begin = time.monotonic()

    def stage(number: int, what: str) -> None:
        passed = (time.monotonic() - begin) / 60
        print(f"\n[{number}/4 · {passed:.1f} of about {minutes:g} min] {what}", flush=True)

    each = max((minutes - OVERHEAD_MINUTES) / 2, minutes * 0.3)
    stage(1, f"training both models in turns on '{data}', {each:.1f} min each")
    summaries = train(
        data,
        minutes=each,
        seed=seed,
        overwrite=overwrite,
        checkpoints=checkpoints,
        results=results,
    )
    stage(2, "quality on held-out text")
    for path in paths:
        evaluate(path, data=data, max_bytes=EVAL_BYTES, results=results)
    stage(3, "speed, memory and energy, both models in turn")
    bench(*paths, quick=True, results=results)
    stage(4, "report")
    written = report(results=results, reports=reports)
    print("\n" + comparison_table(load_results(results)))
    for name, summary in summaries.items():
        sample = summary.samples[-1]
        print(f"\n{name} goes on from '{sample.prompt}':\n{sample.prompt}{sample.text}")
    print(f"\nThe report: {reports / 'efficiency_report.html'} (and .md)")
    print(f"Done in {(time.monotonic() - begin) / 60:.1f} min.", file=sys.stderr)
    return {"summaries": summaries, "report": written}
