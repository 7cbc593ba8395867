"""This program checks the tests: it changes the package in one place, and runs them.

It changes the code that measures and judges. A copy of the package with one change (to a
comparison, a sign, a number, a word or an argument) is called a mutant. The program runs the tests
on each mutant, and counts those that survive. A mutant survives where no test fails: then no test
checks what was changed there. ``python -m tools.mutants [ROOM ...]`` tries all mutants of these
rooms of the package. `mutmut` changes functions. It leaves out what runs when a module is imported,
such as the table of metrics with their directions and units, and decorated functions, such as
properties. Here these get the same changes, one at a time, each in a process of its own.

    make mutants                      # every room: hours
    make mutants ROOMS="stats"        # one room
    python -m tools.mutants --sample 200 report   # a random choice of so many mutants

Prints the killed ones by module and the difference of each survivor; fails where fewer than 90 %
of a room's mutants are killed. `build/mutants.json` keeps what was found.
"""

from __future__ import annotations

import argparse
import difflib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from itera_lite.files import write_json

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build" / "mutants.json"
KERNELS = ROOT / "build" / "mutants-kernels"  # the fused operations, compiled once for all mutants
LEAST = 0.9  # of a room's mutants that tests must kill
SECONDS = 180  # of a mutant's tests: one that takes longer hangs, and is found by that
ROOMS = {  # each with the tests that must notice a change in it
    "stats": ("tests/stats", "tests/test_records.py"),
    "machine": ("tests/machine",),
    "records": ("tests/test_records.py",),
    "evaluate": ("tests/evaluate", "tests/commands/test_evaluate.py"),
    "report": ("tests/report", "tests/stats/test_histogram.py"),
}


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    Attributes:
        module: dotted name.
        name: of the mutant, unique.
        difference: between the original and the changed source.
        killed: whether a test failed; None: not tried.
    """

    module: str
    name: str
    difference: str
    killed: bool | None = None


def main(arguments: Sequence[str]) -> int:
    """Try the mutants of the rooms that are named, of all by default."""
    parser = argparse.ArgumentParser(prog="python -m tools.mutants")
    parser.add_argument("rooms", nargs="*", metavar="ROOM", help="all by default")
    parser.add_argument("--sample", type=int, metavar="N", help="try N random mutants")
    options = parser.parse_args(arguments)
    rooms, sample = options.rooms or list(ROOMS), options.sample
    if unknown := sorted(set(rooms) - set(ROOMS)):
        print(f"unknown room {unknown[0]!r}: expected {', '.join(ROOMS)}", file=sys.stderr)
        return 2
    KERNELS.mkdir(parents=True, exist_ok=True)
    os.environ["ITERA_TEST_KERNELS"] = str(KERNELS)
    known = json.loads(OUT.read_text("utf-8")) if OUT.exists() else {}
    for room in rooms:
        known[room] = [asdict(each) for each in [*of_functions(room, sample), *rest(room, sample)]]
        write_json(OUT, known)
    shares = [table(room, [Mutant(**each) for each in known[room]]) for room in rooms]
    return 0 if min(shares) >= LEAST else 1


def table(room: str, mutants: Sequence[Mutant]) -> float:
    """Print what survived, and a line a module; return the share of mutants that was killed."""
    tried = [each for each in mutants if each.killed is not None]
    for each in tried:
        if not each.killed:
            print(f"\nsurvived: {each.name}\n{each.difference}")
    print(f"\n{room}: mutants, killed, survived")
    for module in sorted({each.module for each in tried}):
        of_module = [each.killed for each in tried if each.module == module]
        print(f"{module:45} {len(of_module):5} {sum(map(bool, of_module)):5}"
              f" {of_module.count(False):5}")  # fmt: skip
    killed = sum(bool(each.killed) for each in tried)
    share = killed / len(tried) if tried else 0.0
    print(f"{'in all':45} {len(tried):5} {killed:5} {len(tried) - killed:5}   {share:.1%}")
    return share


def modules(room: str) -> list[str]:
    """Dotted names of a room's modules."""
    place = ROOT / "itera_lite" / room
    paths = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    return [name.removesuffix(".__init__") for name in names]


def tests(room: str) -> list[str]:
    """Paths of the tests of a room that exist."""
    return [path for path in ROOMS[room] if (ROOT / path).exists()]


