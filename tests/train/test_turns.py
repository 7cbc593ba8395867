"""Trainings that take turns: none changes another, all end together, and a stop saves all."""

import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from itera_lite.config import ModelConfig
from itera_lite.data.prepare import prepare
from itera_lite.errors import OutputError, TrainingError
from itera_lite.evaluate.score import Score
from itera_lite.records import Summary
from itera_lite.train import loop, terminal, turns
from itera_lite.train.compute import Compute
from itera_lite.train.loop import Trainer
from itera_lite.train.pace import time_left
from itera_lite.train.recipe import Budget, train_config
from itera_lite.train.run_files import RunFiles
from itera_lite.train.terminal import Stopped
from itera_lite.train.train import Training, run_trainings
from itera_lite.workers import WorkerChoice
from tests.train.small import make_small
from tests.train.test_train import curve, run, stop_at

pytestmark = pytest.mark.usefixtures("small")
BOTH = ("itera_lite_tiny", "transformer_tiny")
SHAPES = {
    "itera": ModelConfig(
        "itera", "ma", vocab_size=300, d_model=64, n_experts=4, d_expert=32, d_state=16
    ),
    "transformer": ModelConfig(
        "transformer", "aa", vocab_size=300, d_model=64, d_ff=96, n_kv_heads=2
    ),
    "gpt2": ModelConfig(
        "gpt2",
        "a",
        vocab_size=300,
        d_model=64,
        d_ff=128,
        n_kv_heads=2,
        max_seq_len=256,
    ),
}


def training(text: Path, folder: Path, name: str, amount: float = 4096, **more) -> Training:
    """A small one of a family, on batches of 128 tokens."""
    data = prepare(str(text), vocab_size=300, quiet=True)
    compute = Compute.prepare("fp32", workers=1, quiet=True)
    budget = Budget(more.pop("unit", "tokens"), amount)
    config = train_config(SHAPES[name], budget, {"batch_size": 4, "seq_len": 32, "dropout": 0.1})
    files = RunFiles(name, folder, folder)
    return Training(SHAPES[name], config, data, budget, files, compute, source="text", **more)


def saved(folder: Path, name: str) -> list[bytes]:
    """The weights that a run ended with, and the state of its optimizer and random numbers."""
    last = folder / f"{name}-last"
    files = ("model.safetensors", "training_state/tensors.safetensors")
    return [(last / file).read_bytes() for file in files]


@pytest.fixture(scope="module")
def whole(text, tmp_path_factory):
    """Both models, trained in turns that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        run(text, out, model="both")
    return out


def test_what_trains_beside_a_model_changes_no_bit_of_it(text, tmp_path):
    """Dropout included, which draws from PyTorch's one generator of random numbers."""
    beside, alone = tmp_path / "beside", tmp_path / "alone"
    options = {"amount": 2560, "evaluations": 1}
    run_trainings([training(text, beside, name, **options) for name in SHAPES])
    for name in SHAPES:
        training(text, alone, name, **options).run()
        assert saved(beside, name) == saved(alone, name), name
        best = f"{name}/model.safetensors"
        assert (beside / best).read_bytes() == (alone / best).read_bytes(), name


@pytest.mark.parametrize(
    "amounts", [{"itera": 12_800, "transformer": 6_400}, {"gpt2": 6_400, "transformer": 6_400}]
)
def test_the_one_with_the_least_progress_goes_next(text, tmp_path, monkeypatch, amounts):
    progress = dict.fromkeys(amounts, 0.0)
    steps: list[str] = []
    furthest = 0.0
    original = Trainer._step

    def stepping(self):
        nonlocal furthest
        made = original(self)
        name = self.files.name
        steps.append(name)
        progress[name] = self.progress
        furthest = max(furthest, max(progress.values()) - min(progress.values()))
        return made

    monkeypatch.setattr(Trainer, "_step", stepping)
    options = {"evaluations": 1, "final_bytes": 1000}
    run_trainings([training(text, tmp_path, name, n, **options) for name, n in amounts.items()])
    assert {name: steps.count(name) for name in amounts} == {
        name: amount // 128 for name, amount in amounts.items()
    }
    assert furthest <= turns.TURN_SHARE + 128 / min(amounts.values()) + 1e-9
    assert len(list(groupby(steps))) > 40


