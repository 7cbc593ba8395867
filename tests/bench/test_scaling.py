"""`itera bench scaling`: what it starts, counts and divides."""

import pytest

from itera_lite.bench import scaling
from itera_lite.commands.bench_scaling import bench_scaling
from itera_lite.errors import ConfigError
from itera_lite.model.cost import cost
from itera_lite.records import Scaling


def test_arrangements_are_powers_of_two_within_the_cores():
    assert scaling.arrangements(4, 2) == [(1, 1), (1, 2), (2, 1), (2, 2), (4, 1)]
    assert scaling.arrangements(1, 8) == [(1, 1)]
    assert scaling.arrangements(3, 1) == [(1, 1), (2, 1)]


def test_one_process_and_two(tmp_path, monkeypatch, capsys):
    """What a step sends is the gradient and the few numbers beside it."""
    monkeypatch.setattr(scaling, "usable_cores", lambda: 1)
    options = {"config": "pico", "vocab_size": 256, "batch_size": 4, "seq_len": 16}
    record = bench_scaling(
        **options, precision="fp32", most=2, repeats=1, steps=2, results=tmp_path
    )
    assert Scaling.read(tmp_path / "itera_lite_pico_scaling.json") == record
    for rows, batches in ((record.strong, [4, 4]), (record.weak, [4, 8])):
        assert [(row.processes, row.workers) for row in rows] == [(1, 1), (2, 1)]
        assert [row.batch_size for row in rows] == batches
        one, two = rows
        assert one.bytes_per_step == 0 and one.communication_share.median == 0
        gradient = 4 * cost(record.model.config, 16).params_total
        assert gradient < two.bytes_per_step < 1.01 * gradient
        assert 0 < two.communication_share.median < 1
        assert two.tokens_per_second.median > 0
    assert "2 x 1" in capsys.readouterr().out


def test_a_batch_that_the_processes_cannot_share_is_refused_before_the_work(tmp_path):
    with pytest.raises(ConfigError, match="can't be shared by 2 processes"):
        bench_scaling(batch_size=3, most=2, results=tmp_path)
    with pytest.raises(ConfigError, match="huge"):
        bench_scaling(config="huge", results=tmp_path)
