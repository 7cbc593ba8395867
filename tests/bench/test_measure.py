"""Measuring: order, warm-up, counts, statistics; times are faked where they matter."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from itera_lite.bench import measure
from itera_lite.bench.measure import Cell, IteraRunner, Segment, cpu_use, interleave, prompt_rows
from itera_lite.checkpoint.folder import load_checkpoint
from itera_lite.errors import UsageError
from itera_lite.machine.peak import measured_peak
from itera_lite.stats.samples import percentile, stat


class Fake:
    """Notes what is asked of it in a diary that runners share."""

    def __init__(self, name, diary):
        self.name, self.diary = name, diary

    def prefill(self, ids):
        self.diary.append((self.name, "prefill", tuple(ids.shape)))
        return torch.eye(5)[torch.full((len(ids),), 3)], 0

    def step(self, ids, state):
        assert ids.tolist() == [3 if state == 0 else 4] * len(ids)  # greedy: what was best
        self.diary.append((self.name, "step", len(ids)))
        return torch.eye(5)[torch.full((len(ids),), 4)], state + 1


def test_runners_take_turns_after_a_warm_up():
    diary = []
    a, b = Fake("a", diary), Fake("b", diary)
    table = interleave([a, b], [[1, 2], [3]], [(1, 4), (2, 3)], repeats=2, steps=3)
    order = [(name, what) for name, what, _ in diary if what == "prefill"]
    turns = [name for name, _ in order[:6]]
    assert sorted(turns[:2]) == sorted(turns[2:4]) == sorted(turns[4:]) == ["a", "b"]
    assert turns[2:4] != turns[4:]  # the order turns
    assert len(order) == 2 * 2 * 3  # cells, runners, a warm-up and two repeats
    assert [(c.batch, c.context, len(c.segments)) for c in table[0]] == [(1, 4, 2), (2, 3, 2)]
    assert all(len(s.steps) == 3 for column in table for c in column for s in c.segments)
    assert diary.count(("a", "step", 1)) == 3 * 3 and diary.count(("a", "step", 2)) == 3 * 3


def test_progress_is_told_of_every_segment():
    said = []
    interleave([Fake("a", [])], [[1]], [(1, 2)], repeats=2, steps=1, progress=said.append)
    assert said == ["a, batch 1, context 2"] * 3


def test_meter_is_read_around_decoding_only(monkeypatch):
    clock = [0.0]
    diary = []
    fake = Fake("a", diary)

    class Counter:
        method = "fake"

        def read(self):
            return (float(len(diary)),)

        def since(self, before):
            return len(diary) - before[0]

    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock.append(0) or len(clock) * 1.0)
    (column,) = interleave([fake], [[1]], [(2, 3)], repeats=1, steps=5, meter=Counter())
    (segment,) = column[0].segments
    assert segment.decode_joules == 5  # the five steps, not the prefill
    assert segment.per_decoded_token(2)[1] == pytest.approx(0.5)


def test_rows_of_a_cell():
    fast = Segment(0.5, [0.1, 0.1, 0.4], 1.1, 1.1, 0.6, None)
    slow = Segment(1.0, [0.2, 0.2, 0.2], 1.6, 0.8, 0.3, None)
    cell = Cell(2, 100, [fast, slow])
    prefill, decode = cell.prefill_row(), cell.decode_row()
    assert prefill["tokens_per_second"]["samples"] == [400, 200]
    assert prefill["latency_ms"]["median"] == 750
    assert decode["tokens_per_second"]["samples"] == pytest.approx([10, 10])
    assert decode["latency_ms"]["samples"] == pytest.approx([100, 200])
    assert decode["latency_ms"]["p50"] == pytest.approx(200)
    assert decode["latency_ms"]["p99"] == pytest.approx(390)
    assert decode["latency_ms"]["steps"] == 6
    use = cpu_use([cell])
    assert use["max_percent"] == pytest.approx(100)
    assert use["mean_percent"] == pytest.approx(100 * 1.9 / 2.7)
    assert fast.per_decoded_token(2) == (pytest.approx(0.1), None)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_statistics_are_numpys(samples):
    got = stat(samples)
    low, high = np.percentile(samples, [25, 75])
    assert got["median"] == pytest.approx(np.median(samples))
    assert got["spread"] == pytest.approx(high - low, abs=1e-6)
    assert (got["min"], got["max"]) == (min(samples), max(samples))
    assert (got["repeats"], got["samples"]) == (len(samples), samples)
    assert percentile(samples, 99) == pytest.approx(np.percentile(samples, 99), abs=1e-6)


def test_prompt_rows_repeat_the_text_and_begin_elsewhere():
    rows = prompt_rows([1, 2, 3, 4], 2, 6)
    assert rows.tolist() == [[1, 2, 3, 4, 1, 2], [3, 4, 1, 2, 3, 4]]


@pytest.mark.parametrize("name", ["itera_lite_test", "transformer_test"])
def test_our_runner_continues_as_a_whole_pass_would(name, tiny_pair):
    model, _ = load_checkpoint(tiny_pair[name])
    runner = IteraRunner(name, model)
    ids = torch.randint(0, 257, (2, 9))
    with torch.no_grad():
        _, state = runner.prefill(ids[:, :7])
        runner.step(ids[:, 7], state)
        logits, _ = runner.step(ids[:, 8], state)
        torch.testing.assert_close(logits, model(ids)[:, -1], rtol=1e-3, atol=1e-4)


def test_peak_is_plausible_and_leaves_the_threads_alone():
    before = torch.get_num_threads()
    peak = measured_peak(torch.float32, 1, seconds=0.05)
    assert torch.get_num_threads() == before
    assert 1e8 < peak < 1e14
    with pytest.raises(UsageError, match="threads=0"):
        measured_peak(threads=0)
