"""From nothing to the first token: loading, `itera-run`, the import, and peak memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from itera_lite import _engine
from itera_lite.errors import IteraError
from itera_lite.stats.samples import stat

PROMPT = "Once upon a time"
STATUS = Path("/proc/self/status")  # Linux only
TEXT_BYTES = 768  # what it has written when its memory is looked at: about 200 tokens
TEXT_TOKENS = 400  # more than that
PIPE_BYTES = 4096
LONGEST_PIECE = 64
IMPORTS = {
    "import_ms": "import itera_lite",
    "import_runtime_ms": "from itera_lite.engine import Model",
}


def find_program() -> Path | None:
    """`itera-run`, beside this Python or on the path."""
    beside = Path(sys.executable).with_name("itera-run")
    found = str(beside) if beside.is_file() else shutil.which("itera-run")
    return Path(found) if found else None


def measure_startup(path: Path, repeats: int) -> dict[str, Any]:
    """Times and memory of one GGUF file; the file is in the operating system's cache.

    Returns:
        STATs: ``load_ms`` (the engine's load, in this process), ``import_ms`` and
        ``import_runtime_ms`` (in fresh processes), and where `itera-run` is installed
        ``first_token_ms`` (from before the process is started to its first token on the pipe)
        and, on Linux, its ``peak_rss_bytes``. Also ``file_bytes`` and ``imports_torch``.
    """
    program = find_program()
    samples: dict[str, list[float]] = {"load_ms": [], **{key: [] for key in IMPORTS}}
    if program is not None:
        samples["first_token_ms"] = []
    if program is not None and STATUS.exists():
        samples["peak_rss_bytes"] = []
    imports_torch = False
    for repeat in range(-1, repeats):
        found = {"load_ms": _load(path)}
        for key, statement in IMPORTS.items():
            found[key], torch = _import(statement)
            imports_torch = imports_torch or torch
        if program is not None:
            found["first_token_ms"] = _first_token(program, path)
            if STATUS.exists():
                found["peak_rss_bytes"] = program_peak(program, path)
        if repeat >= 0:  # the first round only warms up
            for key, value in found.items():
                samples[key].append(value)
    record: dict[str, Any] = {key: stat(values) for key, values in samples.items()}
    return record | {"file_bytes": path.stat().st_size, "imports_torch": imports_torch}


def _load(path: Path) -> float:
    begin = time.perf_counter()
    _engine.Model.load(str(path))
    return 1e3 * (time.perf_counter() - begin)


def _import(statement: str) -> tuple[float, bool]:
    """Milliseconds of an import in a fresh process, and whether PyTorch came with it."""
    code = (
        f"import time; begin = time.perf_counter(); {statement}; "
        "end = time.perf_counter(); import sys; print(end - begin, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise IteraError(f"'{statement}' failed in a fresh process: {done.stderr.strip()}")
    seconds, torch = done.stdout.split()
    return 1e3 * float(seconds), torch == "True"


def _command(program: Path, path: Path, tokens: int) -> list[str]:
    return [str(program), str(path), "-q", "-t", "0", "-p", PROMPT, "-n", str(tokens)]


def _first_token(program: Path, path: Path) -> float:
    """Milliseconds from before the start to the end of the one token (the prompt comes first)."""
    begin = time.perf_counter()
    with subprocess.Popen(_command(program, path, 1), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        got = b""
        # A token may be half a character, which isn't printed: then the end of the output counts.
        while len(got) <= len(PROMPT) and (part := os.read(process.stdout.fileno(), 4096)):
            got += part
        end = time.perf_counter()
        process.stdout.read()
    if process.returncode:
        raise IteraError(f"'{program}' ended with exit code {process.returncode}")
    return 1e3 * (end - begin)


def program_peak(program: Path, path: Path) -> float:
    """Peak resident bytes while it writes a text; looked up when the reader lets it wait.

    Not by `wait4`: what a child's record says begins with the memory of the process that
    started it, which is this one, with PyTorch in it.
    """
    for room in (TEXT_BYTES, len(PROMPT)):  # less, where the model ends its text early
        if peak := _peak_when_stuck(_command(program, path, TEXT_TOKENS), room):
            return peak
    raise IteraError(f"the memory of '{program.name}' couldn't be read while it ran")


def _peak_when_stuck(command: list[str], room: int) -> int:
    """Peak bytes of a program that has written ``room`` bytes and waits; 0 where it ended first."""
    import fcntl
    import termios

    read_end, write_end = os.pipe()
    try:
        size = fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        os.write(write_end, bytes(size - room))
        with subprocess.Popen(command, stdout=write_end) as process:
            while process.poll() is None:
                held = int.from_bytes(
                    fcntl.ioctl(read_end, termios.FIONREAD, bytes(4)), sys.byteorder
                )
                status = _status(process.pid)
                # A piece of text is written whole or waits whole, so a few bytes may be left.
                if held >= size - min(LONGEST_PIECE, room // 2) and status.get(
                    "State", ""
                ).startswith("S"):
                    process.kill()
                    return 1024 * int(status["VmHWM"].split()[0])
        if process.returncode:
            raise IteraError(f"'{command[0]}' ended with exit code {process.returncode}")
        return 0
    finally:
        os.close(read_end)
        os.close(write_end)


def _status(pid: int) -> dict[str, str]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines()
    except OSError:
        return {}
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
