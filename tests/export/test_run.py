"""`itera export` as a user meets it: what it refuses, what it leaves alone, the verb."""

from typing import get_args, get_type_hints

import gguf
import pytest
from safetensors.numpy import load_file, save_file

from itera_lite.checkpoint.folder import save_checkpoint
from itera_lite.cli import main
from itera_lite.commands.export import export
from itera_lite.config import ModelConfig
from itera_lite.errors import CheckpointError, ExportError, UsageError
from itera_lite.export.gguf import export_gguf
from itera_lite.export.types import SCHEMES
from tests.export.models import ITERA, TRANSFORMER, VOCAB, random_model


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            ModelConfig("itera", "ma", VOCAB, 64, n_experts=4, d_expert=48),
            r"blocks of 32.*'blk.0.ffn_down_exps.weight' has 48.*d_expert=32 or 64.*--type f16",
        ),
        (
            ModelConfig("itera", "ma", VOCAB, 64, n_experts=4, d_expert=32, d_ff=8),
            r"'blk.0.ffn_down_shexp.weight' has 8.*d_ff=32,",
        ),
        (
            ModelConfig("transformer", "a", VOCAB, 64, d_ff=100),
            r"'blk.0.ffn_down.weight' has 100.*d_ff=96 or 128",
        ),
    ],
)
@pytest.mark.parametrize("type", ["q8_0", "q4_0", "mixed"])
def test_a_shape_that_a_type_cannot_store_is_refused(type, config, message, save_random):
    checkpoint = save_random(config)
    with pytest.raises(ExportError, match=message):
        export_gguf(checkpoint, type)
    assert not list(checkpoint.glob("*gguf*"))
    export_gguf(checkpoint, "f16")


@pytest.mark.parametrize(
    ("value", "type", "message"),
    [
        (1e6, "f16", "1e.06, which F16 can't hold.*bf16"),
        (1e6, "q4_0", "1e.06, which Q4_0 can't hold"),
        (1e7, "q8_0", "1e.07, which Q8_0 can't hold"),
    ],
)
def test_a_weight_that_a_type_cannot_hold_is_refused(value, type, message, save_random):
    checkpoint = save_random(TRANSFORMER)
    weights = load_file(checkpoint / "model.safetensors")
    weights["model.layers.1.self_attn.v_proj.weight"][3, 4] = value
    save_file(weights, checkpoint / "model.safetensors")
    with pytest.raises(ExportError, match=f"blk.1.attn_v.weight.*{message}"):
        export_gguf(checkpoint, type)


def test_a_failed_export_leaves_the_older_file(save_random, monkeypatch):
    checkpoint = save_random(TRANSFORMER)
    path = export_gguf(checkpoint, "f32").path
    before = path.read_bytes()

    def full_disk(self):
        raise OSError("no space left")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        export_gguf(checkpoint, "f32")
    assert path.read_bytes() == before
    assert [file.name for file in checkpoint.glob("*gguf*")] == ["model-f32.gguf"]


def test_outputs_that_cannot_be_written_are_wrong_use(save_random, tmp_path):
    checkpoint = save_random(TRANSFORMER)
    with pytest.raises(UsageError, match="make it first"):
        export_gguf(checkpoint, "f32", tmp_path / "nowhere" / "x.gguf")
    with pytest.raises(UsageError, match="is a folder"):
        export_gguf(checkpoint, "f32", tmp_path)
    with pytest.raises(UsageError, match=r"q5_0.*f32, f16"):
        export_gguf(checkpoint, "q5_0")


def test_a_vocabulary_of_another_size_is_refused(tmp_path, tokenizer):
    config = ModelConfig("transformer", "a", VOCAB + 1, 64, d_ff=96)
    save_checkpoint(tmp_path / "model", random_model(config), tokenizer)
    with pytest.raises(CheckpointError, match="don't belong together"):
        export_gguf(tmp_path / "model", "f32")


def test_the_verb(save_random, tmp_path, capsys):
    checkpoint = save_random(ITERA)
    output = tmp_path / "out.gguf"
    command = ["export", str(checkpoint), "--format", "gguf", "--type", "mixed"]
    assert main([*command, "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert str(output) in printed
    assert "bits per weight" in printed
    assert "Q4_0" in printed
    assert output.is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nothing-here"], 1, "itera train"),
        (["CHECKPOINT", "--type", "q3"], 2, "q8_0"),
        (["CHECKPOINT", "--format", "onnx"], 2, "gguf"),
        (["CHECKPOINT", "--output", "no/such/x.gguf"], 2, "make it first"),
    ],
)
def test_wrong_use_of_the_verb(arguments, code, message, save_random, capsys):
    checkpoint = str(save_random(TRANSFORMER))
    given = [checkpoint if argument == "CHECKPOINT" else argument for argument in arguments]
    assert main(["export", *given]) == code
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_the_verb_offers_every_type():
    assert get_args(get_type_hints(export)["type"]) == (*SCHEMES, "auto")
