"""Energy per token: read from the hardware's counters, or estimated and labelled so."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from itera_lite.stats.samples import Stat

POWERCAP = Path("/sys/class/powercap")
DEFAULT_WATTS = 10.0  # a busy core; docs/method.md says where it comes from

Counters = tuple[float, ...]


class Meter(Protocol):
    """Counters of joules that only grow."""

    @property
    def method(self) -> str: ...

    def read(self) -> Counters:
        """Each counter, in joules."""
        ...

    def since(self, before: Counters) -> float:
        """Joules since an earlier `read`, all counters together."""
        ...


class Rapl:
    """Intel's and AMD's counters of whole processor packages, by Linux's powercap files.

    Args:
        packages: folders with ``energy_uj`` and ``max_energy_range_uj``.
    """

    method = "rapl"

    def __init__(self, packages: Sequence[Path]) -> None:
        self._counters = [p / "energy_uj" for p in packages]
        self._ranges = [_number(p / "max_energy_range_uj") / 1e6 for p in packages]

    def read(self) -> Counters:
        return tuple(_number(counter) / 1e6 for counter in self._counters)

    def since(self, before: Counters) -> float:
        """A counter that began again from zero meanwhile is taken to have done so once."""
        return sum(
            (now - then) % full
            for now, then, full in zip(self.read(), before, self._ranges, strict=True)
        )

    @classmethod
    def find(cls, root: Path = POWERCAP) -> Rapl | None:
        """The package counters that this user may read; None where there are none."""
        packages = []
        for folder in sorted(root.glob("*-rapl:*")):
            try:
                if (folder / "name").read_text().startswith("package"):
                    _number(folder / "energy_uj")
                    _number(folder / "max_energy_range_uj")
                    packages.append(folder)
            except (OSError, ValueError):
                continue  # no such file, or only root may read it
        return cls(packages) if packages else None


class Nvml:
    """The energy counter of an NVIDIA GPU (Volta or newer).

    Args:
        index: number of the GPU, as NVML counts.

    Raises:
        OSError: where the driver's library or the counter is missing.
    """

    method = "nvml"

    def __init__(self, index: int = 0) -> None:
        self._library = ctypes.CDLL("libnvidia-ml.so.1")
        self._device = ctypes.c_void_p()
        self._call("nvmlInit_v2")
        self._call("nvmlDeviceGetHandleByIndex_v2", index, ctypes.byref(self._device))
        self.read()

    def read(self) -> Counters:
        millijoules = ctypes.c_ulonglong()
        self._call("nvmlDeviceGetTotalEnergyConsumption", self._device, ctypes.byref(millijoules))
        return (millijoules.value / 1e3,)

    def since(self, before: Counters) -> float:
        return self.read()[0] - before[0]

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status != 0:
            raise OSError(f"{name} failed with status {status}")


def find_meter(device: str = "cpu") -> Meter | None:
    """The meter of what ``device`` computes with, or None where it has none to read."""
    if not device.startswith("cuda"):
        return Rapl.find()
    try:
        return Nvml(int(device.partition(":")[2] or 0))
    except (OSError, AttributeError):
        return None


class Energy(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Joules per decoded token.

    Attributes:
        method: ``rapl``, ``nvml`` or ``estimated``.
        watts: power of a busy core that was assumed; None unless estimated.
    """

    joules_per_token: Stat
    method: str
    watts: float | None
    cpu_seconds_per_token: Stat

    @classmethod
    def of(
        cls, per_token: Sequence[tuple[float, float | None]], meter: Meter | None, watts: float
    ) -> Energy:
        """From processor seconds and, with a meter, joules of a token; a pair a repeat.

        Args:
            meter: what was read, or None.
            watts: power of a busy core, for the estimate that is made without a meter.
        """
        seconds = [cpu for cpu, _ in per_token]
        joules = [joules for _, joules in per_token if joules is not None]
        measured = meter is not None and bool(joules)
        return cls(
            joules_per_token=Stat.of(joules if measured else [watts * s for s in seconds]),
            method=meter.method if meter is not None and measured else "estimated",
            watts=None if measured else watts,
            cpu_seconds_per_token=Stat.of(seconds),
        )


def _number(path: Path) -> int:
    return int(path.read_text())
