"""Check what is recorded about the origin of every number."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

import itera_lite
from itera_lite.machine import provenance as module
from itera_lite.machine.processor import usable_cores
from itera_lite.machine.provenance import (
    Machine,
    Provenance,
    command,
    git_state,
)


def test_has_everything_the_design_asks_for():
    found = Provenance.now(seed=7, device="cpu", versions={"other": "1"})
    assert found.seed == 7 and found.device == "cpu"
    assert datetime.fromisoformat(found.date).tzinfo is not None
    assert found.machine.cpu and found.machine.cores == usable_cores() >= 1
    assert found.machine.memory_bytes > 2**20 and isinstance(found.machine.isa, list)
    for package in ("python", "torch", "numpy", "itera_lite", "other"):
        assert found.versions[package]
    assert found.versions["itera_lite"] == itera_lite.__version__


def test_a_file_about_several_seeds_names_them_all():
    several, one = Provenance.now(seeds=range(3)), Provenance.now(seeds=[5, 5])
    assert (several.seed, several.seeds) == (None, [0, 1, 2])
    assert (one.seed, one.seeds) == (5, [5])
    assert Provenance.now(seed=3).seeds == []


def test_threads_are_those_of_pytorch():
    import torch

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert Provenance.now().machine.threads == 2
    finally:
        torch.set_num_threads(before)


def test_does_not_import_pytorch():
    code = (
        "import sys; from itera_lite.machine.provenance import Provenance; p = Provenance.now()\n"
        "assert p.versions['torch'] and p.machine.threads is None\n"
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


def test_a_repository_that_git_cannot_ask_is_none(tmp_path, monkeypatch):
    asked = []

    def run(words, **options):
        asked.append((words, options))
        raise subprocess.TimeoutExpired(words, 10)

    monkeypatch.setattr(module.subprocess, "run", run)
    assert git_state(tmp_path) == {"git_commit": None, "git_note": "not a git checkout"}
    words, options = asked[0]
    assert words == ["git", "-C", str(tmp_path), "ls-files", "--error-unmatch", "__init__.py"]
    assert options == {"capture_output": True, "text": True, "timeout": 10, "check": True}


def test_only_tracked_files_of_the_package_make_a_tree_dirty(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (tmp_path / "other").write_text("")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    (tmp_path / "other").write_text("changed")  # beside the package
    (package / "new.py").write_text("")  # not tracked
    state = git_state(package)
    assert state == {"git_commit": state["git_commit"], "git_dirty": False}


def test_now_is_now_in_utc_with_the_state_of_this_checkout(monkeypatch):
    folders = []
    monkeypatch.setattr(module, "git_state", lambda f: folders.append(f) or {"git_commit": "c"})
    monkeypatch.setattr(sys, "argv", ["/bin/itera", "eval"])
    before = datetime.now(UTC).replace(microsecond=0)
    found = Provenance.now(seeds=[2, 1, 2], prompt="p")
    after = datetime.now(UTC)
    assert folders == [Path(itera_lite.__file__).parent]
    assert (found.git_commit, found.command, found.prompt) == ("c", "itera eval", "p")
    assert (found.seed, found.seeds) == (None, [1, 2])
    date = datetime.fromisoformat(found.date)
    assert date.utcoffset().total_seconds() == 0 and date.microsecond == 0
    assert before <= date <= after
    assert Provenance.now(seed=4, seeds=[]).seed == 4
    assert Provenance.now(versions={"torch": "mine"}).versions["torch"] == "mine"


def test_the_machine_is_described_field_by_field(monkeypatch):
    monkeypatch.setattr(module, "cpu_name", lambda: "a CPU")
    monkeypatch.setattr(module, "usable_cores", lambda: 3)
    monkeypatch.setattr(module, "instruction_sets", lambda: ["avx2"])
    monkeypatch.setattr(module.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(module.platform, "freedesktop_os_release", lambda: {"PRETTY_NAME": "L 1"})
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}
    monkeypatch.setattr(module.os, "sysconf", sizes.__getitem__)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert module._machine() == Machine(
        cpu="a CPU", cores=3, threads=None, isa=["avx2"], memory_bytes=4_096_000, os="L 1, x86_64"
    )


def test_a_system_without_a_name_or_a_memory(monkeypatch):
    def missing(*_):
        raise OSError

    monkeypatch.setattr(module.platform, "freedesktop_os_release", missing)
    monkeypatch.setattr(module.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(module.platform, "release", lambda: "23.1")
    assert module._os_name() == "Darwin 23.1"
    monkeypatch.setattr(module.platform, "freedesktop_os_release", dict)
    assert module._os_name() == "Darwin 23.1"
    monkeypatch.setattr(module.os, "sysconf", missing)
    assert module._memory_bytes() is None


def test_a_package_that_is_missing_has_no_version(monkeypatch):
    def version(name):
        if name == "numpy":
            raise module.metadata.PackageNotFoundError
        return f"{name} 1"

    monkeypatch.setattr(module.metadata, "version", version)
    found = module._versions()
    assert "numpy" not in found
    assert found["safetensors"] == "safetensors 1"  # those after it are still named
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert module.PACKAGES == ("torch", "numpy", "tokenizers", "safetensors")


def test_the_load_needs_the_cores():
    found = Provenance(command=None, git_commit=None, date=None, seed=None, machine=None)
    found.load_by_others = 0.5
    assert found.load is None
