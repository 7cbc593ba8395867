"""Stopping and going on: signals, how a run ended, larger budgets, settings that differ."""

import csv
import gc
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from itera_lite import torchrun
from itera_lite.commands.train import train
from itera_lite.data.prepare import prepare
from itera_lite.errors import CheckpointError, ConfigError, DataError, TrainingError, UsageError
from itera_lite.evaluate.score import Score
from itera_lite.records import BudgetRecord
from itera_lite.train import loop
from itera_lite.train import train as training
from itera_lite.train.loop import Trainer
from itera_lite.train.recipe import fit_to
from itera_lite.train.terminal import SIGNALS, Stopped, StopSignal
from tests.train.small import make_small
from tests.train.test_train import SETTINGS, curve, run, stop_at

pytestmark = pytest.mark.usefixtures("small")
NAME = "itera_lite_tiny"
TIMEOUT = 600  # seconds for a command; a busy machine is slow


@pytest.fixture(scope="module")
def done(text, tmp_path_factory):
    """A finished run."""
    out = tmp_path_factory.mktemp("done")
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        summary = run(text, out)[NAME]
    return out, summary


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signals_save_and_stop(text, tmp_path, monkeypatch, number, code):
    stop_at(monkeypatch, 10, number)
    # `nohup` has SIGHUP ignored, and then the run would ignore it too.
    inherited = signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(Stopped) as stopped:
            run(text, tmp_path)
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, inherited)
    assert stopped.value.exit_code == code
    state = tmp_path / "c" / f"{NAME}-last" / "training_state" / "state.json"
    assert json.loads(state.read_text())["state"]["step"] == 11


