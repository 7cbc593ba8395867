"""Reads files that may be missing, damaged, or closed to this user, and says which it is.

`Path.exists` and its like take a folder that may not be searched for a missing file, in some
versions of Python. The functions here raise PermissionError then, which names the path.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from itera_lite.errors import IteraError, UsageError


def exists(path: str | Path) -> bool:
    """Whether there is something at ``path``."""
    return _mode(path) is not None


def is_file(path: str | Path) -> bool:
    """Whether ``path`` is a regular file, or a link to one."""
    mode = _mode(path)
    return mode is not None and stat.S_ISREG(mode)


def is_folder(path: str | Path) -> bool:
    """Whether ``path`` is a folder, or a link to one."""
    mode = _mode(path)
    return mode is not None and stat.S_ISDIR(mode)


def require_place(path: Path) -> None:
    """Raises `UsageError` where no output can be written to ``path``: a folder, or in none."""
    if is_folder(path):
        raise UsageError(f"the output '{path}' is a folder: expected the name of a file")
    if not is_folder(path.parent):
        raise UsageError(f"there is no folder '{path.parent}' for the output: make it first")


def _mode(path: str | Path) -> int | None:
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def read_json(path: str | Path, error: type[IteraError]) -> Any:
    """The value in a JSON file.

    Args:
        error: what is raised where the file can't be read; the message names it and the reason.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as reason:
        raise error(f"'{path}' can't be read: {reason.strerror}") from None
    except RecursionError:
        raise error(f"'{path}' is damaged: its brackets are nested too deeply") from None
    except ValueError as reason:  # not JSON, not UTF-8, a number of thousands of digits
        raise error(f"'{path}' is damaged: {reason}") from None


def read_object(path: str | Path, error: type[IteraError]) -> dict[str, Any]:
    """The object in a JSON file; as `read_json`, which it is but for what isn't an object."""
    value = read_json(path, error)
    if not isinstance(value, dict):
        raise error(
            f"'{path}' is damaged: it holds a {type(value).__name__}, expected an object {{...}}"
        )
    return value
