"""The ladder: every stage is made, finished ones stay, the verdicts follow from the numbers."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from itera_lite import config
from itera_lite.bench.processes import DeployedModel
from itera_lite.bench.runtimes import prompt_text
from itera_lite.checkpoint.folder import load_checkpoint
from itera_lite.commands.ladder import ladder
from itera_lite.commands.report import report
from itera_lite.errors import CheckpointError, IteraError, MissingExtra, UsageError
from itera_lite.evaluate.bits import validation_score
from itera_lite.export.gguf import export_gguf
from itera_lite.files import gzipped
from itera_lite.records import HeldOut, Rung, Summary
from itera_lite.report.results import load_results
from itera_lite.stats.load import Load
from itera_lite.stats.samples import Stat
from itera_lite.studies import ladder_costs, ladder_scores, ladder_stages
from itera_lite.studies.ladder_costs import QUANTIZED_TARGETS, STEADY, TARGETS, judge, steadiness
from itera_lite.studies.ladder_scores import llama_score
from itera_lite.studies.ladder_stages import REFERENCES, STAGES, LadderPlan
from itera_lite.train import recipe
from itera_lite.train.compute import Compute
from itera_lite.train.loop import Trainer
from itera_lite.train.recipe import Budget, train_config
from itera_lite.train.terminal import Stopped
from tests.compress.checkpoints import text
from tools.readme import ladder_table

__all__ = ["text"]

ITERA = {"pattern": "ma", "d_model": 64, "n_experts": 4, "d_expert": 32, "d_state": 16}
LLAMA = {"pattern": "aa", "d_model": 64, "d_ff": 96, "n_kv_heads": 2}
GPT2 = {"pattern": "aa", "d_model": 64, "d_ff": 128, "n_kv_heads": 2, "max_seq_len": 256}
WRITE_TEXTS = DeployedModel.write_texts
ALONE = {"alone": 9.0}  # added to its bits per byte
WRITTEN = {"bytes": 1000.0, "seconds": 4.0, "cpu_seconds": 4.0, "peak_rss_bytes": 4e8}


@pytest.fixture(scope="module")
def small() -> Iterator[list[DeployedModel]]:
    """Shapes that train in an instant; transformers writes on paper. Gives what was measured."""
    measured: list[DeployedModel] = []

    def write_texts(self: DeployedModel, seed: int, threads: int = 1) -> dict[str, float]:
        measured.append(self)
        times = sum(model.runtime == self.runtime for model in measured)
        if self.runtime == "transformers" or times > 2:  # for real in the first ladder
            return dict(WRITTEN)
        return WRITE_TEXTS(self, seed, threads)

    def valid_bpb(plan: LadderPlan, stage: str) -> float | None:
        """A teacher that is better than the student alone, whatever an instant's training gave."""
        bpb = real_bpb(plan, stage)
        return None if bpb is None else bpb + ALONE.get(stage, 0.0)

    real_bpb = ladder_stages.valid_bpb
    with pytest.MonkeyPatch.context() as patch:
        for size in ("femto", "tiny", "small"):
            shape = {"itera": ITERA, "transformer": LLAMA}
            if size == "small":
                shape = {"itera": {**ITERA, "d_model": 96}}
            patch.setitem(config.PRESETS, size, shape)
        patch.setitem(config.PRESETS, "reference", {"gpt2": GPT2})
        patch.setitem(config.PRESETS, "reference_medium", {"gpt2": {**GPT2, "d_ff": 96}})
        patch.setitem(config.PRESETS, "reference_small", {"gpt2": {**GPT2, "pattern": "a"}})
        for module in (ladder_stages, ladder_costs):
            patch.setattr(module, "valid_bpb", valid_bpb)
        for module in (ladder_stages, ladder_scores):
            patch.setattr(module, "REFERENCE_VOCABULARY", 320)
        patch.setattr(DeployedModel, "write_texts", write_texts)
        yield measured


def run(text: Path, folder: Path, **options):
    return ladder(
        str(text),
        **{"minutes": 0.004, "size": 300, "precision": "fp32"} | options,
        repeats=2,
        workers=1,
        quiet=True,
        checkpoints=folder / "c",
        results=folder / "r",
    )


