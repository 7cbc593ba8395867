"""Every reader gives a value or an `IteraError`: of its seeds, of what was found, of mutations."""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from itera_lite.engine.check import _check_file
from itera_lite.errors import IteraError, ModelFileError
from tests.fuzz.targets import TARGETS, Target, feed, mutations, remove_checkpoint
from tests.native.hostile import GROUPS

CASES = Path(__file__).with_name("cases")
MUTATIONS = 120  # of each target, in each run of the tests
SECONDS = 20.0  # of processor time that a reader takes for a file at most: usually it is 0.01


@pytest.fixture(scope="module", autouse=True)
def no_leftovers() -> Iterator[None]:
    yield
    remove_checkpoint()


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.filterwarnings("ignore::itera_lite.errors.IteraWarning")
def test_seeds_are_read(name: str, tmp_path: Path) -> None:
    """Else mutations of them would end at the first byte."""
    for number, seed in enumerate(TARGETS[name].seeds()):
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            TARGETS[name].read(seed, folder)
        except IteraError as error:
            assert name in ("scored", "gguf", "gguf.gz", "state"), error  # of another model


@pytest.mark.parametrize("name", TARGETS)
def test_found_files_and_mutations_raise_our_errors_alone(name: str) -> None:
    target, draw = TARGETS[name], random.Random(name)
    found = [path.read_bytes() for path in sorted((CASES / name).glob("*"))]
    seeds = target.seeds()
    for data in [
        *found,
        *(m for seed in seeds for m in mutations(seed, MUTATIONS // len(seeds), draw)),
    ]:
        begin = time.process_time()
        try:
            feed(target, data)
        except Exception as error:
            error.add_note(f"the file: {data[:2000]!r}")
            raise
        assert time.process_time() - begin < SECONDS, data[:200]


def test_a_reader_that_fails_otherwise_is_noticed() -> None:
    broken = Target("broken", lambda data, folder: {}[data], lambda: [b""])
    with pytest.raises(KeyError):
        feed(broken, b"x")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy, about scales that are infinite
def test_hostile_model_files_are_refused_without_the_engine(tmp_path: Path) -> None:
    """Those of the engine's tests, of which `itera check` reads a GPT-2's in Python alone."""
    refused = 0
    for case in (case for name in ("framing", "tensors", "gzipped") for case in GROUPS[name]()):
        if len(case.data) > 1_000_000:
            continue
        path = tmp_path / ("a.gguf.gz" if case.data[:2] == b"\x1f\x8b" else "a.gguf")
        path.write_bytes(case.data)
        try:
            _check_file(path, runs=False)
        except ModelFileError as error:
            assert str(path) in str(error), case.name
            refused += 1
    assert refused > 60
