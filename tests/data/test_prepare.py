"""Prepared sets: exact text, the cache, damage, two processes at once."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from itera_lite.data import building
from itera_lite.data import prepare as shards
from itera_lite.data.building import Build
from itera_lite.data.corpus import Source, load_documents
from itera_lite.data.prepare import Dataset, prepare
from itera_lite.data.tokenizer import Tokenizer
from itera_lite.errors import DataError, UsageError
from itera_lite.files import write_json

V = 300


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on nothing is read, trained or tokenised."""

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("did the work again")

    monkeypatch.setattr(Source, "read", refuse)
    monkeypatch.setattr(Build, "read", refuse)
    monkeypatch.setattr(Tokenizer, "train", refuse)
    monkeypatch.setattr(Tokenizer, "encode_stream", refuse)


def test_shards_hold_the_exact_text(cache: Path, story_file: Path) -> None:
    corpus = load_documents(str(story_file))
    dataset = prepare(str(story_file), vocab_size=V)
    assert dataset.splits == ["train", "valid"] and dataset.name == "stories"
    eot = dataset.tokenizer.eot_id
    for split, texts in corpus.splits.items():
        assert list(dataset.documents(split)) == texts
        tokens = dataset.tokens(split)
        assert isinstance(tokens, np.memmap) and tokens.dtype == np.uint16
        assert tokens[0] == tokens[-1] == eot
        expected = [eot]
        for text in texts:
            expected += [*dataset.tokenizer.encode(text), eot]
        assert tokens.tolist() == expected
        assert dataset.n_tokens(split) == len(expected) - 1
        assert dataset.n_bytes(split) == sum(map(len, texts))
        with pytest.raises(ValueError, match="read-only"):
            tokens[0] = 1


def test_manifest(cache: Path, story_file: Path) -> None:
    corpus = load_documents(str(story_file))
    dataset = prepare(str(story_file), vocab_size=V)
    manifest = json.loads((dataset.path / "manifest.json").read_text())
    assert manifest == dataset.manifest
    assert manifest["vocab_size"] == dataset.tokenizer.vocab_size == V
    assert manifest["tokenizer_sha256"] == dataset.tokenizer.sha256
    assert manifest["source"] == {"set": "stories.txt", "files": ["stories.txt"]}
    train = manifest["splits"]["train"]
    assert train["sha256"] == hashlib.sha256(b"".join(corpus.splits["train"])).hexdigest()
    assert train["documents"] == len(corpus.splits["train"])
    record = dataset.describe("stories.txt")
    assert record.train_bytes == train["bytes"] and record.sha256 == manifest["sha256"]
    assert record.bytes_per_token == pytest.approx(train["bytes"] / train["tokens"])
    assert str(story_file.parent) not in json.dumps(manifest)


def test_second_run_does_no_work(
    cache: Path, story_file: Path, request: pytest.FixtureRequest
) -> None:
    first = prepare(str(story_file), vocab_size=V)
    request.getfixturevalue("no_work")
    assert prepare(str(story_file), vocab_size=V).path == first.path
    # ... nor when the tokenizer that came of it is given: evaluation after training.
    assert prepare(str(story_file), tokenizer=first.tokenizer).path == first.path


def copied(story_file: Path, tmp_path: Path) -> Path:
    """The same text in another folder."""
    folder = tmp_path / "other"
    folder.mkdir()
    return Path(shutil.copy(story_file, folder))


