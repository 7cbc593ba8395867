"""The unit of text: given once to `itera train`, carried by everything that is made from it."""

import json
from pathlib import Path

import pytest

from itera_lite import cli
from itera_lite.checkpoint.folder import load_checkpoint
from itera_lite.engine import Model
from itera_lite.records import Evaluation, Summary

SMALL = ["--model", "itera", "--config", "pico", "--vocab-size", "256", "--workers", "1", "--quiet"]
SHORT = ["--evaluations", "1", "--seq-len", "32", "--batch-size", "4"]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "stories.txt"
    stories = [f"The cat saw story {i}.\nIt was good! The end." for i in range(120)]
    file.write_text("\n<|endoftext|>\n".join(stories))
    return file


@pytest.fixture(scope="module")
def trained(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of sentences, hardly trained."""
    folder = tmp_path_factory.mktemp("trained")
    train(folder, text, "--unit", "sentence", "--name", "sentences", "--tokens", "512")
    return folder


def train(folder: Path, text: Path, *options: str) -> None:
    places = ["--checkpoints", str(folder / "checkpoints"), "--results", str(folder / "results")]
    given = [] if "--init" in options else SMALL[:6]
    assert cli.main(["train", str(text), *given, *SMALL[6:], *SHORT, *places, *options]) == 0


def unit_of_run(folder: Path, name: str) -> tuple[str | None, str]:
    """Of the checkpoint, and of the set that it was trained on."""
    _, tokenizer = load_checkpoint(folder / "checkpoints" / name)
    summary = Summary.read(folder / "results" / f"{name}_summary.json")
    assert summary.dataset is not None
    return tokenizer.unit, summary.dataset.unit


def test_the_set_is_described(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", str(text), "--vocab-size", "256", "--unit", "sentence"]) == 0
    out = capsys.readouterr().out
    assert "unit: each sentence is a document" in out
    assert "\nIt was good!\n" in out or "\nThe end.\n" in out
    assert cli.main(["data", str(text), "--unit", "word"]) == 2
    assert "sentence" in capsys.readouterr().err


def test_checkpoint_summary_and_files_carry_it(
    trained: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = trained / "checkpoints" / "sentences"
    assert unit_of_run(trained, "sentences") == ("sentence", "sentence")
    assert cli.main(["export", str(checkpoint)]) == 0
    assert Model.load(checkpoint / "model-q8_0.gguf").unit == "sentence"
    capsys.readouterr()
    assert cli.main(["check", str(checkpoint)]) == 0
    assert capsys.readouterr().out.count("trained on: text cut by sentence") == 2
    # `itera eval` cuts the text as the checkpoint does, without being asked.
    results = ["--results", str(trained / "results"), "--workers", "1"]
    assert cli.main(["eval", str(checkpoint), *results]) == 0
    record = Evaluation.read(trained / "results" / "sentences_eval.json")
    dataset = json.loads((trained / "results" / "sentences_summary.json").read_text())["dataset"]
    assert record.bytes == dataset["valid_bytes"] and "each sentence" in record.policy


def test_a_file_without_it(tiny_pair: dict[str, Path], tmp_path: Path) -> None:
    """Checkpoints of before, and of other programs."""
    out = str(tmp_path / "model.gguf")
    test = str(tiny_pair["itera_lite_test"])
    assert cli.main(["export", test, "--type", "f32", "--output", out]) == 0
    assert Model.load(out).unit is None and b"itera.unit" not in Path(out).read_bytes()


def test_a_unit_that_this_version_lacks(trained: Path, tmp_path: Path) -> None:
    checkpoint = trained / "checkpoints" / "sentences"
    assert cli.main(["export", str(checkpoint)]) == 0
    file = tmp_path / "model.gguf"
    content = (checkpoint / "model-q8_0.gguf").read_bytes()
    assert content.count(b"sentence") >= 1
    file.write_bytes(content.replace(b"sentence", b"\xffentence"))
    assert Model.load(file).unit is None


def test_going_on_keeps_it(trained: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--name", "sentences", "--tokens", "1024", "--resume"]
    train(trained, text, *more)
    assert unit_of_run(trained, "sentences") == ("sentence", "sentence")
    places = ["--checkpoints", str(trained / "checkpoints"), "--results", str(trained / "results")]
    more[3] = "2048"
    wrong = ["train", str(text), *SMALL, *SHORT, *places, *more, "--unit", "line"]
    assert cli.main(wrong) == 1
    assert "unit sentence, now line" in capsys.readouterr().err


def test_another_model_of_its_weights(trained: Path, text: Path) -> None:
    """`--init` keeps the unit, or takes another: a filter is made of a model that writes."""
    init = ["--init", str(trained / "checkpoints" / "sentences"), "--tokens", "512"]
    train(trained, text, *init, "--name", "kept")
    assert unit_of_run(trained, "kept") == ("sentence", "sentence")
    train(trained, text, *init, "--name", "lines", "--unit", "line")
    assert unit_of_run(trained, "lines") == ("line", "line")
    continuation = Summary.read(trained / "results" / "lines_summary.json").continuation
    assert continuation is not None and continuation.text.unit == "line"
    assert continuation.earlier is not None, "the same text in other units is another text"
    assert continuation.earlier.unit == "sentence" and continuation.earlier.after is not None