def plan_of(text: Path, folder: Path, **options) -> LadderPlan:
    """The plan of `run` for the first seed."""
    return LadderPlan(
        **{
            "data": str(text),
            "minutes": 0.004,
            "size": 300,
            "student": "femto",
            "teacher": None,
            "seed": 0,
            "checkpoints": folder / "c",
            "results": folder / "r" / "ladder",
            "compute": Compute.prepare("fp32", 1, True),
            "valid_bytes": 2_000_000,
        }
        | options
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
    wanted = [s.name for s in STAGES if s.name not in ("teacher", "alone")]
    tried = {r.stage: r for r in found.references}
    assert list(tried) == [stage.name for stage in REFERENCES]
    best = min(tried, key=lambda name: tried[name].valid_bpb)
    assert [name for name in tried if tried[name].chosen] == [best]
    assert names == [best, *wanted, "few_levels"]
    reference, last = found.rungs[0], found.rungs[-1]
    assert last.runtime == "engine"
    file = folder / "c" / "few_levels" / "model-q4_0.gguf.gz"
    assert last.bytes_on_disk == file.stat().st_size < reference.bytes_on_disk
    rounded = next(rung for rung in found.rungs if rung.stage == "q4_0")
    file = folder / "c" / "q4_0" / "model-q4_0.gguf"
    assert rounded.bytes_compressed == len(gzipped(file.read_bytes())) < rounded.bytes_on_disk
    assert last.bytes_compressed == last.bytes_on_disk < rounded.bytes_compressed
    assert last.bytes_compressed < reference.bytes_compressed < reference.bytes_on_disk
    assert last.cpu_seconds_per_kb.median < reference.cpu_seconds_per_kb.median
    assert last.vocab_size == 300 < reference.vocab_size == 320
    # the measurements went in turns: every model once, then every one again
    models = len(names) + (found.quantized is not None)
    rounds = small[:models], small[models : 2 * models]
    assert len(set(rounds[0])) == models and set(rounds[0]) == set(rounds[1])
    # each reference had as much time as all that the last rung was made from
    budgets = {
        name: Summary.read(folder / "r" / "ladder" / f"{name}_summary.json").training
        for name in (*tried, "teacher", "distilled", "few_levels")
    }
    seconds = {name: train.budget.amount for name, train in budgets.items()}
    references = [seconds.pop(name) for name in tried]
    assert references == pytest.approx(3 * [sum(seconds.values())])
    assert 0 < reference.tokens_in_use <= reference.vocab_size
    assert last.outside_teacher is None


def test_what_is_compared_trains_in_turns(text, first, small):
    groups = ladder_stages.groups(plan_of(text, first[1]))
    names = [[stage.name for stage, _ in group] for group in groups]
    assert names[0] == ["reference", "reference_medium", "reference_small"]
    assert names[1:4] == [["transformer", "itera"], ["vocabulary"], ["teacher", "alone"]]
    assert names[4:] == [["distilled"], ["q8_0"], ["q4_0"], ["few_levels"]]


def test_what_is_finished_is_not_done_again_and_is_reported(text, first, copied, small, capsys):
    stamps = {p: p.stat().st_mtime_ns for p in (copied / "c").glob("*/model.safetensors")}
    scores = {p: p.stat().st_mtime_ns for p in (copied / "r").glob("ladder/*_heldout.json")}
    in_llama = 0 if first[0].quantized is None else 4  # three types on one text, one on another
    assert len(scores) == len(first[0].rungs) - 1 + in_llama
    again = run(text, copied)
    assert {p: p.stat().st_mtime_ns for p in (*stamps, *scores)} == {**stamps, **scores}
    assert [r.bpb for r in again.rungs] == [r.bpb for r in first[0].rungs]
    assert "Size on disk " in capsys.readouterr().out

    report(results=copied / "r", reports=copied / "reports")
    page = (copied / "reports" / "efficiency_report.md").read_text()
    assert "Path to 100-300x" in page and "8: the native engine" in page
    assert "best of 3 conventional models" in page
    assert "against the same model in llama.cpp" in page or "llama.cpp wasn't installed" in page


def test_other_weights_are_scored_again(text, copied, small):
    kept = copied / "r" / "ladder" / "itera_heldout.json"
    record = HeldOut.read(kept)
    replace(record, bpb=1.0, weights_sha256="of another model").write(kept)
    again = run(text, copied)
    assert again.rungs[2].bpb.median == record.bpb


def test_more_seeds_give_a_spread_and_keep_the_first(text, copied, small, monkeypatch):
    # By itself, any budget in tokens would have another recipe than the first seed's, in time.
    monkeypatch.setattr(recipe, "SHORT", {"tokens": 0.0, "seconds": 240.0})
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
        for key in ("lr_other", "lr_matrix", "batch_size", "steps") if own.training else ():
            assert getattr(own.training, key) == getattr(further.training, key), rung.stage
        assert own.model.config == further.model.config


def test_a_teacher_of_ones_own_is_taken(text, copied, small):
    for stage in ("distilled", "q8_0", "q4_0", "few_levels"):
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
        ({"student": "tiny"}, "'alone' .* --student was femto and is tiny now. Give the same"),
        ({"minutes": 0.008}, "stage 'reference' .* --minutes was 0.004 and is 0.008 now"),
        ({"size": 280}, "stage 'vocabulary' .* --size was 300 and is 280 now"),
        ({"precision": "bf16"}, "stage 'reference' .* --precision was fp32 and is bf16 now"),
        ({"quick": True}, r"stage 'reference' .*evaluations \(--quick\) was 8 and is 2 now"),
    ):
        with pytest.raises(UsageError, match=said):
            run(text, copied, **options)
    assert record.read_bytes() == before


