"""Compiles the fused operations for this processor, once, loads the library and calls it.

The library is kept in the cache folder under a name made from sources, flags, compiler and
processor.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from itera_lite.errors import UsageError
from itera_lite.files import cache_folder, write_bytes, write_text
from itera_lite.machine.processor import cpu_info, usable_cores

FOLDER = Path(__file__).parent
FLAGS = (
    "-std=c++17 -O3 -fopenmp-simd -fPIC -fno-math-errno -fno-trapping-math "
    "-fno-signed-zeros -fassociative-math"
).split()
_library: ctypes.CDLL | None = None
_functions: dict[str, Callable[..., int]] = {}  # by name, with the types of their arguments
SUFFIX = {torch.float32: "f32", torch.bfloat16: "b16"}  # of the library's functions, by type


def load_library() -> None:
    """Compile and load the library.

    Raises:
        OSError: where it can't be compiled or loaded.
    """
    global _library
    _library = _library or load()


def call(name: str, *arguments: Any) -> int:
    """Call a function of the library; returns its result, an int64.

    Tensors are passed as pointers, integers as int64, floats as float. A function's arguments have
    the types of its first call; a tensor may be None.
    """
    function = _functions.get(name) or _function(name, arguments)
    result: int = function(*[a.data_ptr() if isinstance(a, Tensor) else a for a in arguments])
    return result


def has_bf16() -> bool:
    """Whether the library has the operations of bfloat16: on processors that multiply it."""
    return bool(call("has_bf16"))


def _function(name: str, arguments: tuple[Any, ...]) -> Callable[..., int]:
    """A function of the library that converts what `call` gives it; it is kept in `_functions`."""
    if _library is None:
        raise RuntimeError("call itera_lite.ops.enable() first")
    function = _library[name]  # an object of its own, unlike the attribute
    kinds: dict[type, Any] = {int: ctypes.c_int64, float: ctypes.c_float}
    function.argtypes = [kinds.get(type(a), ctypes.c_void_p) for a in arguments]
    function.restype = ctypes.c_int64
    _functions[name] = function
    return function


def _processor() -> str:
    """A description of the processor, for the name of the library."""
    info = cpu_info()
    return " ".join(info.get(key, "") for key in ("model name", "flags", "features", "cpu part"))


def keep_memory() -> None:
    """Have glibc keep freed memory: returned to the system, it would fault in again each step."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    # M_MMAP_THRESHOLD, of which older versions take 32 MB at most. Where neither is taken, the
    # call below would freeze the threshold where it is, at 128 KB at first.
    if not (mallopt(-3, 1 << 30) or mallopt(-3, 32 << 20)):
        return
    mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


def load() -> ctypes.CDLL:
    """The compiled library, compiled now unless the cache has it.

    Raises:
        OSError: no compiler, one that fails, or a cache that can't be written; the message says
            what happened and what to do.
    """
    compiler = _compiler()
    version = _run([*compiler, "--version"])
    arm = platform.machine() in ("aarch64", "arm64")
    native = ["-mcpu=native"] if arm else ["-march=native", "-mprefer-vector-width=512"]
    flags = [*FLAGS, *native]
    sources = sorted((*FOLDER.glob("*.h"), *FOLDER.glob("*.cc")))
    texts = [f"{source.name}\n{source.read_text('utf-8')}" for source in sources]
    key = "".join(texts) + " ".join([*compiler[1:], *flags]) + version + _processor()
    name = f"ops-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    try:
        path = cache_folder() / "kernels" / name
    except UsageError as error:  # no home folder
        raise _Failed(str(error)) from None
    if not _is_whole(path):
        try:
            _compile(compiler, flags, [s for s in sources if s.suffix == ".cc"], path)
        except _Failed:
            raise
        except OSError as error:
            reason = error.strerror or error
            raise OSError(
                f"the compiled library can't be written to '{path.parent}' ({reason}): make room "
                "there, or set ITERA_CACHE to a folder that you may write to"
            ) from None
    return ctypes.CDLL(str(path))


class _Failed(OSError):
    """A compiler that can't be started, or that reports an error."""


def _compiler() -> list[str]:
    """The command of the compiler; $CXX may have arguments, as in ``ccache g++``.

    Raises:
        OSError: there is none.
    """
    given = os.environ.get("CXX", "").strip()
    try:
        command = shlex.split(given)
    except ValueError as error:
        raise _Failed(f"CXX={given} can't be read as a command: {error}") from None
    if not command:
        found = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
        if not found:
            raise _Failed(
                "no C++ compiler found (looked for $CXX, c++, g++ and clang++): install one, such "
                "as the package g++, or set CXX"
            )
        return [found]
    if not shutil.which(command[0]):
        if shutil.which(given):  # a path with a space in it
            return [given]
        raise _Failed(
            f"CXX={given}: there is no program '{command[0]}'. Set CXX to a C++ compiler, or unset "
            "it to use c++ or g++"
        )
    return command


def _is_whole(path: Path) -> bool:
    """Whether the library has the hash in the file beside it: a truncated one would crash the
    process."""
    try:
        wanted = _hash_file(path).read_text(encoding="utf-8").strip()
        return hashlib.sha256(path.read_bytes()).hexdigest() == wanted
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
        return False


def _hash_file(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _compile(compiler: list[str], flags: list[str], sources: list[Path], path: Path) -> None:
    """Each source on a core of its own, then one library of them all.

    Two processes at once each write a whole library, and the same one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        objects = [Path(folder) / f"{source.stem}.o" for source in sources]
        commands = [
            [*compiler, *flags, "-c", str(source), "-o", str(compiled)]
            for source, compiled in zip(sources, objects, strict=True)
        ]
        with ThreadPoolExecutor(usable_cores()) as pool:
            list(pool.map(_run, commands))
        linked = Path(folder) / "ops.so"
        _run([*compiler, "-shared", *map(str, objects), "-o", str(linked)])
        library = linked.read_bytes()
    write_bytes(path, library)
    write_text(_hash_file(path), hashlib.sha256(library).hexdigest() + "\n")


def _run(command: list[str]) -> str:
    """What a command prints.

    Raises:
        OSError: it can't be started, or fails; with the end of its output.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as error:
        raise _Failed(f"the compiler '{command[0]}' can't be started: {error.strerror}") from None
    if done.returncode:
        output = (done.stderr or done.stdout).strip()[-2000:]
        raise _Failed(
            f"the compiler failed (exit code {done.returncode}): {shlex.join(command)}\n{output}"
        )
    return done.stdout
