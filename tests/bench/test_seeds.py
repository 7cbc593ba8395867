"""`itera bench seeds`: every run once, and nothing repeated."""

import json

import pytest

from itera_lite.bench.seeds import bench_seeds
from itera_lite.errors import UsageError
from tests.train.small import make_small


def test_runs_are_added_once(tmp_path, monkeypatch):
    make_small(monkeypatch)
    text = tmp_path / "text"
    text.mkdir()
    for i in range(60):
        (text / f"{i}.txt").write_text(f"Document {i} tells of {i * 7} things. " * 90)
    options = {"tokens": "9K", "vocab_size": 300, "threads": 1, "results": tmp_path}
    first = bench_seeds(str(text), seeds=2, **options)
    runs = [(run["name"], run["seed"], run["budget"]) for run in first["runs"]]
    assert runs == [
        (name, seed, "tokens")
        for seed in (0, 1)
        for name in ("itera_lite_tiny", "transformer_tiny")
    ]
    assert all(0 < run["valid_bpb"] < 8 and run["tokens"] >= 9000 for run in first["runs"])
    again = bench_seeds(str(text), seeds=2, **options)
    assert again == first == json.loads((tmp_path / "seeds.json").read_text())


@pytest.mark.parametrize(
    "wishes", [{"seeds": 1, "minutes": 1.0}, {}, {"minutes": 1.0, "tokens": "1M"}]
)
def test_wrong_use(wishes, tmp_path):
    with pytest.raises(UsageError):
        bench_seeds(results=tmp_path, **wishes)