def test_sigterm_to_a_real_process_saves_and_tells_its_exit_code(text, tmp_path):
    code = (
        "import os, signal, sys; from itera_lite.train.loop import Trainer; step = Trainer._step\n"
        "def stepping(self):\n"
        "    if self.state.step == 3: os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return step(self)\n"
        "Trainer._step = stepping\n"
        "from itera_lite.cli import main; sys.exit(main())\n"
    )
    options = "--model itera --params 200K --name run --tokens 60K --batch-size 4 --seq-len 32"
    options += " --vocab-size 300 --workers 1 --precision fp32 --quiet"
    done = subprocess.run(
        [sys.executable, "-c", code, "train", str(text), *options.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 143, done.stderr
    assert "itera: stopped" in done.stderr and "Traceback" not in done.stderr
    assert (tmp_path / "checkpoints/run-last/training_state/state.json").is_file()
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_sighup_that_nohup_ignores_stays_ignored(text, tmp_path, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop_at(monkeypatch, 10, signal.SIGHUP)
        assert run(text, tmp_path)[NAME].training.stopped == "budget"
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_terminal_that_goes_away_does_not_end_the_training(text, tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def write(self, text):
            if gone:
                raise OSError(5, "Input/output error")
            return super().write(text)

    gone: list[int] = []
    original = Trainer._step

    def stepping(self):
        gone.extend([1] * (self.state.step == 10))
        return original(self)

    monkeypatch.setattr(Trainer, "_step", stepping)
    monkeypatch.setattr(sys, "stderr", Terminal())
    summary = run(text, tmp_path, quiet=False)[NAME]
    assert gone and summary.training.stopped == "budget"


def test_an_output_that_goes_away_does_not_end_the_training(text, tmp_path, monkeypatch):
    """At the line that is printed on it between steps."""

    class Output(io.StringIO):
        def write(self, text):
            if "workers:" in text:
                refused.append(text)
                raise OSError(5, "Input/output error")
            return super().write(text)

    refused: list[str] = []
    monkeypatch.setattr(loop.WorkerChoice, "end", lambda self, seconds: True)
    monkeypatch.setattr(sys, "stdout", Output())
    summary = run(text, tmp_path, quiet=False, tokens="2K")[NAME]
    assert len(refused) == summary.training.steps and summary.training.stopped == "budget"


def test_ctrl_c_in_the_last_evaluation_stops_the_command(text, tmp_path, monkeypatch, done):
    """It was lost. The other model, which has just as little to go, is saved as well."""
    scoring = loop.score_part

    def score(*arguments):
        if "run" not in seen:
            seen.add("run")
            os.kill(os.getpid(), signal.SIGINT)
        return scoring(*arguments)

    seen: set[str] = set()
    monkeypatch.setattr(loop, "score_part", score)
    with pytest.raises(Stopped):
        run(text, tmp_path, model="both", evaluations=1)
    assert (tmp_path / "c" / "transformer_tiny-last" / "training_state").is_dir()
    summaries = run(text, tmp_path, model="both", evaluations=1, resume=True)
    assert set(summaries) == {NAME, "transformer_tiny"}
    assert summaries[NAME].valid == done[1].valid
    assert summaries[NAME].expert_load == done[1].expert_load != []


def test_ctrl_c_in_the_final_scoring_loses_nothing(text, tmp_path, monkeypatch, done):
    scoring = training.score_documents

    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "score_documents", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(text, tmp_path)
    monkeypatch.setattr(training, "score_documents", scoring)
    summary = run(text, tmp_path, resume=True)[NAME]
    for key in ("valid", "expert_load", "best", "samples"):
        assert getattr(summary, key) == getattr(done[1], key)


def test_a_model_that_was_not_begun_begins_when_the_pair_is_resumed(
    text, tmp_path, monkeypatch, capsys
):
    stop_at(monkeypatch, 10, of=NAME)
    with pytest.raises(Stopped):
        run(text, tmp_path, model="itera")
    summaries = run(text, tmp_path, model="both", resume=True)
    assert set(summaries) == {NAME, "transformer_tiny"}
    assert "transformer_tiny: nothing is saved yet, so it begins anew" in capsys.readouterr().out


def test_a_stop_leaves_the_model_that_is_finished_as_it_is(text, tmp_path, monkeypatch):
    run(text, tmp_path, model="itera")
    summary = tmp_path / "r" / f"{NAME}_summary.json"
    before = summary.read_bytes(), summary.stat().st_mtime_ns
    stop_at(monkeypatch, 10, of="transformer_tiny")
    with pytest.raises(Stopped):
        run(text, tmp_path, model="both", resume=True)
    summaries = run(text, tmp_path, model="both", resume=True)
    assert (summary.read_bytes(), summary.stat().st_mtime_ns) == before
    assert summaries["transformer_tiny"].training.steps == summaries[NAME].training.steps


def scores_that_worsen(monkeypatch) -> None:
    values = iter([3.0, 2.0, 1.0, *(2.0 + i for i in range(40))])
    monkeypatch.setattr(
        loop, "stream_bits", lambda *_, **__: Score(next(values) * 100, tokens=100, bytes=100)
    )


def test_a_run_that_stopped_early_has_ended(text, tmp_path, monkeypatch, capsys):
    scores_that_worsen(monkeypatch)
    first = run(text, tmp_path, patience=2, tokens="20K")[NAME]
    again = run(text, tmp_path, patience=2, tokens="20K", resume=True, quiet=False)[NAME]
    assert again == first and first.training.stopped == "early"
    assert "is finished (it stopped early" in capsys.readouterr().out
    longer = run(text, tmp_path, patience=0, tokens="30K", resume=True)[NAME]
    assert longer.training.stopped == "budget"
    assert longer.training.tokens >= 30_000


def test_a_larger_budget_goes_on_with_a_finished_run(text, tmp_path):
    first = run(text, tmp_path)[NAME]
    longer = run(text, tmp_path, tokens="16K", resume=True)[NAME]
    assert longer.training.tokens == pytest.approx(2 * first.training.tokens, abs=128)
    assert longer.training.budget == BudgetRecord("tokens", 16_000)
    assert len(longer.samples) > len(first.samples)
    assert longer.training.minutes_wall > first.training.minutes_wall
    steps = [int(row["step"]) for row in curve(tmp_path)]
    assert steps == sorted(set(steps))


def test_a_run_in_minutes_goes_on_by_epochs(text, tmp_path):
    """The README has this sequence."""
    first = run(text, tmp_path, tokens=None, minutes=0.01)[NAME]
    more = 1.0 + first.training.epochs
    longer = run(text, tmp_path, tokens=None, epochs=more, resume=True)[NAME]
    assert longer.training.epochs == pytest.approx(more, abs=0.1)


def test_a_budget_that_is_used_already_is_refused(text, tmp_path):
    run(text, tmp_path)
    with pytest.raises(CheckpointError, match=r"was trained for 8,\d+ tokens in .*give more"):
        run(text, tmp_path, tokens="4K", resume=True)


def go_on(text, out, **options):
    """Resume a run, with none of its settings given."""
    folders = {"checkpoints": out / "c", "results": out / "r"}
    return train(str(text), model="itera", resume=True, quiet=True, workers=1, **folders, **options)


def test_what_is_not_given_is_taken_from_the_run(text, tmp_path, monkeypatch, done):
    stop_at(monkeypatch, 10)
    with pytest.raises(Stopped):
        run(text, tmp_path)
    assert go_on(text, tmp_path)[NAME].valid == done[1].valid
    assert curve(tmp_path) == curve(done[0])


def test_size_tokenizer_and_scoring_that_are_not_given_are_taken_from_the_run(
    text, tmp_path, monkeypatch
):
    prepare(str(text), vocab_size=280, quiet=True).tokenizer.save(tmp_path)
    own = {"vocab_size": None, "tokenizer": tmp_path / "tokenizer.json", "pattern": "mma"}
    own |= {"evaluations": 4, "patience": 1, "name": "own"}
    whole = run(text, tmp_path / "whole", **own)["own"]
    stop_at(monkeypatch, 10)
    with pytest.raises(Stopped):
        run(text, tmp_path, **own)
    monkeypatch.undo()
    make_small(monkeypatch)
    again = go_on(text, tmp_path, name="own")["own"]
    assert again.model.config.pattern == "mma"
    assert again.valid == whole.valid
    assert curve(tmp_path, "own") == curve(tmp_path / "whole", "own")
    scoring = json.loads((tmp_path / "c/own-last/training_state/state.json").read_text())["scoring"]
    assert scoring == {"patience": 1, "evaluations": 4}


def test_a_number_of_parameters_is_fitted_to_the_tokenizer_of_the_run(text, tmp_path):
    """With the usual vocabulary every model is larger."""
    own = prepare(str(text), vocab_size=280, quiet=True).tokenizer.save(tmp_path / "own")
    options = {"params": "60K", "name": "small", "vocab_size": None}
    first = run(text, tmp_path, tokens="1K", tokenizer=own, **options)["small"]
    longer = run(text, tmp_path, tokens="2K", resume=True, **options)["small"]
    assert longer.model.config == first.model.config


def test_another_size_than_that_of_the_run_is_named(text, done):
    with pytest.raises(CheckpointError, match="pattern ma, now mma"):
        run(text, done[0], resume=True, pattern="mma")


def test_a_reference_goes_on_with_its_general_tokenizer(text, tmp_path, monkeypatch):
    """Its vocabulary is larger than the text alone supports."""
    asked = []

    def general(data, size, quiet, unit):
        asked.append(size)
        return prepare(data, vocab_size=300, quiet=quiet, unit=unit)

    monkeypatch.setattr(training, "prepare_general", general)
    monkeypatch.setattr(training, "REFERENCE_VOCABULARY", 300)
    options = {"model": "both", "config": "reference_small", "vocab_size": None, "batch_size": 1}
    run(text, tmp_path, tokens="32", **options)
    run(text, tmp_path, tokens="64", resume=True, **options)
    assert asked == [300]


def test_the_seed_is_taken_from_the_run(text, tmp_path, monkeypatch):
    stop_at(monkeypatch, 2)
    with pytest.raises(Stopped):
        run(text, tmp_path, seed=5)
    monkeypatch.undo()
    make_small(monkeypatch)
    assert run(text, tmp_path, resume=True)[NAME].model.seed == 5


def test_a_run_that_is_evaluated_less_often_later_is_still_evaluated(text, tmp_path):
    run(text, tmp_path, evaluations=20)
    run(text, tmp_path, resume=True, evaluations=4, tokens="24K")
    steps = [int(row["step"]) for row in curve(tmp_path) if row["valid_bpb"]]
    assert sum(step > 63 for step in steps) >= 2


def test_a_best_model_that_is_gone_is_made_again_or_named(text, done, tmp_path):
    shutil.copytree(done[0], tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "c" / NAME)
    with pytest.raises(CheckpointError, match="isn't there any more"):
        run(text, tmp_path / "copy", resume=True)
    run(text, tmp_path / "copy", resume=True, tokens="12K")
    assert (tmp_path / "copy" / "c" / NAME / "config.json").is_file()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"batch_size": 2}, "batch size 4, now 2"),
        ({"seed": 3}, "seed 0, now 3"),
        ({"vocab_size": 290}, "the tokenizer changed"),
        ({"precision": "bf16"}, "precision fp32, now bf16"),
    ],
)
def test_other_settings_are_named_in_words(text, done, overrides, words):
    with pytest.raises(CheckpointError, match=words):
        run(text, done[0], resume=True, **overrides)


