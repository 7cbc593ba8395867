"""Includes of the C++ engine point down a list of folders, so that each folder is read alone."""

import re
from collections.abc import Iterator
from pathlib import Path

NATIVE = Path(__file__).parents[2] / "native"

# From the top to the bottom: a folder includes only from those that stand after it, so that no
# two folders need each other.
FOLDERS = ("fuzz", "python", "wasm", "run", "measure", "model", "text", "kernels", "gguf")


def includes() -> Iterator[tuple[Path, str]]:
    """(file, what it includes in quotes) for every source file and header."""
    for path in sorted(NATIVE.rglob("*.*")):
        if path.suffix in (".cc", ".h"):
            for name in re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(), re.MULTILINE):
                yield path, name


def test_every_folder_stands_in_the_list() -> None:
    assert {path.parent.relative_to(NATIVE).as_posix() for path, _ in includes()} == set(FOLDERS)


def test_an_include_names_its_folder() -> None:
    wrong = [
        f"{path.relative_to(NATIVE)}: {name}"
        for path, name in includes()
        if path.parent.name != "fuzz" and not (NATIVE / name).is_file()
    ]
    assert not wrong


def test_includes_point_down() -> None:
    places = {folder: place for place, folder in enumerate(FOLDERS)}
    found = {(path.parent.name, name.partition("/")[0]) for path, name in includes() if "/" in name}
    assert ("run", "model") in found
    assert not {(folder, other) for folder, other in found if places[other] < places[folder]}
