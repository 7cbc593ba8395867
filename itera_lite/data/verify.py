"""Compares the token shards of a prepared set with the checksums in its manifest.

A shard of up to `ALWAYS` bytes is read when the set is opened: a second of a core for a gigabyte. A
larger one is read once, and again where its size, its time or its place on the disk changed: the
file ``verified.json`` beside it has those that were compared. A process compares a file once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from itera_lite.files import sha256_of, write_json

SHARD_SHA256 = "file_sha256"  # key of a split in the manifest; sets of earlier versions lack it
ALWAYS = 256_000_000  # bytes
_NOTES = "verified.json"
_compared: set[tuple[object, ...]] = set()  # by this process


def damaged_shard(folder: Path, splits: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The message about a shard whose content isn't what was written; None where all are whole.

    Raises:
        OSError: a shard can't be read.
    """
    for entry in splits.values():
        path, expected = folder / entry["file"], entry.get(SHARD_SHA256)
        if expected is None or _is_known(path, expected):
            continue
        if (found := sha256_of(path)) != expected:
            return (
                f"'{path}' is damaged: it has the SHA-256 {found[:16]}..., and {expected[:16]}... "
                "was written. The set is prepared again"
            )
        _compared.add(_state(path, expected))
        if path.stat().st_size > ALWAYS:
            _note(path, expected)
    return None


def _state(path: Path, expected: str) -> tuple[object, ...]:
    found = os.stat(path)
    return str(path), expected, found.st_size, found.st_mtime_ns, found.st_ino


def _is_known(path: Path, expected: str) -> bool:
    """Whether the file was compared, by this process or, where it is large, by an earlier one."""
    state = _state(path, expected)
    if state in _compared:
        return True
    return path.stat().st_size > ALWAYS and _notes(path).get(path.name) == list(state[1:])


def _notes(path: Path) -> dict[str, Any]:
    try:
        notes = json.loads((path.parent / _NOTES).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return notes if isinstance(notes, dict) else {}


def _note(path: Path, expected: str) -> None:
    with suppress(OSError):  # a cache that is only read: then it is compared each time
        write_json(
            path.parent / _NOTES, {**_notes(path), path.name: list(_state(path, expected)[1:])}
        )
