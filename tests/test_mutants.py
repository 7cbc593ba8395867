"""Check the mutants of code that mutmut leaves out, and how mutmut's results are read."""

import json

import pytest

from tools import mutants

SOURCE = '''"""A module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

Direction = Literal["lower", "higher"]
__all__ = ["Stat"]
LIMIT = 0.25
UNITS = {"speed": "tokens/s"}


@final
class Stat(Base, frozen=True):
    """A number."""

    value: float = 1.5

    @property
    def share(self) -> float:
        return self.value / 2 > LIMIT

    @classmethod
    def of(cls, samples: Sequence[float]) -> Stat:
        return cls(samples[0] + 7)


def plain(value: int) -> int:
    return value + 9
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    pytest.importorskip("mutmut")
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    (tmp_path / "itera_lite").mkdir()
    (tmp_path / "itera_lite" / "stats.py").write_text(SOURCE)
    return "itera_lite.stats"


def test_what_is_changed_and_what_is_not(module):
    found = list(mutants.left_out(module))
    changes = {each.difference.splitlines()[-2][1:].strip() for each, _ in found} | {
        line[1:].strip() for each, _ in found for line in each.difference.splitlines()
        if line.startswith("+")
    }  # fmt: skip
    for wanted in (
        "LIMIT = 1.25",
        'UNITS = {"speed": "TOKENS/S"}',
        "class Stat(Base, frozen=False):",
        "value: float = 2.5",
        "return self.value * 2 > LIMIT",
        "return self.value / 2 >= LIMIT",
        "return self.value / 3 > LIMIT",
    ):
        assert wanted in changes, wanted
    text = "\n".join(changes)
    assert not any(word in text for word in ("LOWER", "XXlowerXX", "XXStatXX", "+ 8", "+ 10"))
    names = [each.name for each, _ in found]
    assert len(set(names)) == len(names) and all(name.startswith(module) for name in names)
    for each, after in found:
        compile(after, "mutant", "exec")
        assert after != SOURCE and each.killed is None


def test_a_sample_is_the_same_each_time():
    some = mutants.chosen(list(range(100)), 10)
    assert len(set(some)) == 10 and some == mutants.chosen(list(range(100)), 10)
    assert mutants.chosen([1, 2], 10) == mutants.chosen([1, 2], None) == [1, 2]


def test_what_mutmut_found_is_read(module, tmp_path):
    folder = tmp_path / "mutants" / "itera_lite"
    folder.mkdir(parents=True)
    codes = {"a": 1, "b": 0, "c": 33, "d": None, "e": 36}
    (folder / "stats.py.meta").write_text(json.dumps({"exit_code_by_key": codes}))
    assert mutants._found("stats") == {
        "a": (module, True), "b": (module, False), "c": (module, False), "d": (module, None),
        "e": (module, True),
    }  # fmt: skip


def test_the_share_is_of_those_that_were_tried(capsys):
    found = [
        mutants.Mutant("m", "one", "- a\n+ b", True),
        mutants.Mutant("m", "two", "- c\n+ d", False),
        mutants.Mutant("n", "three", "", True),
        mutants.Mutant("n", "four", "", None),
    ]
    assert mutants.table("stats", found) == pytest.approx(2 / 3)
    out = capsys.readouterr().out
    assert "survived: two\n- c\n+ d" in out and "one" not in out
    assert "in all" in out and "66.7%" in out


def test_a_room_without_tried_mutants_is_no_success(module, tmp_path, monkeypatch, capsys):
    assert mutants.table("stats", []) == 0
    monkeypatch.setattr(mutants, "_mutmut", lambda *arguments, **options: "")
    with pytest.raises(SystemExit, match=r"^mutmut made no mutant of stats: "):
        mutants.of_functions("stats", None)
    folder = tmp_path / "mutants" / "itera_lite"
    folder.mkdir()
    (folder / "stats.py.meta").write_text(json.dumps({"exit_code_by_key": {"a": 1, "b": None}}))
    with pytest.raises(SystemExit, match=r"^mutmut left 1 of 2 mutants untried of stats: "):
        mutants.of_functions("stats", None)


def test_each_room_has_mutmuts_folder_to_itself(module, tmp_path):
    """Else a second room's files are those that the first one copied, without any mutant."""
    kept = tmp_path / "mutants" / "itera_lite.py"
    mutants.own_folder("stats")
    kept.write_text("")
    mutants.own_folder("stats")
    assert kept.exists()  # a run that was stopped goes on
    mutants.own_folder("machine")
    assert not kept.exists()


def test_an_unknown_room_is_said(capsys):
    assert mutants.main(["attic"]) == 2
    assert "unknown room 'attic': expected stats, machine" in capsys.readouterr().err
