"""`itera bench decode` and `bench score`: everybody does the same work, verdicts follow numbers."""

import json
import math

import pytest

from itera_lite import _engine
from itera_lite.bench import decoders, llama, startup
from itera_lite.bench.decode_record import LLAMA, OURS, SAMPLED
from itera_lite.bench.decode_targets import startup_targets
from itera_lite.bench.decoders import EngineDecoder, LlamaDecoder
from itera_lite.bench.shapes import SHAPES, Shape, write_shape
from itera_lite.commands import bench_decode as decode
from itera_lite.commands import bench_score as scoring
from itera_lite.commands.bench_decode import bench_decode, exported, prompt_ids
from itera_lite.commands.bench_score import bench_score
from itera_lite.errors import UsageError
from itera_lite.stats.comparison import Measurement
from itera_lite.stats.targets import Target, judge, ratio

needs_llama = pytest.mark.skipif(not llama.available(), reason="llama-cpp-python isn't installed")


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """Very short turns, one small shape, no fresh processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoders, "TURN_SECONDS", 1e-9)
        patch.setattr(decode, "BANDWIDTH_SECONDS", 0.0001)
        patch.setattr(decode, "TOKENS", 4)
        patch.setattr(decode, "SLOW_TOKENS", 3)
        patch.setattr(decode, "SHAPES", {"stories260K": SHAPES["stories260K"]})
        yield tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def decoded(tiny_pair, quick):
    records = bench_decode(
        *tiny_pair.values(),
        types=("f32", "f16"),
        repeats=3,
        context=16,
        long_context=64,
        pytorch=True,
        startup=False,
        results=quick,
    )
    return records, quick


def test_decoding_records_are_written_and_whole(decoded, tiny_pair):
    records, folder = decoded
    assert list(records) == list(tiny_pair)
    for name, record in records.items():
        assert json.loads((folder / f"{name}_decode.json").read_text()) == record
        assert list(record["types"]) == ["f32", "f16"]
        for row in record["types"].values():
            assert {OURS, SAMPLED} <= row["runtimes"].keys()
            assert (LLAMA in row["runtimes"]) == llama.available()
            for speed in row["runtimes"].values():
                assert speed["tokens_per_second"]["repeats"] == 3
                assert speed["tokens_per_second"]["min"] > 0
        assert "itera-lite in PyTorch" in record["torch"]
        assert record["provenance"]["engine_isa"]
        assert record["provenance"]["checkpoints"].keys() == records.keys()
    sizes = json.loads((folder / "engine_sizes.json").read_text())
    assert [one["name"] for one in sizes["models"]] == ["stories260K"]


def test_ratios_and_shares_follow_the_numbers(decoded):
    for record in decoded[0].values():
        for row in record["ratios"]:
            ours = record["types"][row["type"]]["runtimes"][OURS]["tokens_per_second"]["median"]
            group = record["torch"]
            if row["peer"] == LLAMA:
                group = record["types"][row["type"]]["runtimes"]
            peer = group[row["peer"]]["tokens_per_second"]["median"]
            assert row["ratio"] == pytest.approx(ours / peer)
            assert row["low"] <= row["ratio"] <= row["high"]
        for row in record["types"].values():
            roof = row["roofline"]
            total = row["weight_bytes_per_token"] + row["state_bytes_per_token"]
            floor = 1e6 * total / roof["bandwidth_bytes_per_second"]["median"]
            assert roof["floor_microseconds"] == pytest.approx(floor)
            took = row["runtimes"][OURS]["microseconds_per_token"]["median"]
            assert roof["share"] == pytest.approx(floor / took)
            assert {"rest", "total", "head", "sampling"} <= row["profile_microseconds"].keys()


def test_growth_is_of_the_same_model_after_two_prompts(decoded):
    for record in decoded[0].values():
        growth = record["growth"]
        assert growth["context"] == 64 and growth["type"] == "f32"
        row = growth["runtimes"][OURS]
        short, long = (row["microseconds_per_token"][n]["median"] for n in ("16", "64"))
        assert row["ratio"] == pytest.approx(long / short)
        assert row["added_microseconds"] == pytest.approx(long - short)


def test_targets_are_the_itera_model_s(decoded):
    itera, transformer = decoded[0].values()
    assert transformer["targets"] == []
    keys = [one["key"] for one in itera["targets"]]
    assert keys == ["growth", "growth_vs"]  # no Q8_0 here: its targets need that type
    for one in itera["targets"]:
        assert one["verdict"].partition(",")[0] in ("met", "missed", "not measured")


@needs_llama
def test_everybody_decodes_the_same_tokens(tiny_pair, tmp_path):
    for folder in tiny_pair.values():
        path = exported(folder, ("f32",), tmp_path).files["f32"]
        prompt = prompt_ids(path, 20)
        ours, peer = EngineDecoder(path, 64), LlamaDecoder(path, 64)
        for decoder in (ours, peer):
            decoder.prepare(prompt)
        first = [decoder.decode(12).ids for decoder in (ours, peer)]
        again = [decoder.decode(12).ids for decoder in (ours, peer)]
        assert first[0] == first[1]
        assert again == first  # each pass begins where the prompt ends
        peer.llama.close()


@needs_llama
def test_llama_cpp_reads_the_same_in_parts(tiny_pair, tmp_path):
    path = exported(tiny_pair["itera_lite_test"], ("f32",), tmp_path).files["f32"]
    prompt = prompt_ids(path, 20)
    whole, parts = llama.LlamaCpp(path, context=64), llama.LlamaCpp(path, context=64, batch=7)
    for peer in (whole, parts):
        assert peer.read(prompt) > 0 and peer.length == 20
    assert whole.logits() == pytest.approx(parts.logits(), abs=1e-4)


def test_scoring_reads_every_token_once(tiny_pair, quick, monkeypatch):
    monkeypatch.setattr(scoring, "BATCHES", (2,))
    records = bench_score(
        *tiny_pair.values(), types=("f32",), repeats=3, documents=3, length=20, results=quick
    )
    for name, record in records.items():
        assert json.loads((quick / f"{name}_scoring.json").read_text()) == record
        assert record["documents"] == 3 and record["tokens"] == 60  # tokens are bytes here
        ours = [row for row in record["scorers"] if row["runtime"] == OURS]
        assert [row["threads"] for row in ours] == [1, 2]
        assert all(row["tokens_per_second"]["repeats"] == 3 for row in record["scorers"])
        median = {row["runtime"]: row["tokens_per_second"]["median"] for row in record["scorers"]}
        one = ours[0]["tokens_per_second"]["median"]
        for row in record["ratios"]:
            assert row["ratio"] == pytest.approx(one / median[row["peer"]])


def test_the_program_starts_and_its_memory_is_its_own(tiny_pair, tmp_path):
    if startup.find_program() is None:
        pytest.skip("itera-run isn't installed")
    path = exported(tiny_pair["itera_lite_test"], ("f32",), tmp_path).files["f32"]
    record = startup.measure_startup(path, 1)
    assert not record["imports_torch"]
    assert 0 < record["peak_rss_bytes"]["median"] < 50e6  # this process has PyTorch: far more
    assert [one["key"] for one in startup_targets(record)] == [
        "load", "first_token", "import", "memory",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["f32", "q8_0"])
def test_shapes_load_with_odd_rows_and_heads(kind, tmp_path, monkeypatch):
    odd = Shape(96, 2, 2, 1, 172 if kind == "f32" else 64, 300)  # heads of 48
    monkeypatch.setitem(SHAPES, "odd", odd)
    path = write_shape("odd", kind, tmp_path / "odd.gguf")
    model = _engine.Model.load(str(path))
    assert (model.vocab_size, model.n_layers, model.d_model) == (300, 2, 96)
    logits = model.read(model.state(), prompt_ids(path, 8), True)
    assert logits.shape == (8, 300) and abs(logits).max() > 0.1


def test_profile_parts_add_up_to_a_token(tmp_path):
    path = write_shape("stories260K", "f32", tmp_path / "small.gguf")
    parts = _engine.profile(_engine.Model.load(str(path)), prompt_ids(path, 8), 8, 5)
    assert parts.keys() == {
        "attention matrices", "feed-forward matrices", "head", "attention over the context",
        "norms", "gates and sums", "sampling", "rest", "total",
    }  # fmt: skip
    assert all(seconds >= 0 for part, seconds in parts.items() if part != "rest")
    with pytest.raises(UsageError, match="needs a prompt"):
        _engine.profile(_engine.Model.load(str(path)), [], 8, 5)


def test_bandwidth_is_positive_and_checked():
    assert 1e8 < _engine.read_bandwidth(1 << 16, 0.001) < 1e13
    for size, seconds in ((100, 0.1), (1 << 40, 0.1), (1 << 16, 0.0), (1 << 16, math.nan)):
        with pytest.raises(UsageError, match="read_bandwidth"):
            _engine.read_bandwidth(size, seconds)


@pytest.mark.parametrize(
    ("low", "value", "high", "verdict"),
    [
        (9, 10, 11, "met"),
        (7, 9, 11, "met, not clearly"),
        (5, 7, 9, "missed, not clearly"),
        (5, 6, 7, "missed"),
    ],
)
def test_a_target_is_met_by_the_median(low, value, high, verdict):
    found = Measurement(value, low, high, 7)
    assert judge(Target("k", "label", "at least", 8), found)["verdict"] == verdict
    other = {"met": "missed", "missed": "met"}
    word, comma, rest = verdict.partition(",")
    flipped = judge(Target("k", "label", "at most", 8), found)["verdict"]
    assert flipped == other[word] + comma + rest
    assert judge(Target("k", "label", "at most", 8), None)["verdict"] == "not measured"


def test_a_ratio_is_as_uncertain_as_both_sides():
    found = ratio(Measurement(10, 8, 12, 5), Measurement(2, 1, 4, 3))
    assert found == Measurement(5, 2, 12, 3)
    assert ratio(None, found) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"types": ("q9",)}, "--types q9: expected some of f32"),
        ({"repeats": 0}, "--repeats 0"),
        ({"context": 0}, "--context 0"),
        ({"long_context": 100}, "--long-context 100: expected more than --context 128, or 0"),
    ],
)
def test_wrong_use_is_said(options, message, tiny_pair, tmp_path):
    with pytest.raises(UsageError, match=message):
        bench_decode(*tiny_pair.values(), results=tmp_path, **options)
    with pytest.raises(UsageError, match="two folders have one name"):
        bench_score(tmp_path / "a" / "x", tmp_path / "b" / "x", results=tmp_path)
