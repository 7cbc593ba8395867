"""The verb as a user runs it: the student learns, stops and goes on; bad input changes nothing."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from itera_lite.checkpoint.folder import load_checkpoint, save_checkpoint
from itera_lite.commands.compress_distill import distill
from itera_lite.commands.train import train
from itera_lite.data.prepare import prepare
from itera_lite.distill.cache import SoftTargets
from itera_lite.distill.plan import DistillationPlan
from itera_lite.distill.teacher import Teacher
from itera_lite.errors import CheckpointError, DataError, TokenizerMismatch, UsageError
from itera_lite.records import BudgetRecord, Summary, TeacherComparison, TeacherRun
from itera_lite.stats.load import Load
from itera_lite.studies import teacher_or_not
from itera_lite.studies.teacher_or_not import TeacherStudy
from itera_lite.train.loop import Trainer
from itera_lite.train.recipe import Budget
from itera_lite.workers import Workers
from tests.compress.checkpoints import GPT2, ITERA, files, old, text
from tests.export.models import random_model
from tests.train.small import make_small

__all__ = ["old", "text"]

QUIET = {"workers": 1, "quiet": True, "precision": "fp32"}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """What `tiny` is; and windows that fit the small text."""
    make_small(monkeypatch)


@pytest.fixture(scope="module")
def teacher(text, tmp_path_factory) -> Path:
    """A teacher that has learned something."""
    folder = tmp_path_factory.mktemp("teacher")
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        options = {"model": "itera", "tokens": "60K", "vocab_size": 300, "seq_len": 64}
        train(str(text), checkpoints=folder, results=folder, evaluations=1, **options, **QUIET)
    return folder / "itera_lite_tiny"


def run(text: Path, out: Path, teacher: Path | list[Path], **overrides):
    teachers = teacher if isinstance(teacher, list) else [teacher]
    options = {"student": "tiny", "tokens": "20K", "seed": 1} | QUIET | overrides
    return distill(
        teacher=teachers, data=str(text), checkpoints=out / "c", results=out / "r", **options
    )


def test_a_student_learns_and_says_what_it_cost(text, tmp_path, teacher):
    before = files(teacher)
    summary = run(text, tmp_path, teacher, mix=0.9)
    assert summary.valid.bpb < 2.5
    told = summary.distillation
    assert told.teachers[0].bpb < 2
    assert told.teachers[0].name == "itera_lite_tiny"
    assert told.same_tokenizer
    assert told.teacher_seconds > 0
    assert told.cache.share_taught == 1
    assert 0.8 < told.cache.top_k_mass <= 1.001
    assert told.mix == 0.9
    written = tmp_path / "r" / "itera_lite_tiny_distilled_summary.json"
    assert Summary.read(written) == summary
    model, tokenizer = load_checkpoint(tmp_path / "c" / "itera_lite_tiny_distilled")
    assert tokenizer.sha256 == load_checkpoint(teacher)[1].sha256
    assert model.config.vocab_size == 300
    assert files(teacher) == before


def test_the_teacher_is_what_it_learns_from(text, tmp_path, teacher):
    """With the teacher alone (mix 1), the text's own next tokens have no say."""
    taught = run(text, tmp_path, teacher, mix=1.0, top_k=200)
    assert taught.valid.bpb < 2.5


