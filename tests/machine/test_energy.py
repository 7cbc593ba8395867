"""Check counters of energy that wrap or can't be read, and that an estimate is labelled."""

from pathlib import Path

import pytest

from itera_lite.machine.energy import Energy, Nvml, Rapl, find_meter


def package(root, number, name, energy, full=1_000_000_000):
    folder = root / f"intel-rapl:{number}"
    folder.mkdir()
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{energy}\n")
    (folder / "max_energy_range_uj").write_text(f"{full}\n")
    return folder


def test_packages_are_summed_and_parts_of_them_are_not(tmp_path):
    first = package(tmp_path, 0, "package-0", 5_000_000)
    second = package(tmp_path, 1, "package-1", 1_000_000)
    core = package(tmp_path, "0:0", "core", 4_000_000)
    meter = Rapl.find(tmp_path)
    before = meter.read()
    assert sorted(before) == [1, 5]
    (first / "energy_uj").write_text("7000000")
    (second / "energy_uj").write_text("1500000")
    (core / "energy_uj").write_text("9000000")
    assert meter.since(before) == pytest.approx(2.5)


def test_one_counter_that_began_again(tmp_path):
    first = package(tmp_path, 0, "package-0", 999_000_000)
    package(tmp_path, 1, "package-1", 5_000_000)
    meter = Rapl.find(tmp_path)
    before = meter.read()
    (first / "energy_uj").write_text("2000000")
    assert meter.since(before) == pytest.approx(3)


def test_counters_that_cannot_be_read_are_no_meter(tmp_path):
    assert Rapl.find(tmp_path) is None
    assert Rapl.find(tmp_path / "missing") is None
    folder = package(tmp_path, 0, "package-0", 1)
    (folder / "energy_uj").unlink()
    (folder / "energy_uj").mkdir()  # reading it fails, as it does without permission
    assert Rapl.find(tmp_path) is None


def test_a_gpu_is_not_asked_about_a_processors_work(monkeypatch):
    monkeypatch.setattr(Nvml, "__init__", lambda self, index: pytest.fail("asked the GPU"))
    found = find_meter("cpu")
    assert found is None or found.method == "rapl"


class Driver:
    """Stands in for NVIDIA's library: one GPU, a counter of millijoules."""

    millijoules = 5000

    def __init__(self, name):
        assert name == "libnvidia-ml.so.1"

    def nvmlInit_v2(self):
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index, handle):
        return 0 if index == 0 else 2

    def nvmlDeviceGetTotalEnergyConsumption(self, handle, out):
        out._obj.value = self.millijoules
        return 0


def test_a_gpus_counter_is_read_in_joules(monkeypatch):
    monkeypatch.setattr("itera_lite.machine.energy.ctypes.CDLL", Driver)
    meter = find_meter("cuda:0")
    before = meter.read()
    assert (meter.method, before) == ("nvml", (5.0,))
    monkeypatch.setattr(Driver, "millijoules", 7500)
    assert meter.since(before) == 2.5
    assert find_meter("cuda:1") is None  # there is no second GPU


def test_no_driver_is_no_meter(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr("itera_lite.machine.energy.ctypes.CDLL", missing)
    assert find_meter("cuda") is None


def test_an_estimate_says_so():
    record = Energy.of([(0.002, None), (0.004, None), (0.003, None)], None, 10.0)
    assert record.method == "estimated"
    assert record.watts == 10.0
    assert record.joules_per_token.samples == pytest.approx([0.02, 0.04, 0.03])
    assert record.cpu_seconds_per_token.median == 0.003


def test_a_measurement_names_its_meter_and_no_wattage():
    class Counter:
        method = "rapl"

    record = Energy.of([(0.002, 0.5), (0.004, 0.7)], Counter(), 10.0)
    assert (record.method, record.watts) == ("rapl", None)
    assert record.joules_per_token.samples == [0.5, 0.7]


def test_meters_are_looked_for_where_linux_has_them():
    from itera_lite.machine import energy

    assert Path("/sys/class/powercap") == energy.POWERCAP
    assert energy.DEFAULT_WATTS == 10.0


def test_what_cannot_be_read_is_skipped_and_the_rest_is_read(tmp_path):
    (package(tmp_path, 0, "package-0", 1) / "energy_uj").write_text("no number")
    (package(tmp_path, 1, "package-1", 1) / "name").unlink()
    (package(tmp_path, 2, "package-2", 1) / "max_energy_range_uj").unlink()
    package(tmp_path, 3, "dram", 7_000_000)
    package(tmp_path, 4, "package-4", 3_000_000, full=4_000_000)
    meter = Rapl.find(tmp_path)
    assert (meter.method, meter.read()) == ("rapl", (3.0,))
    assert meter.since((3.5,)) == 3.5  # of 4 joules, begun again


def test_a_gpu_is_read_by_its_number(monkeypatch):
    asked = []

    class Second(Driver):
        def nvmlDeviceGetHandleByIndex_v2(self, index, handle):
            asked.append(index)
            return 0

    monkeypatch.setattr("itera_lite.machine.energy.ctypes.CDLL", Second)
    assert find_meter("cuda").read() == find_meter("cuda:3").read() == (5.0,)
    assert asked == [0, 3]
    monkeypatch.setattr(Second, "nvmlInit_v2", lambda self: 9)
    with pytest.raises(OSError, match=r"^nvmlInit_v2 failed with status 9$"):
        Nvml()


def test_a_library_without_the_counter_is_no_meter(monkeypatch):
    class Old:
        def __init__(self, name):
            pass

    monkeypatch.setattr("itera_lite.machine.energy.ctypes.CDLL", Old)
    assert find_meter("cuda:0") is None


def test_a_processor_has_its_packages(monkeypatch, tmp_path):
    monkeypatch.setattr(Rapl, "find", classmethod(lambda cls: "the packages"))
    assert find_meter() == find_meter("cpu") == "the packages"


def test_a_meter_that_gave_nothing_leaves_an_estimate():
    class Counter:
        method = "rapl"

    record = Energy.of([(0.002, None), (0.004, None)], Counter(), 8.0)
    assert (record.method, record.watts) == ("estimated", 8.0)
    assert record.joules_per_token.samples == pytest.approx([0.016, 0.032])
    some = Energy.of([(0.002, None), (0.004, 0.5)], Counter(), 8.0)
    assert (some.method, some.watts, some.joules_per_token.samples) == ("rapl", None, [0.5])
    assert some.cpu_seconds_per_token.samples == [0.002, 0.004]
