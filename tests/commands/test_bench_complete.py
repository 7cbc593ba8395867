"""`itera bench complete`: the rules of counting, the record, the table, wrong use."""

from pathlib import Path

import pytest

from itera_lite import cli
from itera_lite.bench.keystrokes import FLOOR, MODEL, Typist
from itera_lite.commands.bench_complete import bench_complete
from itera_lite.errors import DataError
from itera_lite.records import Keystrokes

STORY = "The cat sat on the mat. The cat ate the fish, and then the cat slept.\n"


def test_keystrokes_are_counted_by_the_rules() -> None:
    asked = []

    def offers(text: str, before: tuple[str, str], typed: str) -> list[str]:
        assert text.endswith(typed)
        asked.append((text, before, typed))
        return {"": ["cat"], "s": ["leeping", "le"], "sle": ["eping"], "mat": ["s"]}.get(typed, [])

    typist = Typist(offers)
    typist.type("a cat, sleeping mats")
    # "a" 1, " " 1, "cat" 1, "," 1, " " 1, "sleeping" 2, " " 1, "mats" 4
    assert typist.keys == 1 + 1 + 1 + 1 + 1 + 2 + 1 + 4
    assert typist.taken == 2 and len(typist.seconds) == len(asked) == 0 + 1 + 2 + 3
    assert [(text, typed) for text, _, typed in asked] == [
        ("a ", ""),
        ("a cat, ", ""),
        ("a cat, s", "s"),
        ("a cat, sleeping ", ""),
        ("a cat, sleeping m", "m"),
        ("a cat, sleeping ma", "ma"),
    ]
    assert asked[1][1] == ("cat", ",") and asked[0][1] == ("", "a")
    record = typist.record(characters=20)
    assert record.keystrokes == 12 and record.saved == pytest.approx(0.4)
    assert 0 < record.median_ms <= record.p99_ms
    silent = Typist(lambda text, before, typed: [])
    silent.type("a  b_c\té!")
    assert silent.keys == 9 and silent.record(9).saved == 0


def test_the_record_and_the_table(
    tiny_pair: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (text := tmp_path / "text").mkdir()
    for i in range(40):
        (text / f"{i:02}.txt").write_text(STORY * 2 + f"Story {i}.\n")
    results = tmp_path / "results"
    record = bench_complete(
        tiny_pair["itera_lite_test"], data=str(text), max_bytes="600B", results=results
    )
    assert Keystrokes.read(results / "itera_lite_test_keystrokes.json") == record
    assert (record.model.name, record.model.family) == ("itera_lite_test", "itera")
    assert record.source == "text" and record.offered == 3
    assert 0 < record.characters <= 600 and record.words > 30 and record.train_bytes > 3000
    assert set(record.completers) == {MODEL, FLOOR}
    floor = record.completers[FLOOR]
    assert floor.saved > 0.3, "it has counted these very sentences"
    for one in record.completers.values():
        assert one.saved == pytest.approx(1 - one.keystrokes / record.characters)
        assert 0 < one.median_ms <= one.p99_ms and one.words_taken <= record.words
    assert record.provenance.engine_isa
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if line.strip().startswith(FLOOR)]
    assert f"{floor.keystrokes:,}" in row and f"{floor.saved:.1%}" in row
    assert any("3 offers at a time" in line for line in lines)


def test_wrong_use_is_said(
    tiny_pair: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (text := tmp_path / "text.txt").write_text(STORY * 50)
    model = tiny_pair["itera_lite_test"]
    with pytest.raises(DataError, match="no split 'test': expected one of"):
        bench_complete(model, data=str(text), split="test", results=tmp_path / "results")
    (odd := tmp_path / "odd.txt").write_text("é word\n" * 500)
    with pytest.raises(DataError, match="--max-bytes 1 leaves no character"):
        bench_complete(model, data=str(odd), max_bytes=1, results=tmp_path / "results")
    command = ["bench", "complete", str(tmp_path / "nowhere.gguf"), "--data", str(text)]
    assert cli.main([*command, "--results", str(tmp_path / "results")]) == 1
    assert "nowhere.gguf" in capsys.readouterr().err
