"""What a checkpoint folder may be, and what is said of one that isn't right."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from itera_lite.checkpoint.folder import load_checkpoint
from itera_lite.checkpoint.hf import load_model, save_model
from itera_lite.cli import main
from itera_lite.errors import CheckpointError
from tests.export.models import ITERA, TRANSFORMER, VOCAB, random_model
from tests.other_user import as_other_user, shared_folder

IDS = torch.arange(40)[None]


@pytest.fixture
def folder(save_random):
    return save_random(ITERA)


def tensors_of(folder):
    return load_file(folder / "model.safetensors")


def refused(folder) -> str:
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(folder)
    return str(error.value)


def split(folder, names=("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")):
    """Two files and their index, as transformers writes a large model."""
    weights = tensors_of(folder)
    (folder / "model.safetensors").unlink()
    parts = {name: names[i % 2] for i, name in enumerate(weights)}
    for file in names:
        inside = {n: weights[n] for n in weights if parts[n] == file}
        save_file(inside, folder / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": parts}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return names


def test_weights_in_several_files_are_read_by_their_index(folder):
    before = load_model(folder)
    names = split(folder)
    assert torch.equal(load_model(folder)(IDS), before(IDS))
    index = folder / "model.safetensors.index.json"
    good = index.read_text()
    for damage, message in (
        (good.replace(names[1], "../" + names[1]), "'weight_map'"),
        (good.replace(names[1], "gone.safetensors"), "gone.safetensors"),
        (json.dumps({"weight_map": {"x": names[0]}}), f"'{names[0]}' holds 'x'"),
        ("[]", "holds a list"),
        ("{", "damaged"),
    ):
        index.write_text(damage)
        assert message in refused(folder)
    index.write_text(good)
    (folder / names[1]).write_bytes(b"cut")
    assert names[1] in refused(folder) and "damaged" in refused(folder)


def test_kinds_of_numbers_and_copies_of_the_head_are_taken(folder):
    weights = {name: value.bfloat16() for name, value in tensors_of(folder).items()}
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    weights["model.layers.1.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(weights, folder / "model.safetensors")
    assert load_model(folder).embedding.weight.dtype == torch.float32
    weights["lm_head.weight"][0, 0] += 1
    save_file(weights, folder / "model.safetensors")
    assert "'lm_head.weight' differs from the embedding" in refused(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("model.norm.weight"), r"lacks 'model.norm.weight'"),
        (lambda w: w.update(extra=torch.ones(2)), "besides 'extra'"),
        (
            lambda w: w.update({"model.norm.weight": torch.ones(63)}),
            "'model.norm.weight' has the shape (63,), expected (64,)",
        ),
        (
            lambda w: w.update({"model.norm.weight": torch.ones(64, dtype=torch.int8)}),
            "stored as I8",
        ),
        (lambda w: w["model.norm.weight"].fill_(float("nan")), "'model.norm.weight' in"),
        (lambda w: w["model.embed_tokens.weight"][3].fill_(float("-inf")), "aren't finite"),
    ],
)
def test_tensors_that_are_not_the_models_are_named(change, message, folder):
    weights = tensors_of(folder)
    change(weights)
    save_file(weights, folder / "model.safetensors")
    assert message in refused(folder)


def test_a_config_that_asks_for_more_than_memory_costs_none(folder):
    raw = json.loads((folder / "config.json").read_text())
    raw |= {"hidden_size": 2**16, "num_attention_heads": 2, "attention_multiplier": 2**-7.5}
    raw |= {"mamba_n_heads": 2**12, "num_local_experts": 2**12, "intermediate_size": 2**20}
    (folder / "config.json").write_text(json.dumps(raw))
    assert "has the shape" in refused(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "expected an object"),
        ("[" * 100_000, "nested too deeply"),
        ('{"vocab_size": ' + "9" * 5000 + "}", "damaged"),
        ('{"model_type": "gpt2", "vocab_size": NaN}', "vocab_size=nan"),
        ("\udcff", "damaged"),
        ("", "damaged"),
    ],
)
def test_a_damaged_config_is_named(text, message, folder):
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert message in refused(folder) and "config.json" in refused(folder)


def test_what_is_no_checkpoint_is_called_what_it_is(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("x")
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(20))
    (tmp_path / "x.txt").write_text("text")
    assert "itera train" in refused(tmp_path / "nothing")
    assert "itera train" in refused(tmp_path / "x.txt" / "nothing")
    assert "is an empty folder" in refused(tmp_path / "empty")
    assert "has no config.json" in refused(tmp_path / "other")
    assert f"such as '{folder}'" in refused(tmp_path)
    assert "is a GGUF file" in refused(tmp_path / "x.gguf")
    assert "is a file: expected a folder" in refused(tmp_path / "x.txt")
    assert f"give its folder, '{folder}'" in refused(folder / "model.safetensors")


def test_weights_that_are_not_safetensors_are_called_what_they_are(folder):
    weights = folder / "model.safetensors"
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "git lfs pull" in refused(folder)
    weights.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"PK")
    assert "pickle" in refused(folder) and "save_pretrained" in refused(folder)
    (folder / "pytorch_model.bin").unlink()
    assert "has no model.safetensors" in refused(folder)
    weights.mkdir()
    assert "Is a directory" in refused(folder)


def test_a_padded_vocabulary_is_cut_to_the_tokenizers(tmp_path, tokenizer):
    """Rounded up to a multiple of 8: 304 rows for 300 tokens."""
    folder = tmp_path / "padded"
    padded = random_model(ITERA.replace(vocab_size=304))
    save_model(padded, folder, tokenizer.eot_id)
    tokenizer.save(folder)
    model, _ = load_checkpoint(folder)
    assert model.config == ITERA
    assert torch.equal(model(IDS), padded(IDS)[..., :VOCAB])
    assert main(["export", str(folder)]) == 0
    save_model(random_model(ITERA.replace(vocab_size=301)), folder, tokenizer.eot_id)
    assert "300 tokens, the model 301" in refused(folder)


def test_a_tokenizer_that_is_missing_or_another_kind_is_named(folder):
    path = folder / "tokenizer.json"
    state = json.loads(path.read_text())
    for change in (
        {"model": {**state["model"], "ignore_merges": True}},
        {"model": {**state["model"], "dropout": 0.5}},
        {"pre_tokenizer": {**state["pre_tokenizer"], "use_regex": False}},
        {"added_tokens": [*state["added_tokens"], {**state["added_tokens"][0], "id": 300,
                                                   "content": "hi", "special": False}]},
    ):  # fmt: skip
        path.write_text(json.dumps(state | change))
        assert "expected a byte-level BPE tokenizer" in refused(folder)
    path.write_text("[]")
    assert "not a readable tokenizer.json" in refused(folder)
    path.unlink()
    assert "expected a tokenizer.json" in refused(folder)


def test_what_may_not_be_read_is_not_called_missing(tokenizer):
    with shared_folder() as shared:
        folder = shared / "model"
        save_model(random_model(TRANSFORMER), folder, tokenizer.eot_id)
        tokenizer.save(folder)
        for name in ("model.safetensors", "config.json", "tokenizer.json"):
            path = folder / name
            path.chmod(0)
            with as_other_user():
                assert f"'{path}' can't be read: Permission denied" in refused(folder)
            path.chmod(0o644)
        with as_other_user():
            load_checkpoint(folder)
        folder.chmod(0)
        with as_other_user():
            assert "Permission denied" in refused(folder)


def test_weights_may_be_read_by_whom_the_umask_allows(tmp_path):
    before = os.umask(0o022)
    try:
        save_model(random_model(TRANSFORMER), tmp_path, 256)
    finally:
        os.umask(before)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()}
    assert set(modes.values()) == {"0o644"}


@pytest.mark.parametrize("verb", [["export"], ["eval"], ["compress", "quantize"]])
def test_verbs_say_it_without_a_traceback(verb, folder, capsys):
    shutil.rmtree(folder)
    folder.mkdir()
    assert main([*verb, str(folder), *(["--data", "x"] if verb == ["eval"] else [])]) == 1
    error = capsys.readouterr().err
    assert "is an empty folder" in error and "Traceback" not in error
