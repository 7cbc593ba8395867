# ruff: noqa: F811  (fixtures are imported, and named as arguments)
"""`itera compress quantize`: what it writes, what it promises, what it refuses."""

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader
from gguf.quants import dequantize

from itera_lite.checkpoint.folder import load_checkpoint, save_checkpoint
from itera_lite.commands.compress_quantize import quantize
from itera_lite.commands.train import train
from itera_lite.compress import qat
from itera_lite.compress.gptq import compensate, gptq
from itera_lite.compress.quantize import engine_bpb
from itera_lite.compress.rounding import fake_quantize, kinds_of, rounded
from itera_lite.compress.sensitivity import (
    Group,
    assign,
    calibration,
    groups_of,
    sensitivity,
)
from itera_lite.compress.start import Start
from itera_lite.config import ModelConfig
from itera_lite.engine import Model
from itera_lite.errors import ExportError, UsageError
from itera_lite.evaluate.bits import batches_of, evaluating, validation_score
from itera_lite.export.gguf import export_gguf
from itera_lite.export.tensors import gguf_tensors
from itera_lite.export.types import SCHEMES, is_exact, scheme_of
from itera_lite.records import Summary
from itera_lite.workers import Workers
from tests.export.conftest import tokenizer  # noqa: F401
from tests.export.models import ITERA, TRANSFORMER, VOCAB, random_model
from tests.train.conftest import text  # noqa: F401
from tests.train.small import make_small

QUIET = {"workers": 1, "quiet": True}


@pytest.fixture(scope="module")
def trained(text, tmp_path_factory) -> Path:
    """The folder of two small models that have learned something: random ones have no quality
    that rounding could cost."""
    out = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        train(
            str(text), tokens="40K", vocab_size=300, batch_size=4, seq_len=32, patience=0,
            precision="fp32", evaluations=1, checkpoints=out, results=out / "r", **QUIET,
        )  # fmt: skip
    return out


@pytest.fixture(params=["itera_lite_tiny", "transformer_tiny"])
def checkpoint(request, trained) -> Path:
    return trained / request.param


def run(checkpoint: Path, out: Path, **options):
    return quantize(checkpoint, checkpoints=out / "c", results=out / "r", **QUIET, **options)


def bits(checkpoint: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in checkpoint.iterdir() if p.is_file()}


# What the engine's 8-bit activations may change of the loss, in nats a token. Measured with models
# of 0.9 M parameters: 0.0003 (experiments/LOG.md).
ACTIVATIONS = 0.002


@pytest.mark.parametrize("type", ["q8_0", "q4_0", "mixed"])
def test_the_rounded_models_loss_is_the_engines_on_the_file(type, checkpoint, text, tmp_path):
    start = Start.load(checkpoint)
    texts = [path.read_bytes() for path in sorted(text.glob("*.txt"))[:40]]
    small = rounded(start.model, kinds_of(start.model, SCHEMES[type]))
    engine = Model.load(export_gguf(checkpoint, type, tmp_path / "model.gguf").path)
    found = engine.score(texts, window=256)
    nats = {
        name: np.array([validation_score(model, start.tokenizer, [each]).nats for each in texts])
        for name, model in (("exact", start.model), ("rounded", small))
    }
    off = np.array([each.nats for each in found]) - nats["rounded"]
    assert abs(off.sum()) / sum(each.tokens for each in found) < ACTIVATIONS
    if type == "q4_0":  # text by text: this is the loss of the rounded weights, not of others
        assert np.abs(off).sum() < 0.5 * np.abs(nats["exact"] - nats["rounded"]).sum()


@pytest.mark.parametrize("method", ["plain", "gptq", "qat"])
def test_every_method_leaves_a_checkpoint_and_its_file(method, checkpoint, text, tmp_path, capsys):
    before = bits(checkpoint)
    options = {"tokens": "16K"} if method == "qat" else {}
    summary = run(checkpoint, tmp_path, type="q4_0", method=method, data=str(text), **options)
    name = f"{checkpoint.name}_q4_0"
    assert Summary.read(tmp_path / "r" / f"{name}_summary.json") == summary
    folder = tmp_path / "c" / name
    record = summary.compression
    file = folder / "model-q4_0.gguf"
    assert (record.method, record.file) == (method, str(file))
    assert record.bytes.after == file.stat().st_size < record.bytes.before / 3
    model, _ = load_checkpoint(folder)
    matrices = kinds_of(model, SCHEMES["q4_0"])
    assert all(is_exact(v, Type.Q4_0) for n, v in gguf_tensors(model) if n in matrices)
    stored = {t.name: t.data for t in GGUFReader(file).tensors}
    again = export_gguf(folder, "auto", tmp_path / "again.gguf").path
    assert all((t.data == stored[t.name]).all() for t in GGUFReader(again).tensors)
    b = record.bpb
    assert b.after == summary.valid.bpb == pytest.approx(b.after_engine, abs=0.005)
    assert b.before == pytest.approx(b.before_engine, abs=1e-4)
    assert b.after < 1.1 * b.before
    assert bits(checkpoint) == before
    assert not capsys.readouterr().out


