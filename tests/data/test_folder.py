"""Folders: what is read, what is left out, and that it is said."""

import json
import os
from pathlib import Path

import pytest

from itera_lite.commands.data import describe
from itera_lite.data.corpus import load_documents, locate
from itera_lite.data.folder import list_folder
from itera_lite.data.prepare import prepare
from itera_lite.errors import DataError

METRICS = "step,tokens,seconds,epoch,flops,train_loss\n20,1,1,1,1,1\n"


def put(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def names(folder: Path) -> list[str]:
    return [label for _, label, _ in locate(str(folder)).files]


def test_endings(tmp_path: Path) -> None:
    files = {"a.TXT": "a", "b.text": "b", "c.rst": "c", "d.py": "d", "LICENSE": "e", "f.Md": "f"}
    folder = put(tmp_path / "x", {**files})
    assert names(folder) == ["a.TXT", "b.text", "f.Md"]
    assert load_documents(str(folder)).notes[0] == (
        "left out: 3 files with other endings (no ending 1, .rst 1, .py 1); give a glob to read "
        "them: LICENSE, c.rst, d.py"
    )
    other = put(tmp_path / "y", {"c.rst": "c"})
    with pytest.raises(DataError, match=r"found no \.txt.*other endings \(\.rst 1\).*c\.rst"):
        locate(str(other))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"found no \.txt"):
        locate(str(tmp_path / "empty"))


def test_splits_by_names_in_capitals(tmp_path: Path) -> None:
    folder = put(tmp_path / "x", {"Train.TXT": "a", "VALID.Txt": "c", "b.txt": "b"})
    assert load_documents(str(folder)).splits == {"train": [b"a"], "valid": [b"c"]}


def test_links_and_unreadable_folders_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = put(tmp_path / "x", {"a.txt": "a", "secret/b.txt": "b", ".git/c.txt": "c"})
    put(tmp_path / "other", {"d.txt": "d"})
    (folder / "link").symlink_to(tmp_path / "other")
    (folder / "gone.txt").symlink_to(tmp_path / "nowhere.txt")
    os.mkfifo(folder / "pipe.txt")
    real = os.scandir

    def scandir(path: str) -> "os._ScandirIterator[str]":  # root may read everything
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    listing = list_folder(folder)
    assert [file.name for file in listing.files] == ["a.txt"]
    assert listing.notes() == [
        "left out: 1 hidden files and folders: .git",
        "left out: 1 links to folders: link",
        "left out: 3 files and folders that can't be read: gone.txt (No such file or directory), "
        "pipe.txt (not a regular file), secret (Permission denied)",
    ]


def test_a_file_that_may_not_be_read_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = put(tmp_path / "x", {"a.txt": "a", "secret.txt": "b"})
    real = os.access

    def access(path: Path, mode: int, **options: bool) -> bool:  # root may read everything
        return not str(path).endswith("secret.txt") and real(path, mode, **options)

    monkeypatch.setattr(os, "access", access)
    listing = list_folder(folder)
    assert [file.name for file in listing.files] == ["a.txt"]
    assert listing.notes() == [
        "left out: 1 files and folders that can't be read: secret.txt (Permission denied)"
    ]


