"""Checkpoints with records, a stand-in of the Hub, and processes that run the command line."""

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
from safetensors.torch import save_file

from itera_lite.checkpoint.folder import load_checkpoint
from itera_lite.export.gguf import export_gguf
from itera_lite.machine.provenance import Provenance
from itera_lite.model.cost import describe
from itera_lite.records import (
    Baseline,
    BudgetRecord,
    DatasetDescription,
    Evaluation,
    Summary,
    TrainingRun,
    ValidScore,
)
from tests.hub_stand_in import Hub, environment, running

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
            timeout=300,
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
    dataset = DatasetDescription(
        name="tinystories",
        source="tinystories",
        sha256="ab" * 32,
        tokenizer_sha256=tokenizer.sha256,
        vocab_size=tokenizer.vocab_size,
        train_bytes=14_300_000,
        train_tokens=3_840_000,
        valid_bytes=700_000,
        valid_tokens=190_000,
        bytes_per_token=3.72,
    )
    training = TrainingRun(
        batch_size=16,
        seq_len=256,
        steps=732,
        tokens=3_000_000,
        epochs=0.78,
        seconds=254.0,
        minutes_wall=5.0,
        tokens_per_second=11_800.0,
        mfu=0.3,
        peak_gflops=100.0,
        precision="bf16",
        precision_reason="",
        fused_operations=True,
        threads=2,
        processes=1,
        lr_matrix=0.015,
        lr_embedding=0.02,
        lr_other=0.02,
        weight_decay=0.1,
        budget=BudgetRecord("tokens", 3e6),
        stopped="budget",
    )
    fields: dict[str, Any] = {
        "model": describe(name, model.config, seed=0, made="trained"),
        "training": training,
        "valid": ValidScore(bpb=1.0412, loss=2.68, ppl=14.6, tokens=190_000, bytes=700_000),
        "dataset": dataset,
        "provenance": Provenance.now(seed=0),
    }
    return Summary(**fields | changes)


def evaluation_of(name: str, folder: Path, **changes: Any) -> Evaluation:
    """A record of `itera eval`, of the model in a folder."""
    model, _ = load_checkpoint(folder)
    fields: dict[str, Any] = {
        "model": describe(name, model.config),
        "source": "tinystories",
        "split": "valid",
        "bpb": 1.0398,
        "loss": 2.677,
        "ppl": 14.54,
        "word_ppl": None,
        "accuracy": 0.44,
        "tokens": 190_000,
        "bytes": 700_000,
        "words": None,
        "documents": 900,
        "sampled": False,
        "seq_len": 256,
        "policy": "each document starts fresh",
        "by_position": [(64, 2.9)],
        "fused_operations": True,
        "baselines": {"xz": Baseline(bpb=2.4, train_bytes=14_300_000, how="xz -9e")},
        "provenance": Provenance.now(),
    }
    return Evaluation(**fields | changes)


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
