"""Measurements that need a process of their own: loading, the first token, peak memory, costs.

Memory that another model took before would be counted, and a second load in one process finds
everything warm. Run as ``python -m itera_lite.bench.processes`` this module does one of `WORK` and
prints what it found. Nothing large is imported before that: imports are measured too.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from itera_lite.errors import IteraError

if TYPE_CHECKING:
    from itera_lite.records import Startup

PROMPT = "Once upon a time"
SELF_STATUS = Path("/proc/self/status")  # Linux only
TEXT_BYTES = 1000  # a deployed model writes texts of about this length
ENOUGH_SECONDS = 1.0  # of processor time, so that a clock's tick doesn't matter
TIMEOUT = 600.0
PROGRAM_BYTES = 768  # what `itera-run` has written when its memory is read: about 200 tokens
PROGRAM_TOKENS = 400  # more than that
PIPE_BYTES = 4096
LONGEST_PIECE = 64
IMPORTS = {
    "import_ms": "import itera_lite",
    "import_runtime_ms": "from itera_lite.engine import Model",
}


@dataclass(frozen=True)
class DeployedModel:
    """A model as somebody would ship it, and the runtime that decodes it.

    Attributes:
        runtime: that decodes it.
        path: a checkpoint folder (``transformers``) or a GGUF file (the others).
        tokens: tokens of a text, for about `TEXT_BYTES`.
    """

    runtime: Literal["transformers", "engine", "llama.cpp"]
    path: Path
    tokens: int

    def write_texts(self, seed: int, threads: int = 1) -> dict[str, float]:
        """Start a fresh process that loads the model and samples texts, one after another, with
        the sampling settings that come with the model.

        Returns:
            ``bytes`` written, and for writing them alone (not for the start, the load and a
            first short text that warms up) ``seconds``, ``cpu_seconds`` (all threads) and
            ``joules`` (only where the machine has a meter). And ``peak_rss_bytes`` of the
            whole process; for llama.cpp without Python, see `_before_llama`.

        Raises:
            IteraError: where the process fails.
        """
        return _in_fresh_process("write", self.path, threads, self.runtime, self.tokens, seed)

    def peak_bytes(self, written: dict[str, float]) -> float:
        """Peak resident bytes of the program that a user would run.

        For the engine that is `itera-run`, where it is installed; else the process that wrote.
        """
        program = find_program()
        if self.runtime == "engine" and program is not None and SELF_STATUS.exists():
            return program_peak(program, self.path)
        return written["peak_rss_bytes"]

    @property
    def files(self) -> list[Path]:
        """What has to be there: weights, configuration and tokenizer."""
        if self.path.is_file():
            return [self.path]
        return [f for f in self.path.iterdir() if f.suffix in (".json", ".safetensors")]


def measure_fresh(
    checkpoint: Path, *, tokens: int = 64, threads: int = 1, device: str = "cpu"
) -> dict[str, float]:
    """One fresh process that loads ``checkpoint``, reads a short prompt and writes ``tokens``.

    Returns:
        ``import_ms`` (PyTorch and this package), ``load_ms`` (compiled kernels,
        model and tokenizer), ``first_token_ms`` (then: encode the prompt, read it, pick a token),
        ``import_rss_bytes`` (resident after the imports), ``peak_rss_bytes``.

    Raises:
        IteraError: where the process fails.
    """
    return _in_fresh_process("load", checkpoint, threads, tokens, device)


def measure_startup(path: Path, repeats: int) -> Startup:
    """Times and memory of one GGUF file; the file is in the operating system's cache.

    Returns:
        ``load_ms`` is the engine's load in this process, ``import_ms`` and ``import_runtime_ms``
        are found in fresh processes. Where `itera-run` is installed, ``first_token_ms`` is from
        before the process is started to its first token on the pipe, and on Linux there is its
        ``peak_rss_bytes``.
    """
    from itera_lite.records import Startup
    from itera_lite.stats.samples import Stat

    program = find_program()
    samples: dict[str, list[float]] = {}
    imports_torch = False
    for repeat in range(-1, repeats):
        found = {"load_ms": _load_ms(path)}
        for key, statement in IMPORTS.items():
            found[key], torch = _import_ms(statement)
            imports_torch = imports_torch or torch
        if program is not None:
            found["first_token_ms"] = _first_token_ms(program, path)
            if SELF_STATUS.exists():
                found["peak_rss_bytes"] = program_peak(program, path)
        if repeat >= 0:  # the first round only warms up
            for key, value in found.items():
                samples.setdefault(key, []).append(value)
    return Startup(
        file_bytes=path.stat().st_size,
        imports_torch=imports_torch,
        **{key: Stat.of(values) for key, values in samples.items()},
    )


def find_program() -> Path | None:
    """`itera-run`, beside this Python or on the path."""
    beside = Path(sys.executable).with_name("itera-run")
    found = str(beside) if beside.is_file() else shutil.which("itera-run")
    return Path(found) if found else None


def program_peak(program: Path, path: Path) -> float:
    """Peak resident bytes of `itera-run` while it writes a text, read when it waits at a full pipe.

    Not by `wait4`: what a child's record says begins with the memory of the process that
    started it, which is this one, with PyTorch in it.
    """
    for room in (PROGRAM_BYTES, len(PROMPT)):  # less, where the model ends its text early
        if peak := _peak_at_full_pipe(_program_command(program, path, PROGRAM_TOKENS), room):
            return peak
    raise IteraError(f"the memory of '{program.name}' couldn't be read while it ran")


def _load_ms(path: Path) -> float:
    from itera_lite import _engine

    begin = time.perf_counter()
    _engine.Model.load(str(path))
    return 1e3 * (time.perf_counter() - begin)


def _import_ms(statement: str) -> tuple[float, bool]:
    """Milliseconds of an import in a fresh process, and whether PyTorch came with it."""
    code = (
        f"import time; begin = time.perf_counter(); {statement}; "
        "end = time.perf_counter(); import sys; print(end - begin, 'torch' in sys.modules)"
    )
    seconds, torch = _run_python("-c", code, failed=f"'{statement}' failed").split()
    return 1e3 * float(seconds), torch == "True"


def _program_command(program: Path, path: Path, tokens: int) -> list[str]:
    return [str(program), str(path), "-q", "-t", "0", "-p", PROMPT, "-n", str(tokens)]


def _first_token_ms(program: Path, path: Path) -> float:
    """Milliseconds from before the start to the end of the one token (the prompt comes first)."""
    begin = time.perf_counter()
    with subprocess.Popen(_program_command(program, path, 1), stdout=subprocess.PIPE) as process:
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


def _peak_at_full_pipe(command: list[str], room: int) -> int:
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
                full = held >= size - min(LONGEST_PIECE, room // 2)
                if full and status.get("State", "").startswith("S"):
                    process.kill()
                    return 1024 * int(status["VmHWM"].split()[0])
        if process.returncode:
            raise IteraError(f"'{command[0]}' ended with exit code {process.returncode}")
        return 0
    finally:
        os.close(read_end)
        os.close(write_end)


def resident_bytes(field: str) -> int:
    """``VmRSS`` (now) or ``VmHWM`` (the peak) of this process.

    Linux's own record of this program, for ``ru_maxrss`` begins with the peak of the program that
    started it; elsewhere the operating system's peak of the process.
    """
    if found := _status("self").get(field):
        return 1024 * int(found.split()[0])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _status(process: int | str) -> dict[str, str]:
    """Linux's record of a process; empty where there is none."""
    try:
        lines = Path(f"/proc/{process}/status").read_text("ascii", "replace").splitlines()
    except OSError:
        return {}
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _in_fresh_process(work: str, model: Path, threads: int, *arguments: object) -> dict[str, float]:
    """Do one of `WORK` in a fresh process; returns what it found."""
    words = [work, str(model), str(threads), *map(str, arguments)]
    failed = f"a fresh process with '{model}' failed"
    found = _run_python("-m", "itera_lite.bench.processes", *words, failed=failed, threads=threads)
    return dict(json.loads(found))


