"""What every number carries."""

import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

import itera_lite
from itera_lite.machine.processor import usable_cores
from itera_lite.machine.provenance import (
    command,
    git_state,
    provenance,
)


def test_has_everything_the_design_asks_for():
    record = provenance(seed=7, device="cpu")
    assert record["seed"] == 7 and record["device"] == "cpu"
    assert datetime.fromisoformat(record["date"]).tzinfo is not None
    machine = record["machine"]
    assert machine["cpu"] and machine["cores"] == usable_cores() >= 1
    assert machine["memory_bytes"] > 2**20 and isinstance(machine["isa"], list)
    for package in ("python", "torch", "numpy", "itera_lite"):
        assert record["versions"][package]
    assert record["versions"]["itera_lite"] == itera_lite.__version__
    json.dumps(record, allow_nan=False)


def test_a_file_about_several_seeds_names_them_all():
    assert (provenance(seeds=range(3))["seed"], provenance(seeds=range(3))["seeds"]) == (
        None,
        [0, 1, 2],
    )
    assert (provenance(seeds=[5, 5])["seed"], provenance(seeds=[5, 5])["seeds"]) == (5, [5])
    assert "seeds" not in provenance(seed=3)


def test_threads_are_those_of_pytorch():
    import torch

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert provenance()["machine"]["threads"] == 2
    finally:
        torch.set_num_threads(before)


def test_does_not_import_pytorch():
    code = (
        "import sys; from itera_lite.machine.provenance import provenance; p = provenance()\n"
        "assert p['versions']['torch'] and p['machine']['threads'] is None\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(itera_lite.__file__).parents[1])
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["/somewhere/bin/itera", "eval", "my model"], "itera eval 'my model'"),
        (["/x/itera_lite/cli.py", "train"], "itera train"),
        (["/x/itera_lite/__main__.py", "bench"], "itera bench"),
        ([""], "python"),
    ],
)
def test_command_can_be_typed_again(argv, expected, monkeypatch):
    monkeypatch.setattr(sys, "argv", argv)
    assert command() == expected


def git(folder, *arguments):
    subprocess.run(
        ["git", "-c", "user.name=n", "-c", "user.email=e@example.com", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
    )


def test_commit_of_a_checkout_and_its_changes(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    nothing = {"git_commit": None, "git_note": "not a git checkout"}
    git(tmp_path, "init", "-q")
    assert git_state(package) == nothing  # inside a checkout, and not a part of it
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    state = git_state(package)
    assert len(state["git_commit"]) == 40 and state["git_dirty"] is False
    (package / "__init__.py").write_text("changed")
    assert git_state(package)["git_dirty"] is True
    assert git_state(tmp_path / "missing") == nothing
