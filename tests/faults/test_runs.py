"""Two runs at once, a clock that jumps, losses that diverge, too little memory."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from itera_lite import locks, ops
from itera_lite.config import preset
from itera_lite.errors import IteraWarning, OutputError, TrainingError, UsageError
from itera_lite.files import has_ended, started_at, write_text
from itera_lite.locks import is_locked, locked
from itera_lite.machine import memory as machine
from itera_lite.machine import processor
from itera_lite.machine.memory import Memory, memory
from itera_lite.train import loop
from itera_lite.train.loop import Trainer
from itera_lite.train.memory import MemoryNeed, check_memory, estimate
from itera_lite.train.recipe import Budget, train_config
from itera_lite.train.run_files import RunFiles
from tests.train.conftest import text
from tests.train.small import make_small
from tests.train.test_train import curve, run

__all__ = ["text"]

NAME = "itera_lite_tiny"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch)


# --- Two runs in one folder


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without locks, as some network drives are."""

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    flags = {"LOCK_SH": 1, "LOCK_EX": 2, "LOCK_NB": 4}
    monkeypatch.setattr(locks, "fcntl", SimpleNamespace(flock=flock, **flags))


def test_two_runs_exclude_each_other_where_there_is_no_flock(tmp_path, no_flock) -> None:
    path = tmp_path / ".mine.lock"
    with locked(path, "the name 'mine'"):
        assert is_locked(path)
        with (
            pytest.raises(UsageError, match=rf"'mine' is in use by process {os.getpid()} on"),
            locked(path, "the name 'mine'"),
        ):
            pass
        assert is_locked(path), "who was refused changes nothing"
    assert not is_locked(path) and list(tmp_path.iterdir()) == []


def dead_process() -> int:
    """The number of a process that has ended and was waited for."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def owner(**facts: object) -> str:
    mine = json.loads(locks._owner().splitlines()[1])
    return f"process X on Y (itera train), since Z\n{json.dumps({**mine, **facts})}\n"


@pytest.mark.parametrize("facts", [{"pid": 0}, {"start": "1"}], ids=["ended", "number used again"])
def test_the_lock_of_a_dead_process_is_taken_over(tmp_path, no_flock, facts) -> None:
    if facts == {"pid": 0}:
        facts = {"pid": dead_process(), "start": None}
    path = tmp_path / ".mine.lock"
    write_text(path, "")
    write_text(tmp_path / ".mine.lock.owner", owner(**facts))
    assert not is_locked(path)
    with locked(path, "the name 'mine'"):
        assert str(os.getpid()) in (tmp_path / ".mine.lock.owner").read_text()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "x", "x\n{}", "x\n[1]", 'x\n{"space": 1, "pid": "a"}'])
def test_a_lock_of_another_machine_is_left_alone(tmp_path, no_flock, text) -> None:
    """And so is one that can't be read: the message names the file to remove."""
    guard = tmp_path / ".mine.lock.owner"
    write_text(guard, text if text else owner(space="elsewhere/1", pid=dead_process()))
    with (
        pytest.raises(UsageError, match=rf"is in use by .*, remove '{guard}'"),
        locked(tmp_path / ".mine.lock", "the name 'mine'"),
    ):
        pass
    assert guard.exists()


def test_a_command_that_isnt_utf8_holds_a_lock_where_there_is_no_flock(
    tmp_path, no_flock, monkeypatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["itera", "train", os.fsdecode(b"caf\xe9")])
    path = tmp_path / ".mine.lock"
    with locked(path, "the name 'mine'"):
        assert is_locked(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["write", "close"])
def test_a_full_disk_leaves_no_lock_where_there_is_no_flock(
    tmp_path, no_flock, monkeypatch, call
) -> None:
    """A network drive may say so only when the file is closed."""
    path, guard = tmp_path / ".mine.lock", tmp_path / ".mine.lock.owner"
    real = getattr(os, call)

    def full(*arguments: object) -> object:
        done = real(*arguments)
        if guard.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return done

    with (
        monkeypatch.context() as patch,
        pytest.raises(OutputError, match=f"'{path}' can't be written: No space left"),
    ):
        patch.setattr(os, call, full)
        with locked(path, "the name 'mine'"):
            pass
    assert not guard.exists() and not is_locked(path)
    with locked(path, "the name 'mine'"):
        assert is_locked(path)


