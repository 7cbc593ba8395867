"""`generation_config.json`: nulls, greedy decoding, fields that aren't supported."""

import json
import warnings
from pathlib import Path
from typing import Any

import gguf
import pytest

from itera_lite import cli
from itera_lite.checkpoint.folder import load_checkpoint, save_checkpoint
from itera_lite.checkpoint.hf import save_model
from itera_lite.engine import Model
from itera_lite.errors import CheckpointError, IteraWarning
from itera_lite.export.gguf import export_gguf
from itera_lite.sampling import SamplingDefaults, read_generation_config
from tests.export.models import TRANSFORMER, random_model


def write(folder: Path, fields: Any) -> Path:
    (folder / "generation_config.json").write_text(json.dumps(fields))
    return folder


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {}),
        (dict.fromkeys(["temperature", "top_k", "top_p", "min_p", "do_sample"]), {}),
        ({"do_sample": True, "temperature": 0.5, "top_k": 20}, {"temperature": 0.5, "top_k": 20}),
        ({"do_sample": False, "temperature": 0.5}, {"temperature": 0.0}),
        ({"do_sample": False, "top_k": None, "top_p": 1}, {"temperature": 0.0, "top_p": 1}),
        ({"min_p": 0.1, "repetition_penalty": 1.2}, {"min_p": 0.1, "repetition_penalty": 1.2}),
        ({"top_k": 50.0}, {"top_k": 50}),
        (
            {"num_beams": 1, "typical_p": 1.0, "eos_token_id": 256, "_from_model_config": True},
            {},
        ),
        ({"bad_words_ids": None, "suppress_tokens": [], "transformers_version": "5.23.0"}, {}),
    ],
)
def test_what_it_says(fields: dict[str, Any], expected: dict[str, Any], tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_generation_config(write(tmp_path, fields)) == SamplingDefaults(**expected)
    assert isinstance(read_generation_config(tmp_path).top_k, int)


def test_without_the_file_the_defaults_hold(tmp_path: Path) -> None:
    assert read_generation_config(tmp_path) == SamplingDefaults()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_beams", 4),
        ("no_repeat_ngram_size", 3),
        ("typical_p", 0.9),
        ("penalty_alpha", 0.6),
        ("bad_words_ids", [[5]]),
        ("forced_eos_token_id", 256),
        ("min_new_tokens", 5),
        ("of_a_later_version", True),
    ],
)
def test_a_field_that_would_change_the_text_is_named(name: str, value: Any, tmp_path: Path) -> None:
    write(tmp_path, {name: value, "temperature": 0.5})
    with pytest.warns(IteraWarning, match=rf"generation_config.json.*left out.*{name}="):
        assert read_generation_config(tmp_path).temperature == 0.5


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"temperature": "warm"}', "temperature is 'warm'"),
        ('{"temperature": -1}', "temperature is -1"),
        ('{"temperature": true}', "temperature is True"),
        ('{"temperature": NaN}', "temperature is nan"),
        (f'{{"temperature": 1{"0" * 400}}}', "temperature is 10"),
        ('{"top_k": -3}', "top_k is -3"),
        ('{"top_k": 1.5}', "top_k is 1.5"),
        (f'{{"top_k": {"9" * 400}}}', "top_k is 99"),
        ('{"top_p": 0}', "top_p is 0"),
        ('{"top_p": [1]}', r"top_p is \[1\]"),
        ('{"min_p": 2}', "min_p is 2"),
        ('{"repetition_penalty": 0}', "repetition_penalty is 0"),
        ('{"do_sample": "no"}', "do_sample is 'no'"),
        ("[1]", "expected an object"),
        ('{"temperature": 0.5', "is damaged"),
        ("", "is damaged"),
        ("[" * 100_000, "is damaged"),
    ],
)
def test_a_damaged_file_is_named(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=rf"generation_config\.json'.*{told}"):
        read_generation_config(tmp_path)


@pytest.fixture
def checkpoint(tiny_pair: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of a minute model's, to be changed."""
    return save_checkpoint(tmp_path / "model", *load_checkpoint(tiny_pair["itera_lite_test"]))


def test_the_engine_does_what_the_checkpoint_says(checkpoint: Path) -> None:
    """Greedy and penalised, as the PyTorch side and transformers would."""
    plain = Model.load(export_gguf(checkpoint, "f32").path)
    write(checkpoint, {"do_sample": False, "repetition_penalty": 1.5, "top_k": None, "min_p": 0.1})
    path = export_gguf(checkpoint, "f32").path
    fields = gguf.GGUFReader(path).fields
    assert fields["general.sampling.penalty_last_n"].contents() == -1
    advised = Model.load(path)
    assert advised.sampling_defaults == {
        "temperature": 0.0,
        "top_k": 0,
        "top_p": pytest.approx(0.95),
        "min_p": pytest.approx(0.1),
        "repetition_penalty": 1.5,
        "repetition_window": advised.context,
    }
    expected = plain.generate(
        "a", temperature=0, repetition_penalty=1.5, repetition_window=512, max_tokens=20
    )
    assert advised.generate("a", max_tokens=20) == expected


def test_a_penalty_of_1_leaves_the_file_as_it_was(checkpoint: Path, tmp_path: Path) -> None:
    before = export_gguf(checkpoint, "f32", tmp_path / "a.gguf").path.read_bytes()
    config = json.loads((checkpoint / "generation_config.json").read_text())
    write(checkpoint, {**config, "repetition_penalty": 1.0, "top_k": None})
    assert export_gguf(checkpoint, "f32", tmp_path / "b.gguf").path.read_bytes() == before


def test_the_command_line_says_what_is_left_out(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(checkpoint, {"num_beams": 4})
    text = warnings.formatwarning
    monkeypatch.setattr(warnings, "formatwarning", text)  # restored afterwards
    monkeypatch.setattr(
        warnings, "showwarning", lambda *a: print(warnings.formatwarning(*a[:4]), end="")
    )
    warnings.simplefilter("always", IteraWarning)
    assert cli.main(["generate", "a", "--checkpoint", str(checkpoint), "--max-tokens", "2"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("itera: warning: '") and "num_beams=4\n" in out


def test_what_we_write_ourselves_is_read_without_a_word(tmp_path: Path) -> None:
    save_model(random_model(TRANSFORMER), tmp_path, 256)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_generation_config(tmp_path) == SamplingDefaults()
