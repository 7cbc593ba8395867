"""Compile the operations for the processor at hand, once, and load them.

The library is kept in the cache folder under a name made from sources, flags, compiler
and processor. Without a compiler everything still works, in plain PyTorch.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from itera_lite.bench.provenance import usable_cores
from itera_lite.files import cache_folder

FOLDER = Path(__file__).parent
FLAGS = (
    "-std=c++17 -O3 -fopenmp -fPIC -fno-math-errno -fno-trapping-math "
    "-fno-signed-zeros -fassociative-math"
).split()


def _processor() -> str:
    """What tells one processor from another, for the name of the library."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    keep = ("model name", "flags", "Features", "CPU part")
    return "".join(dict.fromkeys(line for line in lines if line.startswith(keep)))


def keep_memory() -> None:
    """Have glibc keep freed memory instead of giving it back and faulting it in each step."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
    mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


def load() -> ctypes.CDLL:
    """Compile where needed and load.

    Raises:
        OSError: no compiler, or the result doesn't load; the message says what happened.
    """
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if not compiler:
        raise OSError("no C++ compiler found (looked for $CXX, c++ and g++)")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    arm = platform.machine() in ("aarch64", "arm64")
    native = ["-mcpu=native"] if arm else ["-march=native", "-mprefer-vector-width=512"]
    flags = [*FLAGS, *native]
    sources = sorted((*FOLDER.glob("*.h"), *FOLDER.glob("*.cc")))
    texts = [f"{source.name}\n{source.read_text('utf-8')}" for source in sources]
    key = "".join(texts) + " ".join(flags) + version.stdout + _processor()
    name = f"ops-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    path = cache_folder() / "kernels" / name
    if not path.exists():
        _compile(compiler, flags, [s for s in sources if s.suffix == ".cc"], path)
    return ctypes.CDLL(str(path))


def _compile(compiler: str, flags: list[str], sources: list[Path], path: Path) -> None:
    """Each source on a core of its own, then one library of them all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        objects = [Path(folder) / f"{source.stem}.o" for source in sources]
        commands = [
            [compiler, *flags, "-c", str(source), "-o", str(compiled)]
            for source, compiled in zip(sources, objects, strict=True)
        ]
        with ThreadPoolExecutor(usable_cores()) as pool:
            list(pool.map(_run, commands))
        # Linked without OpenMP: the calls must reach the runtime that PyTorch has
        # loaded. A second one would have threads of its own, and both would spin.
        linked = Path(folder) / "ops.so"
        _run([compiler, "-shared", *map(str, objects), "-o", str(linked)])
        os.replace(linked, path)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
