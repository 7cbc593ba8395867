"""Commands survive kills at chosen moments; and the search for faults finds one that is planted.

`make faults` kills a hundred times; this is a part of it.
"""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from itera_lite.files import write_text
from tests.faults.kills import Result, Verb, _Child, table, try_verb
from tests.faults.moments import Counts, Moment, arm

ROOT = Path(__file__).parents[2]
TEXT = "".join(f"line {number}\n" for number in range(2000))


def test_killed_commands_go_on_and_end_as_if_nobody_had(tmp_path: Path) -> None:
    """In a process of its own: it forks, which PyTorch's threads in this one don't outlive."""
    command = [sys.executable, "-m", "tests.faults", "--kills", "12", "--seed", "1"]
    verbs = "train,data (large),export,score,score (folder),quantize q4_0 (qat)"
    done = subprocess.run(
        [*command, "--verbs", verbs, "--keep", str(tmp_path / "faults")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    (total,) = re.findall(r"^all +(\d+)", done.stdout, re.MULTILINE)
    assert int(total) >= 10, done.stdout


def _torn(arguments: list[str]) -> int:
    """Writes a file in place, in two parts, and later takes a half-written file for whole."""
    path = Path("result.txt")
    if path.exists():
        return 0
    with open(path, "w", buffering=1) as file:
        file.write(TEXT[:5000])
        file.flush()
        Path("mark").write_text("")  # a change of files between the two parts
        file.write(TEXT[5000:])
    return 0


def _whole(arguments: list[str]) -> int:
    write_text("result.txt", TEXT)
    Path("mark").write_text("")
    return 0


def _deaf(arguments: list[str]) -> int:
    """Fails without a reason when it is started a second time."""
    if Path("result.txt").exists():
        print("something is wrong")
        return 3
    return _whole(arguments)


def _messy(arguments: list[str]) -> int:
    """Leaves a temporary file behind when it is killed."""
    mine = Path(f".{os.getpid()}.tmp")
    mine.write_text(TEXT)
    mine.replace("result.txt")
    return 0


def snapshot(work: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in work.iterdir()}


def problems(work: Path) -> list[str]:
    path = work / "result.txt"
    return ["it is cut off"] if path.exists() and path.read_text() != TEXT else []


def _slow_once(arguments: list[str]) -> int:
    """Takes long the first time, as on a machine that is busy then."""
    if not (once := Path(arguments[0])).exists():
        once.touch()
        time.sleep(2)
    time.sleep(0.01)
    return _whole(arguments)


def _starts_another(arguments: list[str]) -> int:
    """Is killed beside a process of its own that writes on."""
    if Path("numbers").exists():
        return 0
    begun, tell = os.pipe()
    if not os.fork():
        for number in range(10**9):
            Path("numbers").write_text(str(number))
            if not number:
                os.close(tell)
    os.close(tell)
    os.read(begun, 1)
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def test_a_time_that_comes_after_the_end_is_taken_sooner(tmp_path: Path) -> None:
    verb = Verb("slow", _slow_once, (str(tmp_path / "once"),), snapshot, problems, ())
    again = replace(verb, again=verb.arguments)
    with pytest.MonkeyPatch.context() as patch:
        moments = [Moment("time", seconds) for seconds in (0.5, 1.0, 2.0)]
        patch.setattr(Counts, "moments", lambda *_: moments)
        result = try_verb(again, 3, 0, tmp_path, lambda _: None)
    assert (result.kills["time"], result.ended, result.findings) == (3, 0, [])


def test_what_a_killed_command_has_started_changes_nothing_afterwards(tmp_path: Path) -> None:
    child = _Child(
        Verb("two", _starts_another, (), snapshot, problems, ()), (), tmp_path / "1", None
    )
    assert child.wait() == -signal.SIGKILL
    before = (tmp_path / "1" / "work" / "numbers").read_bytes()
    time.sleep(0.05)  # in which it would write
    assert (tmp_path / "1" / "work" / "numbers").read_bytes() == before


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (_whole, None),
        (_torn, "it is cut off"),
        (_deaf, "started again it ends with 3: something is wrong"),
        (_messy, "is left over at the end"),
    ],
)
def test_a_planted_fault_is_found(run, words: str | None, tmp_path: Path) -> None:
    verb = Verb("planted", run, (), snapshot, problems, ())
    said: list[str] = []
    result = try_verb(verb, 12, 3, tmp_path, said.append)
    assert sum(result.kills.values()) >= 8, said
    if words is None:
        assert result.findings == [], result.findings
    else:
        assert any(words in finding for finding in result.findings), said


def test_a_file_is_cut_off_where_it_is_said(tmp_path: Path) -> None:
    """The system ends the process in the middle of a write."""
    process = os.fork()
    if not process:
        arm(Moment("cut", 1, 1234), tmp_path, [], [])
        with open(tmp_path / "file", "wb", buffering=0) as file:
            left = memoryview(bytes(10_000))
            while left:
                left = left[file.write(left) :]
        os._exit(0)
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == -25  # SIGXFSZ
    assert (tmp_path / "file").stat().st_size == 1234


def test_moments_follow_from_the_seed_and_take_each_event_once() -> None:
    counts = Counts([f"open {i}" for i in range(30)], 9, 2.0)
    moments = counts.moments(40, Random(5))
    assert moments == counts.moments(40, Random(5)) != counts.moments(40, Random(6))
    events = [moment.number for moment in moments if moment.kind == "event"]
    assert len(events) == len(set(events)) == 24
    assert {moment.kind for moment in moments} == {"event", "sync", "cut", "time"}


def test_the_table_adds_up() -> None:
    results = [Result("a", {"event": 2, "time": 1}, 1), Result("b", {"cut": 4}, findings=["x"])]
    rows = [line.split() for line in table(results).splitlines()]
    assert rows[-1] == ["all", "7", "2", "0", "4", "1", "1", "1"]
    assert rows[1] == ["a", "3", "2", "0", "0", "1", "1", "0"]