def test_a_stopped_run_goes_on_as_if_it_had_not(text, tmp_path, teacher, monkeypatch):
    fill_at, steps = SoftTargets.fill_at, 0

    def stopping(self, positions, workers=None):
        nonlocal steps
        steps += workers is not None  # as a step calls it, once
        if steps == 6:
            raise KeyboardInterrupt
        fill_at(self, positions, workers)

    from itera_lite.train import loop

    monkeypatch.setattr(loop, "ROW_STEPS", 2)
    whole = run(text, tmp_path / "whole", teacher)
    monkeypatch.setattr(SoftTargets, "fill_at", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(text, tmp_path / "cut", teacher)
    monkeypatch.setattr(SoftTargets, "fill_at", fill_at)
    with pytest.raises(CheckpointError, match="what is learned from"):
        run(text, tmp_path / "cut", teacher, resume=True, mix=0.25)
    resumed = run(text, tmp_path / "cut", teacher, resume=True, tokens=None)  # as the first time
    assert resumed.valid == whole.valid


def test_a_second_student_costs_no_teacher_time(text, tmp_path, teacher, monkeypatch):
    first = run(text, tmp_path, teacher)

    def never(self, positions, vocab_size):
        raise AssertionError("it was computed before")

    monkeypatch.setattr(Teacher, "probabilities", never)
    second = run(text, tmp_path, teacher, name="second", temperature=2.0)
    told = second.distillation
    assert told.teacher_seconds == pytest.approx(first.distillation.teacher_seconds)


def test_a_checkpoint_goes_on_and_is_not_touched(text, tmp_path, teacher):
    student = tmp_path / "given" / "student"
    shutil.copytree(teacher, student)
    before, start = files(student), load_checkpoint(student)[0]
    summary = run(text, tmp_path, teacher, student=str(student), tokens="8K")
    assert summary.model.name == "student_distilled"
    assert summary.distillation.student == "student"
    assert files(student) == before
    after = load_checkpoint(tmp_path / "c" / "student_distilled")[0]
    moved = [
        torch.dist(a, b) / b.norm()
        for a, b in zip(after.parameters(), start.parameters(), strict=True)
    ]
    assert max(moved) > 0 and torch.stack(moved).median() < 0.5


def test_a_budget_in_minutes_is_measured_first(text, tmp_path, teacher):
    summary = run(text, tmp_path, teacher, tokens=None, minutes=0.02)
    assert summary.training.budget == BudgetRecord("seconds", 1.2)
    assert summary.valid.bpb < 4


def test_across_tokenizers(text, tmp_path, teacher):
    summary = run(text, tmp_path, teacher, vocab_size=270)
    assert summary.dataset.vocab_size == 270
    told = summary.distillation
    assert not told.same_tokenizer
    assert 0.3 < told.cache.share_taught < 1
    assert summary.valid.bpb < 2.5


def test_with_and_without_a_teacher(text, tmp_path, teacher, monkeypatch, capsys):
    record = run(text, tmp_path, teacher, compare=True, seeds=3, tokens="8K", quiet=False)
    assert len(record.runs) == 9
    for seed in (1, 2, 3):
        one = {run.side: run for run in record.runs if run.seed == seed}
        assert one["alone"].tokens == one["distilled"].tokens
        assert one["alone_longer"].tokens >= one["alone"].tokens
    assert record.verdicts["alone"].text
    out = capsys.readouterr().out
    assert "with the teacher  " in out
    assert "Against without it:" in out

    path = tmp_path / "r" / "itera_lite_tiny_distilled_comparison.json"
    kept = TeacherComparison.read(path)
    assert kept == record
    kept.runs = kept.runs[:7]  # as if it had been stopped there
    kept.write(path)
    trained = []
    train_one = TeacherStudy._train

    def counted(*arguments):
        trained.append(arguments)
        return train_one(*arguments)

    monkeypatch.setattr(TeacherStudy, "_train", counted)
    again = run(text, tmp_path, teacher, compare=True, seeds=3, tokens="8K")
    assert len(trained) == 2
    assert again.runs[:7] == record.runs[:7]


def test_all_sides_of_a_comparison_by_time_train_in_turns(text, tmp_path, teacher, monkeypatch):
    """The teachers' time, which one side gets as well, is known before the training."""
    taken: list[str] = []
    step = Trainer._step

    def stepping(self):
        taken.append(self.files.name)
        return step(self)

    monkeypatch.setattr(Trainer, "_step", stepping)
    options = {"compare": True, "tokens": None, "minutes": 0.02}
    record = run(text, tmp_path, teacher, seeds=2, **options)
    for seed in {run.seed for run in record.runs}:
        one = {run.side: run for run in record.runs if run.seed == seed}
        assert one["alone_longer"].seconds >= 1.2 + one["distilled"].teacher_seconds
        assert min(one["alone"].seconds, one["distilled"].seconds) >= 1.2
        places = [i for i, name in enumerate(taken) if name == f"alone_longer_seed{seed}"]
        others = [i for i, name in enumerate(taken) if name == f"distilled_seed{seed}"]
        assert places[0] < others[-1] and others[0] < places[-1]


@pytest.mark.parametrize("unit", ["seconds", "tokens"])
def test_a_busy_side_is_not_judged_where_the_clock_had_a_say(unit):
    study = TeacherStudy(None, None, Budget(unit, 10.0), None)
    runs = [
        TeacherRun(side, seed, 0.0, bpb + 0.001 * seed, 10, 100, 10, None, Load(others, 2))
        for side, bpb, others in (
            ("distilled", 0.7, 0.1), ("alone", 0.8, 0.1), ("alone_longer", 0.8, 0.5),
        )
        for seed in range(3)
    ]  # fmt: skip
    sides = {side: teacher_or_not._side(side, runs) for side in teacher_or_not.SIDES}
    verdict = teacher_or_not._verdict
    alone = verdict(sides, "alone", study._loads(runs, "alone"))
    assert alone.winner == "with the teacher"
    longer = verdict(sides, "alone_longer", study._loads(runs, "alone_longer"))
    assert longer.winner is None
    assert "0.1 of 2 cores (with the teacher) and 0.5 of 2 cores (without it," in longer.text
    for run in runs[3:6]:
        run.load = Load(0.5, 2)
    busy = verdict(sides, "alone", study._loads(runs, "alone"))
    assert busy.text.startswith("not judged") == (unit == "seconds")


def test_bad_input_is_told_and_changes_nothing(text, tmp_path, teacher):
    bad = [
        ({"teacher": []}, UsageError, "--teacher"),
        ({"teacher": [tmp_path / "none"]}, CheckpointError, "none"),
        ({"student": "enormous"}, UsageError, "expected a checkpoint's folder, one of"),
        ({"mix": 0.0}, UsageError, "--mix 0"),
        ({"temperature": -1.0}, UsageError, "--temperature -1"),
        ({"temperature": float("inf")}, UsageError, "--temperature inf"),
        ({"temperature": float("nan")}, UsageError, "--temperature nan"),
        ({"mix": float("nan")}, UsageError, "--mix nan"),
        ({"top_k": 0}, UsageError, "--top-k 0"),
        ({"minutes": 1.0}, UsageError, "one of them"),
        ({"tokens": None, "minutes": 0.0}, UsageError, "more than 0"),
        ({"compare": True, "seeds": 1}, UsageError, "--seeds 1"),
        ({"vocab_size": 280, "tokenizer": teacher}, UsageError, "--vocab-size"),
        ({"student": str(teacher), "vocab_size": 280}, UsageError, "tokenizer of its own"),
    ]
    for overrides, error, message in bad:
        with pytest.raises(error, match=message):
            run(text, tmp_path, **({"teacher": teacher} | overrides))
    assert not (tmp_path / "c").exists()
    folder = teacher.parent
    with pytest.raises(UsageError, match="--name"):
        distill(
            teacher=[teacher],
            student="tiny",
            data=str(text),
            name=teacher.name,
            checkpoints=folder,
            results=folder,
        )


def test_a_broken_teacher_and_one_of_shorter_tokens(text, tmp_path, teacher, old):
    broken = tmp_path / "broken"
    shutil.copytree(teacher, broken)
    (broken / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(CheckpointError, match="vit"):
        run(text, tmp_path, broken)
    letters = prepare(str(text), vocab_size=257, quiet=True).tokenizer
    shape = ITERA.replace(vocab_size=letters.vocab_size)
    one = save_checkpoint(tmp_path / "letters", random_model(shape), letters)
    with pytest.raises(TokenizerMismatch, match="can't teach"):
        run(text, tmp_path, one, vocab_size=310)
    assert not (tmp_path / "c").exists()


def test_it_warns_of_a_teacher_that_is_small_or_no_better(text, tmp_path, teacher, old, capsys):
    weak = save_checkpoint(tmp_path / "weak", random_model(ITERA.replace(pattern="a")), old)
    run(text, tmp_path, weak, student="1M", tokens="2K")
    told = capsys.readouterr().err
    assert "a smaller teacher seldom helps" in told
    assert "no teacher is better" in told


def test_a_gguf_file_is_neither_teacher_nor_student(text, tmp_path, teacher):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF" + bytes(20))
    with pytest.raises(CheckpointError, match="is a GGUF file"):
        run(text, tmp_path, file)
    with pytest.raises(CheckpointError, match="is a GGUF file"):
        run(text, tmp_path, teacher, student=str(file))


def test_a_student_with_a_short_memory_reads_short_windows(text, tmp_path, teacher):
    shape = GPT2.replace(max_seq_len=64, vocab_size=300)
    tokenizer = load_checkpoint(teacher)[1]
    short = save_checkpoint(tmp_path / "short", random_model(shape), tokenizer)
    summary = run(text, tmp_path, teacher, student=str(short), tokens="4K")
    assert summary.training.seq_len == 64


def test_a_teacher_in_several_files(text, tmp_path, teacher):
    several = shutil.copytree(teacher, tmp_path / "several")
    weights = several / "model.safetensors"
    shard = several / "model-00001-of-00001.safetensors"
    weights.rename(shard)
    names = dict.fromkeys(load_file(shard), shard.name)
    index = {"weight_map": names}
    (several / "model.safetensors.index.json").write_text(json.dumps(index))
    assert Teacher.load(several).sha256 == Teacher.load(teacher).sha256


def test_a_text_without_a_batch_is_told(tmp_path, teacher):
    few = tmp_path / "few.txt"
    few.write_text("the cat sees a dog. " * 3)
    with pytest.raises(DataError, match="too short"):
        run(few, tmp_path, teacher)
    assert not (tmp_path / "c").exists()


def test_a_damaged_score_in_the_cache_is_measured_again(text, teacher):
    plan = DistillationPlan.find([teacher], "tiny", str(text), k=9, quiet=True)
    first = plan.teacher_scores(Workers())
    (path,) = plan.targets.folder.glob("teacher-*.json")
    for damage in ("{", "[]", '{"bpb": NaN}', '{"bpb": "x"}'):
        path.write_text(damage)
        assert plan.teacher_scores(Workers()) == first
