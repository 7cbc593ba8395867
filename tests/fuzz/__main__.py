"""Looks for a file that breaks a reader written in Python: `make fuzz-python MINUTES=10`.

    python -m tests.fuzz --seconds 60
    python -m tests.fuzz --seconds 60 --target gguf

atheris guides the search by the lines of ours that a file reaches. What it finds is kept in
tests/fuzz/cases/TARGET, and `make test` replays it from then on.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

CASES = Path(__file__).with_name("cases")
MOST_BYTES = 65_536
TIMEOUT = 60  # seconds that a reader may take for a file, on a busy machine


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="of all targets together")
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    parser.add_argument("--target", help="one alone")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.here:
        _search(asked.target, asked.seconds, asked.seed)
        return 0
    from tests.fuzz.targets import TARGETS

    if asked.target is not None and asked.target not in TARGETS:
        parser.error(f"no target '{asked.target}': expected one of {', '.join(TARGETS)}")
    names = list(TARGETS) if asked.target is None else [asked.target]
    failed = []
    for name in names:
        seconds = max(1, asked.seconds // len(names))
        command = [sys.executable, "-m", "tests.fuzz", "--here", "--target", name]
        command += ["--seconds", str(seconds), "--seed", str(asked.seed)]
        # A process each: the search ends its own.
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        runs = [line for line in done.stderr.splitlines() if line.startswith("Done ")]
        print(f"{name}: {runs[-1] if runs else f'ended with {done.returncode}'}", flush=True)
        if done.returncode:
            failed.append(name)
            print(done.stdout[-3000:] + done.stderr[-3000:])
    if failed:
        kept = f"the files are kept in {CASES}, and 'make test' replays them from now on"
        print(f"found in {', '.join(failed)}: {kept}", file=sys.stderr)
    return 1 if failed else 0


def _search(name: str, seconds: int, seed: int) -> None:
    """Search in one target; ends the process."""
    import atheris

    with atheris.instrument_imports(include=["itera_lite"]):
        from tests.fuzz.targets import TARGETS, feed

    target = TARGETS[name]
    cases = CASES / name
    cases.mkdir(parents=True, exist_ok=True)
    seeds = Path(tempfile.mkdtemp(prefix="itera-seeds-"))
    for data in target.seeds():
        (seeds / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    found = Path(__file__).parents[2] / "build" / "fuzz-python" / name
    found.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={MOST_BYTES}",
        f"-timeout={TIMEOUT}",
        "-rss_limit_mb=4096",
        f"-artifact_prefix={cases}{os.sep}",
        *([f"-seed={seed}"] if seed else []),
    ]
    folders = [str(found), str(seeds), str(cases)]
    atheris.Setup([sys.argv[0], *options, *folders], lambda data: feed(target, data))
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