def test_a_turn_of_seconds_counts_steps_alone(text, tmp_path, monkeypatch):
    """By a clock in which a step takes half a second, and a score ten."""
    clock = Clock()
    clock.drive(monkeypatch, {"itera": 0.5, "transformer": 0.5}, score=10.0)
    made = [
        training(text, tmp_path, name, 300.0, unit="seconds", patience=0).trainer()
        for name in ("itera", "transformer")
    ]
    turns.train_in_turns(made)
    lengths = [len(list(turn)) for _, turn in groupby(clock.steps)]
    assert set(lengths) == {turns.TURN_SECONDS / 0.5}
    for trainer in made:
        assert trainer.state.seconds == 300.0
        scores = 10.0 * len(trainer.state.samples)
        assert trainer.state.wall == pytest.approx(300.0 + scores)


def test_ctrl_c_saves_all_and_each_goes_on(text, tmp_path, monkeypatch, whole, capsys):
    with monkeypatch.context() as patch:
        stop_at(patch, 33, of="transformer_tiny")
        with pytest.raises(Stopped):
            run(text, tmp_path, model="both", quiet=False)
    said = capsys.readouterr().err
    for name in BOTH:
        state = tmp_path / "c" / f"{name}-last" / "training_state" / "state.json"
        step = json.loads(state.read_text())["state"]["step"]
        assert 30 <= step <= 36
        assert f"{name} is saved at step {step}: --resume goes on" in said
    run(text, tmp_path, model="transformer", resume=True)  # one of them may finish alone
    run(text, tmp_path, model="both", resume=True)
    for name in BOTH:
        assert saved(tmp_path / "c", name) == saved(whole / "c", name)
        assert curve(tmp_path, name) == curve(whole, name)


def test_a_stop_in_the_first_turn_keeps_the_settings_of_all(text, tmp_path, monkeypatch):
    original = Trainer._step

    def stepping(self):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(self)

    monkeypatch.setattr(Trainer, "_step", stepping)
    with pytest.raises(Stopped):
        run(text, tmp_path, model="both", seed=7)
    monkeypatch.setattr(Trainer, "_step", original)
    summaries = run(text, tmp_path, model="both", resume=True)
    assert {summary.model.seed for summary in summaries.values()} == {7}


def test_one_that_fails_loses_nothing_of_the_others(text, tmp_path, monkeypatch, whole):
    original = Trainer._step

    def stepping(self):
        if self.files.name == BOTH[0] and self.state.step == 45:
            with torch.no_grad():
                self.model.embedding.weight[0, 0] = float("nan")
        return original(self)

    monkeypatch.setattr(Trainer, "_step", stepping)
    with pytest.raises(TrainingError, match=r"itera_lite_tiny: the loss is nan at step 46"):
        run(text, tmp_path, model="both")
    monkeypatch.setattr(Trainer, "_step", original)
    state = tmp_path / "c" / f"{BOTH[1]}-last" / "training_state" / "state.json"
    assert json.loads(state.read_text())["state"]["step"] > 40
    run(text, tmp_path, model="both", resume=True)  # from the failed one's last good checkpoint
    for name in BOTH:
        assert curve(tmp_path, name) == curve(whole, name)


def test_ctrl_c_whose_save_fails_is_that_error_and_saves_the_other(text, tmp_path, monkeypatch):
    original = Trainer.save

    def save(self):
        if self.files.name == BOTH[0] and self.state.step:
            raise OutputError("the disk is full")
        original(self)

    stop_at(monkeypatch, 5, of=BOTH[1])
    monkeypatch.setattr(Trainer, "save", save)
    with pytest.raises(OutputError, match="the disk is full"):
        run(text, tmp_path, model="both")
    state = tmp_path / "c" / f"{BOTH[1]}-last" / "training_state" / "state.json"
    assert json.loads(state.read_text())["state"]["step"] == 6


