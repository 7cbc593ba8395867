"""Look up the known vulnerabilities of every locked package: ``python -m tools.audit``.

`pip-audit` asks PyPI about the exact versions in ``requirements/``; nothing is installed. The exit
code is 0 where none is known, 1 where one is, and 3 where the data couldn't be had of every
package: without a network, or from a mirror that lacks them.
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
    """Audit the packages, print what is known, and return the exit code."""
    # Not cpu.txt: it is the release of PyTorch that cuda.txt has, under a name that PyPI lacks.
    files = [ROOT / "requirements" / f"{part}.txt" for part in ("build", "cuda", "dev")]
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
    lines = list(described(report))
    packages = report["dependencies"]
    skipped = [found["name"] for found in packages if "skip_reason" in found]
    if lines:
        print("\n".join(lines))
    if skipped:
        print(
            f"Nothing is known about {len(skipped)} of {len(packages)} packages, for which no data "
            f"were given: {', '.join(skipped[:5])}{' …' if len(skipped) > 5 else ''}. Run it again "
            "where https://pypi.org can be reached",
            file=sys.stderr,
        )
    if lines:
        return FOUND
    if skipped:
        return UNKNOWN
    print(f"No known vulnerability in {len(packages)} packages")
    return NONE


def described(report: dict[str, Any]) -> Iterator[str]:
    """Describe each vulnerability in pip-audit's report in a line.

    The line has the package, the vulnerability's number and the release that mends it.
    """
    for found in report["dependencies"]:
        for each in found.get("vulns", ()):
            mended = ", ".join(each["fix_versions"]) or "no release yet"
            yield f"{found['name']} {found['version']}: {each['id']}, mended by {mended}"


if __name__ == "__main__":
    sys.exit(main())
