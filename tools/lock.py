"""Lock the exact version of every package that development needs, with its files' hashes.

    make lock                      # after a change of pyproject.toml; keeps the versions that fit
    make lock LOCK="--upgrade"     # the newest versions that pyproject.toml allows
    make lock WHEELS="torch-2.13.0+cpu-*.whl"

`uv` resolves for the platforms that ``[tool.uv]`` names, from metadata alone, into ``uv.lock``.
What ``make install`` needs of it is exported for pip, which refuses a file whose hash isn't listed:

- ``requirements/build.txt``: what builds the few packages that have no wheel;
- ``requirements/dev.txt``: the extra ``dev`` with all that it needs but PyTorch;
- ``requirements/cuda.txt``: PyTorch as PyPI has it, with the libraries for GPUs that it needs;
- ``requirements/cpu.txt``: PyTorch for processors alone, which PyPI doesn't have.

The hashes in the last one are those of WHEELS, which another index or a folder has; they are kept
until the version changes. pip would prefer PyPI's build, whose hash its index names, so the two
stand in files of their own.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from itera_lite.files import write_text

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "requirements"
INDEX = "https://pypi.org/simple"
BUILD = ("setuptools",)
CUDA = re.compile("nvidia-|cuda-|triton$|torch$")
HEAD = "# Written by `make lock` from uv.lock, which is resolved from pyproject.toml: don't edit.\n"


def main(arguments: Sequence[str]) -> None:
    """Write uv.lock again, and export it to the files in ``requirements/``.

    Args:
        arguments: wheels of PyTorch that PyPI doesn't have (``.whl``), and options of `uv lock`.
    """
    wheels = [Path(word) for word in arguments if word.endswith(".whl")]
    _uv("lock", "--default-index", INDEX, *(word for word in arguments if word[-4:] != ".whl"))
    exported = _uv(
        *("export", "--frozen", "--format", "requirements-txt", "--extra", "dev"),
        *("--no-emit-project", "--no-annotate", "--no-header"),
    )
    parts = split(parse(exported))
    (version,) = (key[7:].split(" ")[0] for key in parts["cuda"] if key.startswith("torch=="))
    parts["cpu"] = for_processors(version, wheels, FOLDER / "cpu.txt")
    for part, held in parts.items():
        write_text(FOLDER / f"{part}.txt", HEAD + text(held))


def for_processors(version: str, wheels: Sequence[Path], before: Path) -> dict[str, set[str]]:
    """Return PyTorch for processors alone, with the hashes of its wheels.

    Args:
        version: of PyTorch; a wheel of another version is left out.
        wheels: files that are hashed.
        before: the requirements file so far; its hashes of the same version are kept.
    """
    requirement = f"torch=={version}+cpu"
    earlier = parse(before.read_text("utf-8")) if before.exists() else {}
    hashes = earlier.get(requirement, set())
    for path in wheels:
        if path.name.startswith(f"torch-{version}+cpu-"):
            hashes.add(f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}")
    return {requirement: hashes} if hashes else {}


def parse(exported: str) -> dict[str, set[str]]:
    """Read a requirements file with hashes: each requirement -> its hashes.

    The marker that most lines have names the locked platforms. It is left out, so that pip refuses
    the file on another platform, and doesn't install half of it.
    """
    found: dict[str, set[str]] = {}
    for line in exported.replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith("#"):
            requirement, *hashes = (part.strip() for part in line.split("--hash="))
            found[requirement] = set(hashes)
    markers = Counter(requirement.partition(" ; ")[2] for requirement in found)
    usual = markers.most_common(1)[0][0] if markers else ""
    return {key.removesuffix(f" ; {usual}"): hashes for key, hashes in found.items()}


def split(locked: dict[str, set[str]]) -> dict[str, dict[str, set[str]]]:
    """Divide the requirements among the files ``build``, ``cuda`` and ``dev``."""
    parts: dict[str, dict[str, set[str]]] = {"build": {}, "dev": {}, "cuda": {}}
    for requirement, hashes in locked.items():
        name = requirement.partition("==")[0]
        part = "build" if name in BUILD else "cuda" if CUDA.match(name) else "dev"
        parts[part][requirement] = hashes
    return parts


def text(locked: dict[str, set[str]]) -> str:
    """Write the requirements as the text of a file that `parse` reads."""
    return "".join(
        " \\\n    ".join([requirement, *(f"--hash={each}" for each in sorted(hashes))]) + "\n"
        for requirement, hashes in sorted(locked.items())
    )


def _uv(*arguments: str) -> str:
    """Run uv in the repository, and return its output."""
    command = [sys.executable, "-m", "uv", *arguments, "--python", sys.executable]
    return subprocess.run(
        command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ).stdout


if __name__ == "__main__":
    main(sys.argv[1:])
