"""The verb `check`: is a checkpoint or a GGUF file whole, and what is it."""

from __future__ import annotations

from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import Any

from itera_lite.engine.check import check
from itera_lite.errors import IteraError


def check_model(model: Path, *, json: bool = False) -> dict[str, Any]:
    """Read a checkpoint or a GGUF file from end to end, and describe it.

    Every weight is read, shapes are compared with the config, the tokenizer with the model, and a
    saved training with both. What isn't whole or not ours to read ends with its first reason and
    exit code 1.

    Args:
        model: Folder of a checkpoint, or a GGUF file, compressed or not.
        json: Write the facts as a JSON object, also those of a broken one.

    Returns:
        The facts: see `itera_lite.engine.check.Checked`.
    """
    try:
        checked = check(Path(model))
    except IteraError as error:
        if json:
            print(dumps({"path": str(model), "whole": False, "problem": str(error)}, indent=2))
        raise
    facts = {"path": str(model), "whole": True, **asdict(checked)}
    print(dumps(facts, indent=2) if json else "\n".join(checked.lines()))
    return facts
