"""The processor: its name and instructions, the cores that this process may use, its threads."""

from __future__ import annotations

import math
import os
import platform
from functools import cache
from pathlib import Path

from itera_lite.quantities import MOST_THREADS

# What decides how fast matrix products and small integers are, on x86 and on ARM.
RELEVANT_FLAGS = (
    *("sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni"),
    *("avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "asimdhp", "sve", "sve2", "i8mm", "bf16"),
)
MULTIPLIES_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}  # with instructions of its own
CONTROL_GROUPS = Path("/sys/fs/cgroup")
PROCESS_GROUPS = Path("/proc/self/cgroup")


@cache
def cpu_info() -> dict[str, str]:
    """The fields of Linux's /proc/cpuinfo, for all processors together.

    Returns:
        Field name in lower case -> its distinct values, joined by spaces. Empty on other systems.
    """
    found: dict[str, dict[str, None]] = {}
    for line in _text(Path("/proc/cpuinfo")).splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip().lower(), {})[value.strip()] = None
    return {key: " ".join(values) for key, values in found.items()}


def cpu_name() -> str:
    """The model of the processor; where Linux tells them, with the numbers of its family and model,
    for a virtual machine may call several generations alike."""
    info = cpu_info()
    name = info.get("model name") or platform.processor() or platform.machine()
    family, model = info.get("cpu family", ""), info.get("model", "")
    return f"{name} (family {family}, model {model})" if family and model else name


def instruction_sets() -> list[str]:
    """Those of `RELEVANT_FLAGS` that the processor has."""
    info = cpu_info()
    flags = {*info.get("flags", "").split(), *info.get("features", "").split()}
    return [flag for flag in RELEVANT_FLAGS if flag in flags]


def multiplies_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16; where it doesn't, float32 is many times faster."""
    return not MULTIPLIES_BFLOAT16.isdisjoint(instruction_sets())


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
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if given.isascii() and given.isdigit() and int(given[:6]) > (processes > 1):
        return min(int(given[:6]), MOST_THREADS)
    return max(1, usable_cores() // processes)


def control_groups(controller: str) -> list[Path]:
    """The folders of this process's control groups that may limit something, and of their parents.

    Args:
        controller: such as ``cpu``. Version 1 has a tree of groups for each controller.
    """
    found: list[Path] = []
    for line in _text(PROCESS_GROUPS).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2: one tree for everything
            root = CONTROL_GROUPS
        elif controller in controllers.split(","):
            root = CONTROL_GROUPS / controller
        else:
            continue
        group = root / path.strip("/")
        # In a container, the path may be the host's.
        found += [f for f in (group, *group.parents) if f.is_relative_to(root)]
    return found


def _quota() -> float:
    """Cores that the control groups of this process allow; infinite without a limit."""
    quotas = [math.inf]
    for group in control_groups("cpu"):
        for files in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
            numbers = " ".join(_text(group / name) for name in files).split()
            if len(numbers) == 2 and numbers[0].isdigit() and numbers[1].isdigit():
                quotas.append(int(numbers[0]) / max(1, int(numbers[1])))
    return min(quotas)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
