"""Check the load by other programs, with invented counters and with a program that is busy."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from itera_lite.machine import load
from itera_lite.machine.load import Counters, LoadMeter, LoadTime, busy_note, read_counters
from itera_lite.machine.provenance import Machine, Provenance
from itera_lite.stats.load import Load

TICK = os.sysconf("SC_CLK_TCK")
linux = pytest.mark.skipif(not Path("/proc/stat").exists(), reason="Linux only")


def meter(*readings: Counters | None) -> LoadMeter:
    return LoadMeter(iter(readings).__next__)


def test_what_is_busy_and_not_ours_is_others():
    one = meter(Counters(10, 100, 50), Counters(12, 103, 52), Counters(20, 110, 59))
    assert one.lap() == LoadTime(2, 1)
    second = one.lap()
    assert second == LoadTime(8, 0)
    total = LoadTime(2, 1) + second
    assert (total.seconds, total.by_others) == (10, 0.1)


def test_ticks_that_fall_badly_are_no_load():
    one = meter(Counters(0, 0, 0), Counters(0.1, 0.19, 0.2), Counters(0.2, 0.24, 0.2))
    first, second = one.lap(), one.lap()
    assert first.by_others == 0.0  # never below none
    assert not second.certain.disturbs  # five ticks in a tenth of a second say too little
    assert (first + second).others == pytest.approx(0.04)  # but they add up


def test_nothing_is_claimed_where_nothing_can_be_read():
    one = meter(None, None, Counters(1, 1, 1))
    assert one.lap() == one.lap() == LoadTime()
    assert LoadTime().by_others is LoadTime().load is LoadTime().certain is None
    assert busy_note(meter(None, None)) == ""


@pytest.mark.parametrize(
    ("others", "words"),
    [(0.01, None), (0.2, "differs between the two sides"), (1.2, "withheld while that goes on")],
)
def test_a_busy_machine_is_said_in_one_line(others, words, monkeypatch):
    monkeypatch.setattr(load, "usable_cores", lambda: 2)
    now = time.monotonic() - 1  # more than the half second that it waits for
    note = busy_note(meter(Counters(now, 0, 0), Counters(now + 1, others, 0)))
    assert bool(note) == (words is not None) and "\n" not in note
    if words:
        assert words in note and f"other programs use {others} of 2 cores" in note


def process(root: Path, number: int, times: str, children: str = "") -> None:
    folder = root / str(number)
    (folder / "task" / str(number)).mkdir(parents=True)
    (folder / "task" / str(number) / "children").write_text(children)
    before = f"{number} (a caf\xe9 (with) brackets) S 1 2 3 4 5 6 7 8 9 10"
    (folder / "stat").write_bytes(f"{before} {times} 20 0 1\n".encode("latin-1"))  # no UTF-8


@pytest.fixture
def proc(tmp_path, monkeypatch):
    """A /proc of four cores, of which this process may use two."""
    cores = [f"cpu{core} 100 20 30 4000 500 6 7 80 90 10" for core in range(4)]
    (tmp_path / "stat").write_text("\n".join(["cpu 1 1 1 1 1 1 1 1 1 1", *cores, "intr 5 1"]))
    process(tmp_path, os.getpid(), "1 2 3 4", "71 99 74 ")  # 99 has ended
    process(tmp_path, 71, "10 20 0 0", "72 ")
    process(tmp_path, 72, "100 0 0 0")
    process(tmp_path, 73, "5000 0 0 0")  # somebody else's
    process(tmp_path, 74, "1000 0 0 0")
    monkeypatch.setattr(load, "PROCESSES", tmp_path)
    monkeypatch.setattr(load, "usable_cores", lambda: 2)
    monkeypatch.setattr(os, "sched_getaffinity", {0: {1, 3}}.__getitem__)
    return tmp_path


@linux
def test_our_cores_and_our_processes_are_counted(proc):
    found = read_counters()
    # User, low priority, system, interrupts and stolen time of two cores; no idle, disk or guests.
    assert found.busy == pytest.approx(2 * (100 + 20 + 30 + 6 + 7 + 80) / TICK)
    assert found.own == pytest.approx((1 + 2 + 3 + 4 + 10 + 20 + 100 + 1000) / TICK)


@linux
def test_of_a_quota_it_is_a_part(proc, monkeypatch):
    whole = read_counters()
    monkeypatch.setattr(load, "usable_cores", lambda: 1)
    half = read_counters()
    assert (half.busy, half.own) == (pytest.approx(whole.busy / 2), pytest.approx(whole.own / 2))


@linux
def test_processes_of_one_training_are_all_ours(proc, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    monkeypatch.setattr(os, "getppid", lambda: 71)
    assert read_counters().own == pytest.approx((10 + 20 + 100) / TICK)


@linux
def test_another_system_has_no_counters(proc):
    (proc / "stat").unlink()
    assert read_counters() is None


@linux
@pytest.mark.parametrize("ours", [True, False])
def test_a_busy_program_is_seen_unless_it_is_ours(ours):
    """It ends by itself. How much of a core it gets depends on the machine; what it got counts."""
    code = "import time\nwhile time.process_time() < 0.5: pass"
    before, one = read_counters(), LoadMeter(read_counters)
    if ours:
        subprocess.run([sys.executable, "-S", "-c", code], check=True)
        assert read_counters().own - before.own > 0.4
    else:
        shell = '"$0" -S -c "$1" & echo $!'  # whose parent has ended is nobody's child of ours
        words = ["sh", "-c", shell, sys.executable, code]
        found = subprocess.run(words, capture_output=True, check=True, text=True, timeout=600)
        assert found.stdout.strip().isdigit()
        assert one.lap().others > 0.4
        assert read_counters().own - before.own < 0.4


@linux
def test_a_child_that_still_runs_is_ours():
    before = read_counters()
    code = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    words = [sys.executable, "-S", "-c", code]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        during = read_counters()
        child.communicate(b"\n")
    assert during.own - before.own > 0.25
    assert read_counters().own >= during.own  # it has ended, and is counted once


def test_provenance_has_the_load_with_the_cores():
    machine = Machine(cpu="c", cores=4, threads=1, isa=[], memory_bytes=None, os="o")
    made = Provenance(command=None, git_commit=None, date=None, seed=None, machine=machine)
    assert made.load is None
    made.load_by_others = 0.5
    assert made.load == Load(0.5, 4)


def test_a_share_of_time_and_the_least_that_it_can_have_been(monkeypatch):
    monkeypatch.setattr(load, "usable_cores", lambda: 4)
    one = LoadTime(4, 1)
    assert one.by_others == 0.25
    assert one.load == Load(0.25, 4)
    assert one.certain == Load(0.24, 4)  # four hundredths of a second may be error
    assert LoadTime(4, 0.03).certain == Load(0.0, 4)
    assert LoadTime(4, -1).by_others == 0.0
    assert LoadTime(3, 1).by_others == 0.3333  # four digits
    assert LoadTime(-1, 1).by_others is LoadTime(-1, 1).certain is None
    assert LoadTime(0.5, 1).by_others == 2.0
    assert LoadTime(1, 2) + LoadTime(3, 5) == LoadTime(4, 7)


def test_the_time_of_a_lap_runs_from_the_last_reading(monkeypatch):
    now = 100.0
    monkeypatch.setattr(load.time, "monotonic", lambda: now)
    one = meter(Counters(90, 0, 0), Counters(97, 1, 0), None)
    assert one.seconds == 10
    one.lap()
    assert one.seconds == 3
    one.lap()
    assert one.seconds == float("inf")  # nothing can be measured: nobody waits for it


def test_the_note_waits_until_enough_was_measured(monkeypatch):
    slept = []
    monkeypatch.setattr(load.time, "sleep", slept.append)
    monkeypatch.setattr(load.time, "monotonic", lambda: 100.0)
    monkeypatch.setattr(load, "usable_cores", lambda: 2)
    monkeypatch.setattr(load, "START_SECONDS", 0.5)
    note = busy_note(meter(Counters(99.8, 0, 0), Counters(100.8, 1.2, 0)))
    assert slept == [pytest.approx(0.3)]
    assert note == (
        "The machine is busy: other programs use 1.2 of 2 cores. A verdict on speed, latency or "
        "energy, or after equal training time, is withheld while that goes on."
    )
    slept.clear()
    note = busy_note(meter(Counters(99, 0, 0), Counters(100, 0.2, 0)))
    assert slept == [0.0]
    assert note.endswith("is withheld where that differs between the two sides.")
    assert busy_note(meter(Counters(99, 0, 0), Counters(100, 0.1, 0))) == ""


def test_a_meter_reads_this_machine_by_default(monkeypatch):
    monkeypatch.setattr(load, "read_counters", lambda: None)
    assert LoadMeter().lap() == LoadTime()


@linux
def test_a_machine_without_our_cores_has_no_counters(proc, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {9})
    assert read_counters() is None


@linux
def test_seconds_are_ticks_of_the_system(proc, monkeypatch):
    asked = []
    monkeypatch.setattr(os, "sysconf", lambda name: asked.append(name) or 50)
    monkeypatch.setattr(load.time, "monotonic", lambda: 7.0)
    found = read_counters()
    assert asked == ["SC_CLK_TCK"]
    assert found == Counters(7.0, 2 * 243 / 50, 1140 / 50)
