"""The model in the box: small enough, described truthfully, and at hand after the installation."""

import hashlib
import re
from pathlib import Path

import pytest

from itera_lite import cli
from itera_lite.engine import Model
from itera_lite.engine.find import BOX

CARD = (BOX / "README.md").read_text()


@pytest.fixture(scope="module")
def model() -> Model:
    (path,) = BOX.glob("*.gguf")
    return Model.load(path)


def test_there_is_one_of_at_most_2_mb(model: Model) -> None:
    assert model.path.stat().st_size <= 2_000_000
    assert model.architecture == "granitehybrid"


def test_the_card_is_about_this_file(model: Model) -> None:
    data = model.path.read_bytes()
    assert hashlib.sha256(data).hexdigest() in CARD
    assert f"{len(data):,} bytes" in CARD
    assert f"{model.parameters:,} parameters" in CARD


def test_the_card_has_what_a_card_needs() -> None:
    for heading in ("Training", "Quality", "Samples", "Limits", "Licence"):
        assert re.search(rf"^## {heading}", CARD, re.MULTILINE), heading


def test_the_samples_are_what_it_writes(model: Model) -> None:
    """Each sample of the card names its seed; the engine writes it again, on any processor."""
    samples = re.findall(r"`--seed (\d+)`:\n\n((?:> .*\n?)+)", CARD)
    assert len(samples) >= 2
    for seed, quoted in samples:
        text = " ".join(line.removeprefix("> ") for line in quoted.strip().splitlines())
        written = model.generate("Once upon a time", seed=int(seed), max_tokens=24)
        assert text.startswith("Once upon a time" + " ".join(written.text.split("\n"))[:40])


def test_generate_works_where_nothing_was_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["generate", "Once upon a time", "--seed", "1", "--max-tokens", "30"]) == 0
    written = capsys.readouterr()
    assert written.out.startswith("Once upon a time")
    assert "comes with Itera-Lite" in written.err


def test_it_knows_stories_better_than_noise(model: Model) -> None:
    story = "Once upon a time there was a little girl. She loved to play with her red ball."
    likely, shuffled = model.score([story, " ".join(reversed(story.split()))])
    assert likely.bits_per_byte < 1.2 < shuffled.bits_per_byte
