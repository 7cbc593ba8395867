"""A bit that flips on the disk is found and named; states of other versions are read or refused."""

from __future__ import annotations

import json
import random
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from itera_lite.checkpoint.folder import (
    STATE_VERSION,
    load_checkpoint,
    load_training_state,
    save_checkpoint,
)
from itera_lite.checkpoint.weights import verified, write_tensors
from itera_lite.data import verify
from itera_lite.data.prepare import open_dataset, prepare
from itera_lite.data.tokenizer import Tokenizer
from itera_lite.errors import CheckpointError, IteraError, IteraWarning
from tests.train.conftest import text
from tests.train.small import make_small
from tests.train.test_train import curve, run, stop_at

__all__ = ["text"]

STATE = {"identity": {"a": 1}, "state": {"step": 7}, "loader": {"position": 12}, "window": {}}
# They are advice to programs, and a number of tokens up to which a model may be used.
HARMLESS = {"generation_config.json", "tokenizer_config.json"}


def flip(path: Path, place: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


@pytest.fixture
def saved(tmp_path: Path, tiny_pair: dict[str, Path]) -> Path:
    """A checkpoint with a training state."""
    model, tokenizer = load_checkpoint(tiny_pair["itera_lite_test"])
    tensors = {"momentum": torch.randn(40, 30), "rng": torch.get_rng_state()}
    return save_checkpoint(tmp_path / "mine", model, tokenizer, STATE, tensors)


def test_a_bit_flipped_anywhere_is_noticed_or_changes_nothing(saved: Path) -> None:
    """In every file of a checkpoint: what is read is exactly what was written, or nothing is."""
    draw = random.Random(4)
    model, tokenizer = load_checkpoint(saved)
    weights = model.state_dict()
    state, tensors = load_training_state(saved)
    noticed: dict[str, int] = {}
    for path in sorted(p for p in saved.rglob("*") if p.is_file() and p.name not in HARMLESS):
        whole, size = path.read_bytes(), path.stat().st_size
        # Headers and ends are where a reader decides; the rest is numbers.
        places = {*range(min(size, 24)), size - 1, *(draw.randrange(size) for _ in range(30))}
        for place in sorted(places):
            flip(path, place, draw.randrange(8))
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error", IteraWarning)
                    found, read = load_checkpoint(saved)
                    found_state, found_tensors = load_training_state(saved)
            except (IteraError, IteraWarning) as error:
                assert str(saved) in str(error), error
                noticed[path.name] = noticed.get(path.name, 0) + 1
            else:
                assert read.sha256 == tokenizer.sha256 and found_state == state
                now = found.state_dict()
                assert all(torch.equal(now[name], weights[name]) for name in weights), path
                assert all(torch.equal(found_tensors[n], tensors[n]) for n in tensors), path
                changed = {
                    key: value
                    for key, value in found.config.to_dict().items()
                    if value != model.config.to_dict()[key] and key != "max_seq_len"
                }
                assert changed == {}, (path, place, changed)
            finally:
                path.write_bytes(whole)
    assert noticed.keys() >= {
        *("config.json", "model.safetensors", "state.json", "tensors.safetensors"),
        "tokenizer.json",
    }


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model.safetensors", r"model\.safetensors' is damaged: its content has the SHA-256"),
        ("training_state/tensors.safetensors", r"tensors\.safetensors' is damaged: its content"),
    ],
)
def test_a_flipped_bit_of_a_number_is_named_by_the_checksum(
    name: str, words: str, saved: Path
) -> None:
    flip(saved / name, (saved / name).stat().st_size - 3, 0)
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(saved)
        load_training_state(saved)


def test_a_changed_state_is_named_by_the_checksum(saved: Path) -> None:
    path = saved / "training_state" / "state.json"
    path.write_text(path.read_text().replace('"step": 7', '"step": 6'))
    with pytest.raises(CheckpointError, match=r"state\.json' is damaged: its content has the SHA"):
        load_training_state(saved)


def test_another_models_tokenizer_is_named(saved: Path) -> None:
    """Of as many tokens, so that nothing else would notice."""
    size = load_checkpoint(saved)[1].vocab_size
    words = [f"b{chr(97 + i)} " * 9 for i in range(20)]
    other = Tokenizer.train(words, 259)
    mine = Tokenizer.train([word.replace("b", "c") for word in words], 259)
    model, _ = load_checkpoint(saved)
    smaller = type(model)(model.config.replace(vocab_size=259))
    folder = save_checkpoint(saved.with_name("other"), smaller, mine)
    other.save(folder)
    with pytest.raises(CheckpointError, match=r"isn't the tokenizer that the weights were saved"):
        load_checkpoint(folder)
    assert size == 257


