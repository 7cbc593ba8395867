"""The whole `itera demo`, small: a busy program that starts half way bends no verdict."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from itera_lite import config
from itera_lite.bench import speed
from itera_lite.commands.demo import demo
from itera_lite.records import Summary
from itera_lite.report.metrics import compare_pairs
from itera_lite.report.results import load_results
from itera_lite.train import loop
from itera_lite.train.loop import Trainer

TEXT = Path(asyncio.__file__).parent / "*.py"  # half a megabyte; a vocabulary of 2048 needs that
# Far apart in speed and in quality, so that chance doesn't decide who is better.
SHAPES = {
    "itera": {"pattern": "mmmmam", "d_model": 32, "n_experts": 4, "d_expert": 32, "d_state": 16},
    "transformer": {"pattern": "aa", "d_model": 64, "d_ff": 96, "n_kv_heads": 2},
}
# Seconds of a step. By a clock of the test a step takes as long whatever else the machine does, and
# twice as long beside the busy program: so the numbers of steps, and with them the models, follow.
STEPS = {"itera_lite_tiny": 0.08, "transformer_tiny": 0.04}
# A process that is no child of ours, or its load would be our own. It ends by itself, after the
# training: the benchmark has turns and tests of its own, and would take twice as long.
BUSY = """
import subprocess, sys
loop = "import time; end = time.monotonic() + 15\\nwhile time.monotonic() < end: pass"
print(subprocess.Popen([sys.executable, "-c", loop], stdout=subprocess.DEVNULL).pid)
"""


@pytest.fixture
def one_core(monkeypatch):
    """Everything on one core, so that one busy program takes half of it on any machine."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    monkeypatch.setitem(config.PRESETS, "tiny", SHAPES)
    monkeypatch.setattr(speed, "CONTEXTS", (64,))
    monkeypatch.setattr(speed, "BATCHES", (1,))
    monkeypatch.setattr(speed, "QUICK_REPEATS", 1)
    yield
    os.sched_setaffinity(0, cores)


def winners(folder: Path) -> dict[str, str]:
    """Who is better, by what was compared; only the verdicts that are given."""
    (pair,) = compare_pairs(load_results(folder))
    return {each.metric.key: each.winner for each in pair.comparisons if each.winner}


def speed_ratio(folder: Path) -> float:
    """Tokens a second in training, the Transformer's over the Itera model's."""
    ours, other = (
        Summary.read(folder / f"{name}_tiny_summary.json").training
        for name in ("itera_lite", "transformer")
    )
    return other.tokens_per_second / ours.tokens_per_second


@pytest.mark.usefixtures("real_load")
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="pins processes to a core")
def test_a_busy_program_half_way_bends_no_verdict(tmp_path, monkeypatch, one_core, capsys):
    """Where one model trains after the other, the second half is the Transformer's: it seemed half
    as fast beside the Itera model as it is."""
    advance, step = Trainer.advance, Trainer._step
    started: list[int] = []
    now = [0.0, 0.0]  # and by how much each look at the clock moves it

    def stepping(self):
        now[1] = STEPS[self.files.name] * (2 if started else 1)
        return step(self)

    def look() -> float:
        now[0] += now[1]
        return now[0]

    monkeypatch.setattr(Trainer, "_step", stepping)
    clock = SimpleNamespace(perf_counter=look, monotonic=time.monotonic)
    monkeypatch.setattr(loop, "time", clock)

    def advancing(self):
        if self.progress >= 0.5 and not started:
            words = [sys.executable, "-c", BUSY]
            done = subprocess.run(words, capture_output=True, check=True, text=True)
            started.append(int(done.stdout))
        return advance(self)

    def run(name: str) -> Path:
        folder = tmp_path / name
        demo(
            str(TEXT),
            minutes=0.15,
            checkpoints=folder / "c",
            results=folder / "r",
            reports=folder / "p",
        )
        return folder / "r"

    quiet = run("quiet")
    monkeypatch.setattr(Trainer, "advance", advancing)
    try:
        busy = run("busy")
    finally:
        for process in started:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
    assert started
    before, after = winners(quiet), winners(busy)
    both = before.keys() & after.keys()
    assert {key: after[key] for key in both} == {key: before[key] for key in both}
    assert {"params_total", "flops_forward", "weights_bytes"} <= both
    assert speed_ratio(busy) / speed_ratio(quiet) == pytest.approx(1, rel=0.1)
