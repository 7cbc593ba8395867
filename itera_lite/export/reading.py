"""Opens a GGUF file for Python's reader, which takes no compressed one."""

from __future__ import annotations

import gzip
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from itera_lite.files import named_in_utf8


def is_gzip(path: Path) -> bool:
    """Whether a file is compressed. Its content decides, not its name, as in the engine."""
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


@contextmanager
def inflated(path: Path) -> Iterator[Path]:
    """A path to the GGUF file without compression, while the block runs.

    The engine must have read the file before: how large it becomes isn't checked here.
    """
    if not is_gzip(path):
        with named_in_utf8(path) as named:
            yield named
        return
    with tempfile.TemporaryDirectory(prefix="itera-") as folder:
        plain = Path(folder) / "model.gguf"
        with gzip.open(path, "rb") as source, open(plain, "wb") as sink:
            shutil.copyfileobj(source, sink)
        yield plain
