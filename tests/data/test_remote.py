"""Text of other machines: fsspec's memory file system, a web server on this machine."""

import json
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from itera_lite.cli import main
from itera_lite.data import building, corpus, remote
from itera_lite.data.corpus import load_documents, locate
from itera_lite.data.prepare import prepare
from itera_lite.data.remote import RemoteFile
from itera_lite.errors import DataError, Interrupted, MissingExtra
from tests.train.small import make_small

fsspec = pytest.importorskip("fsspec")


def rows(*texts: str) -> bytes:
    lines = (json.dumps({"id": n, "body": text}) + "\n" for n, text in enumerate(texts))
    return "".join(lines).encode()


@pytest.fixture
def memory() -> Iterator[dict[str, bytes]]:
    """A folder of a set in fsspec's memory file system."""
    system = fsspec.filesystem("memory")
    files = {
        "/set/train-0.jsonl": rows(*(f"story {n}" for n in range(40)), "shared"),
        "/set/train-1.jsonl": rows(*(f"more {n}" for n in range(40))),
        "/set/valid.jsonl": rows("shared", "held out"),
        "/set/.hidden.jsonl": rows("no"),
        "/set/notes.rst": b"no",
    }
    for name, content in files.items():
        system.pipe_file(name, content)
    yield files
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def refuse(*_: object) -> None:
    raise AssertionError("fetched again")