def test_who_looks_at_a_lock_is_not_taken_for_its_holder(tmp_path) -> None:
    path = tmp_path / ".mine.lock"
    write_text(path, "")
    with open(path, "rb") as other:
        fcntl.flock(other, fcntl.LOCK_SH)  # as `is_locked` does
        assert not is_locked(path)
        fcntl.flock(other, fcntl.LOCK_EX)
        assert is_locked(path)


def test_with_flock_the_lock_of_a_killed_process_is_free(tmp_path) -> None:
    """Whatever stands in it: the system has given it back."""
    path = tmp_path / ".mine.lock"
    write_text(path, owner(pid=os.getppid(), space="elsewhere/1"))
    assert not is_locked(path)
    with locked(path, "the name 'mine'"):
        assert is_locked(path)


def test_a_process_is_known_by_its_start(tmp_path) -> None:
    mine = os.getpid()
    assert not has_ended(mine) and not has_ended(mine, started_at(mine))
    assert has_ended(mine, "1") and has_ended(dead_process())


def test_runs_of_one_name_with_other_checkpoints_dont_share_results(tmp_path) -> None:
    """Both would write RESULTS/mine_summary.json."""
    one = RunFiles("mine", tmp_path / "a", tmp_path / "r")
    two = RunFiles("mine", tmp_path / "b", tmp_path / "r")
    with (
        one.claimed(),
        pytest.raises(UsageError, match="the name 'mine' is in use by process"),
        two.claimed(),
    ):
        pass
    with two.claimed():
        pass
    same = RunFiles("mine", tmp_path / "r", tmp_path / "r")
    with same.claimed():  # its two locks are one
        pass
    assert not list(tmp_path.rglob(".*.lock"))


def test_what_a_killed_process_left_of_a_file_goes_with_the_next_write(tmp_path) -> None:
    """What another process is writing, or left of another file, stays."""
    code = (
        "import os, signal, sys; from pathlib import Path; from itera_lite.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    for name in ("a.json", "b.json"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=False)
    left = {path.name for path in tmp_path.iterdir()}
    assert len(left) == 2
    write_text(tmp_path / "a.json", "whole")
    kept = {path.name for path in tmp_path.iterdir()} - {"a.json"}
    assert len(kept) == 1 and kept < left
    write_text(tmp_path / "b.json", "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", "b.json"}


# --- A clock that jumps


@pytest.mark.usefixtures("small")
def test_a_clock_that_jumps_back_changes_nothing(text, tmp_path, monkeypatch) -> None:
    """The date; the clocks that training measures with can't be set."""
    run(text, tmp_path / "steady", tokens="5K")
    now, calls = time.time(), iter(range(10**9))
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: now - 86_400.0 * next(calls))
        run(text, tmp_path / "jumping", tokens="5K")
    assert curve(tmp_path / "jumping") == curve(tmp_path / "steady")
    weights = f"c/{NAME}/model.safetensors"
    files = [(tmp_path / name / weights).read_bytes() for name in ("steady", "jumping")]
    assert files[0] == files[1]


