# ruff: noqa: F811  (fixtures are imported, and named as arguments)
"""Fewer experts: what isn't used goes without a trace, and what goes is said."""

import pytest
import torch

from itera_lite.checkpoint.folder import load_checkpoint
from itera_lite.commands.compress_experts import experts
from itera_lite.compress.experts import drop, fewest, measure_usage, merge
from itera_lite.data.prepare import prepare
from itera_lite.engine import Model
from itera_lite.errors import CheckpointError, UsageError
from itera_lite.evaluate.bits import validation_score
from itera_lite.export.gguf import export_gguf
from itera_lite.records import Summary
from itera_lite.workers import Workers
from tests.compress.checkpoints import ITERA, TRANSFORMER, files, old, save, text  # noqa: F401
from tests.export.models import random_model


def out(path) -> dict:
    return {"checkpoints": path / "c", "results": path / "r", "workers": 1, "quiet": True}


@torch.no_grad()
def test_experts_that_no_token_is_sent_to_go_without_a_trace():
    model = random_model(ITERA.replace(n_experts=19))
    ids = torch.randint(0, ITERA.vocab_size, (1, 10))
    used: list[set[int]] = []
    hooks = [
        moe.router.register_forward_hook(
            lambda _m, _x, logits: used.append(set(logits.topk(2).indices.flatten().tolist()))
        )
        for moe in model.mixtures
    ]
    model(ids)
    for hook in hooks:
        hook.remove()
    before = model(ids)
    most = max(map(len, used))
    assert most < 19, "a text that leaves some experts out"
    keep = []
    for experts_used in used:
        others = [e for e in range(19) if e not in experts_used]
        keep.append(torch.tensor(sorted([*experts_used, *others[: most - len(experts_used)]])))
    smaller = drop(model, keep)
    assert smaller.config == model.config.replace(n_experts=most)
    assert torch.equal(smaller(ids), before)


def test_usage_counts_tokens_and_gate_weight(text, old):
    """Each token goes to 2 or 3 with nearly all its weight, and with the rest to a third one."""
    model = random_model(ITERA)
    for moe in model.mixtures:
        with torch.no_grad():
            moe.router.weight[2] *= 1000
            moe.router.weight[3] = -moe.router.weight[2]
    dataset = prepare(str(text), tokenizer=old, quiet=True)
    usage = measure_usage(model, dataset, seq_len=64, n_tokens=1000)
    assert usage.read == 15 * 64
    for share in (usage.tokens, usage.weight):
        torch.testing.assert_close(share.sum(dim=1), torch.ones(2, dtype=torch.float64))
    assert usage.tokens[:, 2:4].sum(dim=1).tolist() == [0.5, 0.5]
    assert (usage.weight[:, 2:4].sum(dim=1) > 0.95).all()
    for kept in usage.most_used(3):
        assert {2, 3} < set(kept.tolist()) and kept.tolist() == sorted(kept.tolist())


def test_any_number_of_workers_measures_the_same_usage(text, old):
    model, dataset = random_model(ITERA), prepare(str(text), tokenizer=old, quiet=True)
    found = []
    for count in (1, 2, 3):
        with Workers(count) as workers:
            found.append(measure_usage(model, dataset, 128, 16_384, workers))
    assert found[0].read > 4096  # more than a few batches
    for other in found[1:]:
        assert torch.equal(found[0].tokens, other.tokens)
        assert torch.equal(found[0].weight, other.weight)


@torch.no_grad()
def test_merging_identical_experts_changes_nothing_but_rounding():
    """Also where the units inside them stand in another order, which means nothing."""
    model = random_model(ITERA)
    for moe in model.mixtures:
        for expert in range(1, 6):
            order = torch.randperm(32)
            moe.gate_up[expert] = moe.gate_up[0][torch.cat([order, order + 32])]
            moe.down[expert] = moe.down[0][:, order]
    smaller = merge(model, [torch.tensor([0, 2, 5])] * 2, torch.rand(2, 6))
    ids = torch.randint(0, ITERA.vocab_size, (2, 40))
    assert (smaller(ids) - model(ids)).abs().max() < 1e-4
    assert (drop(random_model(ITERA), [torch.tensor([0, 2, 5])] * 2)(ids) - model(ids)).abs().max()


@torch.no_grad()
def test_a_merge_is_the_mean_by_weight_with_the_one_of_the_same_direction():
    model = random_model(ITERA)
    for moe in model.mixtures:
        moe.router.weight[1] = 3 * moe.router.weight[4]
        moe.gate_up[1], moe.down[1] = 3 * moe.gate_up[4], moe.down[4]
    weight = torch.full((2, 6), 0.2)
    weight[:, 1] = 0.1
    keep = torch.tensor([0, 2, 3, 4, 5])
    smaller, dropped = merge(model, [keep] * 2, weight), drop(model, [keep] * 2)
    for moe, whole, gone in zip(smaller.mixtures, model.mixtures, dropped.mixtures, strict=True):
        mean = (0.1 * 3 + 0.2) / 0.3
        torch.testing.assert_close(moe.router.weight[3], mean * whole.router.weight[4])
        torch.testing.assert_close(moe.gate_up[3], mean * whole.gate_up[4])
        torch.testing.assert_close(moe.down[3], whole.down[4])
        for place in (0, 1, 2, 4):
            torch.testing.assert_close(moe.gate_up[place], gone.gate_up[place])
            torch.testing.assert_close(moe.router.weight[place], gone.router.weight[place])


