"""`itera bench decode` and `bench score`: everybody does the same work, verdicts follow numbers."""

import math

import pytest
import torch

from itera_lite import _engine
from itera_lite.bench import decode, processes, scoring
from itera_lite.bench.decode import SAMPLED, startup_targets
from itera_lite.bench.runtimes import LLAMA, OURS, Document, Engine, Llama, installed, prompt_ids
from itera_lite.bench.shapes import SHAPES, Shape, export_model, save_shape
from itera_lite.commands.bench_decode import bench_decode
from itera_lite.commands.bench_score import bench_score
from itera_lite.config import ModelConfig
from itera_lite.errors import UsageError
from itera_lite.records import Decode, EngineSizes, Scoring
from itera_lite.stats.comparison import Measurement
from itera_lite.stats.targets import Target, ratio

needs_llama = pytest.mark.skipif(not installed(LLAMA), reason="llama-cpp-python isn't installed")


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """Very short turns, one small shape, no fresh processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "TURN_SECONDS", 1e-9)
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
        assert Decode.read(folder / f"{name}_decode.json") == record
        decoding = record.decoding
        assert list(decoding.types) == ["f32", "f16"]
        for row in decoding.types.values():
            assert {OURS, SAMPLED} <= row.runtimes.keys()
            assert (LLAMA in row.runtimes) == installed(LLAMA)
            for speed in row.runtimes.values():
                assert speed.tokens_per_second.repeats == 3
                assert speed.tokens_per_second.min > 0
        assert "itera-lite in PyTorch" in decoding.torch
        assert record.provenance.engine_isa
        assert record.provenance.checkpoints.keys() == records.keys()
    sizes = EngineSizes.read(folder / "engine_sizes.json")
    assert [one.model.name for one in sizes.models] == ["stories260K"]


def test_ratios_and_shares_follow_the_numbers(decoded):
    for record in decoded[0].values():
        record = record.decoding
        for row in record.ratios:
            ours = record.types[row.type].runtimes[OURS].tokens_per_second.median
            group = record.types[row.type].runtimes if row.peer == LLAMA else record.torch
            peer = group[row.peer].tokens_per_second.median
            assert row.ratio == pytest.approx(ours / peer)
            assert row.low <= row.ratio <= row.high
        for row in record.types.values():
            roof = row.roofline
            total = row.weight_bytes_per_token + row.state_bytes_per_token
            floor = 1e6 * total / roof.bandwidth_bytes_per_second.median
            assert roof.floor_microseconds == pytest.approx(floor)
            took = row.runtimes[OURS].microseconds_per_token.median
            assert roof.share == pytest.approx(floor / took)
            assert {"rest", "total", "head", "sampling"} <= row.profile_microseconds.keys()


def test_growth_is_of_the_same_model_after_two_prompts(decoded):
    for record in decoded[0].values():
        growth = record.decoding.growth
        assert growth.context == 64 and growth.type == "f32"
        row = growth.runtimes[OURS]
        short, long = (row.microseconds_per_token[n].median for n in (16, 64))
        assert row.ratio == pytest.approx(long / short)
        assert row.added_microseconds == pytest.approx(long - short)


def test_targets_are_the_itera_model_s(decoded):
    itera, transformer = decoded[0].values()
    assert transformer.targets == []
    keys = [one.key for one in itera.targets]
    assert keys == ["growth", "growth_vs"]  # no Q8_0 here: its targets need that type


@needs_llama
def test_everybody_decodes_the_same_tokens(tiny_pair, tmp_path):
    for folder in tiny_pair.values():
        files = export_model(folder, ("f32",), tmp_path)
        path, prompt = files.paths["f32"], prompt_ids(files.load(256), 20)
        both = Engine(path, 64), Llama(path, 64)
        first = [runtime.decode(prompt, 12).ids for runtime in both]
        again = [runtime.decode(prompt, 12).ids for runtime in both]
        assert first[0] == first[1]
        assert again == first  # each pass begins where the prompt ends
        for runtime in both:
            runtime.close()


@needs_llama
def test_llama_cpp_reads_the_same_in_parts(tiny_pair, tmp_path):
    files = export_model(tiny_pair["itera_lite_test"], ("f32",), tmp_path)
    path, prompt = files.paths["f32"], prompt_ids(files.load(256), 20)
    whole, parts = Llama(path, 64), Llama(path, 64, batch=7)
    rows = torch.tensor([prompt])
    torch.testing.assert_close(whole.read(rows), parts.read(rows), atol=1e-4, rtol=0)
    assert parts.score([Document(b"", prompt)]) > 0


def test_scoring_reads_every_token_once(tiny_pair, quick, monkeypatch):
    monkeypatch.setattr(scoring, "BATCHES", (2,))
    records = bench_score(
        *tiny_pair.values(), types=("f32",), repeats=3, documents=3, length=20, results=quick
    )
    for name, record in records.items():
        assert Scoring.read(quick / f"{name}_scoring.json") == record
        assert record.documents == 3 and record.tokens == 60  # tokens are bytes here
        ours = [row for row in record.runtimes if row.runtime == OURS]
        assert [row.threads for row in ours] == [1, 2]
        assert all(row.tokens_per_second.repeats == 3 for row in record.runtimes)
        median = {row.runtime: row.tokens_per_second.median for row in record.runtimes}
        one = ours[0].tokens_per_second.median
        for row in record.ratios:
            assert row.ratio == pytest.approx(one / median[row.peer])


def test_the_program_starts_and_its_memory_is_its_own(tiny_pair, tmp_path):
    if processes.find_program() is None:
        pytest.skip("itera-run isn't installed")
    files = export_model(tiny_pair["itera_lite_test"], ("f32",), tmp_path)
    record = processes.measure_startup(files.paths["f32"], 1)
    assert not record.imports_torch
    assert 0 < record.peak_rss_bytes.median < 50e6  # this process has PyTorch: far more
    assert [one.key for one in startup_targets(record)] == [
        "load", "first_token", "import", "memory",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["f32", "q8_0"])
def test_shapes_load_with_odd_rows_and_heads(kind, tmp_path, monkeypatch):
    width = 172 if kind == "f32" else 64
    odd = Shape(ModelConfig("transformer", "aa", 300, 96, head_dim=48, d_ff=width))
    monkeypatch.setitem(SHAPES, "odd", odd)
    files = export_model(save_shape("odd", tmp_path), (kind,), tmp_path)
    model = files.load(256)
    assert (model.vocab_size, model.n_layers, model.d_model) == (300, 2, 96)
    assert model.parameters == files.model.params.total
    logits = model.read(model.state(), prompt_ids(model, 8), True)
    assert logits.shape == (8, 300) and abs(logits).max() > 0.1


def test_profile_parts_add_up_to_a_token(tmp_path):
    model = export_model(save_shape("stories260K", tmp_path), ("f32",), tmp_path).load(256)
    parts = _engine.profile(model, prompt_ids(model, 8), 8, 5)
    assert parts.keys() == {
        "attention matrices", "feed-forward matrices", "head", "attention over the context",
        "norms", "gates and sums", "sampling", "rest", "total",
    }  # fmt: skip
    assert all(seconds >= 0 for part, seconds in parts.items() if part != "rest")
    with pytest.raises(UsageError, match="needs a prompt"):
        _engine.profile(model, [], 8, 5)


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
    assert Target("k", "label", "at least", 8).judged(found).verdict_text == verdict
    other = {"met": "missed", "missed": "met"}
    word, comma, rest = verdict.partition(",")
    flipped = Target("k", "label", "at most", 8).judged(found).verdict_text
    assert flipped == other[word] + comma + rest
    assert Target("k", "label", "at most", 8).judged(None).verdict == "not measured"


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