def test_same_text_elsewhere_is_found_by_content(
    cache: Path, story_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(str(story_file), vocab_size=V)
    again = copied(story_file, tmp_path)
    monkeypatch.setattr(Tokenizer, "train", None)
    assert prepare(str(again), vocab_size=V).path == first.path


def test_changed_text_or_size_or_tokenizer_is_another_set(cache: Path, story_file: Path) -> None:
    first = prepare(str(story_file), vocab_size=V)
    other_size = prepare(str(story_file), vocab_size=V + 1)
    other_tokenizer = prepare(str(story_file), tokenizer=Tokenizer.train([], 256))
    with story_file.open("ab") as file:
        file.write(b"One more.\n<|endoftext|>\n")
    changed = prepare(str(story_file), vocab_size=V)
    assert len({d.path for d in (first, other_size, other_tokenizer, changed)}) == 4
    assert other_tokenizer.manifest["vocab_size"] == 257
    assert list(other_tokenizer.documents("valid")) == list(first.documents("valid"))
    assert b"One more." in [*changed.documents("train"), *changed.documents("valid")]
    assert first.manifest["sha256"] == other_size.manifest["sha256"] != changed.manifest["sha256"]


def test_train_split_alone_trains_the_tokenizer(
    cache: Path, tmp_path: Path, stories: list[bytes]
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for name, text in (("train", stories), ("valid", [b"zqzqzqzqzq " * 300])):
        (folder / f"{name}.txt").write_bytes(b"\n<|endoftext|>\n".join(text))
    dataset = prepare(str(folder), vocab_size=V)
    assert not any(b"zq" in token for token in dataset.tokenizer.token_bytes)


@pytest.mark.parametrize(
    "damage",
    ["cut", "zeros", "manifest", "array", "deep", "splits", "gone", "tokenizer", "file", "index"],
)
def test_a_damaged_set_is_made_again(cache: Path, story_file: Path, damage: str) -> None:
    first = prepare(str(story_file), vocab_size=V)
    texts = list(first.documents("train"))
    if damage == "cut":
        os.truncate(first.path / "train.bin", 100)
    elif damage == "manifest":
        (first.path / "manifest.json").write_text("{")
    elif damage == "array":
        (first.path / "manifest.json").write_text('["splits"]')
    elif damage == "deep":
        (first.path / "manifest.json").write_text("[" * 50_000)
    elif damage == "splits":
        manifest = {**first.manifest, "splits": []}
        (first.path / "manifest.json").write_text(json.dumps(manifest))
    elif damage == "zeros":
        size = (first.path / "train.bin").stat().st_size
        (first.path / "train.bin").write_bytes(bytes(size))
    elif damage == "file":
        shutil.rmtree(first.path)
        first.path.write_text("")
    elif damage == "index":
        for entry in (cache / "index").iterdir():
            entry.write_text("[" * 50_000)
    elif damage == "gone":
        (first.path / "valid.bin").unlink()
    else:
        Tokenizer.train([], 256).save(first.path)
    again = prepare(str(story_file), vocab_size=V)
    assert list(again.documents("train")) == texts
    assert again.tokenizer.vocab_size == V


def test_a_build_that_fails_leaves_nothing_behind(
    cache: Path, story_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Tokenizer, "encode_stream", fail)
        with pytest.raises(KeyboardInterrupt):
            prepare(str(story_file), vocab_size=V)
    assert [path.name for path in cache.iterdir() if path.name != "index"] == []
    assert prepare(str(story_file), vocab_size=V).n_bytes("train")


def test_leftovers_of_killed_builds_are_swept_after_a_day(cache: Path, story_file: Path) -> None:
    old, new = cache / ".building-old", cache / ".building-new"
    for folder in (old, new):
        folder.mkdir(parents=True)
    os.utime(old, (time.time() - 2 * 86_400,) * 2)
    prepare(str(story_file), vocab_size=V)
    assert not old.exists() and new.exists()


def test_two_processes_at_once(cache: Path, story_file: Path) -> None:
    code = (
        "import sys; from itera_lite.data.prepare import prepare;"
        f"d = prepare(sys.argv[1], vocab_size={V});"
        "print(d.path, sum(1 for _ in d.documents('train')))"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(story_file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert len({out for out, _ in outputs}) == 1
    assert not list(cache.glob(".building-*")) and not list(cache.glob(".preparing-*"))


def test_a_workplace_that_a_killed_process_left_goes_with_its_finished_set(
    cache: Path, story_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:  # killed after the set was noted
        patch.setattr(shards, "_remove", lambda root, work: None)
        prepare(str(story_file), vocab_size=V)
    work = next(cache.glob(".preparing-*"))
    with open(work / "lock") as another:  # that hasn't ended yet
        fcntl.flock(another, fcntl.LOCK_EX)
        prepare(str(story_file), vocab_size=V)
        assert work.is_dir()
    prepare(str(story_file), vocab_size=V)
    assert not work.exists() and not list(cache.glob(".building-*"))


def test_two_processes_at_once_mend_a_damaged_set(cache: Path, story_file: Path) -> None:
    first = prepare(str(story_file), vocab_size=V)
    os.truncate(first.path / "train.bin", 100)
    test_two_processes_at_once(cache, story_file)


def test_a_process_that_waited_finds_the_set(
    cache: Path, story_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one notes where the set lies before it lets the second one go on."""
    waits = threading.Event()
    builds: list[Build] = []
    read, write, flock = Build.read, write_json, fcntl.flock

    def reads(build: Build, *arguments: Any) -> None:
        builds.append(build)
        if len(builds) == 1:
            assert waits.wait(600)
        read(build, *arguments)

    def locks(file: Any, operation: int) -> None:
        if operation == fcntl.LOCK_EX and str(file.name).endswith("/lock"):
            waits.set()
        flock(file, operation)

    def writes_slowly(path: Path, value: Any) -> Path:
        time.sleep(0.2)
        return write(path, value)

    monkeypatch.setattr(Build, "read", reads)
    monkeypatch.setattr(fcntl, "flock", locks)
    monkeypatch.setattr(shards, "write_json", writes_slowly)
    with ThreadPoolExecutor(2) as two:
        runs = [two.submit(prepare, str(story_file), vocab_size=V) for _ in range(2)]
        assert runs[0].result().path == runs[1].result().path
    assert len(builds) == 1


def test_losing_the_race_takes_the_winners_set(
    cache: Path, story_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = copied(story_file, tmp_path)
    real = shards._move
    raced: list[str] = []

    def place(work: Path, place: Path) -> Dataset:
        if not raced:
            raced.append("once")
            prepare(str(again), vocab_size=V)  # the other process, of another file
        return real(work, place)

    monkeypatch.setattr(shards, "_move", place)
    dataset = prepare(str(story_file), vocab_size=V)
    assert raced and dataset.n_bytes("train")
    assert len(list(cache.glob("stories-*"))) == 1 and not list(cache.glob(".building-*"))


def test_notes_are_said_once(
    cache: Path, tmp_path: Path, stories: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.txt"
    file.write_bytes(b"\n<|endoftext|>\n".join([*stories, b"caf\xe9 \xff au lait"]))
    dataset = prepare(str(file), vocab_size=V)
    captured = capsys.readouterr()
    assert captured.err.count("2 invalid UTF-8 sequences in bad.txt") == 1 and not captured.out
    assert prepare(str(file), vocab_size=V).manifest["notes"] == dataset.manifest["notes"]
    assert capsys.readouterr().err == ""


def test_a_sampled_tokenizer_is_said(
    cache: Path, story_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "TRAINING_SAMPLE_BYTES", 12_000)
    dataset = prepare(str(story_file), vocab_size=V)
    assert any("trained on an even sample" in note for note in dataset.manifest["notes"])
    assert dataset.manifest["tokenizer_trained_on_bytes"] == 12_000


def test_bad_wishes(cache: Path, story_file: Path) -> None:
    for size in (255, 65_537, -1, 10**30, float("nan"), 300.5):
        with pytest.raises(UsageError, match="expected 256"):
            prepare(str(story_file), vocab_size=size)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="supports at most"):
        prepare(str(story_file), vocab_size=65_536)
    dataset = prepare(str(story_file), vocab_size=V)
    for ask in (dataset.tokens, dataset.n_bytes, dataset.n_tokens):
        with pytest.raises(DataError, match=r"no split 'test'\. Its splits: train, valid"):
            ask("test")


def test_a_cache_that_cannot_be_written(story_file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="Set ITERA_CACHE"):
        prepare(str(story_file), vocab_size=V, cache=tmp_path / "file" / "cache")


def test_a_full_disk_is_said_and_leaves_nothing(
    cache: Path, story_file: Path, not_measured: dict[str, str]
) -> None:
    code = (
        "import resource, sys; from itera_lite.cli import main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000));"
        f"sys.exit(main(['data', sys.argv[1], '--vocab-size', '{V}']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(story_file)],
        env=not_measured,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"the cache {cache} can't be written (File too large" in done.stderr
    assert not [path for path in cache.iterdir() if path.name not in (".lock", "index")]
    assert prepare(str(story_file), vocab_size=V).n_bytes("train")


def test_a_cache_that_is_only_read_still_gives_its_sets(
    cache: Path, story_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(str(story_file), vocab_size=V)
    again = copied(story_file, tmp_path)

    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(shards, "write_json", refuse)
    assert prepare(str(again), vocab_size=V).path == first.path


def test_what_was_dropped_is_said_where_the_text_is_too_small(cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "few.jsonl"
    file.write_text('{"text": "one two"}\n{"text": "three four"}\n' * 30)
    with pytest.raises(DataError, match=r"supports at most.*58 exact copies .* were dropped"):
        prepare(str(file), vocab_size=V)


def test_standard_input_is_cached_by_content(cache: Path, stories: list[bytes]) -> None:
    code = (
        f"from itera_lite.data.prepare import prepare; d = prepare('-', vocab_size={V});"
        "print(d.path, d.manifest['source'])"
    )
    text = b"\n<|endoftext|>\n".join(stories)
    outputs = {
        subprocess.run([sys.executable, "-c", code], input=text, capture_output=True).stdout
        for _ in range(2)
    }
    assert len(outputs) == 1 and b"standard input" in outputs.pop()


def test_an_open_set_is_plain_data(cache: Path, story_file: Path) -> None:
    dataset = prepare(str(story_file), vocab_size=V)
    again = Dataset(dataset.path, dataset.manifest)
    assert np.array_equal(again.tokens("valid"), dataset.tokens("valid"))