def _run_python(*arguments: str, failed: str, threads: int | None = None) -> str:
    """The last line that a fresh Python prints, with the same copy of this package as here.

    Raises:
        IteraError: the process ended with an error, which follows ``failed``.
    """
    environment = dict(os.environ)
    package = str(Path(__file__).parents[2])
    known = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package, known]))
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env=environment,
        check=False,
    )
    if done.returncode != 0:
        raise IteraError(f"{failed}: {done.stderr.strip()[-2000:]}")
    return done.stdout.splitlines()[-1]


def _load(checkpoint: str, threads: str, tokens: str, device: str) -> dict[str, float]:
    """What `measure_fresh` returns, of this process."""
    begin = time.perf_counter()
    import torch

    from itera_lite import ops
    from itera_lite.checkpoint.folder import load_checkpoint

    torch.set_num_threads(int(threads))
    imported = time.perf_counter()
    memory = resident_bytes("VmRSS")
    ops.enable()
    model, tokenizer = load_checkpoint(checkpoint)
    model.to(device)
    loaded = time.perf_counter()
    with torch.inference_mode():
        state = model.initial_state(1)
        ids = [tokenizer.eot_id, *tokenizer.encode(PROMPT)]
        token = model.prefill(torch.tensor([ids], device=device), state).argmax(-1)
        token.item()  # waits for the result
        first = time.perf_counter()
        for _ in range(int(tokens) - 1):  # past the end of a document too: as many with every model
            token = model.step(token, state).argmax(-1)
        token.item()
    return {
        "import_ms": 1e3 * (imported - begin),
        "load_ms": 1e3 * (loaded - imported),
        "first_token_ms": 1e3 * (first - loaded),
        "import_rss_bytes": memory,
        "peak_rss_bytes": resident_bytes("VmHWM"),
    }


