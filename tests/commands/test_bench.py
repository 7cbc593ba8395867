"""`itera bench` from checkpoints to result files that the report can read."""

import functools
import json
import shutil

import pytest

from itera_lite.bench import fresh, llama
from itera_lite.bench.fresh import measure_fresh
from itera_lite.bench.peers import Peer
from itera_lite.commands import bench as run
from itera_lite.commands.bench import bench
from itera_lite.errors import CheckpointError, IteraError, UsageError

STAT = {"median", "min", "max", "spread", "repeats", "samples"}


@pytest.fixture(scope="module")
def benchmark(tiny_pair, tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "CONTEXTS", (16, 64, 8192))
        patch.setattr(run, "QUICK_STEPS", 2)
        once = functools.cache(measure_fresh)  # a process a model, not one a repeat
        patch.setattr(fresh, "measure_fresh", lambda folder, **options: once(folder, **options))
        records = bench(*tiny_pair.values(), quick=True, repeats=2, peers=True, results=results)
    return records, results


def test_writes_a_file_for_each_model(benchmark):
    records, results = benchmark
    assert set(records) == {"itera_lite_test", "transformer_test"}
    for name, record in records.items():
        assert json.loads((results / f"{name}_benchmark.json").read_text()) == record
        assert record["name"] == name and record["family"] in ("itera", "transformer")
    itera = records["itera_lite_test"]
    kinds = {"transformers", "engine"} | ({"llama.cpp"} if llama.available() else set())
    assert set(itera["interleaved_with"]) == {
        "transformer_test",
        *(f"{kind}:{name}" for kind in kinds for name in records),
    }
    for record in records.values():
        assert set(record["peers"]) == kinds
        assert ("peers_left_out" in record) == (not llama.available())
        assert ("llama-cpp-python" in record["provenance"]["versions"]) == llama.available()


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
        found = list(stats(record))
        assert len(found) > 20
        for one in found:
            assert set(one) >= STAT
            assert one["repeats"] == len(one["samples"]) == 2
            assert 0 < one["min"] <= one["median"] <= one["max"]


def test_cells_are_those_that_both_models_can_read(benchmark):
    for record in benchmark[0].values():
        cells = [(row["batch"], row["context"]) for row in record["decode"]]
        assert cells == [(1, 16), (8, 16), (1, 64), (8, 64)]  # 8192 is more than 512
        assert cells == [(row["batch"], row["context"]) for row in record["prefill"]]
        for kind, peer in record["peers"].items():
            batches = kind == "transformers"
            for part in ("prefill", "decode"):
                found = [(row["batch"], row["context"]) for row in peer[part]]
                assert found == (cells if batches else [(1, 16), (1, 64)])
            assert ("note" in peer) == (not batches)


def test_memory_and_process_figures_are_plausible(benchmark):
    for record in benchmark[0].values():
        memory = record["memory"]
        assert memory["weights_bytes"] == 4 * record["params"]["total"]
        peak = memory["peak_rss_bytes"]["median"]
        assert memory["import_rss_bytes"]["median"] < peak < 4e9
        assert memory["state_bytes"]["16"] <= memory["state_bytes"]["64"]
        assert 0 < record["cpu"]["mean_percent"] <= record["cpu"]["max_percent"]
        assert record["energy"]["method"] in ("estimated", "rapl")
        assert (record["energy"]["watts"] is not None) == (
            record["energy"]["method"] == "estimated"
        )
        assert record["provenance"]["machine"]["threads"] == 1
        assert record["provenance"]["versions"]["transformers"]


def test_quick_leaves_out_batches_of_long_prompts(tiny_pair):
    from itera_lite.checkpoint.folder import load_checkpoint

    model, _ = load_checkpoint(tiny_pair["itera_lite_test"])
    model.config = model.config.replace(max_seq_len=8192)
    assert run._cells([model], run.QUICK_CELL) == [
        (1, 128),
        (8, 128),
        (1, 1024),
        (8, 1024),
        (1, 8192),
    ]
    assert (8, 8192) in run._cells([model], None)


def test_a_large_cell_has_fewer_repeats():
    assert run._repeats((1, 8192), 7) == 7
    assert run._repeats((8, 8192), 7) == 3
    assert run._repeats((8, 8192), 1) == 1


def test_peers_have_only_small_cells_and_batches_where_they_can():
    def takes(batches, *cell):
        return run._Side(None, [], Peer("", 0, None, batches)).takes(*cell)

    assert run._Side(None, []).takes(8, 8192)
    assert takes(True, 8, 128) and not takes(True, 1, 8192)
    assert takes(False, 1, 1024) and not takes(False, 8, 128)


def test_table_has_a_line_a_cell_and_says_what_is_estimated(benchmark, capsys):
    from itera_lite.bench.table import print_table

    print_table(benchmark[0])
    lines = capsys.readouterr().out.splitlines()
    assert sum("decode tokens/s" in line for line in lines) == 4
    method = benchmark[0]["itera_lite_test"]["energy"]["method"]
    assert any(f"({method})" in line for line in lines)


def test_table_of_peers_has_every_figure_in_the_line_of_its_cell(benchmark, capsys):
    from itera_lite.bench.table import print_table

    record = benchmark[0]["transformer_test"]
    print_table({"transformer_test": record})
    lines = capsys.readouterr().out.splitlines()
    header = next(line for line in lines if "our PyTorch" in line)
    assert header.split()[2:] == list(record["peers"])  # after "our PyTorch"
    shown = [line.split()[6:] for line in lines if line.startswith("transformer_test, decode")]
    engine = [
        f"{r['tokens_per_second']['median']:,.0f}" for r in record["peers"]["engine"]["decode"]
    ]
    assert [figures[-1] for figures in shown] == [engine[0], "-", engine[1], "-"]
    assert all(len(figures) == 1 + len(record["peers"]) for figures in shown)


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