def source(module: str) -> Path:
    """The file of a module."""
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def chosen(mutants: list[Any], sample: int | None) -> list[Any]:
    """Return all mutants, or ``sample`` random ones, which are the same at each call."""
    if sample is None or len(mutants) <= sample:
        return mutants
    return random.Random(0).sample(mutants, sample)


# --- Functions: by mutmut ------------------------------------------------------------------------


def of_functions(room: str, sample: int | None) -> list[Mutant]:
    """Have mutmut try the mutants of a room's functions, and read what it found.

    mutmut runs the tests in which it saw a function called. It sees only the first of the tests
    that share a fixture, and no call while tests are collected or in another process. So what
    survives is tried again with all tests of the room.
    """
    own_folder(room)
    if sample is None:
        _mutmut(room, "run")  # goes on where it was stopped
        names = sorted(_found(room))
    else:
        _mutmut(room, "generate", quiet=True)
        names = chosen(sorted(_found(room)), sample)
        if names:
            _mutmut(room, "run", *names)
    found = _found(room)
    if survivors := [name for name in names if found[name][1] is False]:
        _have_all_tests(survivors)
        _mutmut(room, "run", *survivors)
        found = _found(room)
    if untried := sum(found[name][1] is None for name in names) or not names:
        lacks = f"left {untried} of {len(names)} mutants untried" if names else "made no mutant"
        raise SystemExit(f"mutmut {lacks} of {room}: what it printed above has the reason")
    return [
        Mutant(
            module,
            name,
            _mutmut(room, "show", name, quiet=True) if killed is False else "",
            killed,
        )
        for name, (module, killed) in ((name, found[name]) for name in names)
    ]


def own_folder(room: str) -> None:
    """Remove mutmut's folder where another room's mutants are in it.

    mutmut copies all files there and changes the room's. It takes an older copy without any change
    for a file whose mutants are already made, so that a second room would have none.
    """
    folder = ROOT / "mutants"
    mark = folder / "room.txt"
    if not mark.exists() or mark.read_text("utf-8") != room:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        mark.write_text(room, "utf-8")


def _found(room: str) -> dict[str, tuple[str, bool | None]]:
    """Name of each mutant -> its module, and whether a test failed; None: not tried.

    mutmut's exit codes: 0 is a survivor, 33 and 5 no test that reaches it, and None untried.
    """
    found = {}
    for module in modules(room):
        meta = ROOT / "mutants" / source(module).relative_to(ROOT)
        meta = meta.with_name(f"{meta.name}.meta")
        if meta.exists():
            codes = json.loads(meta.read_text("utf-8"))["exit_code_by_key"]
            for name, code in codes.items():
                found[name] = module, None if code is None else code not in (0, 5, 33)
    return found


def _have_all_tests(names: Sequence[str]) -> None:
    """Let mutmut run every test that it knows for the functions of these mutants."""
    path = ROOT / "mutants" / "mutmut-stats.json"
    stats = json.loads(path.read_text("utf-8"))
    for name in names:
        function = name.rpartition("__mutmut_")[0]
        stats["tests_by_mangled_function_name"][function] = sorted(stats["duration_by_test"])
    write_json(path, stats)


RUN_MUTMUT = """
import sys
from mutmut.configuration import config
config().only_mutate[:] = sys.argv[1].split(":")
config().pytest_add_cli_args_test_selection[:] = sys.argv[2].split(":")
from mutmut import __main__ as mutmut
if sys.argv[3] == "generate":
    import os
    os.makedirs("mutants", exist_ok=True)
    mutmut.copy_src_dir()
    mutmut.copy_also_copy_files()
    mutmut.create_mutants(os.cpu_count() or 1)
else:
    sys.argv = ["mutmut", *sys.argv[3:]]
    mutmut.cli()
"""  # with a room's files and tests alone; not `python -m`, of which mutmut warns


def _mutmut(room: str, *arguments: str, quiet: bool = False) -> str:
    files = [source(module).relative_to(ROOT).as_posix() for module in modules(room)]
    words = [":".join(files), ":".join(tests(room)), *arguments]
    command = [sys.executable, "-c", RUN_MUTMUT, *words]
    done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE if quiet else None)
    return done.stdout or ""


# --- The rest: tables, properties, decorated functions -------------------------------------------


