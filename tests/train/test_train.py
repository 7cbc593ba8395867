"""Training as a user runs it: it learns, it can be stopped anywhere, it repeats itself."""

import csv
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from itera_lite.checkpoint.folder import load_checkpoint, load_training_state
from itera_lite.commands.train import train
from itera_lite.config import preset
from itera_lite.errors import CheckpointError, ConfigError, DataError, UsageError
from itera_lite.evaluate.score import Score
from itera_lite.records import Summary
from itera_lite.train import loop
from itera_lite.train.loop import Trainer
from itera_lite.train.recipe import Budget, train_config
from tests.train.small import make_small

pytestmark = pytest.mark.usefixtures("small")

TIMEOUT = 600  # seconds for a command; a busy machine is slow
TIMED = ("seconds", "tokens_per_second", "mfu")
SETTINGS = {
    "vocab_size": 300,
    "batch_size": 4,
    "seq_len": 32,
    "workers": 1,
    "quiet": True,
    "precision": "fp32",
    "patience": 0,
    "lr_matrix": 0.02,
    "lr_embedding": 0.005,
    "lr_other": 0.005,
}


def run(text: Path, out: Path, **overrides):
    options = {"tokens": "8K", "model": "itera"} | SETTINGS | overrides
    return train(str(text), checkpoints=out / "c", results=out / "r", **options)


def curve(out: Path, name: str = "itera_lite_tiny") -> list[dict[str, str]]:
    """The log without what a clock decides."""
    with open(out / "r" / f"{name}_metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in TIMED} for row in rows]


def stop_at(monkeypatch, step: int, number: int = signal.SIGINT, of: str | None = None) -> None:
    """Send this process a signal before a step of the training."""
    original = Trainer._step

    def stepping(self):
        if self.state.step == step and of in (None, self.files.name):
            os.kill(os.getpid(), number)
        return original(self)

    monkeypatch.setattr(Trainer, "_step", stepping)


@pytest.fixture(scope="module")
def whole(text, tmp_path_factory):
    """One run that nobody disturbed; several tests compare with it."""
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        run(text, out)
    return out


def test_both_models_learn_and_leave_what_they_promise(text, tmp_path):
    summaries = run(text, tmp_path, model="both", tokens="30K")
    assert set(summaries) == {"itera_lite_tiny", "transformer_tiny"}
    for name, summary in summaries.items():
        losses = [float(row["train_loss"]) for row in curve(tmp_path, name) if row["train_loss"]]
        assert losses[-1] < 0.6 * losses[0]
        written = Summary.read(tmp_path / "r" / f"{name}_summary.json")
        assert written == summary
        assert written.valid.bpb < 2.0
        assert written.training.stopped == "budget"
        assert written.model.params.total > written.model.params.embedding
        assert (written.model.made, written.model.made_from) == ("trained", [])
        assert written.dataset.source == str(text)
        assert written.samples
        model, tokenizer = load_checkpoint(tmp_path / "c" / name)
        assert model.config.vocab_size == tokenizer.vocab_size
        assert not list((tmp_path / "c").glob(".*"))
    loads = summaries["itera_lite_tiny"].expert_load
    assert all(sum(layer) == pytest.approx(1, abs=1e-3) for layer in loads)
    last = curve(tmp_path, "itera_lite_tiny")[-1]
    assert 1.0 <= float(last["expert_load_max"]) < 3.0


def test_the_same_seed_gives_the_same_run_and_another_one_not(text, tmp_path, whole):
    for name, seed in (("same", 0), ("other", 1)):
        run(text, tmp_path / name, seed=seed)
    assert curve(tmp_path / "same") == curve(whole)
    assert curve(tmp_path / "other") != curve(whole)


def test_a_golden_curve(whole):
    """A change that shouldn't alter the computation shows the same losses."""
    losses = [round(float(row["train_loss"]), 3) for row in curve(whole) if row["train_loss"]]
    golden = json.loads((Path(__file__).parents[1] / "golden" / "loss_curve.json").read_text())
    assert losses == pytest.approx(golden["train_loss"], abs=0.03)


def test_ctrl_c_saves_and_resume_repeats_the_uninterrupted_curve(
    text, tmp_path, monkeypatch, whole
):
    with monkeypatch.context() as patch:
        stop_at(patch, 33)
        with pytest.raises(KeyboardInterrupt):
            run(text, tmp_path / "cut")
    state = tmp_path / "cut/c/itera_lite_tiny-last/training_state/state.json"
    assert json.loads(state.read_text())["state"]["step"] == 34
    run(text, tmp_path / "cut", resume=True)
    assert curve(tmp_path / "cut") == curve(whole)
    weights = "c/itera_lite_tiny-last/model.safetensors"
    assert (tmp_path / "cut" / weights).read_bytes() == (whole / weights).read_bytes()


def test_after_sigkill_resume_repeats_the_uninterrupted_curve(text, tmp_path):
    """A real process, killed without warning, resumed by another one."""
    place = ["--checkpoints", str(tmp_path / "c"), "--results", str(tmp_path / "r")]
    options = [
        *("train", str(text), "--model", "transformer"),
        *("--params", "200K", "--name", "run", "--tokens", "20K", "--batch-size", "4"),
        *("--seq-len", "32", "--vocab-size", "300", "--workers", "1", "--precision", "fp32"),
    ]
    command = [sys.executable, "-m", "itera_lite.cli", *options]
    # It waits before its last steps, so that the kill comes before its end on a busy machine too.
    waiting = (
        "import signal, sys; from itera_lite.train.loop import Trainer; step = Trainer._step\n"
        "def stepping(self):\n"
        "    if self.state.step == 150: signal.pause()\n"
        "    return step(self)\n"
        "Trainer._step = stepping\n"
        "from itera_lite.cli import main; sys.exit(main())\n"
    )
    last = tmp_path / "c" / "run-last"
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, "-c", waiting, *options, *place], **silent)
    until = time.monotonic() + TIMEOUT
    while not last.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.002)
    process.kill()
    assert process.wait(TIMEOUT) == -signal.SIGKILL
    state, _ = load_training_state(last)  # which finishes a save that was cut off
    assert state["state"]["step"] < 156
    subprocess.run([*command, *place, "--resume"], check=True, capture_output=True, timeout=TIMEOUT)
    whole = tmp_path / "whole"
    other = ["--checkpoints", str(whole / "c"), "--results", str(whole / "r")]
    subprocess.run(command + other, check=True, capture_output=True, timeout=TIMEOUT)
    assert curve(whole, "run") == [
        {k: v for k, v in row.items() if k not in TIMED}
        for row in csv.DictReader((tmp_path / "r" / "run_metrics.csv").read_text().splitlines())
    ]


