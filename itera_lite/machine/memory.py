"""The memory that this process may use: the machine's, its control group's, its own limit."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path

from itera_lite.machine.processor import control_groups

MEMINFO = Path("/proc/meminfo")
_NO_LIMIT = 2**60  # version 1 of control groups writes a number beyond this for none


@dataclass(frozen=True)
class Memory:
    """Bytes of memory that a process may use.

    Attributes:
        free: what can be taken now without swapping; None where it isn't known.
        most: what this process can ever have, swap included; None where it isn't known.
    """

    free: int | None
    most: int | None


def memory() -> Memory:
    """What the machine, the control groups of this process and `ulimit -v` leave."""
    free, most = [], []
    fields = _fields(MEMINFO)
    if "MemAvailable" in fields:
        free.append(1024 * fields["MemAvailable"])
        most.append(1024 * (fields.get("MemTotal", 0) + fields.get("SwapTotal", 0)))
    for group in control_groups("memory"):
        limit = _number(group / "memory.max", group / "memory.limit_in_bytes")
        if limit is None:
            continue
        used = _number(group / "memory.current", group / "memory.usage_in_bytes") or 0
        # What is only a copy of files is given back when it is needed.
        cached = _fields(group / "memory.stat").get("inactive_file", 0)
        free.append(max(0, limit - max(0, used - cached)))
        swap = _number(group / "memory.swap.max")
        most.append(limit + (fields.get("SwapTotal", 0) * 1024 if swap is None else swap))
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        free.append(max(0, limit - _own_size()))
        most.append(limit)
    return Memory(min(free, default=None), min(most, default=None))


def _own_size() -> int:
    """Bytes of this process's address space."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[0]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _fields(path: Path) -> dict[str, int]:
    """The numbers of a file with a name and a number a line."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    words = [line.replace(":", " ").split() for line in lines]
    return {word[0]: int(word[1]) for word in words if len(word) > 1 and word[1].isdigit()}


def _number(*paths: Path) -> int | None:
    """The number in the first of the files that is there; None for no limit."""
    for path in paths:
        try:
            text = path.read_text(encoding="ascii", errors="replace").strip()
        except OSError:
            continue
        if text.isdigit() and int(text) < _NO_LIMIT:
            return int(text)
    return None
