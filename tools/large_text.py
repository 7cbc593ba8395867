"""Writes text of any size, to prepare it: ``python -m tools.large_text 2GB large.jsonl``.

The text is made up of the words of the standard library's docstrings, a few hundred of them a
document, from a seed, so the same arguments give the same bytes. One document in twenty is a copy
of an earlier one. ``.jsonl`` gives an object a document; ``.txt`` gives lines of only
``<|endoftext|>`` between documents; ``.one.txt`` gives one document.
"""

from __future__ import annotations

import ast
import inspect
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from itera_lite.quantities import bytes_of

WORDS = 200  # of a document, about
COPIES = 20  # one document in so many is a copy


def vocabulary() -> list[str]:
    """The words of some docstrings, in their order, with repeats."""
    words: list[str] = []
    for name in ("argparse", "inspect", "pathlib", "subprocess", "typing", "zipfile"):
        path = Path(inspect.getsourcefile(__import__(name)) or "")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                words += (ast.get_docstring(node) or "").split()
    return words


def documents(seed: int = 0) -> Iterator[str]:
    """Documents without end."""
    rng, words = random.Random(seed), vocabulary()
    recent: list[str] = []
    while True:
        if recent and rng.randrange(COPIES) == 0:
            yield rng.choice(recent)
            continue
        parts: list[str] = []
        while len(parts) < WORDS:
            at = rng.randrange(len(words))
            length = rng.randrange(3, 20)
            parts += [*words[at : at + length], str(rng.randrange(10_000)) + "."]
        text = " ".join(parts)
        recent = [*recent[-99:], text]
        yield text


def write(path: Path, size: int, seed: int = 0) -> None:
    """Write about ``size`` bytes of text, in the form that the file's name asks for."""
    written = 0
    with path.open("w", encoding="utf-8") as file:
        for text in documents(seed):
            if path.suffix == ".jsonl":
                line = json.dumps({"text": text}) + "\n"
            elif path.name.endswith(".one.txt"):
                line = text + "\n\n"
            else:
                line = text + "\n<|endoftext|>\n"
            file.write(line)
            written += len(line)
            if written >= size:
                return


if __name__ == "__main__":
    write(Path(sys.argv[2]), bytes_of("size", sys.argv[1]))
