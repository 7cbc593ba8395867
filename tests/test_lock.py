"""The lock files agree with pyproject.toml, with each other, and name only public indexes.

`make lock` writes them; none of this asks an index.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tools.lock import FOLDER, for_processors, parse, split, text

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCK = tomllib.loads((ROOT / "uv.lock").read_text("utf-8"))
OURS: dict[str, Any] = next(p for p in LOCK["package"] if p["name"] == "itera-lite")
LOCKED: dict[str, list[dict[str, Any]]] = {}
for each in LOCK["package"]:
    LOCKED.setdefault(each["name"], []).append(each)

Wanted = tuple[str, str, frozenset[str], SpecifierSet]  # extra, name, its extras, versions


def wanted(extra: str, requirement: str) -> Wanted:
    found = Requirement(requirement)
    extras = frozenset(found.extras)
    return extra, canonicalize_name(found.name), extras, found.specifier


def required() -> set[Wanted]:
    """All that pyproject.toml requires."""
    groups = {"": PROJECT["dependencies"], **EXTRAS}
    return {wanted(extra, line) for extra, lines in groups.items() for line in lines}


def exported(part: str) -> dict[str, set[str]]:
    return parse((FOLDER / f"{part}.txt").read_text("utf-8"))


def versions(part: str) -> set[tuple[str, str]]:
    pairs = (requirement.partition(" ")[0].split("==") for requirement in exported(part))
    return {(name, version) for name, version in pairs}


def needed(names: set[str]) -> set[str]:
    """Return these packages' names with those of all that they need, directly or not."""
    found: set[str] = set()
    waiting = set(names)
    while waiting:
        name = waiting.pop()
        found.add(name)
        for package in LOCKED[name]:
            more = package.get("optional-dependencies", {}).values()
            lists = [package.get("dependencies", ()), *more]
            waiting |= {entry["name"] for entries in lists for entry in entries} - found
    return found


def test_the_lock_is_of_this_pyproject() -> None:
    locked = {
        (
            (re.findall(r"extra == '([\w-]+)'", entry.get("marker", "")) or [""])[0],
            entry["name"],
            frozenset(entry.get("extras", ())),
            SpecifierSet(entry.get("specifier", "")),
        )
        for entry in OURS["metadata"]["requires-dist"]
    }
    assert locked == required(), "pyproject.toml has changed: run `make lock`"


def test_every_pin_lies_inside_its_range() -> None:
    for _, name, _, specifier in required():
        for package in LOCKED[name] if name != "itera-lite" else ():
            assert specifier.contains(package["version"]), f"{name} {package['version']}"


def test_only_public_indexes_are_named() -> None:
    lock = (ROOT / "uv.lock").read_text("utf-8")
    assert set(re.findall(r"https?://([^/\"]+)", lock)) == {"pypi.org", "files.pythonhosted.org"}
    assert "file:" not in lock
    for part in FOLDER.iterdir():
        assert not re.search(r"[a-z]://|--(extra-)?index|--find-links", part.read_text("utf-8"))


def test_what_pip_installs_is_what_is_locked() -> None:
    """The files list all that the extra `dev` needs, each with the hashes of the lock."""
    of_dev = {entry["name"] for entry in OURS["optional-dependencies"]["dev"]}
    of_all = {entry["name"] for entry in OURS["dependencies"]}
    assert {path.stem for path in FOLDER.iterdir()} == {"build", "dev", "cpu", "cuda"}
    found: set[str] = set()
    for part in ("build", "dev", "cuda"):
        for requirement, hashes in exported(part).items():
            name, version = requirement.partition(" ")[0].split("==")
            assert name not in found, f"{name} twice"
            found.add(name)
            (package,) = (p for p in LOCKED[name] if p["version"] == version)
            files = [*package.get("wheels", ()), *filter(None, [package.get("sdist")])]
            assert hashes == {file["hash"] for file in files} != set(), name
    assert found == needed(of_dev | of_all)


def test_pytorch_for_processors_is_the_same_release_in_another_file() -> None:
    """PyPI doesn't have this build, so its hashes aren't in the lock."""
    (torch,) = LOCKED["torch"]
    (requirement,) = exported("cpu")
    assert requirement == f"torch=={torch['version']}+cpu"
    hashes = exported("cpu")[requirement]
    assert hashes and not hashes & {file["hash"] for file in torch["wheels"]}


def test_pytorch_alone_needs_the_libraries_for_gpus() -> None:
    """Only PyTorch needs them, so its build for processors needs none of them."""
    cuda = {name for name, _ in versions("cuda")}
    assert {"torch", "triton"} < cuda and len(cuda) > 10
    for name, packages in LOCKED.items():
        lists = [p.get("dependencies", ()) for p in packages]
        needs = {entry["name"] for entries in lists for entry in entries}
        if name not in cuda:
            assert not needs & (cuda - {"torch"}), name
    # What those need beside themselves is installed either way.
    rest = needed(set(cuda)) - cuda
    assert rest <= {name for part in ("dev", "build") for name, _ in versions(part)}


def test_hashes_of_builds_for_processors_are_kept_until_the_version_changes(tmp_path: Path) -> None:
    wheel, other = tmp_path / "torch-2.0+cpu-cp311-x.whl", tmp_path / "torch-1.0+cpu-cp311-x.whl"
    wheel.write_bytes(b"a")
    other.write_bytes(b"b")
    before = tmp_path / "cpu.txt"
    assert for_processors("2.0", [], before) == {}
    first = for_processors("2.0", [wheel, other], before)
    a = "sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
    assert first == {"torch==2.0+cpu": {a}}
    before.write_text(text({"torch==2.0+cpu": {a, "sha256:0"}}))
    assert for_processors("2.0", [wheel], before) == {"torch==2.0+cpu": {a, "sha256:0"}}
    assert for_processors("2.1", [wheel], before) == {}


def test_what_has_no_wheel_is_built_with_a_locked_setuptools() -> None:
    assert {name for name, _ in versions("build")} == {"setuptools"}
    without = {name for name, _ in versions("dev") for p in LOCKED[name] if not p.get("wheels")}
    assert without <= {"kenlm", "rouge-score", "sqlitedict", "word2number"}


def test_a_requirements_file_is_read_as_it_was_written() -> None:
    locked = {
        "a==1": {"sha256:1", "sha256:2"},
        "b==2": {"sha256:3"},
        "c==3 ; python_full_version < '3.12'": {"sha256:4"},
        "nvidia-x==1": {"sha256:5"},
        "setuptools==9": {"sha256:6"},
    }
    assert parse("# a comment\n" + text(locked)) == locked
    parts = split(locked)
    assert [sorted(parts[part]) for part in ("build", "cuda")] == [
        ["setuptools==9"],
        ["nvidia-x==1"],
    ]
    assert len(parts["dev"]) == 3


@pytest.mark.parametrize("marker", ["sys_platform == 'linux'", "python_full_version < '3.14'"])
def test_the_marker_of_all_platforms_is_left_out(marker: str) -> None:
    lines = [f"{name}==1 ; {marker} \\\n    --hash=sha256:0{name}" for name in "abc"]
    lines += ["d==2 ; python_full_version < '3.12' \\\n    --hash=sha256:0d"]
    assert [*parse("\n".join(lines) + "\n")] == [
        "a==1", "b==1", "c==1", "d==2 ; python_full_version < '3.12'",
    ]  # fmt: skip