# --- Losses


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_stops_before_the_update(text, tmp_path, monkeypatch, what) -> None:
    """The last good model and state are kept; the step and what to do are named."""
    seen: list[dict[str, torch.Tensor]] = []
    real = loop.BatchGradient.__call__

    def broken(self, tokens, positions, step):
        losses = real(self, tokens, positions, step)
        if step < 45:
            return losses
        seen.append({k: v.clone() for k, v in self.model.state_dict().items()})
        trainers.append(self.model)
        nan = float("nan")
        return losses._replace(**({"total": nan} if what == "loss" else {"norm": nan}))

    trainers: list[torch.nn.Module] = []
    monkeypatch.setattr(loop.BatchGradient, "__call__", broken)
    with pytest.raises(TrainingError, match=r"is nan at step 46, .*Train anew with lower") as told:
        run(text, tmp_path, evaluations=10)
    assert f"{NAME}' has the model of step" in str(told.value)
    (before,) = seen
    after = trainers[0].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    state = json.loads(
        (tmp_path / "c" / f"{NAME}-last" / "training_state" / "state.json").read_text()
    )
    assert 0 < state["state"]["step"] < 46 and (tmp_path / "c" / NAME / "config.json").exists()


@pytest.mark.usefixtures("small")
def test_a_diverging_training_stops_and_the_best_model_stays(text, tmp_path, monkeypatch) -> None:
    """Its learning rates are turned up after it has learned."""
    real = Trainer._step

    def stepping(self):
        if self.state.step == 45:
            for parameter in self.model.parameters():
                parameter.data *= -30
        return real(self)

    monkeypatch.setattr(Trainer, "_step", stepping)
    with pytest.raises(TrainingError, match=r"the training diverges: the mean loss of the last 20"):
        run(text, tmp_path, tokens="20K", evaluations=10)
    state = json.loads(
        (tmp_path / "c" / f"{NAME}-last" / "training_state" / "state.json").read_text()
    )
    assert state["state"]["step"] <= 45 and state["state"]["best"]["bpb"] < 8


def test_only_a_loss_above_any_guess_is_divergence() -> None:
    """By the nats of a vocabulary of e^6: a model that has learned, and one that hasn't yet."""

    def diverges(losses: list[float], rows: list[float]) -> bool:
        trainer = object.__new__(Trainer)
        trainer.window = SimpleNamespace(steps=19, loss=sum(losses[:19]))
        trainer.model = SimpleNamespace(config=SimpleNamespace(vocab_size=403))
        trainer.state = SimpleNamespace(
            rows=[{"train_loss": row} for row in rows], best={"bpb": None}, step=19
        )
        trainer.config = train_config(preset("itera", "pico", 403), Budget("tokens", 1e6), {})
        trainer.files = SimpleNamespace(name="x", best="y")
        try:
            trainer._refuse_divergence(losses[19])
        except TrainingError:
            return True
        return False

    assert not diverges([6.9] * 20, [3.0])  # as bad as a guess, and it may come back
    assert diverges([7.1] * 20, [3.0])
    assert not diverges([2.0] * 19 + [90.0], [3.0])  # a single bad batch
    assert not diverges([12.5] * 20, [])  # a bad beginning
    assert diverges([13.5] * 20, [])


# --- Memory


def need(size: str = "tiny", batch: int = 8) -> MemoryNeed:
    shape = preset("itera", size, 2048)
    return MemoryNeed.of(shape, train_config(shape, Budget("tokens", 1e6), {"batch_size": batch}))


def test_too_little_memory_is_a_warning_with_what_to_lower() -> None:
    wanted = estimate([need()], 2)
    with pytest.warns(IteraWarning, match=r"takes about .* GB of memory.*fewer --workers"):
        check_memory([need()], 2, found=Memory(wanted, 10 * wanted))
    with pytest.warns(IteraWarning, match="one --model at a time"):
        check_memory([need(), need()], 1, found=Memory(wanted, 10 * wanted))


@pytest.mark.filterwarnings("error")
def test_enough_memory_and_unknown_memory_say_nothing() -> None:
    check_memory([need()], 2, found=Memory(10**12, 10**12))
    check_memory([need()], 2, found=Memory(None, None))


