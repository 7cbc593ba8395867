"""What a number must carry to be believed: where, when, with what and how it was made."""

from __future__ import annotations

import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

import itera_lite
from itera_lite.quantities import MOST_THREADS

# What decides how fast matrix products and small integers are, on x86 and on ARM.
RELEVANT_FLAGS = (
    *("sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni"),
    *("avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "asimdhp", "sve", "sve2", "i8mm", "bf16"),
)
CONTROL_GROUPS = Path("/sys/fs/cgroup")
PROCESS_GROUPS = Path("/proc/self/cgroup")
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
        load_by_others: processor cores that other programs kept busy meanwhile, on average.
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
            machine=Machine(**machine()),
            versions=_versions() | dict(versions or {}),
            **more,
        )


def provenance(
    seed: int | None = None, *, seeds: Iterable[int] | None = None, **extra: Any
) -> dict[str, Any]:
    """The record that every result file ends with.

    Args:
        seed: of the run; None where nothing was random.
        seeds: of the runs, where a file is about several; ``seed`` is then set only if they
            had the same.
        extra: more entries, JSON-able.

    Returns:
        ``command``, ``git_commit`` (None with ``git_note`` outside a checkout; ``git_dirty``
        says whether files differed from it), ``date`` (UTC, ISO 8601), ``seed``, ``machine``,
        ``versions``, ``seeds`` where there are several, and ``extra``.
    """
    if seeds is not None:
        chosen = sorted(set(seeds))
        seed = chosen[0] if len(chosen) == 1 else None
        extra["seeds"] = chosen
    return {
        "command": command(),
        **git_state(Path(itera_lite.__file__).parent),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "machine": machine(),
        "versions": _versions(),
        **extra,
    }


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


def machine() -> dict[str, Any]:
    """Processor, cores this process may use, threads PyTorch uses, instruction set,
    memory, operating system."""
    info = _cpu_info()
    return {
        "cpu": info["name"],
        "cores": usable_cores(),
        "threads": _threads(),
        "isa": info["isa"],
        "memory_bytes": _memory_bytes(),
        "os": f"{_os_name()}, {platform.machine()}",
    }


def usable_cores() -> int:
    """Cores that this process may use: by its affinity, and by the quota of its control group
    (what `docker --cpus` sets), rounded down, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return int(max(1, min(cores, _quota())))


def default_threads(processes: int = 1) -> int:
    """Threads of a process for which none were asked: OMP_NUM_THREADS, else one a core.

    Args:
        processes: that compute on this machine at the same time and share its cores. With several,
            OMP_NUM_THREADS=1 doesn't count: torchrun sets it by itself.
    """
    said = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if said.isascii() and said.isdigit() and int(said[:6]) > (processes > 1):
        return min(int(said[:6]), MOST_THREADS)
    return max(1, usable_cores() // processes)


def _quota() -> float:
    """Cores that the control groups of this process allow; infinite without a limit."""
    quotas = [math.inf]
    for line in _text(PROCESS_GROUPS).splitlines():
        _, controllers, path = line.split(":", 2)
        files: tuple[str, ...]
        if not controllers:  # version 2: one tree for everything
            root, files = CONTROL_GROUPS, ("cpu.max",)
        elif "cpu" in controllers.split(","):
            root, files = CONTROL_GROUPS / "cpu", ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        else:
            continue
        group = root / path.strip("/")
        for folder in (group, *group.parents):  # in a container, the path may be the host's
            if not folder.is_relative_to(root):
                break
            numbers = " ".join(_text(folder / name) for name in files).split()
            if len(numbers) == 2 and numbers[0].isdigit() and numbers[1].isdigit():
                quotas.append(int(numbers[0]) / max(1, int(numbers[1])))
    return min(quotas)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


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


@cache
def _cpu_info() -> dict[str, Any]:
    name, flags = platform.processor() or platform.machine(), set[str]()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        key = key.strip().lower()
        if key == "model name":
            name = value.strip()
        elif key in ("flags", "features"):
            flags.update(value.split())
    return {"name": name, "isa": [flag for flag in RELEVANT_FLAGS if flag in flags]}