def test_a_stage_of_other_options_is_made_again_when_asked(text, copied, small):
    plan = plan_of(text, copied, student="tiny", overwrite=True)
    everything = [stage for group in ladder_stages.groups(plan) for stage, _ in group]
    made = [stage for stage in everything if not ladder_stages.is_finished(plan, stage)]
    assert [stage.name for stage in made] == ["alone", "distilled", "q8_0", "q4_0", "few_levels"]
    for stage in reversed(made):
        ladder_stages.discard(plan, stage)
    assert not (copied / "c" / "distilled").exists() and (copied / "c" / "itera").exists()


def test_a_last_stage_of_other_levels_is_not_taken(text, copied, small, monkeypatch):
    plan, last = plan_of(text, copied), STAGES[-1]
    assert ladder_stages.is_finished(plan, last)
    monkeypatch.setattr(ladder_stages, "LEVELS", 7)
    with pytest.raises(UsageError, match="the number of levels was 15 and is 7 now"):
        ladder_stages.is_finished(plan, last)


def test_a_stage_of_another_shape_is_not_taken(text, copied, small, monkeypatch):
    """Another version's preset of the same name."""
    plan = plan_of(text, copied)
    monkeypatch.setitem(config.PRESETS, "femto", {"itera": {**ITERA, "n_experts": 6}})
    alone = next(stage for stage in STAGES if stage.name == "alone")
    with pytest.raises(UsageError, match="the model's n_experts was 4 and is 6 now"):
        ladder_stages.is_finished(plan, alone)


def test_a_stage_of_another_text_is_not_taken(text, copied, small, monkeypatch):
    plan = plan_of(text, copied)
    alone = next(stage for stage in STAGES if stage.name == "alone")
    assert ladder_stages.is_finished(plan, alone)
    monkeypatch.setattr(ladder_stages, "_text_of", lambda plan: "another")
    with pytest.raises(UsageError, match=r"the hash of the text was [0-9a-f]{16} and is another"):
        ladder_stages.is_finished(plan, alone)


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
    first = rung([0.8], 12.0, 70e6, 900e6)

    def verdicts(first: Rung, last: Rung, load: Load | None = None) -> list[str]:
        return [target.verdict for target in judge(last, first, TARGETS, load)]

    missing = "not measured"  # the compressed bytes
    good = rung([0.8], 0.01, 0.7e6, 5e6)
    assert verdicts(first, good) == ["met", "met", missing, "met"]
    nothing = ["missed", "missed", missing, "missed"]
    assert verdicts(first, rung([0.7], 0.02, 1.1e6, 11e6)) == nothing
    assert verdicts(first, rung([0.81], 0.001, 0.1e6, 1e6)) == nothing, "at a lower quality"
    seeds = rung([0.8, 0.9], 12.0, 70e6, 900e6)
    assert verdicts(seeds, good) == ["met", "met", missing, "met"]
    assert verdicts(seeds, rung([0.81], 0.01, 0.7e6, 5e6))[0] == "missed", "worst against best"
    busy = verdicts(first, good, Load(0.9, 2))
    assert busy == ["not judged", "met", missing, "met"]  # time; bytes
    withheld = judge(good, first, TARGETS, None, "a compiler ran")
    assert [target.verdict for target in withheld] == ["not judged"] * 2 + [missing, "not judged"]
    assert all(target.reason in ("a compiler ran", "") for target in withheld)
    packed = [replace(each, bytes_compressed=size) for each, size in ((first, 60e6), (good, 5e5))]
    assert verdicts(*packed) == ["met"] * 4
    # the second reference, and none
    (found,) = judge(good, rung([0.8], 0.2, 5e6, 30e6), QUANTIZED_TARGETS)
    assert (found.verdict, found.value) == ("met", pytest.approx(20))
    assert [t.verdict for t in judge(good, None, QUANTIZED_TARGETS)] == [missing]


