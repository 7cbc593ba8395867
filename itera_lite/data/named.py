"""What is particular to single named sets: the standard library and tiny Shakespeare."""

from __future__ import annotations

import hashlib
import sysconfig
from pathlib import Path

from itera_lite.errors import DataError

PYTHON_LIMIT_BYTES = 16_000_000
# Tests, generated tables and what was installed beside the library aren't its source.
_SKIPPED = {
    "test",
    "tests",
    "idle_test",
    "site-packages",
    "dist-packages",
    "encodings",
    "pydoc_data",
    "__pycache__",
}


def python_files() -> tuple[tuple[None, str, Path], ...]:
    """(no split, path in the library, file) of the interpreter's standard-library source."""
    folder = Path(sysconfig.get_path("stdlib"))
    files = []
    for file in sorted(folder.rglob("*.py")):
        inside = file.relative_to(folder)
        if not _SKIPPED & set(inside.parts) and not inside.name.startswith("_sysconfig"):
            files.append((None, inside.as_posix(), file))
    if not files:
        raise DataError(
            f"data='python': {folder} holds no .py files (a trimmed interpreter?). "
            "Give another set, such as a folder of text files."
        )
    return tuple(files)


def cap_python(documents: list[bytes]) -> tuple[list[bytes], list[str]]:
    """At most `PYTHON_LIMIT_BYTES`, picked by hash so that no name is favoured; and notes."""
    notes = ["tests, generated tables and site-packages of the standard library are left out"]
    if sum(map(len, documents)) > PYTHON_LIMIT_BYTES:
        kept: set[bytes] = set()
        total = 0
        for text in sorted(documents, key=lambda text: hashlib.sha256(text).digest()):
            total += len(text)
            if total > PYTHON_LIMIT_BYTES:
                break
            kept.add(text)
        documents = [text for text in documents if text in kept]
        notes.append(f"only {PYTHON_LIMIT_BYTES / 1e6:.0f} MB of it are used")
    return documents, notes


def cut_shakespeare(splits: dict[str | None, list[bytes]]) -> dict[str | None, list[bytes]]:
    """The custom of the field: the first 90 % of the characters train, the rest judge."""
    text = b"".join(splits.get(None, [])).decode("utf-8")
    cut = len(text) * 9 // 10
    return {"train": [text[:cut].encode()], "valid": [text[cut:].encode()]}
