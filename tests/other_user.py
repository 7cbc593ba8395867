"""What a user sees who may not read or write something; also where the tests run as root."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree

NOBODY = 65534


@contextmanager
def as_other_user() -> Iterator[None]:
    """Root becomes somebody who has no rights; anybody else stays who they are."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def shared_folder() -> Iterator[Path]:
    """A new folder that every user may look into; pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="itera-test-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        for path in [folder, *(p for p in folder.rglob("*") if p.is_dir())]:
            path.chmod(0o755)
        rmtree(folder)
