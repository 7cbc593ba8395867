"""Checkpoints with records, a server that stands in for the Hub, and a process for commands."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import save_file

from itera_lite.checkpoint.folder import load_checkpoint
from itera_lite.export.gguf import export_gguf
from itera_lite.model.cost import describe
from itera_lite.records import Evaluation, Summary
from tests.hub_stand_in import Hub, environment, running
from tests.report import synthetic

RUN = """
import contextlib, io, json, os, sys
from itera_lite.cli import main
results = []
for command in json.load(sys.stdin):
    os.environ.update(command["environment"])
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(command["arguments"])
    for name in command["environment"]:
        del os.environ[name]
    results.append([code, out.getvalue(), err.getvalue()])
json.dump(results, sys.stdout)
"""


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str


class Commands:
    """Runs commands of `itera` in one process, which takes the stand-in for the Hub."""

    def __init__(self, variables: dict[str, str], folder: Path) -> None:
        self.variables, self.folder = variables, folder

    def __call__(self, *commands: list[str] | tuple[list[str], str]) -> list[Done]:
        """Each command: its arguments, or these and a token."""
        listed = [
            {"arguments": command, "environment": {}}
            if isinstance(command, list)
            else {"arguments": command[0], "environment": {"HF_TOKEN": command[1]}}
            for command in commands
        ]
        run = subprocess.run(
            [sys.executable, "-c", RUN],
            input=json.dumps(listed),
            env=self.variables,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=600,
            check=True,
        )
        return [Done(*result) for result in json.loads(run.stdout)]


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture
def itera(hub: Hub, tmp_path: Path) -> Iterator[Commands]:
    """Commands in an empty folder; the models are to be put there."""
    pytest.importorskip("huggingface_hub")
    with running(hub) as address:
        yield Commands(environment(address, tmp_path / "hf"), tmp_path)


def summary_of(name: str, folder: Path, **changes: Any) -> Summary:
    """A record of a training, of the model in a folder."""
    model, tokenizer = load_checkpoint(folder)
    record = synthetic.summary(describe(name, model.config, seed=0, made="trained"), 1.0412)
    assert record.dataset is not None and record.training is not None
    named = {"name": "tinystories", "source": "tinystories"}
    dataset = replace(record.dataset, tokenizer_sha256=tokenizer.sha256, **named)
    training = replace(record.training, tokens=3_000_000, epochs=0.78, seconds=254.0)
    return replace(record, **{"dataset": dataset, "training": training, **changes})


def evaluation_of(name: str, folder: Path, **changes: Any) -> Evaluation:
    """A record of `itera eval`, of the model in a folder."""
    model, _ = load_checkpoint(folder)
    record = synthetic.evaluation(describe(name, model.config), 1.0398)
    return replace(record, **{"source": "tinystories", "ppl": 14.54, **changes})


@pytest.fixture
def place(tmp_path: Path, tiny_pair: dict[str, Path]) -> Callable[[str], Path]:
    """Puts a checkpoint with its GGUF files and records into the folder of the commands."""

    def put(name: str = "itera_lite_test") -> Path:
        folder = tmp_path / "checkpoints" / name
        shutil.copytree(tiny_pair[name], folder)
        export_gguf(folder, "f16")
        export_gguf(folder, "f32", format="gguf.gz")
        state: dict[str, Any] = {part: {} for part in ("identity", "state", "loader", "window")}
        (folder / "training_state").mkdir()
        (folder / "training_state" / "state.json").write_text(json.dumps(state))
        save_file({"rng": torch.zeros(1)}, folder / "training_state" / "tensors.safetensors")
        (folder / "notes.txt").write_text("mine")
        summary_of(name, folder).write(tmp_path / "results" / f"{name}_summary.json")
        evaluation_of(name, folder).write(tmp_path / "results" / f"{name}_eval.json")
        return folder

    return put
