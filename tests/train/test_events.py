"""`--log tensorboard`: the events hold what the CSV holds, each step once."""

import csv
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from itera_lite.errors import MissingExtra, UsageError
from itera_lite.train import events
from itera_lite.train.events import TAGS
from itera_lite.train.run_files import RunFiles
from itera_lite.train.terminal import Stopped
from tests.train.test_train import run, stop_at

pytestmark = pytest.mark.usefixtures("small")
tensorboard = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
NAME = "itera_lite_tiny"


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) by tag, as TensorBoard itself reads the files."""
    reader = tensorboard.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    reader.Reload()
    return {
        tag: [(event.step, event.value) for event in reader.Scalars(tag)]
        for tag in reader.Tags()["scalars"]
    }


def check_equal_to_the_csv(out: Path) -> None:
    with open(out / "r" / f"{NAME}_metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    found = scalars(out / "r" / f"{NAME}_tensorboard")
    assert set(found) == set(TAGS.values())
    for column, tag in TAGS.items():
        expected = [(int(row["step"]), float(row[column])) for row in rows if row[column]]
        assert [step for step, _ in found[tag]] == [step for step, _ in expected]
        assert [v for _, v in found[tag]] == pytest.approx([v for _, v in expected], rel=1e-5)


def test_the_events_hold_what_the_csv_holds(text, tmp_path):
    run(text, tmp_path, log="tensorboard")
    check_equal_to_the_csv(tmp_path)


def test_without_the_option_there_are_none(text, tmp_path):
    run(text, tmp_path, tokens="1K")
    assert not (tmp_path / "r" / f"{NAME}_tensorboard").exists()


def test_resume_goes_on_without_doubled_steps(text, tmp_path, monkeypatch):
    """Stopped with everything saved; `--log` needn't be given again."""
    with monkeypatch.context() as patch:
        stop_at(patch, 33)
        with pytest.raises(Stopped):
            run(text, tmp_path, log="tensorboard")
    run(text, tmp_path, resume=True)
    check_equal_to_the_csv(tmp_path)
    assert len(list((tmp_path / "r" / f"{NAME}_tensorboard").iterdir())) == 2


def test_after_sigkill_the_steps_that_werent_saved_are_shown_once(text, tmp_path):
    """The killed process had written events of steps that the resumed one takes again."""
    code = f"""
import os, signal
from pathlib import Path
import pytest
from tests.train.small import make_small
from tests.train.test_train import run
from itera_lite.train.loop import Trainer
make_small(pytest.MonkeyPatch())
original = Trainer._step
def step(self):
    if self.state.step == 50:  # ten steps after a row, none of them saved
        self.events.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self)
Trainer._step = step
run(Path({str(text)!r}), Path({str(tmp_path)!r}), log="tensorboard", evaluations=2)
"""
    root = Path(__file__).parents[2]
    killed = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=600
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    folder = tmp_path / "r" / f"{NAME}_tensorboard"
    before = [step for step, _ in scalars(folder)["loss/train"]]
    run(text, tmp_path, resume=True, evaluations=2)
    check_equal_to_the_csv(tmp_path)
    steps = [step for step, _ in scalars(folder)["loss/train"]]
    assert before and set(before) <= set(steps)
    assert max(Counter(steps).values()) == 1


@pytest.mark.parametrize("later", [0, 3600])
def test_files_of_the_same_second_and_of_a_clock_set_back_are_read_first(tmp_path, later):
    row = dict.fromkeys(TAGS, 1.0)
    for steps in ((20, 40, 60), (40, 50), (50, 70)):
        new = events.Events(tmp_path)
        new.replace_after(steps[0] - 1)
        for step in steps:
            new.add(row | {"step": step})
        new.close()
        file = max(tmp_path.iterdir())
        _, _, rest = file.name.removeprefix(events.PREFIX).partition(".")
        stamp = int(time.time()) + later
        file.rename(tmp_path / f"{events.PREFIX}{stamp:010d}.z{rest}")
    assert [step for step, _ in scalars(tmp_path)["loss/train"]] == [20, 40, 50, 70]


def test_overwrite_removes_them_and_nothing_else(text, tmp_path):
    run(text, tmp_path, tokens="1K", log="tensorboard")
    folder = tmp_path / "r" / f"{NAME}_tensorboard"
    (old,) = folder.iterdir()
    (folder / "notes.txt").write_text("mine")
    run(text, tmp_path, tokens="1K", overwrite=True)
    assert not old.exists() and (folder / "notes.txt").read_text() == "mine"


def test_a_name_that_is_taken(tmp_path):
    files = RunFiles("mine", tmp_path / "c", tmp_path / "r")
    files.events.mkdir(parents=True)
    with pytest.raises(UsageError, match="is the result of another run"), files.claimed():
        pass
    files.events.rmdir()
    files.events.write_text("text")
    with pytest.raises(UsageError, match="is no folder"), files.claimed(overwrite=True):
        pass


def test_without_the_package_the_extra_is_named(text, tmp_path, monkeypatch):
    monkeypatch.setattr(events.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"itera-lite\[tensorboard\]"):
        run(text, tmp_path, log="tensorboard")
    assert not (tmp_path / "c").exists()
