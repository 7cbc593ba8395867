"""Check that the generated text is the same each time, has the wanted size, and has copies."""

import json
from pathlib import Path

from tools.large_text import write


def test_text_of_a_size(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl", "c.txt", "d.one.txt"):
        write(tmp_path / name, 100_000)
        assert 100_000 <= (tmp_path / name).stat().st_size < 110_000
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    texts = [json.loads(line)["text"] for line in (tmp_path / "a.jsonl").open()]
    assert 1 <= len(texts) - len(set(texts)) < len(texts) / 8
    assert "<|endoftext|>\n" in (tmp_path / "c.txt").read_text()
    assert "<|endoftext|>" not in (tmp_path / "d.one.txt").read_text()
