"""Files that are wrong on purpose end in one error with a plain message; see `hostile`."""

import contextlib
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from itera_lite.engine import Model
from itera_lite.errors import ModelFileError, UsageError
from tests.native.gguf_models import hybrid
from tests.native.hostile import EITHER, GROUPS, Hostile, valid, write

ROOT = Path(__file__).parents[2]
MUTATIONS = 4000

# Of what is left out: here only errors and crashes count.
pytestmark = pytest.mark.filterwarnings("ignore::itera_lite.errors.IteraWarning")


def use(model: Model) -> None:
    """Text and a score; a model that can't give them says so."""
    refused = (ModelFileError, UsageError)
    with contextlib.suppress(*refused):
        model.generate("the heat", max_tokens=3, seed=0)
    with contextlib.suppress(*refused):
        assert math.isfinite(model.score("the hat", window=8)[0].nats)


def fault(case: Hostile, path: Path) -> str | None:
    """What is wrong with how the engine takes the file, or None."""
    path.write_bytes(case.data)
    try:
        model = Model.load(path)
    except ModelFileError as error:
        message = str(error)
        if not message.startswith(f"{path}: ") or not message.isprintable():
            return f"not a plain message that begins with the path: {message!r}"
        said = message.removeprefix(f"{path}: ")
        return None if case.message == EITHER or case.message in said else said
    finally:
        path.unlink()
    if case.message != EITHER:
        return "loaded"
    use(model)
    return None


@pytest.mark.parametrize("group", GROUPS)
def test_hostile_file_is_one_plain_error(group: str, tmp_path: Path) -> None:
    cases = list(GROUPS[group]())
    faults = [(case.name, fault(case, tmp_path / "model.gguf")) for case in cases]
    wrong = [f"{name}: {why}" for name, why in faults if why is not None]
    assert not wrong, "\n".join(wrong)
    assert len({case.name for case in cases}) == len(cases) > 20


@pytest.mark.parametrize("name", valid())
def test_valid_file_loads(name: str, tmp_path: Path) -> None:
    """Else the tests above would pass with an engine that refuses everything."""
    (path,) = write(tmp_path, {name: valid()[name]})
    model = Model.load(path)
    assert len(model.generate("the heat", max_tokens=5, seed=0, ignore_end=True).token_ids) == 5
    assert 5 < model.score("the hat")[0].bits_per_byte < 20  # random weights: 8 and more


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"nothing\.gguf: can't be opened: No such file"):
        Model.load(tmp_path / "nothing.gguf")
    with pytest.raises(ModelFileError, match="is a folder"):
        Model.load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFileError, match="not a regular file"):  # and no waiting for a writer
        Model.load(tmp_path / "pipe")
    with pytest.raises(ModelFileError, match="not a regular file"):
        Model.load("/dev/zero")


def test_version_2_and_other_alignments_give_the_same_model(tmp_path: Path) -> None:
    drafts = {"plain": hybrid(), "version-2": hybrid(), "64": hybrid(), "4096": hybrid()}
    drafts["version-2"].version = 2
    for name in ("64", "4096"):
        drafts[name] = drafts[name].aligned(int(name))
    paths = write(tmp_path, {name: draft.render() for name, draft in drafts.items()})
    texts = {
        str(Model.load(path).generate("he", max_tokens=9, temperature=0).token_ids)
        for path in paths
    }
    assert len(texts) == 1


_MEMORY = """
import pathlib, re, sys
from itera_lite.errors import ModelFileError
from itera_lite.engine import Model
# Not getrusage, whose peak includes that of the process which has started this one
status = pathlib.Path("/proc/self/status")
peak = lambda: int(re.search(r"VmHWM:\\s*(\\d+) kB", status.read_text())[1]) // 1024
valid, *hostile = map(pathlib.Path, sys.argv[1:])
Model.load(valid).generate("the heat", max_tokens=3)
before = peak()
for path in hostile:
    try:
        Model.load(path)
    except ModelFileError:
        pass
print(peak() - before)
"""


def test_memory_is_bounded(tmp_path: Path) -> None:
    """Counts, lengths and dimensions of up to 2^64 take no memory that the file doesn't have."""
    cases = [case for group in ("metadata", "tensors", "shapes") for case in GROUPS[group]()]
    huge = [case for case in cases if any(digit in case.name for digit in "2489")]
    files = {f"{i}": case.data for i, case in enumerate(huge)}
    paths = write(tmp_path, {"valid": hybrid().render(), **files})
    run = subprocess.run(
        [sys.executable, "-c", _MEMORY, *map(str, paths)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=600,
    )
    assert int(run.stdout) < 16, "MiB beyond what a valid file takes"


@pytest.fixture(scope="module")
def replay() -> Path:
    """The fuzz target as a program, with AddressSanitizer and UBSan, by the usual compiler."""
    make = subprocess.run(
        ["make", "-C", ROOT / "native/fuzz", "-j2", "replay"], capture_output=True, text=True
    )
    assert make.returncode == 0, make.stdout + make.stderr
    return ROOT / "build/fuzz/replay"


def lines(replay: Path, *arguments: str | Path, cwd: Path) -> Iterator[str]:
    run = subprocess.run(
        [replay, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, timeout=300
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[:8000]
    yield from run.stdout.splitlines()


def test_sanitizers_find_nothing(replay: Path, tmp_path: Path) -> None:
    """In the hostile files, what the fuzzer found before, and new mutations of valid files."""
    cases = [case for group in GROUPS.values() for case in group()]
    files = {f"{i}": case.data for i, case in enumerate(cases)}
    paths = write(tmp_path / "hostile", files)
    seen = [line.partition(": ")[2] for line in lines(replay, *paths, cwd=tmp_path)]
    for case, line in zip(cases, seen, strict=True):
        assert case.message == EITHER or case.message in line, f"{case.name}: {line}"

    known = sorted((ROOT / "native/fuzz/cases").glob("*"))
    seeds = write(tmp_path / "valid", valid())
    *_, summary = lines(replay, "-m", str(MUTATIONS), "-s", "1", *known, *seeds, cwd=tmp_path)
    tried, good, refused = (int(word) for word in summary.split() if word.isdigit())
    assert good + refused == tried == MUTATIONS
    assert good > MUTATIONS // 50  # else nothing but the first checks was tried