def test_a_folder_with_splits(
    memory: dict[str, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = prepare("memory://set", vocab_size=256)
    assert dataset.splits == ["train", "valid"] and dataset.name == "set"
    assert list(dataset.documents("valid")) == [b"shared", b"held out"]
    train = list(dataset.documents("train"))
    assert train[0] == b"story 0" and train[-1] == b"more 39" and len(train) == 80
    assert dataset.manifest["source"]["files"] == ["train-0.jsonl", "train-1.jsonl", "valid.jsonl"]
    assert dataset.manifest["notes"] == [
        "left out: 2 files with other endings, or hidden ones",
        "1 train documents that also lie in another split were dropped",
    ]
    assert load_documents("memory://set").splits == {
        split: list(dataset.documents(split)) for split in dataset.splits
    }
    assert not [file.name for file in cache.iterdir() if file.name.startswith((".p", ".b"))]
    with monkeypatch.context() as patch:
        patch.setattr(RemoteFile, "fetched", refuse)
        assert prepare("memory://set", vocab_size=256).path == dataset.path
    fsspec.filesystem("memory").pipe_file("/set/train-1.jsonl", rows("new"))
    changed = prepare("memory://set", vocab_size=256)
    assert list(changed.documents("train"))[-1] == b"new"


def test_what_was_read_before_a_connection_broke_is_kept(
    memory: dict[str, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "PART_BYTES", 1)
    monkeypatch.setattr(building, "KEPT_BYTES", 1)
    system = type(fsspec.filesystem("memory"))
    get_file, fetched = system.get_file, list[str]()

    def breaks(self: object, path: str, *rest: object) -> None:
        fetched.append(path)
        if path.endswith("train-1.jsonl") and len(fetched) == 2:
            raise ConnectionError("the network is gone")
        get_file(self, path, *rest)

    monkeypatch.setattr(system, "get_file", breaks)
    with pytest.raises(Interrupted, match=r"train-1\.jsonl: can't be read \(the network is gone"):
        prepare("memory://set", vocab_size=256)
    dataset = prepare("memory://set", vocab_size=256)
    assert [path.rpartition("/")[2] for path in fetched] == [
        "train-0.jsonl", "train-1.jsonl", "train-1.jsonl", "valid.jsonl"
    ]  # fmt: skip
    assert len(list(dataset.documents("train"))) == 80
    assert not list(cache.glob(".p*"))


def test_room_is_asked_only_for_what_is_still_fetched(
    memory: dict[str, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "PART_BYTES", 1)
    monkeypatch.setattr(building, "KEPT_BYTES", 1)
    asked = list[int]()
    monkeypatch.setattr(building.Build, "_need", lambda _, needed, what: asked.append(needed))
    with monkeypatch.context() as patch:
        system = type(fsspec.filesystem("memory"))
        get_file = system.get_file

        def breaks(self: object, path: str, *rest: object) -> None:
            if path.endswith("valid.jsonl"):
                raise ConnectionError("the network is gone")
            get_file(self, path, *rest)

        patch.setattr(system, "get_file", breaks)
        with pytest.raises(Interrupted):
            prepare("memory://set", vocab_size=256)
    asked.clear()
    prepare("memory://set", vocab_size=256)
    size = len(memory["/set/valid.jsonl"])
    assert asked[0] == int(building.TEXT_SHARE * size) + size


def test_a_file_a_pattern_and_a_column(memory: dict[str, bytes], cache: Path) -> None:
    alone = load_documents("memory://set/train-1.jsonl:body")
    assert sum(map(len, alone.splits.values())) == 40 and alone.name == "train-1"
    both = load_documents("memory://set/train-*.jsonl")
    assert sum(map(len, both.splits.values())) == 81 and both.name == "set"
    with pytest.raises(DataError, match=r"memory://.*/train-0\.jsonl: no column 'text'"):
        load_documents("memory://set/train-0.jsonl:text")
    fsspec.filesystem("memory").pipe_file("/set/bad.jsonl", b'{"text": "a"}\n{broken\n')
    with pytest.raises(DataError, match=r"memory://.*/bad\.jsonl: line 2 isn't JSON"):
        prepare("memory://set/bad.jsonl", vocab_size=256)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://bucket/a.jsonl", r"s3:// needs a package .*pip install s3fs"),
        ("gs://bucket/a.jsonl", r"gs:// needs a package .*pip install gcsfs"),
        ("nosuch://a/b", r"'nosuch://' isn't known .*expected s3://"),
        ("memory://nowhere/a.jsonl", "can't be read .*no such file"),
        ("memory://set/*.csv", "found no files"),
        ("hf://models/o/n", "expected hf:OWNER/NAME"),
    ],
)
def test_what_cannot_be_read(url: str, message: str, memory: dict[str, bytes]) -> None:
    if url[:2] in ("s3", "gs"):
        pytest.importorskip("fsspec")
        package = "s3fs" if url[:2] == "s3" else "gcsfs"
        sys.modules[package] = None  # type: ignore[assignment]
    try:
        with pytest.raises(DataError, match=message):
            locate(url)
    finally:
        for package in ("s3fs", "gcsfs"):
            if sys.modules.get(package, True) is None:
                del sys.modules[package]


def test_without_fsspec_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingExtra, match=r"itera-lite\[remote\]"):
        locate("s3://bucket/a.jsonl")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """The address of a web server, the folder that it serves, and the requests."""
    folder, requests = tmp_path / "site", list[str]()
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            requests.append(self.command)

        def send_header(self, keyword: str, value: str) -> None:
            if keyword != "Last-Modified" or not (folder / "no-times").exists():
                super().send_header(keyword, value)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", folder, requests
    server.shutdown()
    server.server_close()


def test_a_file_of_a_web_server(
    site: tuple[str, Path, list[str]], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("aiohttp")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    address, folder, requests = site
    (folder / "a.jsonl").write_bytes(rows(*(f"text {n}" for n in range(50))))
    url = f"{address}/a.jsonl:body"
    dataset = prepare(url, vocab_size=256)
    assert sum(dataset.manifest["splits"][split]["documents"] for split in dataset.splits) == 50
    asked = len(requests)
    assert prepare(url, vocab_size=256).path == dataset.path
    assert "GET" not in requests[asked:]  # the file's time is asked for
    (folder / "no-times").touch()  # a server that doesn't say when the file changed
    assert locate(url).fingerprint() is None
    assert prepare(url, vocab_size=256).path == dataset.path  # known by its text
    with pytest.raises(DataError, match=r"b\.jsonl: can't be read"):
        prepare(f"{address}/b.jsonl", vocab_size=256)


def test_training_from_a_url(
    memory: dict[str, bytes], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_small(monkeypatch)
    arguments = ["--model", "transformer", "--tokens", "500", "--vocab-size", "256"]
    options = ["--batch-size", "2", "--seq-len", "16", "--workers", "1"]
    assert main(["train", "memory://set", *arguments, *options]) == 0
    assert list(tmp_path.glob("checkpoints/*/model.safetensors"))


def test_urls_are_told_from_paths() -> None:
    urls = ["s3://a", "hf://datasets/a/b", "https://a/b.txt", "gcs+x://a"]
    assert all(remote.is_url(url) for url in urls)
    assert not any(remote.is_url(path) for path in ("a/b", "a:b", "://a", "./a b://c", "C:/x"))
    assert corpus.shown(RemoteFile("s3://a/b", 1, None)) == "s3://a/b"