def _write(path: str, threads: str, runtime: str, tokens: str, seed: str) -> dict[str, float]:
    """What `DeployedModel.write_texts` returns, of this process."""
    from itera_lite.bench.runtimes import ENGINE, LLAMA, Engine, Llama, Transformers
    from itera_lite.machine.energy import find_meter

    python = 0
    if runtime == ENGINE:
        write = Engine(Path(path)).write
    elif runtime == LLAMA:
        python = _before_llama()
        write = Llama(Path(path), int(tokens) + 1, threads=int(threads)).write
    else:
        import torch

        torch.set_num_threads(int(threads))
        write = Transformers(Path(path)).write
    write(16, int(seed))
    meter = find_meter()
    counters = None if meter is None else meter.read()
    begin, cpu, written, texts = time.perf_counter(), time.process_time(), 0, 0
    while not texts or time.process_time() - cpu < ENOUGH_SECONDS:
        written += write(int(tokens), int(seed) + texts)
        texts += 1
    found = {
        "bytes": float(written),
        "seconds": time.perf_counter() - begin,
        "cpu_seconds": time.process_time() - cpu,
        "peak_rss_bytes": float(resident_bytes("VmHWM") - python),
    }
    if meter is not None and counters is not None:
        found["joules"] = meter.since(counters)
    return found


def _before_llama() -> int:
    """Resident bytes of this process with llama.cpp's library and its Python package imported.

    A user of llama.cpp runs a program without Python, which isn't installed with the package. So
    only what is added by the model and its work counts, which is less than such a program takes.
    """
    import llama_cpp  # noqa: F401  (what it takes is not the model's)

    with suppress(OSError):  # Linux only: the peak begins anew here
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return resident_bytes("VmRSS")


WORK: dict[str, Callable[..., dict[str, float]]] = {"load": _load, "write": _write}

if __name__ == "__main__":
    print(json.dumps(WORK[sys.argv[1]](*sys.argv[2:])))
