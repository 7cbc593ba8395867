"""`itera bench train`: the same weights and loss for everybody, ratios in the right direction."""

import pytest
import torch

from itera_lite.bench import training
from itera_lite.commands.bench_train import bench_training
from itera_lite.errors import UsageError
from itera_lite.records import TrainingSpeed
from itera_lite.workers import Workers

PEAK = 1e12  # of a worker, FLOP/s
BESIDE = "itera-lite, 2 workers, beside a busy program of {} priority"


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "set_num_threads", lambda n: None)  # two would spin in small tests
        patch.setattr(training, "measured_peak", lambda dtype, seconds: PEAK)
        size = {"vocab_size": 256, "batch_size": 1, "seq_len": 16}
        times = {"repeats": 2, "steps": 1, "workers": 2}
        options = {"model": "itera", "precision": "fp32", "results": results}
        records = bench_training(**size, **times, **options)
    return records, results


def test_everybody_computes_the_same_loss_from_the_same_weights(records):
    for record in records[0].values():
        losses = [row.first_loss for row in record.runtimes.values()]
        assert len(losses) == 5
        assert max(losses) - min(losses) < 0.05  # bfloat16, where it is the peer's faster one


def test_weights_stay_the_same_over_steps():
    from itera_lite.config import TrainConfig, preset
    from itera_lite.model import LanguageModel

    torch.manual_seed(0)
    model = LanguageModel(preset("itera", "tiny", 256))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    step = training.our_step(model, TrainConfig(batch_size=1, seq_len=16), Workers())
    batch = torch.randint(0, 256, (1, 17))
    assert step(batch) == pytest.approx(step(batch), abs=1e-6)
    assert all(map(torch.equal, before, model.parameters()))


def test_record_is_written_and_ratios_follow_the_speeds(records):
    for name, record in records[0].items():
        assert TrainingSpeed.read(records[1] / f"{name}_training_speed.json") == record
        rows = record.runtimes
        first = rows["itera-lite, 2 workers"].tokens_per_second.median
        for label, ratio in record.speedup_of_first.items():
            assert ratio == pytest.approx(first / rows[label].tokens_per_second.median)
        for row in rows.values():
            speed = row.tokens_per_second
            assert speed.repeats == 2 and speed.min > 0
            share = speed.median * record.flops_train_per_token / (row.threads * PEAK)
            assert row.share_of_peak == pytest.approx(share)


def test_all_workers_are_measured_beside_a_busy_program_too(records):
    (record,) = records[0].values()
    assert {label: (row.threads, row.beside) for label, row in record.runtimes.items()} == {
        "itera-lite, 2 workers": (2, None),
        "itera-lite, 1 worker": (1, None),
        BESIDE.format("low"): (2, "low"),
        BESIDE.format("equal"): (2, "equal"),
        "transformers, 2 threads": (2, None),
    }
    one = record.runtimes["itera-lite, 1 worker"].tokens_per_second
    found = {target.key: target for target in record.targets}
    assert set(found) == {"workers", "beside_low", "beside_equal", "peak", "transformers"}
    for key, label in (
        ("workers", "itera-lite, 2 workers"),
        ("beside_low", BESIDE.format("low")),
        ("beside_equal", BESIDE.format("equal")),
    ):
        median = record.runtimes[label].tokens_per_second.median
        assert found[key].value == pytest.approx(median / one.median)


@pytest.mark.parametrize("fails", [KeyboardInterrupt, RuntimeError])
def test_no_busy_program_is_left_running(fails, monkeypatch):
    """However a step beside it ends."""
    programs = []

    class Noted(training.BusyProgram):
        def __enter__(self):
            programs.append(self)
            super().__enter__()
            self.process = self._process
            return self

    def step(batch):
        assert programs[-1].process.poll() is None  # it runs
        raise fails

    monkeypatch.setattr(training, "BusyProgram", Noted)
    batch, name = torch.zeros(1, 5, dtype=torch.int64), "beside"
    trainer = training.Trainer(
        name=name,
        step=step,
        batch=batch,
        steps=1,
        workers=Workers(),
        dtype=torch.float32,
        beside="low",
    )
    with pytest.raises(fails):
        trainer.measure()
    assert programs[0].process.poll() is not None


@pytest.mark.parametrize("option", ["batch_size", "seq_len", "workers", "repeats", "steps"])
def test_wrong_use_is_said(option, tmp_path):
    with pytest.raises(UsageError, match=f"--{option.replace('_', '-')} 0: expected"):
        bench_training(**{option: 0}, results=tmp_path)
