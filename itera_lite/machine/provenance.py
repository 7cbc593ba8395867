"""What a number must carry to be believed: where, when, with what and how it was made."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

import itera_lite
from itera_lite.machine.processor import cpu_name, instruction_sets, usable_cores
from itera_lite.stats.load import Load

PACKAGES = ("torch", "numpy", "tokenizers", "safetensors")


class Machine(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The computer: ``cores`` that the process may use, ``threads`` of PyTorch, ``isa`` flags."""

    cpu: str
    cores: int
    threads: int | None
    isa: list[str]
    memory_bytes: int | None
    os: str


class Provenance(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where the numbers of a result come from. None: not known.

    Attributes:
        git_commit: of the checkout; ``git_dirty``: whether files of the package differed from it;
            ``git_note``: why there is no commit.
        date: UTC, ISO 8601.
        seed: None where nothing was random, or several ``seeds`` were used.
        load_by_others: processor cores that other programs kept busy meanwhile, on average; None
            where nothing was timed, or it couldn't be measured.
        checkpoints: name -> SHA-256 of the weights of each model that was measured.
        origin: how this is known, where the program that measured didn't write it.
        to_measure_again: why the numbers are to be measured again; empty where they stand.
    """

    command: str | None
    git_commit: str | None
    git_dirty: bool | None = None
    git_note: str | None = None
    date: str | None
    seed: int | None
    seeds: list[int] = []
    machine: Machine | None
    load_by_others: float | None = None
    versions: dict[str, str] = {}
    device: str | None = None
    engine_isa: str | None = None
    checkpoints: dict[str, str] = {}
    prompt: str | None = None
    origin: str | None = None
    to_measure_again: str = ""

    @classmethod
    def now(
        cls,
        seed: int | None = None,
        *,
        seeds: Iterable[int] | None = None,
        versions: Mapping[str, str] | None = None,
        **more: Any,
    ) -> Provenance:
        """Of what this process computes, here and now.

        Args:
            seed: of the run; None where nothing was random.
            seeds: of the runs, where a file is about several; ``seed`` is then set only if they
                had the same.
            versions: of other programs, beside those of this one's packages.
            more: further attributes.
        """
        chosen = [] if seeds is None else sorted(set(seeds))
        return cls(
            command=command(),
            **git_state(Path(itera_lite.__file__).parent),
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            seed=chosen[0] if len(chosen) == 1 else seed,
            seeds=chosen,
            machine=_machine(),
            versions=_versions() | dict(versions or {}),
            **more,
        )

    @property
    def load(self) -> Load | None:
        """The load by others beside what was timed; None: not known."""
        if self.load_by_others is None or self.machine is None:
            return None
        return Load(self.load_by_others, self.machine.cores)


def command() -> str:
    """The command line of this process, as a shell would take it; no folder of this machine
    before the program's name."""
    words = [Path(sys.argv[0]).name or "python", *sys.argv[1:]]
    if words[0] in ("cli.py", "__main__.py"):
        words[0] = "itera"
    return shlex.join(words)


def git_state(folder: Path) -> dict[str, Any]:
    """Commit of the checkout that ``folder`` is tracked in, and whether it was changed."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments],
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    # An installed copy may lie inside somebody else's checkout: only a tracked file counts.
    if git("ls-files", "--error-unmatch", "__init__.py") is None:
        return {"git_commit": None, "git_note": "not a git checkout"}
    changed = git("status", "--porcelain", "--untracked-files=no", "--", str(folder))
    return {"git_commit": git("rev-parse", "HEAD"), "git_dirty": bool(changed)}


def _machine() -> Machine:
    return Machine(
        cpu=cpu_name(),
        cores=usable_cores(),
        threads=_threads(),
        isa=instruction_sets(),
        memory_bytes=_memory_bytes(),
        os=f"{_os_name()}, {platform.machine()}",
    )


def _versions() -> dict[str, str]:
    """Versions of Python, of this package and of what it computes with."""
    found = {"python": platform.python_version(), "itera_lite": itera_lite.__version__}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _threads() -> int | None:
    torch = sys.modules.get("torch")  # not imported for this alone
    return None if torch is None else int(torch.get_num_threads())


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