def test_an_output_that_has_gone_away_loses_no_summary(text, tmp_path, monkeypatch):
    class Output(io.StringIO):
        def write(self, text):
            if "on the validation text" in text:
                raise BrokenPipeError
            return super().write(text)

    monkeypatch.setattr(sys, "stdout", Output())
    with pytest.raises(BrokenPipeError):
        run(text, tmp_path, model="both", quiet=False, tokens="1K", evaluations=1)
    for name in BOTH:
        assert Summary.read(tmp_path / "r" / f"{name}_summary.json").model.name == name


def test_a_summary_has_the_workers_of_its_own_training(text, tmp_path, monkeypatch):
    """Their choices differ, and all have one set of workers."""
    chosen = iter((1, 2))

    class Choice(WorkerChoice):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self.active = next(chosen)

    monkeypatch.setattr(loop, "WorkerChoice", Choice)
    compute = Compute.prepare("fp32", workers=2, quiet=True)
    options = {"amount": 640, "evaluations": 1, "final_bytes": 1000}
    both = [training(text, tmp_path, name, **options) for name in ("itera", "transformer")]
    summaries = run_trainings([replace(each, compute=compute) for each in both])
    assert [summary.training.threads for summary in summaries] == [1, 2]


def test_settings_that_differ_are_refused_before_anything_is_touched(text, tmp_path):
    first = [training(text, tmp_path, name).run() for name in ("itera", "transformer")]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = training(text, tmp_path, "transformer", 8192, resume=True)
    other = replace(other, config=replace(other.config, seed=3))
    with pytest.raises(Exception, match="seed 0, now 3"):
        run_trainings([training(text, tmp_path, "itera", 8192, resume=True), other])
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert all(summary.valid for summary in first)


class Clock:
    """Time that passes as a test wants, for trainings whose steps and scores are empty."""

    def __init__(self, slow_from: float = float("inf"), factor: float = 1.0) -> None:
        self.now, self.slow_from, self.factor = 0.0, slow_from, factor
        self.steps: list[str] = []

    def pass_(self, seconds: float) -> None:
        self.now += seconds * (self.factor if self.now >= self.slow_from else 1.0)

    def drive(
        self,
        monkeypatch,
        steps: dict[str, float],
        score: float,
        save: float = 0.0,
        per_byte: float = 0.0,
    ) -> None:
        """Let the trainings of these names take so many seconds a step, for an evaluation's score,
        and for a byte of the score at the end."""
        clock = self

        def step(self):
            begin = clock.now
            clock.pass_(steps[self.files.name])
            self.state.step += 1
            self.state.seconds += clock.now - begin
            self.window.add(self.model, 2.0, 1.0, clock.now - begin)
            clock.steps.append(self.files.name)
            return 2.0, clock.now - begin

        def scored(*_):
            clock.pass_(score)
            return Score(nats=100.0, tokens=100, bytes=100)

        def read():
            return clock.now

        time = SimpleNamespace(perf_counter=read, monotonic=read)
        monkeypatch.setattr(loop, "time", time)
        monkeypatch.setattr(Trainer, "_step", step)
        monkeypatch.setattr(loop, "score_part", scored)

        def scored_as_at_the_end(model, tokenizer, texts, **_):
            size = sum(map(len, texts))
            clock.pass_(size * per_byte)
            return Score(nats=100.0, tokens=100, bytes=size)

        monkeypatch.setattr(loop, "score_documents", scored_as_at_the_end)
        monkeypatch.setattr(loop, "sample", lambda *_: {"prompt": "", "text": ""})
        monkeypatch.setattr(loop, "save_checkpoint", lambda *_, **__: clock.pass_(save))


STEPS = {"itera": 0.4, "transformer": 0.7}