@pytest.mark.parametrize("method", ["gptq", "qat"])
def test_few_levels_in_a_compressed_file(method, trained, text, tmp_path):
    """What is scored and saved has the levels that the file has, by every method."""
    checkpoint = trained / "itera_lite_tiny"
    options = {"tokens": "16K"} if method == "qat" else {}
    summary = run(
        checkpoint, tmp_path, levels=5, method=method, data=str(text), format="gguf.gz", **options
    )
    record, file = summary.compression, Path(summary.compression.file)
    assert file == tmp_path / "c" / "itera_lite_tiny_q4_0_5_levels" / "model-q4_0.gguf.gz"
    content = gzip.decompress(file.read_bytes())
    assert (record.bytes.after, record.bytes.compressed) == (len(content), file.stat().st_size)
    bpb = record.bpb
    assert bpb.after == summary.valid.bpb == pytest.approx(bpb.after_engine, abs=0.005)
    assert bpb.after < 1.2 * bpb.before
    (plain := tmp_path / "plain.gguf").write_bytes(content)
    model, _ = load_checkpoint(file.parent)
    exact = dict(gguf_tensors(model))
    for tensor in GGUFReader(plain).tensors:
        values = dequantize(tensor.data, tensor.tensor_type).reshape(exact[tensor.name].shape)
        assert (values == exact[tensor.name]).all()
        if tensor.tensor_type == Type.Q4_0:
            steps = tensor.data.reshape(-1, 18)[:, 2:]
            assert set(np.unique(steps & 15)) | set(np.unique(steps >> 4)) <= set(range(6, 11))
        elif not tensor.name.endswith("ssm_a"):
            assert not (tensor.data.view(np.uint32) & 0xFFFF).any()
    with pytest.raises(UsageError, match="--levels 5 is for --type q4_0, not mixed"):
        run(checkpoint, tmp_path, levels=5, type="mixed")


def test_without_text_it_rounds_and_says_nothing_about_quality(trained, tmp_path):
    checkpoint = trained / "itera_lite_tiny"
    summary = run(checkpoint, tmp_path, type="mixed")
    assert summary.compression.method == "plain"
    assert summary.compression.bpb is None
    assert summary.valid is None
    file = export_gguf(checkpoint, "mixed", tmp_path / "itera_lite_tiny_mixed.gguf").path
    ours = {t.name: t.data for t in GGUFReader(summary.compression.file).tensors}
    assert all((t.data == ours[t.name]).all() for t in GGUFReader(file).tensors)


def test_training_with_rounded_weights_beats_rounding(trained, text, tmp_path):
    checkpoint = trained / "itera_lite_tiny"
    bpb = {
        method: run(
            checkpoint, tmp_path, method=method, data=str(text), name=method, **options
        ).valid.bpb
        for method, options in (("plain", {}), ("qat", {"tokens": "60K"}))
    }
    assert bpb["qat"] < bpb["plain"]


def test_the_result_never_replaces_a_teacher(trained, text):
    before = bits(trained / "transformer_tiny")
    with pytest.raises(UsageError, match="would replace the checkpoint"):
        quantize(
            trained / "itera_lite_tiny", data=str(text), teacher=[trained / "transformer_tiny"],
            name="transformer_tiny", overwrite=True, checkpoints=trained, results=trained / "r",
            **QUIET,
        )  # fmt: skip
    assert bits(trained / "transformer_tiny") == before


def test_a_teacher_can_finish_the_rounded_model(trained, text, tmp_path):
    teacher = trained / "transformer_tiny"
    options = {"type": "q4_0", "data": str(text), "tokens": "8K"}
    taught = run(trained / "itera_lite_tiny", tmp_path, teacher=[teacher], **options)
    assert [t.name for t in taught.distillation.teachers] == ["transformer_tiny"]
    alone = run(trained / "itera_lite_tiny", tmp_path / "alone", **options)
    assert alone.distillation is None
    files = [Path(summary.compression.file) for summary in (taught, alone)]
    assert files[0].read_bytes() != files[1].read_bytes(), "the teacher changed nothing"
    model, _ = load_checkpoint(files[0].parent)
    matrices = kinds_of(model, SCHEMES["q4_0"])
    assert all(is_exact(v, Type.Q4_0) for n, v in gguf_tensors(model) if n in matrices)