def test_two_processes_have_the_curve_of_one(text, tmp_path):
    """torchrun with two ranks against one process, the same global batch."""
    common = [
        *("-m", "itera_lite.cli", "train", str(text), "--model", "itera", "--params", "200K"),
        *("--name", "run", "--tokens", "6K", "--batch-size", "4", "--seq-len", "32"),
        *("--vocab-size", "300", "--workers", "1", "--precision", "fp32", "--quiet"),
        # Low rates: float noise in near-zero gradients grows with the rate, not with the ranks.
        *("--lr-matrix", "0.002", "--lr-embedding", "0.001", "--lr-other", "0.001"),
    ]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]  # any free port
    torchrun += ["--local-addr", "127.0.0.1"]
    for name, start in (("one", [sys.executable]), ("two", torchrun)):
        out = tmp_path / name
        place = ["--checkpoints", str(out / "c"), "--results", str(out / "r")]
        done = subprocess.run(
            [*start, *common, *place], capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = curve(tmp_path / "one", "run"), curve(tmp_path / "two", "run")
    assert len(one) == len(two) >= 3
    for a, b in zip(one, two, strict=True):
        for key in ("train_loss", "valid_loss", "grad_norm", "expert_load_max"):
            if a[key]:
                rel = 2e-3 if key.endswith("loss") else 5e-2  # noise, and counts that flip
                assert float(a[key]) == pytest.approx(float(b[key]), rel=rel), (a["step"], key)


def test_a_budget_in_minutes_is_kept(text, tmp_path, monkeypatch):
    """By a clock in which every step takes 50 ms, whatever the machine does meanwhile."""
    ticks = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: next(ticks) * 0.05, monotonic=time.monotonic)
    monkeypatch.setattr(loop, "time", clock)
    summary = run(text, tmp_path, tokens=None, minutes=0.03)["itera_lite_tiny"]
    assert 1.8 <= summary.training.seconds + 1e-9 < 1.9


