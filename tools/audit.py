"""Looks up known vulnerabilities of every locked package: ``python -m tools.audit``.

`pip-audit` asks PyPI about the exact versions in ``requirements/``; nothing is installed. The exit
code is 0 where none is known, 1 where one is, and 3 where the data couldn't be had, such as without
a network: then nothing is known either way.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NONE, FOUND, UNKNOWN = 0, 1, 3


def main() -> int:
    """Audit and print; the exit code."""
    files = sorted((ROOT / "requirements").glob("*.txt"))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "audit.json"
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes"),
                *("--progress-spinner", "off", "--timeout", "15", "--format", "json"),
                *("--output", str(out), *(f"--requirement={path}" for path in files)),
            ],
            capture_output=True,
            text=True,
        )
        try:
            report = json.loads(out.read_text("utf-8"))
        except (OSError, ValueError):
            lines = done.stderr.strip().splitlines() or ["it gave no reason"]
            print(
                f"Nothing is known: the data on vulnerabilities couldn't be had ({lines[-1]}). "
                "Run it again where https://pypi.org can be reached",
                file=sys.stderr,
            )
            return UNKNOWN
    skipped = [found for found in report["dependencies"] if "skip_reason" in found]
    lines = list(described(report))
    print("\n".join(lines) or f"No known vulnerability in {len(report['dependencies'])} packages")
    for found in skipped:
        print(f"not looked up: {found['name']}: {found['skip_reason']}", file=sys.stderr)
    return FOUND if lines else NONE


def described(report: dict[str, Any]) -> Iterator[str]:
    """A line for each vulnerability in pip-audit's report: package, number, the release that
    mends it."""
    for found in report["dependencies"]:
        for each in found.get("vulns", ()):
            mended = ", ".join(each["fix_versions"]) or "no release yet"
            yield f"{found['name']} {found['version']}: {each['id']}, mended by {mended}"


if __name__ == "__main__":
    sys.exit(main())
