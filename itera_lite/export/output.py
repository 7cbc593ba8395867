"""Whether a file may be written: never over what it is made from, or over another kind of file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from itera_lite.errors import UsageError
from itera_lite.files import is_special
from itera_lite.reading import exists, require_place


def refuse_output(path: Path, inputs: Iterable[Path], magic: bytes) -> None:
    """Raises `UsageError` where ``path`` may not be written. Devices and pipes may.

    Args:
        inputs: the files that are read, whether they are there or not.
        magic: the bytes with which a file begins that may be replaced. An empty file may be too.
    """
    require_place(path)
    if is_special(path):
        return
    target = os.path.realpath(path)
    for source in inputs:
        same = exists(source) and exists(path) and os.path.samefile(source, path)
        if same or target == os.path.realpath(source):
            raise UsageError(
                f"the output '{path}' would replace a file that it is made from: give another name"
            )
    if exists(path):
        with open(path, "rb") as file:
            begins = file.read(len(magic))
        if begins and begins != magic:
            raise UsageError(
                f"the output '{path}' is there already and is no {magic.decode()} file: it isn't "
                "replaced. Give another name, or remove it first"
            )
