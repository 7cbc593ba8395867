"""`itera bench seeds`: every run once, and nothing repeated."""

import fcntl
import os
import shutil
import signal

import pytest
from msgspec.structs import replace

from itera_lite.bench import training
from itera_lite.commands.bench_seeds import bench_seeds
from itera_lite.errors import ConfigError, DataError, UsageError
from itera_lite.records import RuntimeTraining, Seeds, SpeedsOfSize
from itera_lite.report.metrics import of_one_budget
from itera_lite.report.seeds import budgets
from itera_lite.stats.load import Load
from itera_lite.stats.samples import Stat
from itera_lite.studies import seeds
from itera_lite.train.loop import Trainer
from itera_lite.train.terminal import Stopped
from tests.train.small import make_small


@pytest.fixture
def text(tmp_path, monkeypatch):
    make_small(monkeypatch)
    folder = tmp_path / "text"
    folder.mkdir()
    for i in range(60):
        (folder / f"{i}.txt").write_text(f"Document {i} tells of {i * 7} things. " * 90)
    return folder


def test_runs_are_added_once(text, tmp_path):
    options = {"tokens": "9K", "vocab_size": 300, "workers": 1, "results": tmp_path}
    first = bench_seeds(str(text), seeds=2, **options)
    runs = [(run.name, run.seed, run.budget) for run in first.runs]
    assert runs == [
        (name, seed, "tokens")
        for seed in (0, 1)
        for name in ("itera_lite_tiny", "transformer_tiny")
    ]
    assert first.provenance.seeds == [0, 1]
    assert all(0 < run.valid_bpb < 8 and run.tokens >= 9000 for run in first.runs)
    again = bench_seeds(str(text), seeds=2, **options)
    assert again == first == Seeds.read(tmp_path / "seeds.json")


def test_runs_of_another_processor_are_made_again(text, tmp_path, monkeypatch):
    options = {"tokens": "9K", "seeds": 2, "vocab_size": 300, "workers": 1, "results": tmp_path}
    first = bench_seeds(str(text), **options).runs
    monkeypatch.setattr(seeds, "cpu_name", lambda: "another")
    runs = bench_seeds(str(text), **options).runs
    assert runs[: len(first)] == first
    assert [run.name for run in runs] == [run.name for run in first] * 2
    assert {run.cpu for run in runs[len(first) :]} == {"another"} != {run.cpu for run in first}
    unknown = Seeds.read(tmp_path / "seeds.json")
    unknown.runs = [replace(run, cpu=None) for run in first]
    unknown.write(tmp_path / "seeds.json")
    assert bench_seeds(str(text), **options).runs == unknown.runs


def test_a_study_that_was_stopped_goes_on(text, tmp_path, monkeypatch):
    """Both runs of a seed are half way then; none of their steps is made again."""
    original = Trainer._step
    steps: list[tuple[str, int]] = []

    def stepping(self):
        steps.append((self.files.name, self.state.step))
        if steps[-1] == ("transformer_tiny_tokens_seed0", 2) and len(steps) < 8:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self)

    monkeypatch.setattr(Trainer, "_step", stepping)
    options = {"tokens": "9K", "vocab_size": 300, "workers": 1}
    with pytest.raises(Stopped):
        bench_seeds(str(text), seeds=2, results=tmp_path / "cut", **options)
    assert not (tmp_path / "cut" / "seeds.json").exists()
    record = bench_seeds(str(text), seeds=2, results=tmp_path / "cut", **options)
    assert len(steps) == len(set(steps)) == 4 * 5
    assert [path.name for path in (tmp_path / "cut").iterdir()] == ["seeds.json"]
    whole = bench_seeds(str(text), seeds=2, results=tmp_path / "whole", **options)
    scores = [[run.valid_bpb for run in each.runs] for each in (record, whole)]
    assert scores[0] == scores[1]


def test_what_was_stopped_is_not_mixed_with_other_settings(text, tmp_path, monkeypatch):
    original = Trainer._step

    def stepping(self):
        if self.state.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self)

    options = {"tokens": "9K", "workers": 1, "results": tmp_path}
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Trainer, "_step", stepping)
        bench_seeds(str(text), seeds=2, vocab_size=290, **options)
    left = tmp_path / ".seeds.json.unfinished"
    with pytest.raises(UsageError, match=r"--vocab-size was 290 and is 300 now. Give the same"):
        bench_seeds(str(text), seeds=2, vocab_size=300, **options)
    assert left.is_dir()
    shutil.rmtree(left)  # as the message has it
    runs = bench_seeds(str(text), seeds=2, vocab_size=300, **options).runs
    assert {(run.vocab_size, run.tokens) for run in runs} == {(300, 5 * 2048)}


def test_runs_of_another_vocabulary_are_others(text, tmp_path):
    options = {"tokens": "9K", "workers": 1, "results": tmp_path}
    bench_seeds(str(text), seeds=2, vocab_size=300, **options)
    runs = bench_seeds(str(text), seeds=2, vocab_size=290, **options).runs
    assert [run.vocab_size for run in runs] == 4 * [300] + 4 * [290]
    (taken,) = {len(side) for side in of_one_budget(runs, ("itera_lite_tiny",), "tokens")}
    assert taken == 2