def test_our_own_results_are_left_out_and_a_users_are_not(tmp_path: Path) -> None:
    record = json.dumps({"kind": "summary", "version": 1, "model": {}}, indent=2)
    folder = put(
        tmp_path / "x",
        {
            "a.txt": "a",
            "checkpoints/m/config.json": "{}",
            "checkpoints/m/model.safetensors": b"\0",
            "checkpoints/m/README.md": "card",
            "checkpoints/m-last/training_state/state.json": "{}",
            "checkpoints/m-last/samples.txt": "sample",
            "checkpoints/notes.txt": "about checkpoints",
            "results/m_metrics.csv": METRICS,
            "results/m_summary.json": record,
            "results/models/m/0.json": record,
            "results/essay.txt": "about results",
            "results/my_summary.json": '[{"text": "a summary"}]',
            "results/my_metrics.csv": "text\nmetrics of a poem\n",
            "reports/efficiency_report.md": "# Efficiency report\n\nlong",
            "reports/spring.md": "# Spring\n",
            "venv/pyvenv.cfg": "",
            "venv/lib/top.txt": "no",
            "node_modules/p/readme.md": "no",
            "target/CACHEDIR.TAG": "",
            "target/out.txt": "no",
            "package.json": '{\n  "kind": "package",\n  "version": 1\n}',
        },
    )
    own = [
        "checkpoints/notes.txt",
        "reports/spring.md",
        "results/essay.txt",
        "results/my_metrics.csv",
        "results/my_summary.json",
    ]
    assert sorted(names(folder)) == ["a.txt", *own[:1], "package.json", *own[1:]]
    corpus = load_documents(str(folder))
    texts = {text for split in corpus.splits.values() for text in split}
    assert texts == {
        *(b"a", b"about checkpoints", b"# Spring\n", b"about results", b"a summary"),
        b"metrics of a poem",
    }
    said = " | ".join(corpus.notes)
    assert "6 files and folders that Itera-Lite wrote: checkpoints/m, checkpoints/m-last" in said
    assert "3 folders of tools: node_modules, target, venv" in said
    assert "1 JSON files that are no tables of texts were left out (package.json)" in said


def test_a_broken_file_among_many_is_named(tmp_path: Path) -> None:
    folder = put(tmp_path / "x", {f"{n}.txt": f"text {n}" for n in range(9)})
    put(folder, {"sub/bad.csv": "text\na,b\n"})
    with pytest.raises(DataError, match=r"sub/bad\.csv: line 2"):
        load_documents(str(folder))


def test_a_column_of_a_folder_is_named_after_the_folder(tmp_path: Path) -> None:
    folder = put(tmp_path / "x", {"a.csv": "title,body\nA,one\nB,two\n"})
    with pytest.raises(DataError, match=f"such as {folder}:title"):
        load_documents(str(folder))
    splits = load_documents(f"{folder}:body").splits
    assert {*splits["train"], *splits["valid"]} == {b"one", b"two"}


def test_names_that_are_not_utf8(
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    put(folder, {os.fsdecode(b"na\xefve.txt"): "a\n" * 20, os.fsdecode(b"z\xff.py"): "b"})
    for given in (folder, next(folder.glob("*.txt")), str(folder / "*.txt")):
        result = describe(str(given), vocab_size=256)
        assert result["source"]["files"] == ["na\ufffdve.txt"]
        json.dumps(result, ensure_ascii=False).encode("utf-8")
        assert "na\ufffdve.txt" in capsys.readouterr().out
    monkeypatch.setenv("ITERA_CACHE", os.fsdecode(os.fsencode(tmp_path) + b"/c\xe4che"))
    assert any("z\ufffd.py" in note for note in describe(str(folder), vocab_size=256)["notes"])


def test_the_same_relative_path_in_another_folder_is_another_set(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, word in (("one", "cat"), ("two", "dog")):
        file = put(tmp_path / place, {"a.txt": f"A {word} sat.\n" * 40}) / "a.txt"
        os.utime(file, ns=(0, 10**18))
        monkeypatch.chdir(tmp_path / place)
        (text,) = prepare("a.txt", vocab_size=256).documents("train")
        assert word.encode() in text
    monkeypatch.chdir(tmp_path)
    for place in ("one", "two"):  # and a link that is turned
        (tmp_path / "now").unlink(missing_ok=True)
        (tmp_path / "now").symlink_to(tmp_path / place)
        (text,) = prepare("now", vocab_size=256).documents("train")
        assert (b"cat" in text) == (place == "one")


def test_notes_are_of_the_folder_that_was_asked_for(cache: Path, tmp_path: Path) -> None:
    text = {"a.txt": "A cat sat.\n" * 40}
    first = prepare(str(put(tmp_path / "one" / "set", {**text, "b.rst": "b"})), vocab_size=256)
    for _ in range(2):  # prepared, then found
        second = prepare(str(put(tmp_path / "two" / "set", {**text})), vocab_size=256)
        assert second.path == first.path
        assert "b.rst" in str(first.manifest["notes"])
        assert "b.rst" not in str(second.manifest["notes"])
    put(tmp_path / "two" / "set", {"late.py": ""})
    found = prepare(str(tmp_path / "two" / "set"), vocab_size=256)
    assert "late.py" in str(found.manifest["notes"])