def test_only_what_can_never_fit_is_refused() -> None:
    least = need().least
    with pytest.raises(TrainingError, match="not enough memory: weights, gradient and optimizer"):
        check_memory([need()], 1, found=Memory(least // 2, least - 1))
    with pytest.warns(IteraWarning):
        check_memory([need()], 1, found=Memory(least // 2, least + 1))


def test_a_sharded_training_is_not_refused_for_what_the_whole_one_takes() -> None:
    shape = preset("itera", "base", 2048)
    config = train_config(shape, Budget("tokens", 1e6), {})
    whole, part = (MemoryNeed.of(shape, config, holders) for holders in (1, 8))
    assert whole.least <= 8 * part.least < whole.least + 100
    assert part.saving == whole.saving
    found = Memory(10**12, 2 * part.least)
    check_memory([part], 1, found=found)
    with pytest.raises(TrainingError, match="not enough memory"):
        check_memory([whole], 1, found=found)


def test_the_memory_of_control_groups_counts(tmp_path, monkeypatch) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 8000 kB\nMemAvailable:    5000 kB\nSwapTotal: 1000 kB\n")
    monkeypatch.setattr(machine, "MEMINFO", meminfo)
    monkeypatch.setattr(processor, "CONTROL_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(processor, "PROCESS_GROUPS", tmp_path / "own")
    assert memory() == Memory(5_120_000, 9_216_000)
    group = tmp_path / "groups" / "a"
    group.mkdir(parents=True)
    (tmp_path / "own").write_text("0::/a/b\n")
    (group / "memory.max").write_text("3000000\n")
    (group / "memory.current").write_text("2500000\n")
    (group / "memory.stat").write_text("anon 1\ninactive_file 500000\n")
    (group / "memory.swap.max").write_text("0\n")
    assert memory() == Memory(1_000_000, 3_000_000)
    (group / "memory.max").write_text("max\n")
    assert memory() == Memory(5_120_000, 9_216_000)
    (tmp_path / "own").write_text("4:memory:/a\n")
    group = tmp_path / "groups" / "memory" / "a"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text("2000000\n")
    (group / "memory.usage_in_bytes").write_text("1500000\n")
    assert memory().free == 500_000


LIMITED = """
import resource, sys
from itera_lite.cli import main
from itera_lite.train import train  # what is imported takes address space too
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]),) * 2)
sys.exit(main(sys.argv[2:]))
"""


def test_memory_that_runs_out_ends_with_a_message(text, tmp_path) -> None:
    """By a limit on this process's addresses; 1 is the exit code."""
    assert ops.enable() is None  # compiled by now: else the limit would be reached in that
    options = "--model itera --config base --tokens 600 --batch-size 1 --seq-len 32 --workers 1"
    options += " --vocab-size 300 --precision fp32 --quiet --evaluations 1"
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, "30000000", "train", str(text), *options.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 1, done.stderr
    assert "not enough memory" in done.stderr and "Traceback" not in done.stderr, done.stderr


MEASURED = """
import sys
from itera_lite.cli import main
from itera_lite.machine.memory import Memory
from itera_lite.train import memory
memory.memory = lambda: Memory(int(sys.argv[1]), 10 * int(sys.argv[1]))
code = main(sys.argv[2:])
# Not ru_maxrss, which begins with the peak of the process that started this one.
print(int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024)
sys.exit(code)
"""


def test_the_estimate_is_near_what_a_training_takes(text, tmp_path) -> None:
    """Where so much memory is free, there is no warning; where less is, there is one."""
    options = "--model itera --config small --tokens 2K --batch-size 8 --seq-len 128 --workers 2"
    options += " --vocab-size 300 --precision fp32 --quiet --evaluations 1"
    shape = preset("itera", "small", 300)
    asked = {"batch_size": 8, "seq_len": 128}
    wanted = estimate([MemoryNeed.of(shape, train_config(shape, Budget("tokens", 2e3), asked))], 2)
    for free, warns in ((4 * wanted, False), (wanted // 2, True)):
        (folder := tmp_path / str(free)).mkdir()
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, str(free), "train", str(text), *options.split()],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=600,
        )
        peak = int(done.stdout.split()[-1])
        assert peak / 1.5 < wanted < 1.5 * peak, (peak, wanted)
        assert ("warning: the training takes about" in done.stderr) == warns, done.stderr
