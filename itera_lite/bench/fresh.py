"""Loads a checkpoint and writes some text in a fresh process: times and peak memory.

Run as ``python -m itera_lite.bench.fresh``; `measure_fresh` does so and reads the answer.
A process of its own, because memory that another model took before would be counted, and
because a second load in one process finds everything warm.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from itera_lite.errors import IteraError

PROMPT = "Once upon a time"


def measure_fresh(
    checkpoint: Path,
    *,
    tokens: int = 64,
    threads: int = 1,
    device: str = "cpu",
    timeout: float = 300.0,
) -> dict[str, float]:
    """One fresh process that loads ``checkpoint``, reads a short prompt and writes ``tokens``.

    Returns:
        ``import_ms`` (PyTorch and this package), ``load_ms`` (compiled kernels,
        model and tokenizer), ``first_token_ms`` (then: encode the prompt, read it, pick a token),
        ``import_rss_bytes`` (resident after the imports), ``peak_rss_bytes``.

    Raises:
        IteraError: where the process fails.
    """
    arguments = [sys.executable, "-m", "itera_lite.bench.fresh"]
    arguments += [str(checkpoint), str(tokens), str(threads), device]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    package = str(Path(__file__).parents[2])  # the same copy of this package as here
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [package, environment.get("PYTHONPATH")])
    )
    done = subprocess.run(
        arguments, capture_output=True, text=True, timeout=timeout, env=environment, check=False
    )
    if done.returncode != 0:
        raise IteraError(f"a fresh process with '{checkpoint}' failed: {done.stderr.strip()}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _work(checkpoint: str, tokens: int, threads: int, device: str) -> dict[str, float]:
    begin = time.perf_counter()
    import torch

    from itera_lite import ops
    from itera_lite.checkpoint.folder import load_checkpoint

    torch.set_num_threads(threads)
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
        for _ in range(tokens - 1):  # past the end of a document too: every model writes as many
            token = model.step(token, state).argmax(-1)
        token.item()
    return {
        "import_ms": 1e3 * (imported - begin),
        "load_ms": 1e3 * (loaded - imported),
        "first_token_ms": 1e3 * (first - loaded),
        "import_rss_bytes": memory,
        "peak_rss_bytes": resident_bytes("VmHWM"),
    }


def resident_bytes(field: str) -> int:
    """``VmRSS`` (now) or ``VmHWM`` (the peak) of this process.

    Linux's own record of this program; elsewhere the operating system's peak of the process.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field + ":"))
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
    print(json.dumps(_work(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])))
