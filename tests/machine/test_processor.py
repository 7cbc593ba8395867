"""Check how many cores and threads a process may use, and what is read about the processor."""

import pytest

from itera_lite.machine import processor as module
from itera_lite.machine.processor import (
    cpu_info,
    cpu_name,
    default_threads,
    instruction_sets,
    multiplies_bfloat16,
    usable_cores,
)


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
        ("", 4, 1),
        ("", 3, 1),
        ("1", 4, 1),
        ("2", 4, 2),
        (" 3 ", 1, 3),
        ("²", 1, 4),  # a digit to Python, not to OpenMP
        ("4096", 1, 4096),
        ("4097", 1, 4096),
        ("99999999999", 1, 4096),
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


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/a\n", {"a/cpu.max": "350000 100000"}, 3),  # rounded down
        ("0::/a\n", {"a/cpu.max": "10000 100000"}, 1),  # at least one
        ("0::/a\n", {"a/cpu.max": "900000 100000"}, 8),  # no more than the affinity allows
        ("0::/a\n", {"a/cpu.max": "200000 0"}, 8),
        ("0::/a\n", {"a/cpu.max": "200000"}, 8),
        ("0::/a\n", {"a/cpu.max": "200000 x"}, 8),
        ("0::/a\n", {"a/cpu.max": "x 100000"}, 8),
        ("2:memory:/x\n0::/a\n", {"a/cpu.max": "200000 100000", "x/cpu.max": "100000 100000"}, 2),
        ("2:cpuset:/x\n", {"x/cpu.max": "100000 100000"}, 8),
        ("0::/a:b\n", {"a:b/cpu.max": "200000 100000"}, 2),  # a name with a colon
    ],
)
def test_odd_control_groups(groups, files, expected, tmp_path, monkeypatch):
    test_cores_are_those_that_the_control_group_allows(
        groups, files, expected, tmp_path, monkeypatch
    )


def test_nothing_above_the_control_groups_is_read(tmp_path, monkeypatch):
    inside = tmp_path / "groups.d"
    inside.mkdir()
    (tmp_path / "cpu.max").write_text("100000 100000")
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(module, "CONTROL_GROUPS", inside)
    monkeypatch.setattr(module, "PROCESS_GROUPS", tmp_path / "groups")
    (tmp_path / "groups").write_text("0::/a\n")
    assert usable_cores() == 8


def test_without_an_affinity_all_cores_count(monkeypatch, tmp_path):
    monkeypatch.delattr(module.os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(module, "PROCESS_GROUPS", tmp_path / "missing")
    monkeypatch.setattr(module.os, "cpu_count", lambda: 6)
    assert usable_cores() == 6
    monkeypatch.setattr(module.os, "cpu_count", lambda: None)
    assert usable_cores() == 1


def test_where_linux_has_the_control_groups():
    assert str(module.CONTROL_GROUPS) == "/sys/fs/cgroup"
    assert str(module.PROCESS_GROUPS) == "/proc/self/cgroup"


X86 = """processor\t: 0
model name\t: Fast CPU
flags\t\t: fpu avx2 sse4_2
bugs\t\t:

processor\t: 1
Model Name\t: Fast CPU
flags\t\t: fpu avx2 sse4_2 amx_int8
"""
ARM = "processor : 0\nFeatures : fp asimd asimddp sve i8mm\nCPU part : 0xd40\n"


@pytest.fixture
def cpuinfo(monkeypatch):
    def of(text):
        asked = []
        monkeypatch.setattr(module, "_text", lambda path: asked.append(str(path)) or text)
        cpu_info.cache_clear()
        assert cpu_info() is cpu_info()
        assert asked == ["/proc/cpuinfo"]
        return cpu_info()

    yield of
    cpu_info.cache_clear()


def test_the_processor_is_read_from_linux(cpuinfo):
    found = cpuinfo(X86)
    assert found["model name"] == cpu_name() == "Fast CPU"
    assert found["processor"] == "0 1"
    # In the order of the list, whatever order the flags have; no flag but those.
    assert instruction_sets() == ["sse4_2", "avx2", "amx_int8"]
    cpuinfo(ARM)
    assert instruction_sets() == ["asimd", "asimddp", "sve", "i8mm"]
    assert set(instruction_sets()) <= set(module.RELEVANT_FLAGS)


def test_processors_of_one_name_are_told_apart_by_their_numbers(cpuinfo):
    text = "cpu family\t: 6\nmodel\t\t: {}\nmodel name\t: Intel(R) Xeon(R) Processor\n"
    for model in ("143", "207"):
        cpuinfo(text.format(model))
        assert cpu_name() == f"Intel(R) Xeon(R) Processor (family 6, model {model})"
    cpuinfo("model name : Fast CPU\nmodel : Raspberry Pi 4\n")
    assert cpu_name() == "Fast CPU"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("avx2 fma", False), ("avx512f avx512_bf16", True), ("amx_int8", False), ("svebf16", False)],
)
def test_a_processor_that_multiplies_bfloat16(cpuinfo, flags, expected):
    cpuinfo(f"flags : fpu {flags} sse4_2")
    assert multiplies_bfloat16() is expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (  # Intel Sapphire Rapids
            "flags : fpu fma sse4_2 avx f16c avx2 avx512f avx512bw avx512vl avx_vnni avx512_bf16 "
            "avx512_vnni amx_bf16 avx512_fp16 amx_tile amx_int8 flush_l1d",
            "sse4_2 avx avx2 fma f16c avx_vnni avx512f avx512bw avx512vl avx512_vnni avx512_bf16 "
            "avx512_fp16 amx_tile amx_int8 amx_bf16",
        ),
        (  # Arm Neoverse V2
            "Features : fp asimd aes asimdhp asimddp sve sve2 svebitperm i8mm svebf16 bf16 bti",
            "asimd asimddp asimdhp sve sve2 i8mm bf16",
        ),
    ],
)
def test_the_instructions_of_processors_that_have_most(cpuinfo, line, expected):
    cpuinfo(line)
    assert instruction_sets() == expected.split()


def test_another_system_names_its_processor(cpuinfo, monkeypatch):
    assert cpuinfo("") == {}
    monkeypatch.setattr(module.platform, "processor", lambda: "a chip")
    monkeypatch.setattr(module.platform, "machine", lambda: "arm64")
    assert cpu_name() == "a chip"
    monkeypatch.setattr(module.platform, "processor", lambda: "")
    assert (cpu_name(), instruction_sets()) == ("arm64", [])


def test_files_that_cannot_be_read_are_empty(tmp_path):
    assert module._text(tmp_path) == module._text(tmp_path / "missing") == ""
    (tmp_path / "odd").write_bytes(b"a\xff\n")
    assert module._text(tmp_path / "odd") == "a\ufffd\n"
