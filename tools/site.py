"""Builds the documentation site, a static one, in build/site.

    python -m tools.site        or: make site

Its pages are README.md, docs/ and what they link to, directly or through others. They are copied
with their folders first, so that a link such as ``../itera_lite/config.py`` leads to the same file
as on GitHub. zensical.toml has the navigation; a link that leads nowhere is an error.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES, SITE = ROOT / "build/pages", ROOT / "build/site"
_LINK = re.compile(r"\]\(([^)\s#]+)")
_CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def linked(page: Path) -> Iterator[Path]:
    """The files of this project that a page links to or shows."""
    for target in _LINK.findall(_CODE.sub("", page.read_text(encoding="utf-8"))):
        if not re.match(r"\w+:", target):
            yield (page.parent / target).resolve()


def files() -> list[Path]:
    """All files of the site, as they stand in the project."""
    todo = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
    found: dict[Path, None] = {}
    while todo:
        path = todo.pop(0)
        if path in found or not path.is_file():
            continue
        found[path] = None
        if path.suffix == ".md":
            todo += linked(path)
    return list(found)


def build() -> None:
    """Write the site.

    Raises:
        CalledProcessError: a page has a fault, which was printed.
    """
    for folder in (PAGES, SITE):
        shutil.rmtree(folder, ignore_errors=True)
    for path in files():
        copy = PAGES / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    page = PAGES / "playground.html"
    playground = [sys.executable, "-m", "itera_lite", "playground", "--out", str(page)]
    subprocess.run(playground, check=True)
    zensical = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    subprocess.run([*zensical, "--config-file", str(ROOT / "zensical.toml")], check=True, cwd=ROOT)


if __name__ == "__main__":
    try:
        build()
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