def test_nothing_is_judged_where_other_programs_ran_beside_one_side(text, first, copied):
    plan = plan_of(text, copied)
    stage = first[0].rungs[0].stage

    def why(beside_the_reference: float) -> str:
        loads = dict.fromkeys(("teacher", "distilled", "few_levels"), 0.0)
        for name, load in {stage: beside_the_reference, **loads}.items():
            made = plan.summary(name)
            made.provenance.load_by_others = load
            made.provenance.machine.cores = 2
            made.write(plan.files(name).summary)
        return ladder_costs._disturbed(plan, stage, "few_levels")

    assert why(0.0) == ""
    assert "1.0 of 2 cores (beside the reference's training)" in why(1.0)


def test_the_distance_of_the_seeds_is_judged():
    assert steadiness(rung([0.8], 1, 1, 1)) == STEADY
    near, far = (steadiness(rung([0.8, 0.81, each], 1, 1, 1)) for each in (0.815, 0.82))
    assert (near.verdict, far.verdict) == ("met", "missed")
    assert far.value == pytest.approx(0.02 / 0.81)


def test_the_reference_is_run_by_llama_cpp(text, first, copied, small):
    """Its quantised file, chosen on the validation text, and its quality as PyTorch has it."""
    pytest.importorskip("llama_cpp")
    found = first[0]
    tried = {each.type: each for each in found.quantized_types}
    assert list(tried) == ["q4_0", "mixed", "q8_0"]
    (chosen,) = (each for each in tried.values() if each.chosen)
    good = [t for t in tried.values() if t.valid_bpb <= 1.01 * tried["q8_0"].valid_bpb]
    assert chosen == min(good, key=lambda each: each.bytes)
    assert found.quantized.runtime == "llama.cpp" and found.quantized.stage == found.rungs[0].stage
    assert found.quantized.bytes_on_disk == chosen.bytes < found.rungs[0].bytes_on_disk / 2
    assert found.quantized.bpb.median == pytest.approx(found.rungs[0].bpb.median, rel=0.02)
    assert 0 < found.quantized.peak_rss_bytes.median < 1e8
    folder = copied / "c" / found.rungs[0].stage
    model, tokenizer = load_checkpoint(folder)
    documents = [prompt_text().encode()[i : i + size] for i, size in ((0, 2000), (2000, 300))]
    nats, tokens, size = llama_score(export_gguf(folder, "f32").path, tokenizer, documents)
    want = validation_score(model, tokenizer, documents)
    assert (tokens, size) == (want.tokens, want.bytes)
    assert nats == pytest.approx(want.nats, rel=1e-4)


def test_a_teacher_that_is_no_better_teaches_nobody(text, copied, small, monkeypatch):
    """The student that was trained alone is rounded, and the report has it."""
    monkeypatch.setitem(ALONE, "alone", -9.0)
    with pytest.raises(UsageError, match=r"stage 'q8_0' .* the weights of 'distilled' was"):
        run(text, copied)
    found = run(text, copied, overwrite=True)
    stages = [rung.stage for rung in found.rungs]
    assert stages[4:] == ["alone", "q8_0", "q4_0", "few_levels", "few_levels"]
    assert found.teaching.taught_bpb is None and found.teaching.chosen == "alone"
    plan = plan_of(text, copied)
    alone, rounded = (plan.summary(name) for name in ("alone", "few_levels"))
    assert alone.training.budget.amount == pytest.approx(4 * 60 * 0.004)  # the time of both
    assert [source.name for source in rounded.model.made_from] == ["alone"]
    taken = found.rungs[-1].train_minutes
    assert taken == pytest.approx((alone.training.seconds + rounded.training.seconds) / 60)
    assert "it taught nobody" in ladder_table(load_results(copied / "r"))


