"""Imports of the package point down a list of rooms, so that each room is understood alone."""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "itera_lite"

# From the top to the bottom: a room imports only from those that stand after it.
# fmt: off
ROOMS = (
    "cli", "commands", "serve", "hub", "cluster",
    "studies", "compress", "bench", "distill", "playground", "engine", "export", "train",
    "evaluate", "checkpoint", "model", "ops", "report", "data", "records",
    "machine", "stats", "workers", "quantities", "sampling", "config", "locks", "files", "terminal",
    "torchrun", "errors",
)
# fmt: on


def imports() -> Iterator[tuple[str, str]]:
    """(room that imports, room that is imported), wherever they differ."""
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for name in names:
                package, _, rest = name.partition(".")
                other = rest.partition(".")[0]
                if package == "itera_lite" and other in ROOMS and other != room:
                    yield room, other


def test_every_room_stands_in_the_list() -> None:
    found = {
        path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.suffix in ("", ".py")
    }
    named = {*ROOMS, "models", "__init__", "__main__", "__pycache__", "py.typed"}
    assert found - named == set()
    assert set(ROOMS) <= found


def test_imports_point_down() -> None:
    places = {room: place for place, room in enumerate(ROOMS)}
    found = {pair for pair in imports() if pair[0] in places}
    assert ("train", "model") in found
    upward = {(room, other) for room, other in found if places[other] < places[room]}
    assert upward == set()
