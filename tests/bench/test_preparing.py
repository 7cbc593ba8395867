"""`itera bench data`: text is prepared, and encoded by the library alone, in fresh processes."""

import time
from pathlib import Path

import pytest

from itera_lite.cli import main
from itera_lite.commands.bench_data import bench_data
from tools.large_text import write


def test_both_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ITERA_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "a.jsonl", 500_000)
    begin = time.monotonic()
    found = bench_data(str(tmp_path / "a.jsonl"), vocab_size=300, workers=2, repeats=1)
    seconds = time.monotonic() - begin
    for measured in found.values():
        assert 0.5 / seconds < measured["mb_per_second"] < 1000
        assert 2e7 < measured["peak_rss_bytes"] < 2e9
    out = capsys.readouterr().out
    assert "itera data" in out and "tokenizers alone" in out
    left = [path.name for path in (tmp_path / "cache").iterdir() if path.name.startswith(".b")]
    assert left == []
    assert main(["bench", "data", str(tmp_path / "none"), "--repeats", "1"]) == 1
