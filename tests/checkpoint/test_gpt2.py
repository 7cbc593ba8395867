"""The conventional reference: our GPT-2 is transformers' GPT-2."""

import pytest
import torch

from itera_lite.checkpoint.folder import save_checkpoint
from itera_lite.checkpoint.hf import load_model, save_model
from itera_lite.checkpoint.hf_config import from_hf_config
from itera_lite.config import ModelConfig
from itera_lite.data.tokenizer import Tokenizer
from itera_lite.engine.find import load_model as load_engine_model
from itera_lite.errors import (
    CheckpointError,
    ConfigError,
    ExportError,
    ModelFileError,
    UsageError,
)
from itera_lite.export.gguf import export_gguf
from itera_lite.model import LanguageModel

SHAPE = ModelConfig("gpt2", "aaa", 257, 64, d_ff=96, n_kv_heads=2, max_seq_len=48)


def randomised() -> LanguageModel:
    """A model in which biases and norms do something too."""
    torch.manual_seed(0)
    model = LanguageModel(SHAPE).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@torch.no_grad()
def test_it_is_transformers_gpt2_and_comes_back(tmp_path):
    transformers = pytest.importorskip("transformers")
    model = randomised()
    save_model(model, tmp_path, eot_id=256)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(theirs).__name__ == "GPT2LMHeadModel"
    ids = torch.randint(0, 257, (2, 40))
    assert torch.allclose(theirs(ids).logits, model(ids), atol=1e-4)
    again = load_model(tmp_path)
    assert again.config == model.config
    assert torch.equal(again(ids), model(ids))


@torch.no_grad()
def test_steps_are_the_whole_pass():
    model = randomised()
    ids = torch.randint(0, 257, (2, 30))
    state = model.initial_state(2)
    found = [model.prefill(ids[:, :9], state)] + [
        model.step(ids[:, t], state) for t in range(9, 30)
    ]
    assert torch.allclose(torch.stack(found, dim=1), model(ids)[:, 8:], atol=1e-4)


def test_more_positions_than_it_has_learned_are_refused():
    with pytest.raises(UsageError, match=r"49 tokens.*48 positions"):
        randomised()(torch.zeros(1, 49, dtype=torch.long))


def test_the_engine_doesnt_run_it(tmp_path):
    save_checkpoint(tmp_path / "gpt2", LanguageModel(SHAPE), Tokenizer.train([b"text"], 256))
    with pytest.raises(ExportError, match=r"is a GPT-2 model.*llama.cpp"):
        load_engine_model(tmp_path / "gpt2")
    file = export_gguf(tmp_path / "gpt2", "f32").path
    with pytest.raises(ModelFileError, match=r"general.architecture='gpt2'.*llama.cpp"):
        load_engine_model(file)


@pytest.mark.parametrize(
    ("change", "error"),
    [({"n_kv_heads": 1}, "n_kv_heads"), ({"d_ff": 0}, "d_ff")],
)
def test_shapes_that_cant_be_are_refused(change, error):
    with pytest.raises(ConfigError, match=error):
        SHAPE.replace(**change)


def test_configs_that_ours_cant_be_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="activation_function='relu'"):
        from_hf_config({"model_type": "gpt2", "activation_function": "relu"})
    with pytest.raises(CheckpointError, match="lacks"):
        from_hf_config({"model_type": "gpt2"})


def test_a_missing_tensor_is_named(tmp_path):
    from safetensors.torch import load_file, save_file

    save_model(randomised(), tmp_path, eot_id=256)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["transformer.h.1.attn.c_attn.bias"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"h\.1\.attn\.c_attn\.bias"):
        load_model(tmp_path)