def test_a_mix_fits_the_budget_and_is_known_from_the_weights(checkpoint, text, tmp_path):
    start = Start.load(checkpoint)
    sizes = {
        type: export_gguf(checkpoint, type, tmp_path / f"{type}.gguf").bytes
        for type in ("q8_0", "q4_0")
    }
    limit = (sizes["q8_0"] + sizes["q4_0"]) // 2
    summary = run(checkpoint, tmp_path, max_bytes=str(limit), method="plain", data=str(text))
    record = summary.compression
    size = record.bytes.after
    assert size <= limit
    left = [g.bytes_saved for g in record.sensitivity if g.type == "Q4_0"]
    assert limit - size < min(left), "as full as it can be"
    groups, _ = groups_of(start.model)
    given = {group.group: Type[group.type] for group in record.sensitivity}
    kinds = {name: given[group.name] for group in groups for name in group.matrices}
    assert set(kinds.values()) == {Type.Q8_0, Type.Q4_0}
    folder = tmp_path / "c" / f"{checkpoint.name}_mixed"
    assert start.file_bytes(kinds, folder) == size == (folder / "model-mixed.gguf").stat().st_size
    types = {t.name: t.tensor_type for t in GGUFReader(folder / "model-mixed.gguf").tensors}
    assert {name: types[name] for name in kinds} == kinds
    with pytest.raises(UsageError, match=f"expected {sizes['q4_0']}") as error:
        run(checkpoint, tmp_path, max_bytes="1KB", data=str(text), name=checkpoint.name + "_q4_0")
    assert "smaller first" in str(error.value)


@pytest.mark.parametrize("config", [ITERA, TRANSFORMER], ids=["itera", "transformer"])
@pytest.mark.parametrize("type", ["f32", "f16", "q8_0", "mixed"])
def test_the_size_is_predicted_exactly(type, config, tmp_path, tokenizer):
    folder = save_checkpoint(tmp_path / "a_model", random_model(config), tokenizer)
    start = Start.load(folder)
    kinds = kinds_of(start.model, SCHEMES[type])
    assert start.file_bytes(kinds) == export_gguf(folder, type).bytes


def test_rows_that_blocks_do_not_divide_stay_in_16_bits(tmp_path, tokenizer):
    config = ModelConfig("itera", "ma", VOCAB, 64, n_experts=4, d_expert=48)
    model = random_model(config)
    groups, fixed = groups_of(model)
    assert set(fixed.values()) == {Type.F16}
    assert {name.split(".", 2)[2] for name in fixed} == {"ffn_down_exps.weight"}
    kinds = {**{name: Type.Q4_0 for g in groups for name in g.matrices}, **fixed}
    folder = save_checkpoint(tmp_path / "m", rounded(model, kinds), tokenizer)
    stored = {t.name: t.tensor_type for t in GGUFReader(export_gguf(folder, "auto").path).tensors}
    assert {name: stored[name] for name in kinds} == kinds
    assert engine_bpb(folder / "model-auto.gguf", [b"some text"], threads=1) > 0


def test_the_assignment_is_the_best_of_all():
    draw = np.random.default_rng(0)
    for _ in range(20):
        groups = [
            Group(str(i), (str(i),), {Type.Q8_0: 34 * 32 * n, Type.Q4_0: 18 * 32 * n}, cost)
            for i, (n, cost) in enumerate(
                zip(draw.integers(1, 9, 8).tolist(), draw.normal(0.3, 1, 8).tolist(), strict=True)
            )
        ]
        room = int(draw.integers(0, 16 * 32 * 40))
        kinds = assign(groups, room)
        eight = {g.name for g in groups if kinds[g.name] == Type.Q8_0}
        assert sum(g.saved for g in groups if g.name in eight) <= room
        options = (
            [g for i, g in enumerate(groups) if choice >> i & 1]
            for choice in range(2 ** len(groups))
        )
        fitting = [some for some in options if sum(g.saved for g in some) <= room]
        best = max(sum(max(g.cost, 0) for g in some) for some in fitting)
        assert sum(max(g.cost, 0) for g in groups if g.name in eight) == pytest.approx(best)


def test_compensated_outputs_are_nearer_than_rounded_ones():
    torch.manual_seed(0)
    x = torch.randn(2000, 64) @ torch.randn(64, 64)  # inputs that go together
    weights = torch.randn(3, 40, 64)
    hessians = (x.T @ x).expand(3, -1, -1)
    for kind in (Type.Q4_0, Type.Q8_0):
        error = {
            name: ((given - weights) @ x.T).square().mean().item()
            for name, given in (
                ("plain", fake_quantize(weights, kind)),
                ("compensated", compensate(weights, hessians, kind)),
            )
        }
        assert error["compensated"] < 0.5 * error["plain"], (kind, error)
        assert is_exact(compensate(weights, hessians, kind).numpy(), kind)


def test_compensation_copes_with_nothing():
    zero = torch.zeros(1, 4, 64)
    for weights in (zero, zero + 1e-9):
        done = compensate(weights, torch.zeros(1, 64, 64), Type.Q4_0)
        assert (done == 0).all()


