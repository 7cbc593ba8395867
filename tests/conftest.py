"""What all the tests share: one thread, no network, no window, a quiet machine, an own cache.

`make test` runs them in a process a core (pytest-xdist), each file in one of the processes.
"""

import fcntl
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Set before torch, matplotlib and huggingface_hub are imported: they read it only then.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Processes of ``-n auto``: one for each core that may be used, also in a container."""
    from itera_lite.machine.processor import usable_cores

    return usable_cores()


# Property tests have the same inputs every time, so that a run fails by a change of the code alone.
# `make properties` and `--hypothesis-seed` search among others. No time limits: machines are busy.
UNTIMED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("same", derandomize=True, print_blob=True, **UNTIMED)
settings.register_profile("search", print_blob=True, **UNTIMED)
settings.load_profile("same")


def pytest_configure(config: pytest.Config) -> None:
    """With a seed, property tests have the inputs that follow from it."""
    if config.getoption("hypothesis_seed", None) is not None:
        settings.load_profile("search")


LONG = {"train", "test_readme.py"}  # a folder and a file that take long


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long begins first: of several processes none is alone with it at the end."""
    items.sort(key=lambda item: not LONG.intersection(item.path.parts))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test, and what is made for it first, draws the same numbers whatever has run before it."""
    random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


# A shell without job control starts background jobs with SIGINT ignored, and programs inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def not_measured() -> dict[str, str]:
    """The environment of a program that can't write what `make coverage` would measure of it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Token shards go to a folder of this test run, and the user's own sets are not seen."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ITERA_CACHE", str(folder))
        patch.delenv("ITERA_DATA", raising=False)
        if kernels := os.environ.get("ITERA_TEST_KERNELS"):  # set by tools/mutants.py
            (folder / "kernels").symlink_to(kernels)
        elif "PYTEST_XDIST_WORKER" in os.environ:
            share_compiled_operations(folder, tmp_path_factory.getbasetemp().parent)
        yield folder


def share_compiled_operations(cache: Path, shared: Path) -> None:
    """Have one of the processes compile the fused operations for the caches of all."""
    from itera_lite.ops.library import load

    kernels = shared / "kernels"
    kernels.mkdir(exist_ok=True)
    (cache / "kernels").symlink_to(kernels)
    with (shared / "kernels.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        load()


@pytest.fixture(scope="session", autouse=True)
def quiet_machine() -> Iterator[Callable[[], Any]]:
    """What other programs do changes no test: nothing is measured again, no verdict withheld.

    Gives the function that reads this machine's counters, for a test that measures them.
    """
    from itera_lite.machine import load

    measured = load.read_counters
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "read_counters", lambda: load.Counters(time.monotonic(), 0.0, 0.0))
        patch.setattr(load, "START_SECONDS", 0.0)
        yield measured


@pytest.fixture
def trained_on_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this test, every GGUF file is loaded as a model that was trained on lines."""
    from itera_lite.engine import Model

    load = Model.load

    def loaded(path: Path) -> Model:
        model = load(path)
        model.unit = "line"
        return model

    monkeypatch.setattr(Model, "load", loaded)


@pytest.fixture
def real_load(quiet_machine: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """In this test, the load by other programs is measured."""
    monkeypatch.setattr("itera_lite.machine.load.read_counters", quiet_machine)


@pytest.fixture(scope="session")
def tiny_pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints of two minute models with random weights, by name; tokens are bytes."""
    import torch
    from torch import nn

    from itera_lite.checkpoint.folder import save_checkpoint
    from itera_lite.config import ModelConfig
    from itera_lite.data.tokenizer import Tokenizer
    from itera_lite.model import LanguageModel

    tokenizer = Tokenizer.train([b"text"], 256)
    size = {"vocab_size": tokenizer.vocab_size, "d_model": 32, "head_dim": 16, "max_seq_len": 512}
    configs = {
        "itera_lite_test": ModelConfig(
            "itera", "ma", n_experts=4, d_expert=16, d_state=8, ssm_head_dim=16, **size
        ),
        "transformer_test": ModelConfig("transformer", "aa", d_ff=48, **size),
    }
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    for name, config in configs.items():
        model = LanguageModel(config)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
        save_checkpoint(folder / name, model, tokenizer)
    return {name: folder / name for name in configs}
