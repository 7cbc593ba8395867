"""Measuring: order, warm-up, counts, statistics; times are faked where they matter."""

import pytest
import torch

from itera_lite.bench import speed
from itera_lite.bench.runtimes import Torch
from itera_lite.bench.speed import (
    Candidate,
    Cell,
    Segment,
    cpu_use,
    measure_cell,
    prompt_rows,
)
from itera_lite.checkpoint.folder import load_checkpoint


class Fake:
    """Notes what is asked of it in a diary that runtimes share."""

    def __init__(self, name, diary):
        self.name, self.diary = name, diary

    def read(self, ids):
        self.diary.append((self.name, "read", tuple(ids.shape)))
        self.best = 3
        return torch.eye(5)[torch.full((len(ids),), 3)]

    def step(self, ids):
        assert ids.tolist() == [self.best] * len(ids)  # greedy: what was best
        self.best = 4
        self.diary.append((self.name, "step", len(ids)))
        return torch.eye(5)[torch.full((len(ids),), 4)]


def candidate(name, diary, checkpoint=0):
    return Candidate(name, Fake(name, diary), checkpoint)


def test_runtimes_take_turns_after_a_warm_up():
    diary = []
    both = [candidate("a", diary), candidate("b", diary, checkpoint=1)]
    for cell in ((1, 4), (2, 3)):
        measure_cell(both, [[1, 2], [3]], cell, 2, 3, progress=lambda name: None)
    order = [(name, what) for name, what, _ in diary if what == "read"]
    turns = [name for name, _ in order[:6]]
    assert sorted(turns[:2]) == sorted(turns[2:4]) == sorted(turns[4:]) == ["a", "b"]
    assert turns[2:4] != turns[4:]  # the order turns
    assert len(order) == 2 * 2 * 3  # cells, runtimes, a warm-up and two repeats
    cells = [(cell.batch, cell.context, len(cell.samples)) for cell in both[0].cells]
    assert cells == [(1, 4, 2), (2, 3, 2)]
    assert all(len(s.steps) == 3 for one in both for cell in one.cells for s in cell.samples)
    assert diary.count(("a", "step", 1)) == 3 * 3 and diary.count(("a", "step", 2)) == 3 * 3


def test_progress_names_every_segment():
    names = []
    measure_cell([candidate("a", [])], [[1]], (1, 2), 2, 1, progress=names.append)
    assert names == ["a, batch 1, context 2"] * 3


def test_meter_is_read_around_decoding_only(monkeypatch):
    clock = [0.0]
    diary = []
    one = candidate("a", diary)

    class Counter:
        method = "fake"

        def read(self):
            return (float(len(diary)),)

        def since(self, before):
            return len(diary) - before[0]

    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock.append(0) or len(clock) * 1.0)
    measure_cell([one], [[1]], (2, 3), 1, 5, progress=lambda name: None, meter=Counter())
    (segment,) = one.cells[0].samples
    assert segment.decode_joules == 5  # the five steps, not the prefill
    assert segment.per_decoded_token(2)[1] == pytest.approx(0.5)


def test_rows_of_a_cell():
    fast = Segment(0.5, [0.1, 0.1, 0.4], 1.1, 1.1, 0.6, None)
    slow = Segment(1.0, [0.2, 0.2, 0.2], 1.6, 0.8, 0.3, None)
    rows = torch.zeros(2, 100)
    cell = Cell(name="", runtime=None, rows=rows, steps=3, device="cpu", meter=None)
    cell.samples += [fast, slow]
    prefill, decode = cell.prefill, cell.decode
    assert prefill.tokens_per_second.samples == [400, 200]
    assert prefill.latency_ms.median == 750
    assert decode.tokens_per_second.samples == pytest.approx([10, 10])
    assert decode.latency_ms.samples == pytest.approx([100, 200])
    assert decode.latency_ms.p50 == pytest.approx(200)
    assert decode.latency_ms.p99 == pytest.approx(390)
    assert decode.latency_ms.steps == 6
    use = cpu_use([cell])
    assert use.max_percent == pytest.approx(100)
    assert use.mean_percent == pytest.approx(100 * 1.9 / 2.7)
    assert fast.per_decoded_token(2) == (pytest.approx(0.1), None)


def test_prompt_rows_repeat_the_text_and_begin_elsewhere():
    rows = prompt_rows([1, 2, 3, 4], 2, 6)
    assert rows.tolist() == [[1, 2, 3, 4, 1, 2], [3, 4, 1, 2, 3, 4]]


@pytest.mark.parametrize("name", ["itera_lite_test", "transformer_test"])
def test_our_runtime_continues_as_a_whole_pass_would(name, tiny_pair):
    model, _ = load_checkpoint(tiny_pair[name])
    runtime = Torch(model)
    ids = torch.randint(0, 257, (2, 9))
    with torch.no_grad():
        runtime.read(ids[:, :7])
        runtime.step(ids[:, 7])
        logits = runtime.step(ids[:, 8])
        torch.testing.assert_close(logits, model(ids)[:, -1], rtol=1e-3, atol=1e-4)