@pytest.mark.parametrize("unit", ["tokens", "seconds"])
@pytest.mark.parametrize("slow", [None, 0.5], ids=["quiet", "slow second half"])
@pytest.mark.parametrize("names", [("itera",), ("itera", "transformer")], ids=["one", "both"])
def test_the_time_that_is_left_is_right_within_a_fifth(
    text, tmp_path, monkeypatch, unit, slow, names
):
    """After the first tenth; and again soon after everything has become three times slower."""
    amount = 51_200.0 if unit == "tokens" else 240.0  # 400 steps of 128 tokens
    valid = prepare(str(text), vocab_size=300, quiet=True).n_bytes("valid")

    def trained(folder: Path, clock: Clock) -> tuple[list[tuple[float, float, float]], float]:
        seen: list[tuple[float, float, float]] = []
        trainers = [
            training(text, folder, name, amount, unit=unit, patience=0).trainer() for name in names
        ]
        for trainer in trainers:
            trainer.quiet = False

        def left(seconds):
            if seconds is not None:
                progress = min(trainer.progress for trainer in trainers)
                seen.append((clock.now, seconds, progress))
            return time_left(seconds)

        with monkeypatch.context() as patch:
            clock.drive(patch, STEPS, score=4.0, save=0.3, per_byte=40 / valid)
            patch.setattr(turns, "time_left", left)
            patch.setattr(sys, "stderr", io.StringIO())
            turns.train_in_turns(trainers)
        for _ in trainers:
            clock.pass_(40.0)  # the score at the end
        return seen, clock.now

    seen, end = trained(tmp_path / "quiet", Clock())
    since = 0.1
    if slow is not None:
        clock = Clock(slow_from=end * slow, factor=3.0)
        seen, end = trained(tmp_path / "slow", clock)
        since = max(progress for now, _, progress in seen if now <= clock.slow_from) + 0.1
    checked = [(now, left) for now, left, progress in seen if progress >= since]
    assert len(checked) > 20
    for now, left in checked:
        assert left == pytest.approx(end - now, rel=0.2), (now, end)


@pytest.mark.parametrize(
    ("seconds", "words"), [(None, "?"), (0.4, "0:00"), (83, "1:23"), (7400, "2:03:20")]
)
def test_time_left_in_words(seconds, words):
    assert time_left(seconds) == words


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_shows_all(text, tmp_path, monkeypatch):
    """Bars on a terminal; in a file, lines that can be read. However long it takes."""
    monkeypatch.setattr(turns, "time_left", lambda seconds: "?" if seconds is None else "0:42")
    monkeypatch.setattr(terminal, "LINE_SECONDS", float("inf"))  # no line but those of scores
    shown = {}
    for kind, stream in (("terminal", Terminal()), ("file", io.StringIO())):
        monkeypatch.setattr(sys, "stderr", stream)
        run(text, tmp_path / kind, model="both", quiet=False, tokens="4K")
        shown[kind] = stream.getvalue()
    for name in BOTH:
        assert f"{name} (tokens): 100%" in shown["terminal"]
        assert f"{name}: step 32 (100%, 0:42 left)" in shown["file"]
    assert "\r" not in shown["file"] and "\x1b" not in shown["file"]
    lines = shown["file"].splitlines()
    assert len(lines) == 2 * 2 and all("bits/byte" in line for line in lines)


def test_two_processes_take_the_same_turns(text, tmp_path):
    command = [sys.executable, "-m", "itera_lite.torchrun", "--nproc-per-node", "2"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    command += ["train", str(text), "--model", "both", "--config", "pico", "--minutes", "0.02"]
    command += ["--batch-size", "2", "--seq-len", "32", "--vocab-size", "300", "--quiet"]
    command += ["--patience", "0"]  # it is the clock that ends them
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("itera_lite_pico", "transformer_pico"):
        made = Summary.read(tmp_path / "results" / f"{name}_summary.json").training
        assert made.processes == 2 and made.stopped == "budget"
        assert made.seconds >= 1.2