@pytest.mark.parametrize("merging", [False, True])
def test_the_verb_leaves_a_model_that_everything_reads(merging, save, text, tmp_path, old):
    checkpoint = save(ITERA)
    before = files(checkpoint)
    summary = experts(checkpoint, data=str(text), keep=4, merge=merging, **out(tmp_path))
    assert files(checkpoint) == before
    record = summary.compression
    assert record.start.n_experts == 6 and summary.model.config.n_experts == 4
    assert summary.model.params.total < record.start.params
    assert summary.valid.bpb == (record.bpb.merged if merging else record.bpb.dropped)
    assert Summary.read(tmp_path / "r" / "given_e4_summary.json") == summary
    folder = tmp_path / "c" / "given_e4"
    model, tokenizer = load_checkpoint(folder)
    documents = list(prepare(str(text), tokenizer=old, quiet=True).documents("valid"))
    assert validation_score(model, tokenizer, documents).bpb == pytest.approx(summary.valid.bpb)

    engine = Model.load(export_gguf(folder, "f32").path).score([d.decode() for d in documents])
    sizes = [len(d) for d in documents]
    bits = sum(s.bits_per_byte * n for s, n in zip(engine, sizes, strict=True))
    assert bits / sum(sizes) == pytest.approx(summary.valid.bpb, rel=1e-3)

    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    assert type(theirs).__name__ == "GraniteMoeHybridForCausalLM"
    ids = torch.randint(0, ITERA.vocab_size, (1, 30))
    with torch.no_grad():
        assert (theirs(ids).logits - model(ids)).abs().max() < 1e-4


def test_training_afterwards_is_measured_too(save, text, tmp_path):
    summary = experts(save(ITERA), data=str(text), keep=3, tokens="8K", **out(tmp_path))
    bpb = summary.compression.bpb
    assert bpb.trained == summary.valid.bpb < bpb.dropped
    assert summary.training.tokens == 8192


def test_max_loss_takes_as_few_as_it_allows(save, text, tmp_path):
    checkpoint = save(ITERA)
    summary = experts(checkpoint, data=str(text), max_loss="100000%", **out(tmp_path))
    assert summary.compression.keep == 2
    assert summary.compression.max_loss == 1000


def searched(on_part: dict[int, float], on_all: dict[int, float], limit: float):
    """`fewest` of 8 experts, at least 2, with these bits per byte by the number kept."""
    documents = [b"x" * 60_000] * 3

    def bpb(n: int, texts: list[bytes]) -> float:
        return (on_all if len(texts) == 3 else on_part)[n]

    return fewest(bpb, documents, on_all[8], limit, least=2, total=8)


def test_the_search_finds_the_smallest_and_confirms_it():
    losses = {n: 1 + 0.01 * (8 - n) for n in range(2, 9)}
    assert searched(losses, losses, 0.0301) == 5
    assert searched(losses, losses, 0.9) == 2
    worse = losses | {5: 1.05}
    assert searched(losses, worse, 0.0301) == 6, "the whole text says otherwise"
    with pytest.raises(UsageError, match=r"already 1\.000% above"):
        searched(losses, losses, 0.001)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"keep": 1}, "expected 2 to 5"),
        ({"keep": 6}, "expected 2 to 5"),
        ({"keep": 3, "max_loss": "1%"}, "give one of them"),
        ({"max_loss": "a little"}, "such as 1%"),
        ({"keep": 3, "name": "given"}, "give another --name"),
    ],
)
def test_wrong_use_is_told_and_the_original_untouched(options, told, save, text, tmp_path):
    checkpoint = save(ITERA)
    before = files(checkpoint)
    with pytest.raises(UsageError, match=told):
        experts(
            checkpoint,
            data=str(text),
            workers=1,
            quiet=True,
            checkpoints=tmp_path,
            results=tmp_path / "r",
            **options,
        )
    assert files(checkpoint) == before


def test_more_than_two_experts_a_token_bound_what_is_kept(save, text, tmp_path):
    with pytest.raises(UsageError, match="expected 3 to 5"):
        experts(save(ITERA.replace(top_k=3)), data=str(text), keep=2, **out(tmp_path))


def test_a_dense_model_has_none_to_take_out(save, text, tmp_path):
    with pytest.raises(UsageError, match="dense"):
        experts(save(TRANSFORMER), data=str(text), keep=3, **out(tmp_path))


def test_a_missing_checkpoint_is_told(text, tmp_path):
    with pytest.raises(CheckpointError, match="itera train"):
        experts(tmp_path / "none", data=str(text), keep=3, **out(tmp_path))
