"""What text costs from one artifact, each time in a process of its own.

An artifact is what somebody would ship: a checkpoint folder that `transformers` decodes, or a
GGUF file that the native engine decodes. Run as ``python -m itera_lite.bench.artifact``;
`Artifact.write_texts` does so. A process of its own, because its peak memory is measured, and
because every artifact should meet the same fresh machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from itera_lite.errors import IteraError

Runtime = Literal["transformers", "engine"]
TEXT_BYTES = 1000  # a text of about this length each time, from nothing
ENOUGH_SECONDS = 1.0  # of processor time, so that a clock's tick doesn't matter
TIMEOUT = 600.0


@dataclass(frozen=True)
class Artifact:
    """A model as it is shipped, and what decodes it.

    Attributes:
        path: a checkpoint folder (``transformers``) or a GGUF file (``engine``).
        tokens: tokens of a text, for about `TEXT_BYTES`.
    """

    runtime: Runtime
    path: Path
    tokens: int

    def write_texts(self, seed: int, threads: int = 1) -> dict[str, float]:
        """One fresh process that loads the artifact and writes texts as its own
        ``generation_config`` (or the file's advice) says: sampled, one after another.

        Returns:
            ``bytes`` written, and for writing them alone (not for the start, the load and a
            first short text that warms up) ``seconds``, ``cpu_seconds`` (all threads) and
            ``joules`` (only where the machine has a meter). And ``peak_rss_bytes`` of the
            whole process.

        Raises:
            IteraError: where the process fails.
        """
        arguments = [str(self.path), self.runtime, str(self.tokens), str(seed), str(threads)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        package = str(Path(__file__).parents[2])  # the same copy of this package as here
        environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, [package, environment.get("PYTHONPATH")])
        )
        done = subprocess.run(
            [sys.executable, "-m", "itera_lite.bench.artifact", *arguments],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            env=environment,
            check=False,
        )
        if done.returncode != 0:
            raise IteraError(f"decoding '{self.path}' failed: {done.stderr.strip()[-2000:]}")
        return dict(json.loads(done.stdout.splitlines()[-1]))

    def peak_bytes(self, written: dict[str, float]) -> float:
        """Peak resident bytes of the program that a user would run.

        For the engine that is `itera-run`, where it is installed; else the process that wrote.
        """
        from itera_lite.bench.startup import STATUS, find_program, program_peak

        program = find_program()
        if self.runtime == "engine" and program is not None and STATUS.exists():
            return program_peak(program, self.path)
        return written["peak_rss_bytes"]

    @property
    def size(self) -> int:
        """Bytes on disk of what has to be there: weights, configuration and tokenizer."""
        if self.path.is_file():
            return self.path.stat().st_size
        shipped = [f for f in self.path.iterdir() if f.suffix in (".json", ".safetensors")]
        return sum(f.stat().st_size for f in shipped)


def _engine_writer(path: str) -> Any:
    from itera_lite.engine import Model

    model = Model.load(path)

    def write(tokens: int, seed: int) -> int:
        text = model.generate("", max_tokens=tokens, seed=seed, ignore_end=True).text
        return len(text.encode("utf-8"))

    return write


def _transformers_writer(path: str, threads: int) -> Any:
    import torch

    from itera_lite.bench.peers import load_transformers
    from itera_lite.data.tokenizer import Tokenizer

    torch.set_num_threads(threads)
    model: Any = load_transformers(Path(path)).eval()
    tokenizer = Tokenizer.load(path)
    start = torch.tensor([[tokenizer.eot_id]])
    model.generation_config.eos_token_id = None  # write on after the end of a story, as all do

    def write(tokens: int, seed: int) -> int:
        torch.manual_seed(seed)
        with torch.inference_mode():
            ids = model.generate(start, max_new_tokens=tokens, do_sample=True, use_cache=True)
        return len(tokenizer.decode_bytes(ids[0].tolist()))

    return write


def _work(path: str, runtime: str, tokens: int, seed: int, threads: int) -> dict[str, float]:
    from itera_lite.bench.fresh import resident_bytes
    from itera_lite.machine.energy import find_meter

    write = _engine_writer(path) if runtime == "engine" else _transformers_writer(path, threads)
    write(16, seed)
    meter = find_meter()
    counters = None if meter is None else meter.read()
    begin, cpu, written, texts = time.perf_counter(), time.process_time(), 0, 0
    while not texts or time.process_time() - cpu < ENOUGH_SECONDS:
        written += write(tokens, seed + texts)
        texts += 1
    found = {
        "bytes": float(written),
        "seconds": time.perf_counter() - begin,
        "cpu_seconds": time.process_time() - cpu,
        "peak_rss_bytes": float(resident_bytes("VmHWM")),
    }
    if meter is not None and counters is not None:
        found["joules"] = meter.since(counters)
    return found


if __name__ == "__main__":
    path, runtime, *numbers = sys.argv[1:]
    print(json.dumps(_work(path, runtime, *map(int, numbers))))
