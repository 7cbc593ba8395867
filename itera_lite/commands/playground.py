"""The verb `playground`: page, engine and model as one HTML file."""

from __future__ import annotations

import sys
from pathlib import Path

from itera_lite.engine import Model
from itera_lite.engine.find import BOX, find_model
from itera_lite.errors import UsageError
from itera_lite.files import (
    check_output_file,
    exists,
    in_utf8,
    is_folder,
    is_special,
    named_in_utf8,
    write_bytes,
)
from itera_lite.playground import page, smallest


def playground(
    model: Path | None = None,
    *,
    out: Path = Path("playground.html"),
    overwrite: bool = False,
) -> Path:
    """Write a web page that holds the engine and a model, as one file.

    The page opens from a disk or from any web host and needs no network. It writes texts, colours
    each token by its surprise, scores what is typed, and compares two models.

    Args:
        model: A GGUF file, .gguf or .gguf.gz; by default the model that comes with Itera-Lite.
        out: The file to write.
        overwrite: Replace the file, if there is one.

    Returns:
        The file.
    """
    check_output_file(out)
    if exists(out) and not overwrite and not is_special(out):
        raise UsageError(f"'{out}' is there already: --overwrite replaces it, --out names another")
    path = find_model(model) if model is not None else next(BOX.glob("*.gguf*"))
    if is_folder(path):
        raise UsageError(
            f"'{path}' is a folder: expected a GGUF file; `itera export {path}` writes one"
        )
    with named_in_utf8(path) as named:
        Model.load(named)  # what the engine can't use here, it can't use in the page
    file = path.read_bytes()
    name = in_utf8(path.name)
    written = page(file, name)
    write_bytes(out, written)
    inside = len(smallest(file))
    compressed = f", {inside:,} compressed" if inside < len(file) else ""
    print(
        f"{out}: {len(written):,} bytes, with {name} ({len(file):,} bytes{compressed})",
        file=sys.stderr if is_special(out) else sys.stdout,
    )
    return out