def test_the_number_of_evaluations_is_a_wish(text, tmp_path, whole):
    """And it changes nothing but the rows of the log that have a score."""
    summary = run(text, tmp_path, evaluations=1)["itera_lite_tiny"]
    assert len(summary.samples) == 1
    losses = [
        [row["train_loss"] for row in curve(out) if row["train_loss"]] for out in (tmp_path, whole)
    ]
    assert losses[0] == losses[1]


def test_early_stopping(text, tmp_path, monkeypatch):
    """Scores that get worse after the third evaluation end the run, and the best one is kept."""
    scores = iter([3.0, 2.0, 1.0, *(2.0 + i for i in range(20))])

    def scored(*_, **__):
        return Score(nats=next(scores) * 100, tokens=100, bytes=100)

    monkeypatch.setattr(loop, "stream_bits", scored)
    summary = run(text, tmp_path, patience=2, tokens="20K")["itera_lite_tiny"]
    assert summary.training.stopped == "early"
    assert len(summary.samples) == 5
    kept = [row for row in curve(tmp_path) if row["valid_loss"]][2]
    assert summary.best.step == int(kept["step"]) < summary.training.steps


def test_a_short_run_takes_smaller_steps():
    assert Budget("tokens", 2e6).batch_size == Budget("seconds", 90).batch_size == 8
    assert Budget("tokens", 9e6).batch_size == Budget("seconds", 600).batch_size == 16


def test_means_over_gradients_last_as_many_tokens_whatever_the_batch():
    shape = preset("itera", "pico", 512)
    of = lambda **asked: train_config(shape, Budget("tokens", 9e6), asked)  # noqa: E731
    usual, halved = of(), of(batch_size=8)
    assert (usual.momentum, usual.beta2) == (pytest.approx(0.9, 1e-3), pytest.approx(0.99, 1e-3))
    assert halved.beta2**2 == pytest.approx(usual.beta2)
    assert halved.momentum**2 == pytest.approx(usual.momentum)
    assert (of(batch_size=1).momentum, of(batch_size=1).beta2) == (0.95, 0.997)
    assert of(beta2=0.9).beta2 == 0.9
    gpt2 = train_config(preset("gpt2", "reference_small", 512), Budget("tokens", 9e6), {})
    assert gpt2.beta2 == 0.95  # as is usual with AdamW alone


def test_resume_with_other_settings_is_refused(text, whole):
    with pytest.raises(CheckpointError, match=r"--lr-matrix 0\.02, now 0\.5"):
        run(text, whole, resume=True, lr_matrix=0.5)


@pytest.mark.parametrize(
    ("overrides", "error", "words"),
    [
        ({"tokens": "many"}, UsageError, "--tokens many: expected"),
        ({"epochs": 1.0}, UsageError, "give one of them"),
        ({"tokens": None, "minutes": -1.0}, UsageError, "more than 0"),
        ({"config": "huge"}, ConfigError, "femto, pico, nano, tiny, small, base, lean"),
        ({"evaluations": 0}, UsageError, "1 or more"),
        ({"params": "3M", "config": "small"}, UsageError, "both a size"),
        ({"model": "transformer", "pattern": "ma"}, UsageError, "attention only"),
        ({"model": "both", "config": "lean", "pattern": "ma"}, UsageError, "attention only"),
        ({"model": "both", "name": "x"}, UsageError, "--name needs one model"),
        ({"pattern": "mm"}, ConfigError, "at least one attention"),
        ({"batch_size": 100_000}, DataError, "too short"),
        ({"lr_matrix": -1.0}, ConfigError, "lr_matrix=-1.0: expected"),
    ],
)
def test_wrong_use_is_a_clear_error(overrides, error, words, text, tmp_path):
    with pytest.raises(error, match=words):
        run(text, tmp_path, **overrides)
