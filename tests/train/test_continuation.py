"""`itera train --init`: going on from a checkpoint's weights, with both texts scored."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from itera_lite import cli
from itera_lite.checkpoint.folder import load_checkpoint
from itera_lite.checkpoint.weights import weights_sha256
from itera_lite.commands.train import train
from itera_lite.data.prepare import prepare
from itera_lite.data.tokenizer import Tokenizer
from itera_lite.errors import CheckpointError, UsageError
from itera_lite.evaluate.bits import first_bytes, score_documents
from itera_lite.records import Summary
from itera_lite.train.continuation import COMPARED_BYTES
from itera_lite.train.loop import Trainer
from itera_lite.train.recipe import CONTINUED_RATE, Budget, train_config
from itera_lite.train.terminal import Stopped
from tests.train.small import make_small
from tests.train.test_train import SETTINGS, curve, run, stop_at

pytestmark = pytest.mark.usefixtures("small")
START = "itera_lite_tiny"
NAME = "itera_lite_tiny_numbers"
SHORT = {"workers": 1, "quiet": True, "precision": "fp32", "patience": 0, "batch_size": 4}


@pytest.fixture(scope="module")
def numbers(tmp_path_factory) -> Path:
    """Another text than the one that the checkpoint was trained on."""
    file = tmp_path_factory.mktemp("numbers") / "numbers.txt"
    words = ("one", "two", "three", "four", "five", "six", "seven")
    lines = [f"{i} " + " ".join(words[(i * j) % 7] for j in range(1, 9)) for i in range(600)]
    file.write_text("".join(f"{line}.\n<|endoftext|>\n" for line in lines))
    return file


@pytest.fixture(scope="module")
def start(text, tmp_path_factory) -> Path:
    """A folder with a trained checkpoint and its record."""
    out = tmp_path_factory.mktemp("start")
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        run(text, out, tokens="16K")
    return out


@pytest.fixture
def out(start, tmp_path) -> Path:
    shutil.copytree(start, tmp_path / "out")
    return tmp_path / "out"


def go_on(out: Path, data: Path, **options) -> Summary:
    settings = {"tokens": "6K", "seq_len": 32} | SHORT | options
    settings.setdefault("init", out / "c" / START)
    found = train(str(data), checkpoints=out / "c", results=out / "r", **settings)
    (summary,) = found.values()
    return summary


def bits(folder: Path, source: Path) -> float:
    """Bits per byte on the validation text, by the plain way."""
    model, tokenizer = load_checkpoint(folder)
    documents = prepare(str(source), tokenizer=tokenizer, quiet=True).documents("valid")
    texts = list(first_bytes(documents, COMPARED_BYTES))
    return score_documents(model, tokenizer, texts, seq_len=32).bpb


def test_it_begins_with_the_weights_and_both_texts_are_scored(out, text, numbers):
    folder = out / "c" / START
    before = bits(folder, numbers), bits(folder, text)
    sha256 = weights_sha256(folder)
    summary = go_on(out, numbers)
    assert (summary.model.name, summary.model.made) == (NAME, "continued")
    (source,) = summary.model.made_from
    assert (source.name, source.role, source.sha256) == (START, "start", sha256)
    record = summary.continuation
    assert record.text.source == str(numbers) and record.earlier.source == str(text)
    assert (record.text.before, record.earlier.before) == pytest.approx(before, rel=1e-4)
    after = bits(out / "c" / NAME, numbers), bits(out / "c" / NAME, text)
    assert (record.text.after, record.earlier.after) == pytest.approx(after, rel=1e-4)
    assert record.text.after < 0.7 * record.text.before, "it has learned the new text"
    assert record.earlier.after > record.earlier.before, "and has forgotten some of the other"
    assert weights_sha256(folder) == sha256, "the checkpoint itself stays as it is"
    assert Summary.read(out / "r" / f"{NAME}_summary.json") == summary
    # Shape, tokenizer and learning rates
    (model, tokenizer), (old, own) = load_checkpoint(out / "c" / NAME), load_checkpoint(folder)
    assert model.config == old.config and tokenizer.sha256 == own.sha256
    usual = train_config(old.config, Budget("tokens", 6000), {"batch_size": 4, "seq_len": 32})
    for rate in ("lr_matrix", "lr_embedding", "lr_other"):
        assert getattr(summary.training, rate) == CONTINUED_RATE * getattr(usual, rate)


def test_the_first_steps_are_those_of_the_loaded_weights(out, text, monkeypatch):
    """Not of random ones: the loss of the first step is that of a trained model."""
    losses = []
    original = Trainer._step

    def step(self):
        loss, seconds = original(self)
        losses.append(loss)
        return loss, seconds

    monkeypatch.setattr(Trainer, "_step", step)
    go_on(out, text, tokens="1K", name="again", lr_matrix=1e-9, lr_embedding=1e-9, lr_other=1e-9)
    scored = Summary.read(out / "r" / f"{START}_summary.json").valid.loss
    assert sum(losses) / len(losses) == pytest.approx(scored, rel=0.15)
    record = Summary.read(out / "r" / "again_summary.json").continuation
    assert record.text.after == pytest.approx(record.text.before, rel=1e-3)
    assert record.earlier is None and record.earlier_missing == "it is the same text"


def test_resume_repeats_the_uninterrupted_curve(out, numbers, tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    shutil.copytree(out, whole)
    summary = go_on(whole, numbers)
    with monkeypatch.context() as patch:
        stop_at(patch, 33)
        with pytest.raises(Stopped):
            go_on(out, numbers)
    other = out / "c" / "another"
    shutil.copytree(out / "c" / f"{START}-last", other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "initializer_range": 0.03}))
    with pytest.raises(CheckpointError, match="began from another 'itera_lite_tiny'"):
        go_on(out, numbers, resume=True, name=NAME, init=other)
    shutil.rmtree(other)
    shutil.move(out / "c" / START, out / "c" / "away")
    # The checkpoint isn't needed any more: all is taken from the run
    resumed = go_on(out, numbers, resume=True, name=NAME, model="itera", init=None, tokens=None)
    assert curve(out, NAME) == curve(whole, NAME)
    weights = f"c/{NAME}-last/model.safetensors"
    assert (out / weights).read_bytes() == (whole / weights).read_bytes()
    assert resumed.continuation == summary.continuation
    assert resumed.model.made_from == summary.model.made_from


def test_options_that_ask_for_another_model_are_refused(out, numbers, tmp_path):
    other = Tokenizer.train([b"text"], 256).save(tmp_path / "other")
    for options, told in (
        ({"model": "transformer"}, "--model transformer doesn't agree with --init"),
        ({"config": "small"}, "which has the size tiny"),
        ({"params": "3M"}, "--params 3M doesn't agree"),
        ({"pattern": "mma"}, "which has the pattern ma"),
        ({"vocab_size": 512}, "which has a vocabulary of 300"),
        ({"tokenizer": other}, "a tokenizer of its own"),
        ({"name": START}, "would replace the checkpoint"),
    ):
        with pytest.raises(UsageError, match=told):
            go_on(out, numbers, **options)
    agreeing = {"model": "itera", "config": "tiny", "pattern": "ma", "vocab_size": 300}
    go_on(
        out, numbers, tokens="512", tokenizer=out / "c" / START, **{**agreeing, "vocab_size": None}
    )
    go_on(out, numbers, tokens="512", name="agreeing", **agreeing)


def test_a_number_of_parameters_that_gives_the_checkpoints_model_agrees(text, numbers, tmp_path):
    run(text, tmp_path, params="200K", name="fitted", tokens="512")
    begin = tmp_path / "c" / "fitted"
    with pytest.raises(UsageError, match="--params 100K doesn't agree"):
        go_on(tmp_path, numbers, init=begin, params="100K")
    made = go_on(tmp_path, numbers, init=begin, params="200K", tokens="512")
    assert made.model.config == load_checkpoint(begin)[0].config


def test_what_cant_be_begun_from(out, numbers, tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        go_on(out, numbers, init=tmp_path / "nothing")
    run(numbers, out, name="plain", tokens="512", vocab_size=260)
    with pytest.raises(CheckpointError, match="began from random weights, not from"):
        go_on(out, numbers, name="plain", resume=True, tokens="1K")


def test_why_the_earlier_text_isnt_scored_is_stated(out, numbers, text, tmp_path, capsys):
    record = out / "r" / f"{START}_summary.json"
    summary = Summary.read(record)
    moved = tmp_path / "moved"
    for number, (change, told) in enumerate(
        (
            (lambda: record.unlink(), "can't be read"),
            (lambda: summary.write(record), "isn't the text that it was then"),
            (lambda: setattr(summary.dataset, "source", str(moved)), "it can't be had: data="),
            (lambda: setattr(summary.dataset, "source", "-"), "was read from standard input"),
        )
    ):
        change()
        if number == 1:
            summary.dataset.sha256 = "ab" * 32
        if number:
            summary.write(record)
        made = go_on(out, numbers, tokens="512", name=f"n{number}", quiet=False)
        assert made.continuation.earlier is None
        assert told in made.continuation.earlier_missing
        assert f"on the earlier text: not scored, for {made.continuation.earlier_missing}" in (
            capsys.readouterr().out
        )


def test_the_command_line(out, numbers, monkeypatch, capsys):
    monkeypatch.chdir(out)
    command = ["train", str(numbers), "--init", f"c/{START}-last", "--tokens", "1K"]
    command += ["--checkpoints", "c", "--results", "r", "--precision", "fp32", "--workers", "1"]
    command += ["--seq-len", "32"]
    assert cli.main(command) == 0
    shown = capsys.readouterr().out
    assert "on the new text" in shown and "on the earlier text" in shown
    assert (out / "c" / NAME).is_dir()
    assert cli.main([*command, "--config", "small"]) == 2
    assert "Shape and tokenizer come from the checkpoint" in capsys.readouterr().err


def test_a_transformer_and_its_settings(text, numbers, tmp_path):
    run(text, tmp_path, model="transformer", tokens="2K")
    made = go_on(tmp_path, numbers, init=tmp_path / "c" / "transformer_tiny", tokens="1K")
    assert made.model.family == "transformer" and made.model.name == "transformer_tiny_numbers"
    assert SETTINGS["vocab_size"] == made.dataset.vocab_size
    model, _ = load_checkpoint(tmp_path / "c" / "transformer_tiny_numbers")
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
