"""The ladder: every stage is made, finished ones stay, the verdicts follow from the numbers."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from itera_lite import config
from itera_lite.bench.processes import DeployedModel
from itera_lite.commands.ladder import ladder
from itera_lite.commands.report import report
from itera_lite.errors import IteraError, MissingExtra, UsageError
from itera_lite.records import HeldOut, Rung, Summary
from itera_lite.report.results import load_results
from itera_lite.stats.load import Load
from itera_lite.stats.samples import Stat
from itera_lite.studies import ladder_stages
from itera_lite.studies.ladder_costs import judge
from itera_lite.studies.ladder_stages import REFERENCES, STAGES
from tests.compress.checkpoints import text
from tools.readme import ladder_table

__all__ = ["text"]

ITERA = {"pattern": "ma", "d_model": 64, "n_experts": 4, "d_expert": 32, "d_state": 16}
LLAMA = {"pattern": "aa", "d_model": 64, "d_ff": 96, "n_kv_heads": 2}
GPT2 = {"pattern": "aa", "d_model": 64, "d_ff": 128, "n_kv_heads": 2, "max_seq_len": 256}
WRITTEN = {"bytes": 1000.0, "seconds": 4.0, "cpu_seconds": 4.0, "peak_rss_bytes": 4e8}


@pytest.fixture(scope="module")
def small() -> Iterator[list[DeployedModel]]:
    """Shapes that train in an instant; transformers writes on paper. Gives what was measured."""
    measured: list[DeployedModel] = []
    real = DeployedModel.write_texts

    def write_texts(self: DeployedModel, seed: int, threads: int = 1) -> dict[str, float]:
        measured.append(self)
        return real(self, seed, threads) if self.runtime == "engine" else dict(WRITTEN)

    with pytest.MonkeyPatch.context() as patch:
        for size in ("pico", "tiny", "small"):
            shape = {"itera": ITERA, "transformer": LLAMA}
            if size == "small":
                shape = {"itera": {**ITERA, "d_model": 96}}
            patch.setitem(config.PRESETS, size, shape)
        patch.setitem(config.PRESETS, "reference", {"gpt2": GPT2})
        patch.setitem(config.PRESETS, "reference_small", {"gpt2": {**GPT2, "pattern": "a"}})
        patch.setattr(ladder_stages, "REFERENCE_VOCABULARY", 320)
        patch.setattr(DeployedModel, "write_texts", write_texts)
        yield measured


def run(text: Path, folder: Path, **options):
    return ladder(
        str(text),
        **{"minutes": 0.004, "size": 300} | options,
        repeats=2,
        workers=1,
        quiet=True,
        checkpoints=folder / "c",
        results=folder / "r",
    )


@pytest.fixture(scope="module")
def first(text, small, tmp_path_factory):
    """What the first run gives, and the folder that it leaves."""
    folder = tmp_path_factory.mktemp("ladder")
    return run(text, folder), folder


@pytest.fixture
def copied(first, tmp_path) -> Path:
    """A copy of that folder."""
    shutil.copytree(first[1], tmp_path / "again")
    return tmp_path / "again"


def test_every_rung_is_made_and_measured(first, small):
    found, folder = first
    names = [rung.stage for rung in found.rungs]
    wanted = [s.name for s in STAGES if s.name != "teacher"]
    tried = {r.stage: r for r in found.references}
    assert list(tried) == [stage.name for stage in REFERENCES]
    best = min(tried, key=lambda name: tried[name].valid_bpb)
    assert [name for name in tried if tried[name].chosen] == [best]
    assert names == [best, *wanted, "q4_0"]
    reference, last = found.rungs[0], found.rungs[-1]
    assert last.runtime == "engine"
    file = folder / "c" / "q4_0" / "model-q4_0.gguf"
    assert last.bytes_on_disk == file.stat().st_size < reference.bytes_on_disk
    assert last.cpu_seconds_per_kb.median < reference.cpu_seconds_per_kb.median
    assert last.vocab_size == 300 < reference.vocab_size == 320
    # the measurements went in turns: every model once, then every one again
    rounds = small[: len(names)], small[len(names) : 2 * len(names)]
    assert len(set(rounds[0])) == len(names) and set(rounds[0]) == set(rounds[1])
    # each reference had as much time as all that the last rung was made from
    budgets = {
        name: Summary.read(folder / "r" / "ladder" / f"{name}_summary.json").training
        for name in (*tried, "teacher", "distilled", "q4_0")
    }
    seconds = {name: train.budget.amount for name, train in budgets.items()}
    references = [seconds.pop(name) for name in tried]
    assert references == pytest.approx(2 * [sum(seconds.values())])
    assert 0 < reference.tokens_in_use <= reference.vocab_size
    assert last.outside_teacher is None


def test_what_is_compared_trains_in_turns(first, small):
    folder = first[1]
    plan = ladder_stages.LadderPlan(
        data="text",
        minutes=1,
        size=300,
        student="pico",
        teacher=None,
        seed=0,
        checkpoints=folder / "c",
        results=folder / "r" / "ladder",
        compute=None,
        valid_bytes=1000,
    )
    names = [[stage.name for stage, _ in group] for group in ladder_stages.groups(plan)]
    assert names[:2] == [["reference", "reference_small"], ["transformer", "itera"]]
    assert names[2:] == [["vocabulary"], ["teacher"], ["distilled"], ["q8_0"], ["q4_0"]]


def test_what_is_finished_is_not_done_again_and_is_reported(text, first, copied, small, capsys):
    stamps = {p: p.stat().st_mtime_ns for p in (copied / "c").glob("*/model.safetensors")}
    scores = {p: p.stat().st_mtime_ns for p in (copied / "r").glob("ladder/*_heldout.json")}
    assert len(scores) == len(first[0].rungs) - 1
    again = run(text, copied)
    assert {p: p.stat().st_mtime_ns for p in (*stamps, *scores)} == {**stamps, **scores}
    assert [r.bpb for r in again.rungs] == [r.bpb for r in first[0].rungs]
    assert "bytes on disk: " in capsys.readouterr().out

    report(results=copied / "r", reports=copied / "reports")
    page = (copied / "reports" / "efficiency_report.md").read_text()
    assert "Path to 100-300x" in page and "7: the native engine" in page
    assert "best of 2 conventional models" in page
    assert "Bytes on disk" in page


def test_other_weights_are_scored_again(text, copied, small):
    kept = copied / "r" / "ladder" / "itera_heldout.json"
    record = HeldOut.read(kept)
    replace(record, bpb=1.0, weights_sha256="of another model").write(kept)
    again = run(text, copied)
    assert again.rungs[2].bpb.median == record.bpb


def test_more_seeds_give_a_spread_and_keep_the_first(text, copied, small):
    before = (copied / "c" / "distilled" / "model.safetensors").stat().st_mtime_ns
    found = run(text, copied, seeds=2)
    assert (found.provenance.seed, found.provenance.seeds) == (None, [0, 1])
    assert (copied / "c" / "distilled" / "model.safetensors").stat().st_mtime_ns == before
    assert all(rung.bpb.repeats == 2 for rung in found.rungs)
    assert len(set(found.rungs[0].bpb.samples)) == 2
    spread = found.rungs[-1].bpb
    shown = f"{spread.median:.4f} ({spread.min:.4f} to {spread.max:.4f})"
    assert shown in ladder_table(load_results(copied / "r"))
    # a further seed: the chosen reference alone, the same teacher, as many tokens
    made = {path.name for path in (copied / "c").glob("*-seed1")}
    assert made == {f"{rung.stage}-seed1" for rung in found.rungs}
    for rung in found.rungs:
        own, further = (
            Summary.read(copied / "r" / "ladder" / f"{rung.stage}{suffix}_summary.json")
            for suffix in ("", "-seed1")
        )
        tokens = [each.training and each.training.tokens for each in (own, further)]
        assert tokens[0] == tokens[1]
        assert own.model.config == further.model.config


def test_a_teacher_of_ones_own_is_taken(text, copied, small):
    for stage in ("distilled", "q8_0", "q4_0"):
        (copied / "r" / "ladder" / f"{stage}_summary.json").unlink()
    other = copied / "mine"
    (copied / "c" / "teacher").rename(other)
    found = run(text, copied, teacher=other, overwrite=True)
    outside = {rung.stage: rung.outside_teacher for rung in found.rungs}
    assert (outside["vocabulary"], outside["q4_0"]) == (None, "mine")
    summary = Summary.read(copied / "r" / "ladder" / "distilled_summary.json")
    assert [t.name for t in summary.distillation.teachers] == ["mine"]
    assert not (copied / "c" / "teacher").exists()


def test_a_quantised_rung_without_its_file_is_not_finished(text, copied, small):
    file = copied / "c" / "q8_0" / "model-q8_0.gguf"
    file.unlink()
    with pytest.raises(UsageError, match=r"q8_0' holds a model already.*--overwrite replaces it"):
        run(text, copied)
    run(text, copied, overwrite=True)
    assert file.is_file()


def test_finished_stages_of_other_options_are_not_taken(text, copied, small):
    """They were taken, and ladder.json then said what had been asked for this time."""
    record = copied / "r" / "ladder.json"
    before = record.read_bytes()
    for options, said in (
        ({"student": "tiny"}, "distilled' is finished, and was made with --student pico"),
        ({"minutes": 0.008}, "reference' is finished, and was made with --minutes 0.004"),
        ({"size": 280}, "vocabulary' is finished, and was made with --size 300"),
    ):
        with pytest.raises(UsageError, match=said):
            run(text, copied, **options)
    assert record.read_bytes() == before


def test_a_stage_of_other_options_is_made_again_when_asked(text, copied, small):
    made = []
    plan = ladder_stages.LadderPlan(
        data=str(text),
        minutes=0.004,
        size=300,
        student="tiny",
        teacher=None,
        seed=0,
        checkpoints=copied / "c",
        results=copied / "r" / "ladder",
        compute=None,
        valid_bytes=1000,
        overwrite=True,
    )
    for stage, _ in ladder_stages.stages(plan):
        if not ladder_stages.is_finished(plan, stage):
            ladder_stages.discard(plan, stage)
            made.append(stage.name)
    assert made == ["distilled", "q8_0", "q4_0"]
    assert not (copied / "c" / "distilled").exists() and (copied / "c" / "itera").exists()


def test_a_damaged_summary_is_named(text, copied, small):
    (copied / "r" / "ladder" / "itera_summary.json").write_text("{")
    with pytest.raises(IteraError, match=r"itera_summary.json.*can.t be read"):
        run(text, copied)


def rung(bpb: list[float], cpu: float, size: float, memory: float) -> Rung:
    nothing = Stat.of([1.0])
    return Rung(
        *("a rung", "stage", "engine", Stat.of(bpb), 1, 1, 1, 1, 1.0, 1.0, size, Stat.of([cpu])),
        *(nothing, Stat.of([memory]), nothing, None, 1.0, 1.0),
    )


def test_targets_are_reached_by_numbers_alone():
    first = rung([0.8], 4.0, 60e6, 500e6)

    def verdicts(first: Rung, last: Rung) -> list[str]:
        return [target.verdict for target in judge([first, last])]

    good = judge([first, rung([0.8], 0.01, 0.7e6, 5e6)])
    assert [target.verdict for target in good] == ["met"] * 3
    assert [target.goal_verdict for target in good] == [None, "missed", None]
    assert judge([first, rung([0.8], 0.01, 0.6e6, 5e6)])[1].goal_verdict == "met"
    assert verdicts(first, rung([0.7], 0.02, 1.1e6, 11e6)) == ["missed"] * 3
    worse = rung([0.81], 0.001, 0.1e6, 1e6)
    assert verdicts(first, worse) == ["missed"] * 3, "no factor counts at a lower quality"
    seeds = rung([0.8, 0.9], 4.0, 60e6, 500e6)
    assert verdicts(seeds, rung([0.8], 0.01, 0.7e6, 5e6)) == ["met"] * 3
    assert verdicts(seeds, rung([0.81], 0.01, 0.7e6, 5e6)) == ["missed"] * 3
    busy = judge([first, rung([0.8], 0.01, 0.7e6, 5e6)], Load(0.9, 2))
    assert [target.verdict for target in busy] == ["not judged", "met", "met"]  # time; bytes


@pytest.mark.parametrize("options", [{"seeds": 0}, {"minutes": 0.0}, {"repeats": 0}])
def test_impossible_options_are_refused(options, tmp_path):
    with pytest.raises(UsageError, match=next(iter(options))):
        ladder("python", quiet=True, checkpoints=tmp_path, results=tmp_path, **options)


def test_what_is_missing_is_said_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr("itera_lite.commands.ladder.find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match="transformers"):
        ladder("python", quiet=True, checkpoints=tmp_path / "c", results=tmp_path / "r")
    assert not list(tmp_path.iterdir())


def test_a_deployed_model_writes_in_a_process_of_its_own(tiny_pair, tmp_path):
    pytest.importorskip("transformers")
    from itera_lite.export.gguf import export_gguf

    folder = tiny_pair["itera_lite_test"]
    file = tmp_path / "model.gguf"
    export_gguf(folder, "f32", file)
    slow = DeployedModel("transformers", folder, 20)
    fast = DeployedModel("engine", file, 20)
    assert fast.size == file.stat().st_size
    assert slow.size > (folder / "model.safetensors").stat().st_size
    costs = []
    for model in (slow, fast):
        found = model.write_texts(seed=1)
        assert found["bytes"] > 0 and found["cpu_seconds"] > 0
        costs.append(found["cpu_seconds"] / found["bytes"])
        assert model.peak_bytes(found) > 1e6
    assert costs[1] < costs[0]
    with pytest.raises(IteraError, match=r"nothing.gguf"):
        DeployedModel("engine", tmp_path / "nothing.gguf", 20).write_texts(seed=1)