def test_a_transformer_of_another_size_stands_beside_the_runs_that_are_there(text, tmp_path):
    options = {"tokens": "9K", "vocab_size": 300, "workers": 1, "results": tmp_path}
    bench_seeds(str(text), seeds=2, **options)
    runs = bench_seeds(str(text), transformer="lean", seeds=2, **options).runs
    assert [run.name for run in runs[4:]] == ["transformer_lean"] * 2
    with pytest.raises(UsageError, match="leave out --transformer"):
        bench_seeds(str(text), transformer="lean", equal_time=True, **options)
    with pytest.raises(ConfigError, match="expected one of"):
        bench_seeds(str(text), transformer="fat", **options)


def test_two_processes_never_write_one_file(tmp_path):
    """Each would write the runs of the other away."""
    (tmp_path / ".seeds.json.lock").touch()
    with open(tmp_path / ".seeds.json.lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match=r"seeds\.json' is in use"):
            bench_seeds("nowhere", tokens="9K", results=tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"runs": 1}', '{"runs": [1]}'])
def test_a_damaged_file_is_left_alone(content, tmp_path):
    (path := tmp_path / "seeds.json").write_text(content)
    with pytest.raises(DataError, match=r"seeds\.json: expected the runs"):
        bench_seeds("nowhere", tokens="9K", results=tmp_path)
    assert path.read_text() == content


def test_equal_time_by_measured_speeds(text, tmp_path, monkeypatch):
    """The faster model reads more; the slower one's run serves both comparisons."""

    def speeds(config, *_):
        found = {f"itera_lite_{config}": 300.0, f"transformer_{config}": 200.0}
        models = {
            name: RuntimeTraining(1, "fp32", Stat.of([v]), first_loss=8.0)
            for name, v in found.items()
        }
        load = Load(0.01, 2)
        return SpeedsOfSize("tiny", 8, 300, models, load, repeated_rounds=1, cpu=seeds.cpu_name())

    monkeypatch.setattr(training, "training_speeds", speeds)
    options = {"tokens": "9K", "equal_time": True, "vocab_size": 300, "workers": 1}
    record = bench_seeds(str(text), seeds=2, results=tmp_path, **options)
    assert record.speeds == [speeds("tiny")]
    runs = {(r.name, r.seed, r.budget): r for r in record.runs}
    assert len(runs) == len(record.runs) == 8
    for seed in (0, 1):
        for name, tokens in (("itera_lite_tiny", 13_500), ("transformer_tiny", 9_000)):
            run = runs[name, seed, "time"]
            assert tokens <= run.tokens < tokens + 4096
        same = runs["transformer_tiny", seed, "tokens"]
        assert runs["transformer_tiny", seed, "time"] == replace(same, budget="time")
    monkeypatch.setattr(training, "training_speeds", None)  # measured once, not again
    assert bench_seeds(str(text), seeds=2, results=tmp_path, **options) == record
    monkeypatch.setattr(training, "training_speeds", speeds)
    monkeypatch.setattr(seeds, "cpu_name", lambda: "another")  # whose speeds aren't known
    assert len(bench_seeds(str(text), seeds=2, results=tmp_path, **options).speeds) == 2


def test_runs_of_another_text_are_made_again(text, tmp_path):
    options = {"tokens": "9K", "seeds": 2, "vocab_size": 300, "workers": 1, "results": tmp_path}
    first = bench_seeds(str(text), **options).runs
    (text / "more.txt").write_text("There are other words here than before. " * 40)
    try:
        runs = bench_seeds(str(text), **options).runs
    finally:
        (text / "more.txt").unlink()
    assert runs[: len(first)] == first and len(runs) == 2 * len(first)
    assert len({run.dataset_sha256 for run in runs}) == 2
    words = [words for words, _ in budgets(runs)]
    assert len(set(words)) == 2 and all("text " in each for each in words)


def test_training_speeds_are_of_both_models(monkeypatch):
    make_small(monkeypatch)
    found = training.training_speeds("tiny", 300, 2, threads=1, repeats=2, steps=1)
    assert (found.size, found.vocab_size, found.batch_size) == ("tiny", 300, 2)
    assert set(found.models) == {"itera_lite_tiny", "transformer_tiny"}
    assert all(r.tokens_per_second.repeats == 2 for r in found.models.values())
    assert all(r.threads == 1 for r in found.models.values())


@pytest.mark.parametrize(
    "overrides",
    [
        {"seeds": 1, "minutes": 1.0},
        {},
        {"minutes": 1.0, "tokens": "1M"},
        {"minutes": 1.0, "equal_time": True},
    ],
)
def test_wrong_use(overrides, tmp_path):
    with pytest.raises(UsageError):
        bench_seeds(results=tmp_path, **overrides)