def test_a_changed_scale_is_a_warning(saved: Path) -> None:
    """Somebody may have meant it."""
    path = saved / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    with pytest.warns(IteraWarning, match=r"norm_eps=0\.001 \(saved with 1e-05\)"):
        load_checkpoint(saved)
    path.write_text(json.dumps({**config, "max_position_embeddings": 1024}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_checkpoint(saved)[0].config.max_seq_len == 1024


def test_weights_that_another_program_wrote_have_no_checksum(saved: Path) -> None:
    path = saved / "model.safetensors"
    assert set(verified(path)) == {"format", "shape", "tokenizer_sha256"}
    save_file(load_file(path), path, metadata={"format": "pt"})
    assert verified(path) == {"format": "pt"}
    load_checkpoint(saved)


def test_the_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    """Also with several entries in the header, which the library has in no order of its own."""
    tensors = {"b": torch.arange(6).reshape(2, 3), "a": torch.zeros(5, dtype=torch.uint8)}
    files = [
        write_tensors(tmp_path / name, tensors, x="1", y="2", z="3").read_bytes()
        for name in ("one", "two")
    ]
    assert files[0] == files[1]
    loaded = load_file(tmp_path / "one")
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch)


@pytest.mark.usefixtures("small")
def test_a_state_of_the_version_before_is_gone_on_with(text, tmp_path, monkeypatch) -> None:
    """It has no version, its files have no checksums, and it ends as a run of this version."""
    from itera_lite.train.terminal import Stopped

    run(text, tmp_path / "whole", tokens="5K")
    with monkeypatch.context() as patch:
        stop_at(patch, 25)
        with pytest.raises(Stopped):
            run(text, tmp_path / "cut", tokens="5K")
    folder = tmp_path / "cut" / "c" / "itera_lite_tiny-last"
    path = folder / "training_state" / "state.json"
    state = json.loads(path.read_text())
    assert state.pop("version") == STATE_VERSION and len(state.pop("sha256")) == 64
    path.write_text(json.dumps(state))
    for file in sorted(folder.rglob("*.safetensors")):
        save_file(load_file(file), file, metadata={"format": "pt"})
    run(text, tmp_path / "cut", tokens="5K", resume=True)
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")


def test_a_state_of_a_later_version_is_refused_with_the_reason(saved: Path) -> None:
    path = saved / "training_state" / "state.json"
    path.write_text(json.dumps({"version": STATE_VERSION + 1, **STATE}))
    with pytest.raises(CheckpointError, match=r"has version 2, newer than 1.*update Itera-Lite"):
        load_training_state(saved)


def test_a_pickled_checkpoint_of_the_first_versions_is_refused_with_the_reason(tmp_path) -> None:
    path = tmp_path / "best_model.pt"
    path.write_bytes(b"\x80\x02.")
    with pytest.raises(CheckpointError, match=r"is a pickle, .* isn't read: expected a folder"):
        load_checkpoint(path)


def test_a_flipped_bit_in_a_shard_is_named_and_the_set_made_again(text, tmp_path) -> None:
    cache = tmp_path / "cache"
    first = prepare(str(text), vocab_size=300, cache=cache, quiet=True)
    tokens = np.array(first.tokens("train"))
    shard = first.path / first.manifest["splits"]["train"]["file"]
    flip(shard, 41, 3)
    with pytest.warns(IteraWarning, match=rf"'{shard}' is damaged: it has the SHA-256 .* was wri"):
        again = prepare(str(text), vocab_size=300, cache=cache, quiet=True)
    assert np.array_equal(again.tokens("train"), tokens)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepare(str(text), vocab_size=300, cache=cache, quiet=True)


def test_a_set_of_an_earlier_version_is_opened(text, tmp_path) -> None:
    """Its manifest has no checksums of files."""
    made = prepare(str(text), vocab_size=300, cache=tmp_path / "cache", quiet=True)
    path = made.path / "manifest.json"
    manifest = json.loads(path.read_text())
    for entry in manifest["splits"].values():
        del entry[verify.SHARD_SHA256]
    path.write_text(json.dumps(manifest))
    assert open_dataset(made.path) is not None


def test_a_large_shard_is_read_once(text, tmp_path, monkeypatch) -> None:
    """And again when its size, its time or its place has changed, by another process too."""
    monkeypatch.setattr(verify, "ALWAYS", 100)
    cache = tmp_path / "cache"
    made = prepare(str(text), vocab_size=300, cache=cache, quiet=True)
    read: list[Path] = []
    real = verify.sha256_of

    def reading(path: Path) -> str:
        read.append(path)
        return real(path)

    monkeypatch.setattr(verify, "sha256_of", reading)

    def as_another_process() -> bool:
        verify._compared.clear()
        read.clear()
        return open_dataset(made.path) is not None

    assert as_another_process() and read == []
    copied = tmp_path / "copied"
    shutil.copy(made.path / "train.bin", copied)
    copied.replace(made.path / "train.bin")
    assert as_another_process() and read == [made.path / "train.bin"]
    assert as_another_process() and read == []
    flip(made.path / "train.bin", 50, 1)
    with pytest.warns(IteraWarning, match="is damaged"):
        assert not as_another_process()
