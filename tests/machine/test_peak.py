"""Check the peak speed of matrix products, and that the number of threads is put back."""

import pytest
import torch

from itera_lite.machine import peak
from itera_lite.machine.peak import SIZES, measured_peak, synchronize, torch_threads


def test_peak_is_plausible_and_leaves_the_threads_alone():
    before = torch.get_num_threads()
    with torch_threads(1):
        assert 1e8 < measured_peak(torch.float32, seconds=0.05) < 1e14
    assert torch.get_num_threads() == before


def test_the_peak_is_the_best_size_in_operations_a_second(monkeypatch):
    asked = []

    def fastest(n, dtype, budget, device):
        asked.append((n, dtype, budget, device))
        return {512: 0.01, 1024: 0.02, 2048: 0.5}[n]

    monkeypatch.setattr(peak, "_fastest", fastest)
    assert SIZES == (512, 1024, 2048)
    # A multiply-add counts two; the middle size is the fastest.
    assert measured_peak(torch.float64, seconds=0.6, device="x") == 2 * 1024**3 / 0.02
    assert asked == [(n, torch.float64, pytest.approx(0.2), "x") for n in SIZES]


def test_a_size_that_would_take_too_long_is_left_out(monkeypatch):
    asked = []

    def fastest(n, dtype, budget, device):
        asked.append(n)
        return 2.0 * n**3 / 1e9  # a slow processor: 1 GFLOP/s

    monkeypatch.setattr(peak, "_fastest", fastest)
    assert measured_peak(seconds=0.5) == pytest.approx(1e9)
    assert asked == [512]  # 1,024 would take two seconds
    asked.clear()
    measured_peak(seconds=2 * 1024**3 / 1e9)  # just as long as there is
    assert asked == [512, 1024]


def test_the_shortest_of_at_least_two_products_is_taken(monkeypatch):
    clock = iter([0.0, 10.0, 11.0, 20.0, 20.5, 99.0])  # the end, then begin and end of each
    monkeypatch.setattr(peak.time, "perf_counter", lambda: next(clock))
    assert peak._fastest(4, torch.float32, -1.0, "cpu") == 0.5


def test_products_go_on_while_there_is_time(monkeypatch):
    # The budget ends at 5: the third product begins before, at 4.
    clock = iter([0.0, 1.0, 2.0, 2.0, 3.5, 4.0, 4.0, 4.75, 5.0])
    monkeypatch.setattr(peak.time, "perf_counter", lambda: next(clock))
    assert peak._fastest(4, torch.float32, 5.0, "cpu") == 0.75
    assert next(clock, None) is None


def test_factors_have_the_size_and_type_that_are_asked_for(monkeypatch):
    seen = []
    real = torch.mm

    def mm(a, b, out):
        seen.append((a.shape, b.shape, a.dtype, out.dtype, a.requires_grad))
        return real(a, b, out=out)

    monkeypatch.setattr(peak.torch, "mm", mm)
    assert peak._fastest(8, torch.float64, 0.0, "cpu") > 0
    assert set(seen) == {((8, 8), (8, 8), torch.float64, torch.float64, False)}
    assert len(seen) >= 3  # the first one isn't timed


def test_threads_are_set_for_a_block_and_put_back_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(ValueError), torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise ValueError
    assert torch.get_num_threads() == before
    with torch_threads():
        assert torch.get_num_threads() == before
        torch.set_num_threads(before + 2)
    assert torch.get_num_threads() == before


def test_only_a_gpu_is_waited_for(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    for device in ("cpu", "cuda:1", "meta"):
        synchronize(device)
    assert waited == ["cuda:1"]
