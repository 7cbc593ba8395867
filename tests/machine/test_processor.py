"""How many cores and threads a process may use."""

import pytest

from itera_lite.machine import processor as module
from itera_lite.machine.processor import default_threads, usable_cores


@pytest.mark.parametrize(
    ("said", "processes", "expected"),
    [
        ("3", 1, 3),
        ("3,2", 1, 3),  # a number for each level of nesting
        ("1", 1, 1),
        ("1", 2, 2),  # torchrun sets it where nobody did
        ("3", 2, 3),
        ("", 1, 4),
        ("0", 1, 4),
        ("-1", 1, 4),
        ("many", 1, 4),
        ("", 8, 1),
    ],
)
def test_threads_follow_omp_num_threads(said, processes, expected, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    monkeypatch.setattr(module, "usable_cores", lambda: 4)
    assert default_threads(processes) == expected


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/a/b\n", {"cpu.max": "max 100000"}, 8),
        ("0::/a/b\n", {"cpu.max": "250000 100000"}, 2),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "50000 100000"}, 1),
        ("0::/no/such\n", {"cpu.max": "300000 100000"}, 3),
        ("0::/../..\n", {"cpu.max": "300000 100000"}, 3),
        ("3:cpu,cpuacct:/x\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1"}, 8),
        (
            "3:cpu,cpuacct:/x\n",
            {"cpu/x/cpu.cfs_quota_us": "200000", "cpu/x/cpu.cfs_period_us": "100000"},
            2,
        ),
        ("0::/a/b\n", {}, 8),
        ("", {}, 8),
    ],
)
def test_cores_are_those_that_the_control_group_allows(
    groups, files, expected, tmp_path, monkeypatch
):
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(module, "CONTROL_GROUPS", tmp_path)
    monkeypatch.setattr(module, "PROCESS_GROUPS", tmp_path / "groups")
    (tmp_path / "groups").write_text(groups)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert usable_cores() == expected