def test_another_text_is_named(text, done, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(text, other)
    (other / "0.txt").write_text("another text stands here now")
    with pytest.raises(CheckpointError, match="the text changed"):
        run(other, done[0], resume=True)


def test_a_second_training_of_a_name_is_refused_before_the_text_is_read(text, done):
    before = (done[0] / "c" / NAME / "model.safetensors").read_bytes()
    with pytest.raises(UsageError, match="--overwrite replaces it"):
        run(Path("there/is/none"), done[0])
    assert (done[0] / "c" / NAME / "model.safetensors").read_bytes() == before


def test_the_texts_that_are_trained_on_are_never_replaced(text, tmp_path):
    texts = tmp_path / "my_texts"
    shutil.copytree(text, texts)
    before = {path.name: path.read_bytes() for path in texts.iterdir()}
    for options in ({"name": "my_texts"}, {"name": "../my_texts"}, {"name": "."}):
        with pytest.raises(UsageError, match=r"name"):
            train(
                str(texts),
                model="itera",
                checkpoints=tmp_path,
                results=tmp_path / "r",
                **SETTINGS | options,
            )
    assert {path.name: path.read_bytes() for path in texts.iterdir()} == before


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        "null",
        '{"state": {}}',
        '{"identity": {"budget": {"unit": 1}}}',
        "[" * 20_000,
    ],
)
def test_a_damaged_or_foreign_training_state_is_named(text, done, tmp_path, content):
    shutil.copytree(done[0], tmp_path / "copy")
    folder = tmp_path / "copy" / "c" / f"{NAME}-last" / "training_state"
    (folder / "state.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"training_state.*can't be used|damaged"):
        run(text, tmp_path / "copy", resume=True)


def test_damaged_parts_of_a_training_state_are_named(text, done, tmp_path):
    shutil.copytree(done[0], tmp_path / "copy")
    path = tmp_path / "copy" / "c" / f"{NAME}-last" / "training_state" / "state.json"
    whole = json.loads(path.read_text())
    del whole["sha256"]
    for part, value in (
        ("state", {"unknown": 1}),
        ("loader", {}),
        ("window", {"load": [1]}),
        ("state", None),
    ):
        path.write_text(json.dumps(whole | {part: value}))
        with pytest.raises(
            (CheckpointError, DataError), match=r"can't be used|position|is damaged"
        ):
            run(text, tmp_path / "copy", resume=True, tokens="16K")


def test_a_loss_that_is_not_finite_stops_before_the_update(text, tmp_path, monkeypatch):
    """The last good checkpoint is kept, and the message names the step."""
    original = Trainer._step

    def stepping(self):
        if self.state.step == 45:
            with torch.no_grad():
                self.model.embedding.weight[0, 0] = float("nan")
        return original(self)

    monkeypatch.setattr(Trainer, "_step", stepping)
    with pytest.raises(TrainingError, match=r"loss is nan at step 46.*has the model of step"):
        run(text, tmp_path, evaluations=4, tokens="16K")
    monkeypatch.setattr(Trainer, "_step", original)
    summary = run(text, tmp_path, evaluations=4, tokens="16K", resume=True)[NAME]
    assert summary.valid.bpb < 8


def test_a_gradient_that_is_not_finite_changes_no_weight(text, tmp_path, monkeypatch):
    from itera_lite.train.step import BatchGradient

    seen = {}
    original = BatchGradient._part

    def infinite(self, *arguments):
        part = original(self, *arguments)
        if "before" not in seen:
            seen["after"] = list(self.model.parameters())
            seen["before"] = [p.detach().clone() for p in seen["after"]]
            part.gradients[0][0] = float("inf")
        return part

    monkeypatch.setattr(BatchGradient, "_part", infinite)
    with pytest.raises(TrainingError, match=r"norm of the gradient is .* at step 1"):
        run(text, tmp_path)
    assert all(map(torch.equal, seen["before"], seen["after"]))


@pytest.mark.parametrize(
    ("overrides", "error", "words"),
    [
        ({"weight_decay": float("nan")}, ConfigError, "weight_decay=nan"),
        ({"lr_matrix": float("inf")}, ConfigError, "lr_matrix=inf"),
        ({"lr_other": float("nan")}, ConfigError, "lr_other=nan"),
        ({"tokens": None, "epochs": float("inf")}, UsageError, "inf: expected"),
        ({"tokens": None, "epochs": 1e300}, UsageError, "--epochs 1e\\+300: .* at most 1,000,000"),
        ({"tokens": None, "minutes": float("inf")}, UsageError, "inf: expected"),
        ({"tokens": None, "minutes": float("nan")}, UsageError, "nan: expected"),
        ({"tokens": "inf"}, UsageError, "inf: expected"),
        ({"workers": -1}, UsageError, "workers"),
        ({"workers": 0}, UsageError, "workers"),
        ({"patience": -1}, UsageError, "--patience -1"),
        ({"seed": -1}, (ConfigError, UsageError), "seed"),
        ({"seed": 2**80}, (ConfigError, UsageError), "seed"),
        ({"seq_len": 10**6}, UsageError, "reads at most"),
        ({"seq_len": 1}, ConfigError, "seq_len=1"),
        ({"seq_len": 0}, UsageError, "--seq-len 0: expected"),
        ({"seq_len": -(10**9)}, UsageError, "--seq-len -1000000000: expected"),
        ({"vocab_size": 0}, UsageError, "vocab_size=0: expected 256"),
        ({"params": "1B"}, ConfigError, "nearest itera model"),
    ],
)
def test_every_number_is_checked_before_the_text_is_prepared(tmp_path, overrides, error, words):
    with pytest.raises(error, match=words):
        run(Path("there/is/none"), tmp_path, **overrides)
    assert not list(tmp_path.rglob("*"))


def test_parameters_are_fitted_with_the_pattern():
    """`--params 3M --pattern mmam`, the README's own example, gave 4.03 M."""
    from itera_lite.model.cost import cost

    for pattern in ("mmam", "mmammmam", "a"):
        shape = fit_to("itera", 3e6, 2048, pattern)
        assert shape.pattern == pattern
        assert 2.4e6 < cost(shape).params_total <= 3e6


def test_a_caller_from_python_finds_its_process_as_it_was(text, tmp_path):
    torch.set_num_threads(2)
    frozen = gc.get_freeze_count()
    try:
        run(text, tmp_path, tokens="2K")
        assert torch.get_num_threads() == 2
        assert gc.get_freeze_count() == frozen
    finally:
        torch.set_num_threads(1)


def launch(data: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    """Two processes that train, with a port that the system picks."""
    command = [sys.executable, "-m", "itera_lite.torchrun", "--nproc-per-node", "2"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    command += ["train", str(data), "--model", "itera", "--params", "200K", "--name", "run"]
    command += ["--seq-len", "32", "--vocab-size", "300", *options]
    return subprocess.Popen(
        command, cwd=out, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def test_a_mistake_under_torchrun_is_one_message_at_the_end(text, tmp_path):
    for data, options, code, words in (
        (Path("no_such_set"), ("--tokens", "6K"), 1, "there is no such file"),
        (text, ("--tokens", "6K", "--batch-size", "3"), 1, "can't be shared by 2 processes"),
        (text, ("--tokens", "x"), 2, "expected a number"),
    ):
        process = launch(data, tmp_path, "--quiet", *options)
        _, said = process.communicate(timeout=TIMEOUT)
        assert process.returncode == code, said
        *_, last = said.partition("itera: error: ")
        assert words in last and len(last.strip().splitlines()) <= 2, said
        assert said.count("itera: error") == 1
        assert "Traceback" not in said


@pytest.mark.parametrize("code", [-signal.SIGTERM, 128 + signal.SIGTERM])
def test_a_process_that_torchrun_stopped_is_not_the_reason(code, tmp_path, monkeypatch, capsys):
    """Both ended in the same second."""
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    torchrun.tell_launcher("itera: error: there is no such file", 1)
    stopped = ProcessFailure(0, 70, code, str(tmp_path / "none.json"))
    failed = ProcessFailure(1, 71, 1, str(tmp_path / "error.json"))
    stopped.timestamp = failed.timestamp
    assert torchrun._report(ChildFailedError("train", {0: stopped, 1: failed})) == 1
    assert capsys.readouterr().err == "itera: error: process 1: there is no such file\n"
    assert torchrun._report(ChildFailedError("train", {0: stopped})) == 128 + signal.SIGTERM


@pytest.mark.parametrize("code", [1, -signal.SIGTERM, -signal.SIGKILL])
def test_what_a_process_wrote_is_the_reason_however_it_ended(code, tmp_path, monkeypatch, capsys):
    """Torchrun stopped it while it ended: another process had noticed the lost connection."""
    files = [str(tmp_path / f"{rank}.json") for rank in range(2)]
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", files[0])
    torchrun.tell_launcher("itera: error: the connection was lost", 1, consequence=True)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", files[1])
    torchrun.tell_launcher("itera: error: there is no such file", 3)
    lost = ProcessFailure(0, 70, 1, files[0])
    failed = ProcessFailure(1, 71, code, files[1])
    failed.timestamp = lost.timestamp + 1
    assert torchrun._report(ChildFailedError("train", {0: lost, 1: failed})) == 3
    assert capsys.readouterr().err == "itera: error: process 1: there is no such file\n"


def test_ctrl_c_under_torchrun_saves_and_says_so_once(text, tmp_path):
    process = launch(
        text, tmp_path, "--tokens", "20M", "--batch-size", "4", "--evaluations", "9999"
    )
    state = tmp_path / "checkpoints" / "run-last" / "training_state" / "state.json"

    def step() -> int:
        """The step that is saved; 0 also between the two renames of a save."""
        try:
            return int(json.loads(state.read_text())["state"]["step"])
        except FileNotFoundError:
            return 0

    until = time.monotonic() + TIMEOUT
    while not step() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    before = step()
    os.killpg(process.pid, signal.SIGINT)  # both have made steps: both listen to it
    _, said = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130, said
    assert said.count("itera: stopped") == 1 and "Traceback" not in said
    (saved,) = re.findall(r"^run is saved at step (\d+): --resume goes on", said, re.MULTILINE)
    assert step() == int(saved) >= before


def test_a_signal_that_torchrun_passes_on_late_is_ignored(monkeypatch):
    """The process has saved everything then, and is ending."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        for launcher in (False, True):
            if launcher:
                monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
            stop = StopSignal()
            with stop.listening():
                os.kill(os.getpid(), signal.SIGTERM)
            assert stop.number == signal.SIGTERM
            after = {number: signal.getsignal(number) for number in SIGNALS}
            assert after == (dict.fromkeys(SIGNALS, signal.SIG_IGN) if launcher else before)
            with StopSignal().listening():
                pass  # where nothing came, everything is as before
            assert {number: signal.getsignal(number) for number in SIGNALS} == after
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_the_log_is_what_was_trained(done):
    with open(done[0] / "r" / f"{NAME}_metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert int(rows[-1]["step"]) == done[1].training.steps
