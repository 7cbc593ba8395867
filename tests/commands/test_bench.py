"""`itera bench` from checkpoints to result files that the report can read."""

import functools
import shutil

import msgspec
import pytest

from itera_lite.bench import speed
from itera_lite.bench.processes import measure_fresh
from itera_lite.bench.runtimes import Engine, Torch, installed
from itera_lite.bench.speed import Candidate
from itera_lite.bench.table import print_speed
from itera_lite.commands.bench import bench
from itera_lite.errors import CheckpointError, IteraError, UsageError
from itera_lite.records import Benchmark

STAT = {"median", "min", "max", "spread", "repeats", "samples"}


@pytest.fixture(scope="module")
def benchmark(tiny_pair, tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "CONTEXTS", (16, 64, 8192))
        patch.setattr(speed, "QUICK_STEPS", 2)
        once = functools.cache(measure_fresh)  # a process a model, not one a repeat
        patch.setattr(speed, "measure_fresh", lambda folder, **options: once(folder, **options))
        records = bench(*tiny_pair.values(), quick=True, repeats=2, peers=True, results=results)
    return records, results


def test_writes_a_file_for_each_model(benchmark):
    records, results = benchmark
    assert set(records) == {"itera_lite_test", "transformer_test"}
    for name, record in records.items():
        assert Benchmark.read(results / f"{name}_benchmark.json") == record
        assert record.model.name == name and record.model.family in ("itera", "transformer")
    itera = records["itera_lite_test"]
    kinds = {"transformers", "engine"} | ({"llama.cpp"} if installed("llama.cpp") else set())
    assert set(itera.interleaved_with) == {
        "transformer_test",
        *(f"{kind}:{name}" for kind in kinds for name in records),
    }
    for record in records.values():
        assert set(record.peers) == kinds
        assert bool(record.peers_left_out) == (not installed("llama.cpp"))
        assert ("llama-cpp-python" in record.provenance.versions) == installed("llama.cpp")


def test_every_measurement_has_its_samples(benchmark):
    def stats(value):
        if isinstance(value, dict):
            if "median" in value:
                yield value
            for inner in value.values():
                yield from stats(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from stats(inner)

    for record in benchmark[0].values():
        found = list(stats(msgspec.to_builtins(record, str_keys=True)))
        assert len(found) > 20
        for one in found:
            assert set(one) >= STAT
            assert one["repeats"] == len(one["samples"]) == 2
            assert 0 < one["min"] <= one["median"] <= one["max"]


def test_cells_are_those_that_both_models_can_read(benchmark):
    for record in benchmark[0].values():
        cells = [(row.batch, row.context) for row in record.decode]
        assert cells == [(1, 16), (8, 16), (1, 64), (8, 64)]  # 8192 is more than 512
        assert cells == [(row.batch, row.context) for row in record.prefill]
        for kind, peer in record.peers.items():
            batches = kind == "transformers"
            for part in ("prefill", "decode"):
                found = [(row.batch, row.context) for row in getattr(peer, part)]
                assert found == (cells if batches else [(1, 16), (1, 64)])
            assert bool(peer.note) == (not batches)


def test_memory_and_process_figures_are_plausible(benchmark):
    for record in benchmark[0].values():
        memory = record.memory
        assert memory.weights_bytes == 4 * record.model.params.total
        peak = memory.peak_rss_bytes.median
        assert memory.import_rss_bytes.median < peak < 4e9
        assert memory.state_bytes[16] <= memory.state_bytes[64]
        assert 0 < record.cpu.mean_percent <= record.cpu.max_percent
        assert record.energy.method in ("estimated", "rapl")
        assert (record.energy.watts is not None) == (record.energy.method == "estimated")
        assert record.provenance.machine.threads == 1
        assert record.provenance.versions["transformers"]


def test_quick_leaves_out_batches_of_long_prompts(tiny_pair):
    from itera_lite.checkpoint.folder import load_checkpoint

    model, _ = load_checkpoint(tiny_pair["itera_lite_test"])
    model.config = model.config.replace(max_seq_len=8192)
    assert speed.cells_of([model], speed.QUICK_CELL) == [
        (1, 128),
        (8, 128),
        (1, 1024),
        (8, 1024),
        (1, 8192),
    ]
    assert (8, 8192) in speed.cells_of([model], None)


def test_a_large_cell_has_fewer_repeats():
    assert speed.cell_repeats((1, 8192), 7) == 7
    assert speed.cell_repeats((8, 8192), 7) == 3
    assert speed.cell_repeats((8, 8192), 1) == 1


def test_peers_have_only_small_cells_and_batches_where_they_can():
    def takes(batches, *cell):
        runtime = object.__new__(Torch if batches else Engine)
        return Candidate("", runtime, 0, "peer").takes(*cell)

    assert Candidate("", object.__new__(Torch), 0).takes(8, 8192)
    assert takes(True, 8, 128) and not takes(True, 1, 8192)
    assert takes(False, 1, 1024) and not takes(False, 8, 128)


def test_table_has_a_line_a_cell_and_says_what_is_estimated(benchmark, capsys):
    print_speed(list(benchmark[0].values()))
    lines = capsys.readouterr().out.splitlines()
    assert sum("decode tokens/s" in line for line in lines) == 4
    method = benchmark[0]["itera_lite_test"].energy.method
    assert any(f"({method})" in line for line in lines)


def test_table_of_peers_has_every_figure_in_the_line_of_its_cell(benchmark, capsys):
    record = benchmark[0]["transformer_test"]
    print_speed([record])
    lines = capsys.readouterr().out.splitlines()
    header = next(line for line in lines if "our PyTorch" in line)
    assert header.split()[2:] == list(record.peers)  # after "our PyTorch"
    shown = [line.split()[6:] for line in lines if line.startswith("transformer_test, decode")]
    engine = [f"{r.tokens_per_second.median:,.0f}" for r in record.peers["engine"].decode]
    assert [figures[-1] for figures in shown] == [engine[0], "-", engine[1], "-"]
    assert all(len(figures) == 1 + len(record.peers) for figures in shown)


def test_wrong_use_is_said(tiny_pair, tmp_path):
    folder = tiny_pair["itera_lite_test"]
    for options, message in (
        ({"repeats": 0}, "--repeats 0"),
        ({"threads": 0}, "--threads 0"),
        ({"watts": 0.0}, "--watts 0.0"),
        ({"device": "tpu"}, "device='tpu'"),
    ):
        with pytest.raises(UsageError, match=message):
            bench(folder, results=tmp_path, **options)
    twin = shutil.copytree(folder, tmp_path / "other" / folder.name)
    with pytest.raises(UsageError, match="one name"):
        bench(folder, twin, results=tmp_path)
    with pytest.raises(CheckpointError, match="nowhere"):
        bench(tmp_path / "nowhere", results=tmp_path)


def test_a_fresh_process_that_fails_says_why(tmp_path):
    with pytest.raises(IteraError, match="nowhere"):
        measure_fresh(tmp_path / "nowhere", tokens=1)
