"""Check the memory that a process may use, on machines and control groups that are made up."""

import resource

import pytest

from itera_lite.machine import memory as module
from itera_lite.machine.memory import Memory, memory

KIB = 1024


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of 8,000 KiB and 500 KiB of swap, with 6,000 KiB free and no other limit."""
    info = tmp_path / "meminfo"
    info.write_text(
        "MemTotal:    8000 kB\nMemAvailable:    6000 kB\nSwapTotal:    500 kB\nHuge: none\n\n"
    )
    groups = []
    asked = []

    def control_groups(controller):
        assert controller == "memory"
        return groups

    def limit_of(which):
        asked.append(which)
        return resource.RLIM_INFINITY, resource.RLIM_INFINITY

    monkeypatch.setattr(module, "MEMINFO", info)
    monkeypatch.setattr(module, "control_groups", control_groups)
    monkeypatch.setattr(module.resource, "getrlimit", limit_of)

    def add(**files):
        folder = tmp_path / f"group{len(groups)}"
        folder.mkdir()
        for name, text in files.items():
            (folder / name.replace("__", ".")).write_text(f"{text}\n")
        groups.append(folder)

    yield add
    assert set(asked) == {resource.RLIMIT_AS}


WHOLE = Memory(6000 * KIB, 8500 * KIB)


def test_a_machine_without_limits(machine):
    assert memory() == WHOLE


def test_swap_and_total_may_be_missing(machine):
    module.MEMINFO.write_text("MemAvailable: 5 kB\n")
    assert memory() == Memory(5 * KIB, 0)
    module.MEMINFO.write_text("MemTotal: 7 kB\nMemFree: 5 kB\n")
    assert memory() == Memory(None, None)
    module.MEMINFO.unlink()
    assert memory() == Memory(None, None)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"memory__max": 100, "memory__current": 30}, Memory(70, 100 + 500 * KIB)),
        # A copy of files is given back, but no more of it than is used.
        ({"memory__max": 100, "memory__current": 30, "memory__stat": "anon 9\ninactive_file 20"},
         Memory(90, 100 + 500 * KIB)),
        ({"memory__max": 100, "memory__current": 30, "memory__stat": "inactive_file 99"},
         Memory(100, 100 + 500 * KIB)),
        ({"memory__max": 100, "memory__current": 130, "memory__swap__max": 7}, Memory(0, 107)),
        ({"memory__max": 100, "memory__swap__max": 0}, Memory(100, 100)),
        ({"memory__max": 100, "memory__swap__max": "max"}, Memory(100, 100 + 500 * KIB)),
        ({"memory__max": "max", "memory__current": 30}, WHOLE),
        # Version 1: other names, and a number beyond all memory for no limit.
        ({"memory__limit_in_bytes": 100, "memory__usage_in_bytes": 30},
         Memory(70, 100 + 500 * KIB)),
        ({"memory__limit_in_bytes": 2**60, "memory__usage_in_bytes": 30}, WHOLE),
        ({"memory__limit_in_bytes": 2**63 - 4096}, WHOLE),
        ({}, WHOLE),
    ],
)  # fmt: skip
def test_a_control_group_limits_it(machine, files, expected):
    machine(**files)
    assert memory() == expected


def test_the_smallest_of_all_limits_counts(machine):
    machine()  # no limit here: the next group is still read
    machine(memory__max=1000, memory__current=100, memory__swap__max=0)
    machine(memory__max=800, memory__current=10, memory__swap__max=900)
    assert memory() == Memory(790, 1000)


def test_a_limit_just_below_the_number_for_none_counts(machine):
    module.MEMINFO.unlink()
    machine(memory__max=2**60)
    assert memory() == Memory(None, None)
    machine(memory__max=2**60 - 1)
    assert memory() == Memory(2**60 - 1, 2**60 - 1)


def test_without_swap_in_the_machine_a_group_has_none(machine):
    module.MEMINFO.write_text("MemTotal: 9 kB\n")
    machine(memory__max=100)
    assert memory() == Memory(100, 100)


def test_the_own_limit_of_the_process(machine, monkeypatch):
    limits = {resource.RLIMIT_AS: (5000, 9999)}

    def limit_of(which):
        assert which == resource.RLIMIT_AS
        return limits[which]

    memory()
    monkeypatch.setattr(module.resource, "getrlimit", limit_of)
    monkeypatch.setattr(module, "_own_size", lambda: 2000)
    assert memory() == Memory(3000, 5000)
    monkeypatch.setattr(module, "_own_size", lambda: 6000)
    assert memory() == Memory(0, 5000)


def test_the_own_size_is_in_bytes(monkeypatch, tmp_path):
    real = module.Path
    statm = tmp_path / "statm"
    asked = []
    monkeypatch.setattr(module, "Path", lambda path: asked.append(path) or statm)
    monkeypatch.setattr(module.os, "sysconf", {"SC_PAGE_SIZE": 4096}.__getitem__)
    assert module._own_size() == 0  # no such file
    statm.write_text("")
    assert module._own_size() == 0
    statm.write_text("3 2 1 0\n")
    assert module._own_size() == 3 * 4096
    assert set(asked) == {"/proc/self/statm"}
    assert real("/proc/meminfo") == module.MEMINFO


def test_lines_and_numbers_that_are_none_are_left_out(tmp_path):
    file = tmp_path / "fields"
    file.write_bytes(b"a: 1 kB\nb 2\nc\nd: x\n\xff: 3\n")
    assert module._fields(file) == {"a": 1, "b": 2, "\ufffd": 3}
    assert module._fields(tmp_path / "missing") == {}
    file.write_bytes(b"\xff\n")
    other = tmp_path / "other"
    other.write_text(" 7 \n")
    assert module._number(file, other) == module._number(tmp_path / "missing", other) == 7
    assert module._number(file) is module._number() is None