def test_a_taught_student_that_is_worse_is_not_deployed(text, copied, small, monkeypatch):
    monkeypatch.setitem(ALONE, "distilled", 99.0)
    found = run(text, copied, overwrite=True)
    assert [rung.stage for rung in found.rungs][4] == "alone"
    assert found.teaching.taught_bpb > found.teaching.alone_bpb
    assert "trained alone is deployed" in ladder_table(load_results(copied / "r"))


def test_a_stopped_stage_of_other_settings_does_not_go_on(text, tmp_path, small, monkeypatch):
    """It went on, with the rest of its steps as asked for this time."""
    original = Trainer._step

    def stepping(self):
        if self.state.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self)

    monkeypatch.setattr(Trainer, "_step", stepping)
    plan, other = (plan_of(text, tmp_path, minutes=minutes) for minutes in (10.0, 20.0))
    stage = next(stage for stage in STAGES if stage.name == "itera")
    with pytest.raises(Stopped):
        ladder_stages.make(plan, [(stage, 10.0)])
    said = r"stage 'itera' .* was begun .* --minutes was 10.0 and is 20.0 now"
    with pytest.raises(UsageError, match=said):
        ladder_stages.is_finished(other, stage)
    assert not ladder_stages.is_finished(plan, stage)
    ladder_stages.discard(plan, stage)
    assert plan.files("itera").resumable
    ladder_stages.discard(other, stage)
    assert not plan.files("itera").resumable


def test_the_rate_of_a_reference_falls_with_width_and_tokens():
    shape = config.preset("gpt2", "reference_small", 32_768)
    rates = {
        (width, tokens): config.reference_recipe(width, tokens)["lr_other"]
        for width in (128, 256)
        for tokens in (1e5, config.REFERENCE_TOKENS, 32 * config.REFERENCE_TOKENS)
    }
    short, usual, long = (rates[128, each] for each in sorted({tokens for _, tokens in rates}))
    assert short == usual == config.REFERENCE_RATE > long
    assert long == pytest.approx(usual / 32**config.REFERENCE_FALL)
    assert all(rates[256, t] == pytest.approx(rates[128, t] / 2) for _, t in rates)
    hour = Budget("seconds", 3600)
    assert Budget("tokens", hour.tokens(shape)).tokens(shape) == hour.tokens(shape) > 1e7
    found = [train_config(shape, Budget("seconds", 60 * m), {}).lr_other for m in (1, 10, 60)]
    assert found == sorted(found, reverse=True) and len(set(found)) == 3


@pytest.mark.parametrize("options", [{"seeds": 0}, {"minutes": 0.0}, {"repeats": 0}])
def test_impossible_options_are_refused(options, tmp_path):
    with pytest.raises(UsageError, match=next(iter(options))):
        ladder("python", quiet=True, checkpoints=tmp_path, results=tmp_path, **options)


def test_what_is_missing_is_said_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr("itera_lite.commands.ladder.find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match="transformers"):
        ladder("python", quiet=True, checkpoints=tmp_path / "c", results=tmp_path / "r")
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="nobody"):
        run(tmp_path, tmp_path, teacher=tmp_path / "nobody")
    assert not list(tmp_path.iterdir())


def test_a_deployed_model_writes_in_a_process_of_its_own(tiny_pair, tmp_path):
    pytest.importorskip("transformers")
    folder = tiny_pair["itera_lite_test"]
    file = tmp_path / "model.gguf"
    export_gguf(folder, "f32", file)
    slow = DeployedModel("transformers", folder, 20)
    fast = DeployedModel("engine", file, 20)
    assert list(fast.files) == [file]
    shipped = {path.name for path in slow.files}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= shipped
    costs = []
    for model in (slow, fast):
        found = WRITE_TEXTS(model, seed=1)
        assert found["bytes"] > 0 and found["cpu_seconds"] > 0
        costs.append(found["cpu_seconds"] / found["bytes"])
        assert model.peak_bytes(found) > 1e6
    assert costs[1] < costs[0]
    with pytest.raises(IteraError, match=r"nothing.gguf"):
        WRITE_TEXTS(DeployedModel("engine", tmp_path / "nothing.gguf", 20), seed=1)
