"""`itera bench train`: the same weights and loss for everybody, ratios in the right direction."""

import pytest
import torch

from itera_lite.bench import training
from itera_lite.commands.bench_train import bench_training
from itera_lite.errors import UsageError
from itera_lite.records import TrainingSpeed


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "set_num_threads", lambda n: None)  # two would spin in small tests
        patch.setattr(training, "measured_peak", lambda dtype, seconds: 1e12)
        size = {"vocab_size": 256, "batch_size": 1, "seq_len": 16}
        times = {"repeats": 2, "steps": 1, "workers": 2}
        options = {"model": "itera", "precision": "fp32", "results": results}
        records = bench_training(**size, **times, **options)
    return records, results


def test_everybody_computes_the_same_loss_from_the_same_weights(records):
    for record in records[0].values():
        losses = [row.first_loss for row in record.runtimes.values()]
        assert len(losses) == 3
        assert max(losses) - min(losses) < 0.05  # bfloat16, where it is the peer's faster one


def test_weights_stay_the_same_over_steps():
    from itera_lite.config import TrainConfig, preset
    from itera_lite.model import LanguageModel

    torch.manual_seed(0)
    model = LanguageModel(preset("itera", "tiny", 256))
    step = training.our_step(model, TrainConfig(batch_size=1, seq_len=16))
    batch = torch.randint(0, 256, (1, 17))
    assert step(batch) == pytest.approx(step(batch), abs=1e-6)


def test_record_is_written_and_ratios_follow_the_speeds(records):
    for name, record in records[0].items():
        assert TrainingSpeed.read(records[1] / f"{name}_training_speed.json") == record
        rows = record.runtimes
        first = rows["itera-lite, 2 threads"].tokens_per_second.median
        for label, ratio in record.speedup_of_first.items():
            assert ratio == pytest.approx(first / rows[label].tokens_per_second.median)
        for row in rows.values():
            speed = row.tokens_per_second
            assert speed.repeats == 2 and speed.min > 0
            share = speed.median * record.flops_train_per_token / 1e12
            assert row.share_of_peak == pytest.approx(share)


@pytest.mark.parametrize("option", ["batch_size", "seq_len", "workers", "repeats", "steps"])
def test_wrong_use_is_said(option, tmp_path):
    with pytest.raises(UsageError, match=f"--{option.replace('_', '-')} 0: expected"):
        bench_training(**{option: 0}, results=tmp_path)