def test_gptq_beats_plain_rounding_on_what_it_was_calibrated_with(checkpoint, text):
    start = Start.load(checkpoint)
    ids = np.concatenate(
        [[start.tokenizer.eot_id, *start.tokenizer.encode(p.read_bytes())] for p in text.glob("*")]
    )
    windows = calibration(ids, 64, 16_384, 16)
    kinds = kinds_of(start.model, SCHEMES["q4_0"])

    def probabilities(model):
        with evaluating(model):
            return torch.cat([model(part).log_softmax(-1) for part in batches_of(windows)])

    def divergence(model):  # the loss may also fall by chance
        return (exact.exp() * (exact - probabilities(model))).sum(-1).mean()

    exact = probabilities(start.model)
    plain, better = rounded(start.model, kinds), gptq(start.model, kinds, windows)
    assert divergence(better) < 0.8 * divergence(plain)


@pytest.mark.parametrize("config", [ITERA, TRANSFORMER], ids=lambda c: c.family)
def test_any_number_of_workers_calibrates_the_same(config):
    model = random_model(config)
    kinds = kinds_of(model, SCHEMES["q4_0"])
    windows = torch.randint(0, VOCAB, (40, 128), generator=torch.Generator().manual_seed(0))
    groups = groups_of(model)[0][:3]
    found = []
    for count in (1, 2, 3):
        with Workers(count) as workers:
            made = gptq(model, kinds, windows, workers).state_dict()
            costs = [group.cost for group in sensitivity(model, groups, windows, workers)]
            found.append((made, costs))
    for made, costs in found[1:]:
        assert costs == found[0][1]
        assert all(torch.equal(made[name], value) for name, value in found[0][0].items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "gptq"}, "--method gptq needs text.*--data"),
        ({"method": "qat"}, "--method qat needs text"),
        ({"minutes": 1.0}, "needs text"),
        ({"max_bytes": "1MB"}, "--max-bytes needs text"),
        ({"max_bytes": "1MB", "type": "q4_0"}, "leave out --type q4_0"),
        ({"method": "plain", "teacher": [Path("t")]}, "--teacher is for --method qat"),
        ({"data": "x", "method": "qat", "teacher": [Path("t")], "mix": float("nan")}, "--mix nan"),
        ({"max_bytes": "big"}, "--max-bytes big: expected a size such as 1MB"),
    ],
)
def test_wrong_use(options, message, trained, tmp_path):
    with pytest.raises(UsageError, match=message):
        run(trained / "itera_lite_tiny", tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_is_refused_before_anything_is_written(trained, text, tmp_path, tokenizer):
    before = bits(trained / "itera_lite_tiny")
    with pytest.raises(UsageError, match="another --name"):
        quantize(trained / "itera_lite_tiny", name="itera_lite_tiny", checkpoints=trained, **QUIET)
    little = tmp_path / "little.txt"
    little.write_text("\n\n".join(f"{i} and {i}" for i in range(30)))
    with pytest.raises(UsageError, match=r"has \d+ tokens: expected 4,096 or more"):
        run(trained / "itera_lite_tiny", tmp_path, method="gptq", data=str(little))
    odd = ModelConfig("transformer", "a", VOCAB, 64, d_ff=100)
    folder = save_checkpoint(tmp_path / "odd", random_model(odd), tokenizer)
    with pytest.raises(ExportError, match=r"'blk.0.ffn_down.weight' has 100.*d_ff=96 or 128"):
        run(folder, tmp_path)
    gpt2 = ModelConfig("gpt2", "a", VOCAB, 64, d_ff=128, n_kv_heads=2, max_seq_len=64)
    folder = save_checkpoint(tmp_path / "gpt2", random_model(gpt2), tokenizer)
    with pytest.raises(ExportError, match="is a GPT-2 model"):
        run(folder, tmp_path, data=str(text))
    assert not (tmp_path / "c").exists()
    assert bits(trained / "itera_lite_tiny") == before


def test_a_stopped_qat_goes_on(trained, text, tmp_path):
    options = {"method": "qat", "data": str(text), "tokens": "12K"}
    once = run(trained / "itera_lite_tiny", tmp_path, **options)
    shutil.rmtree(tmp_path / "r")
    options["tokens"] = None  # as many as the first time
    again = run(trained / "itera_lite_tiny", tmp_path, resume=True, **options)
    assert again.training.steps == once.training.steps
    assert again.compression.bpb == once.compression.bpb
    assert again.compression.learning_rate_factor == qat.RATE


def test_a_map_of_types_is_stored_as_it_says():
    kinds = {"a": Type.Q4_0, "b": Type.Q4_0, "c": Type.Q8_0}
    assert scheme_of(kinds).file_type == SCHEMES["q4_0"].file_type
