"""Checkpoints load in transformers as they are, and its checkpoints load here."""

import json

import pytest
import torch

from itera_lite.checkpoint.hf import load_model, save_model
from itera_lite.errors import CheckpointError, ConfigError
from tests.export.models import SHAPES, VOCAB, random_model, shape_name

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("config", SHAPES, ids=shape_name)
@torch.no_grad()
def test_logits_agree_both_ways(config, tmp_path):
    model = random_model(config)
    save_model(model, tmp_path / "ours", eot_id=256)
    ids = torch.randint(0, VOCAB, (2, 40))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    assert type(theirs).__name__ in ("GraniteMoeHybridForCausalLM", "LlamaForCausalLM")
    assert (theirs(ids).logits - model(ids)).abs().max() < 1e-4
    theirs.save_pretrained(tmp_path / "theirs")
    again = load_model(tmp_path / "theirs")
    assert again.config == config
    assert torch.equal(again(ids), model(ids))


def test_the_config_avoids_the_known_traps(tmp_path):
    save_model(random_model(SHAPES[0]), tmp_path, eot_id=256)
    raw = json.loads((tmp_path / "config.json").read_text())
    assert set(raw["layer_types"]) == {"mamba", "attention"}
    assert "time_step_limit" not in raw
    assert "Infinity" not in (tmp_path / "config.json").read_text()


def test_a_missing_folder_says_how_to_make_one(tmp_path):
    with pytest.raises(CheckpointError, match="itera train"):
        load_model(tmp_path / "nothing")


@pytest.mark.parametrize("damage", ["config", "cut", "missing", "shape", "lacking"])
def test_damage_is_one_clear_error(damage, tmp_path):
    from safetensors.torch import load_file, save_file

    save_model(random_model(SHAPES[0]), tmp_path, eot_id=256)
    weights = tmp_path / "model.safetensors"
    if damage == "config":
        (tmp_path / "config.json").write_text('{"model_type": "granite')
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif damage == "missing":
        weights.unlink()
    else:
        tensors = load_file(weights)
        name = "model.layers.0.mamba.in_proj.weight"
        if damage == "shape":
            tensors[name] = tensors[name][1:].clone()
        else:
            del tensors[name]
        save_file(tensors, weights)
    with pytest.raises(CheckpointError):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "gpt_neox"),
        ("tie_word_embeddings", False),
        ("mamba_n_groups", 2),
        ("position_embedding_type", "rope"),
    ],
)
def test_a_model_of_another_kind_is_refused_by_name(key, value, tmp_path):
    save_model(random_model(SHAPES[0]), tmp_path, eot_id=256)
    path = tmp_path / "config.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({**raw, key: value}))
    with pytest.raises(ConfigError, match=key):
        load_model(tmp_path)
