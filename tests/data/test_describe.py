"""`itera data`: what it returns and prints."""

import io
import re
import sys
import types
from pathlib import Path

import pytest

from itera_lite.cli import main
from itera_lite.commands.data import describe
from itera_lite.data import prepare as prepare_module
from itera_lite.data.prepare import prepare
from itera_lite.data.tokenizer import Tokenizer
from itera_lite.errors import UsageError


def test_describe(
    cache: Path, story_file: Path, capsys: pytest.CaptureFixture[str], stories: list[bytes]
) -> None:
    result = describe(str(story_file), vocab_size=300, samples=3)
    captured = capsys.readouterr()
    dataset = prepare(str(story_file), vocab_size=300)
    for split in ("train", "valid"):
        entry = result["splits"][split]
        assert entry["bytes_per_token"] == entry["bytes"] / entry["tokens"] > 1
        row = [split, *(f"{entry[k]:,}" for k in ("documents", "bytes", "tokens"))]
        row.append(f"{entry['bytes_per_token']:.2f}")
        assert row in [line.split() for line in captured.out.splitlines()]
    texts = list(dataset.documents("train"))
    assert len(set(result["samples"])) == 3
    for sample in result["samples"]:
        assert any(text.decode().startswith(sample.removesuffix(" ...")) for text in texts)
        assert sample in captured.out
    assert result["path"] == str(dataset.path) and "300 ids" in captured.out
    assert captured.err == ""


def test_only_the_samples_are_decoded(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a long one in parts, because ids as Python's numbers take much memory."""
    monkeypatch.setattr(prepare_module, "_DECODED", 7)
    decoded: list[int] = []
    decode = Tokenizer.decode_bytes

    def counted(self: Tokenizer, ids: list[int]) -> bytes:
        decoded.append(len(ids))
        return decode(self, ids)

    monkeypatch.setattr(Tokenizer, "decode_bytes", counted)
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(f'{{"text": "the text {i:02}"}}\n' for i in range(60)))
    samples = describe(str(file), vocab_size=256, samples=2)["samples"]
    assert len(samples) == 2 and all(re.fullmatch(r"the text \d\d", text) for text in samples)
    assert decoded == [7, 4] * 2


def test_standard_input_with_a_column(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["-:b"], ["--data", "-:b"]):
        raw = b'{"a": "x", "b": "one two"}\n{"a": "y", "b": "three"}\n'
        monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(raw)))
        assert main(["data", *arguments, "--vocab-size", "256"]) == 0
        assert "one two" in (out := capsys.readouterr().out) or "three" in out


def test_notes_are_shown_each_time(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "one.txt"
    file.write_text("A line of one text.\n" * 50)
    for _ in range(2):
        describe(str(file), vocab_size=256)
        assert capsys.readouterr().out.count("note: the set is one document") == 1


def test_number_of_samples(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "two.jsonl"
    file.write_text('{"text": "first of two"}\n{"text": "second of two"}\n')
    assert len(describe(str(file), vocab_size=256, samples=5)["samples"]) == 1
    capsys.readouterr()
    assert describe(str(file), vocab_size=256, samples=0)["samples"] == []
    assert "--- sample" not in capsys.readouterr().out
    for samples in (-1, 10**30, float("nan"), 2.5):
        with pytest.raises(UsageError, match=r"samples=.*: expected 0 to 10,000"):
            describe(str(file), samples=samples)  # type: ignore[arg-type]
