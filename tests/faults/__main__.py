"""Kills every command at many moments and prints what came of it: `make faults`.

    python -m tests.faults --kills 100 --seed 0
    python -m tests.faults --kills 20 --verbs train,ladder --keep /tmp/faults

The same seed gives the same moments before the same changes of files. Exit code 1 where something
was found; its folders are kept then.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

# Before PyTorch and others are imported: they read it only then.
os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

from itera_lite.errors import IteraError
from tests.faults.kills import Result, Verb, run_whole, table, try_verb
from tests.faults.verbs import SHARES, Given, older_run, prepare_process, problems, run, snapshot
from tests.faults.verbs import verbs as all_verbs


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="of all verbs together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbs", default=",".join(SHARES), help="names of the table, with commas")
    parser.add_argument("--keep", type=Path, help="a folder, which isn't there yet, for the files")
    asked = parser.parse_args()
    names = asked.verbs.split(",")
    if unknown := [name for name in names if name not in SHARES]:
        parser.error(f"no verb {unknown}: expected some of {', '.join(SHARES)}")
    place = asked.keep or Path(tempfile.mkdtemp(prefix="itera-faults-"))
    place.mkdir(parents=True, exist_ok=True)
    place = place.resolve()
    print(f"{asked.kills} kills, seed {asked.seed}, files in {place}", flush=True)
    prepare_process()
    given = Given.make(place / "given")
    run_whole(_other("the model", lambda _: given.save_model(), ()), place / "making")
    older = place / "older"
    if "train --overwrite" in names:
        run_whole(_other("an older run", run, older_run(given)), older)
    found = all_verbs(given, older / "work")
    results: list[Result] = []
    for name, kills in _shared(asked.kills, names).items():
        folder = place / name.replace(" ", "_")
        results.append(
            try_verb(found[name], kills, asked.seed, folder, lambda text: print(text, flush=True))
        )
    print(f"\n{table(results)}")
    findings = [finding for result in results for finding in result.findings]
    for finding in findings:
        print(f"found: {finding}")
    if not findings and asked.keep is None:
        shutil.rmtree(place)
    return 1 if findings else 0


def _other(name: str, action: Callable[[list[str]], int | None], arguments: Sequence[str]) -> Verb:
    """Something that is run once, and not killed."""
    return Verb(name, lambda given: action(given) or 0, arguments, snapshot, problems, arguments)


def _shared(kills: int, names: list[str]) -> dict[str, int]:
    """The kills of each verb, after `SHARES`; each has one at least."""
    total = sum(SHARES[name] for name in names)
    wanted = {name: max(1, round(kills * SHARES[name] / total)) for name in names}
    most = max(wanted, key=lambda name: wanted[name])
    wanted[most] = max(1, wanted[most] + kills - sum(wanted.values()))
    return wanted


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (IteraError, RuntimeError) as error:
        sys.exit(f"faults: {error}")