def rest(room: str, sample: int | None) -> list[Mutant]:
    """Try the mutants of what mutmut leaves out of a room."""
    todo = [each for module in modules(room) for each in left_out(module)]
    todo = chosen(todo, sample)
    if not todo:
        return []
    _warm()
    files = tests(room)
    if _run(files) != 0:
        raise SystemExit(f"the tests of {room} fail without any mutant: mend them first")
    running: dict[int, Mutant] = {}
    found: list[Mutant] = []

    def wait() -> None:
        process, status = os.wait()
        mutant = running.pop(process)
        found.append(replace(mutant, killed=status != 0))
        mark = "survived" if status == 0 else "killed"
        print(f"\r{len(found)} of {len(todo)}: {mark} {mutant.name}"[:100].ljust(100), end="")

    for mutant, text in todo:
        if len(running) == (os.cpu_count() or 1):
            wait()
        process = os.fork()
        if process == 0:
            os._exit(_test(files, mutant.module, text))
        running[process] = mutant
    while running:
        wait()
    print()
    return sorted(found, key=lambda each: each.name)


def left_out(module: str) -> Iterator[tuple[Mutant, str]]:
    """Make the mutants of the code that mutmut doesn't change; each comes with its source."""
    import libcst as cst
    from mutmut.mutation.mutators import mutation_operators

    before = source(module).read_text("utf-8")
    tree: Any = cst.parse_module(before)
    number = 0
    for node in _nodes(tree):
        for kind, operator in mutation_operators:
            if not isinstance(node, kind):
                continue
            for changed in operator(node):
                after = tree.deep_replace(node, changed).code
                if after == before or not _compiles(after):
                    continue
                number += 1
                lines = difflib.unified_diff(
                    before.splitlines(), after.splitlines(), lineterm="", n=1
                )
                difference = "\n".join([*lines][2:])
                yield Mutant(module, f"{module}.rest_{number}", difference), after


def _compiles(text: str) -> bool:
    try:
        compile(text, "mutant", "exec")
    except (SyntaxError, ValueError):
        return False
    return True


def _nodes(tree: Any) -> Iterator[Any]:
    """Find the nodes that run at import or stand in a decorated function.

    Types and the names in ``__all__`` are left out: a test can't notice a change in them.
    """
    import libcst as cst
    import libcst.matchers as m

    types = (cst.Annotation, cst.Decorator, cst.Import, cst.ImportFrom)
    alias = m.Assign(value=m.Subscript())  # of a type
    union = m.Assign(value=m.BinaryOperation(operator=m.BitOr()))
    exports = m.Assign(targets=[m.AssignTarget(target=m.Name("__all__"))])
    checking = m.If(test=m.Name("TYPE_CHECKING"))

    def walk(node: Any, inside: bool) -> Iterator[Any]:
        if isinstance(node, types) or m.matches(node, alias | union | exports | checking):
            return
        if isinstance(node, cst.FunctionDef) and not inside:
            names = [getattr(d.decorator, "value", "") for d in node.decorators]
            if not names or names in (["staticmethod"], ["classmethod"]):
                return  # mutmut's
            inside = True
        yield node
        for child in node.children:
            yield from walk(child, inside)

    yield from walk(tree, False)


class _Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """An importer that loads one module from a changed source."""

    def __init__(self, module: str, text: str) -> None:
        self.module, self.text = module, text

    def find_spec(
        self, fullname: str, path: Any = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.module:
            return None
        place = source(fullname)
        folders = [str(place.parent)] if place.name == "__init__.py" else None
        return importlib.util.spec_from_file_location(
            fullname, place, loader=self, submodule_search_locations=folders
        )

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.text, str(source(self.module)), "exec"), module.__dict__)


def _warm() -> None:
    """Import the slow packages that tests need, once: the forked processes then have them."""
    import matplotlib.figure  # noqa: F401
    import numpy  # noqa: F401
    import pytest  # noqa: F401
    import torch  # noqa: F401


def _run(files: Sequence[str]) -> int:
    """Run tests without any change in a process of its own; pytest's exit code."""
    process = os.fork()
    if process == 0:
        os._exit(_test(files, "", ""))
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _test(files: Sequence[str], module: str, text: str) -> int:
    """Run tests with a changed module, silently; pytest's exit code."""
    import pytest

    for name in [name for name in sys.modules if name.partition(".")[0] in ("itera_lite", "tools")]:
        del sys.modules[name]  # what this program imported of the package itself
    if module:
        sys.meta_path.insert(0, _Changed(module, text))
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    signal.alarm(SECONDS)
    os.chdir(ROOT)
    try:
        return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *files]))
    except BaseException:
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
