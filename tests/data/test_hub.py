"""Sets are downloaded from a small server on this machine, which stands in for the Hub."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from itera_lite.data import hub as hub_module
from itera_lite.data.building import TEXT_SHARE, Build
from itera_lite.data.corpus import load_documents
from itera_lite.data.hub import HubFile, HubSet, choose_files, split_name
from itera_lite.data.prepare import prepare
from itera_lite.errors import DataError, MissingExtra
from tests.hub_stand_in import COMMIT, Hub, environment, running


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train.txt", "train"),
        ("Train.TXT".lower(), "train"),
        ("data/train-00000-of-00004-2d5a1467fff1081b.parquet", "train"),
        ("wikitext-2-v1/validation-00000-of-00001.parquet", "valid"),
        ("default/partial-train/0000.parquet", "train"),
        ("dev.jsonl.gz", "valid"),
        ("val/a.txt", "valid"),
        ("wiki.test.tokens", "test"),
        ("test_2.csv", "test"),
        ("train-your-dragon.txt", None),
        ("testament.txt", None),
        ("extra-lowercase.txt.gz", None),
        ("official-valid-v2-part.txt.gz", None),
        ("data/0000.parquet", None),
    ],
)
def test_split_by_name(path: str, split: str | None) -> None:
    assert split_name(path) == split


def test_choice_of_files(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"README.md": 1, "x.csv": 1, "data/train-0.parquet": 9, "data/train-1.parquet": 9}
    sizes["data/validation-0.parquet"] = 4
    wanted = HubSet("o/n")
    names = ["data/validation-0.parquet", "data/train-0.parquet", "data/train-1.parquet"]
    assert choose_files(sizes, wanted) == (names, [])
    monkeypatch.setattr(hub_module, "MAX_BYTES", 15)
    taken, notes = choose_files(sizes, wanted)
    assert taken == names[:2] and "only 2 of 3 files were taken" in notes[0]
    assert choose_files({"README.md": 1, "model.bin": 9}, wanted) == ([], [])
    assert choose_files({"b/train.csv": 1, "a/train.csv": 1}, HubSet("o/n", "a")) == (
        ["a/train.csv"],
        [],
    )
    only = {"a/train-0.csv": 9, "a/train-1.csv": 9, "a/valid.jsonl": 9, "b/train.csv": 1}
    assert choose_files(only, HubSet("o/n", "a/*"))[0] == [
        "a/valid.jsonl",
        "a/train-0.csv",
        "a/train-1.csv",
    ]
    assert choose_files(only, HubSet("o/n", "a/train-1.csv")) == (["a/train-1.csv"], [])
    del only["a/valid.jsonl"]
    assert "such as with 'hf:o/n/a/*'" in choose_files(only, HubSet("o/n", "a"))[1][0]
    with pytest.raises(DataError, match=r"several sets: a, b\. Name one: hf:o/n/a"):
        choose_files({"b/train.csv": 1, "a/train.csv": 1}, wanted)


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture
def stand_in(hub: Hub, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Environment of a process that takes the stand-in for the Hub."""
    with running(hub) as address:
        yield environment(address, tmp_path / "hf")


def in_process(variables: dict[str, str], *specs: str) -> list[Any]:
    """Name, splits, source and notes of each set, or the error's text, in a fresh process."""
    code = """if True:
        import json, sys
        from itera_lite.data.corpus import load_documents
        from itera_lite.errors import IteraError
        results = []
        for spec in sys.argv[1:]:
            try:
                corpus = load_documents(spec)
                splits = {k: [d.decode() for d in v] for k, v in corpus.splits.items()}
                results.append([corpus.name, splits, corpus.source, corpus.notes])
            except IteraError as error:
                results.append(f"{type(error).__name__}: {error}")
        print(json.dumps(results))
    """
    run = subprocess.run(
        [sys.executable, "-c", code, *specs],
        env=variables,
        capture_output=True,
        text=True,
        check=True,
    )
    result: list[Any] = json.loads(run.stdout)
    return result


def test_sets_come_from_the_hub(hub: Hub, stand_in: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    def table(column: str, *rows: str) -> bytes:
        file = tmp_path / "table.parquet"
        parquet.write_table(arrow.table({"id": list(range(len(rows))), column: rows}), file)
        return file.read_bytes()

    article = ["", " = A = \n", "", " one . \n"]
    hub.datasets = {
        "roneneldan/TinyStories": {
            "TinyStories-train.txt": b"not this one",
            "data/train-00000-of-00002-ab.parquet": table("text", "one", "two"),
            "data/train-00001-of-00002-ab.parquet": table("text", "three", "four"),
            "data/validation-00000-of-00001-ab.parquet": table("text", "five", "two"),
        },
        "Salesforce/wikitext": {
            "wikitext-2-raw-v1/train-00000-of-00001.parquet": table("text", "no"),
            **{
                f"wikitext-2-v1/{split}-00000-of-00001.parquet": table(
                    "text", *[line.replace("A", split) for line in article * 2]
                )
                for split in ("train", "validation", "test")
            },
        },
        "o/rows": {"README.md": b"about", "rows.csv": b"a,b\nx1,y1\nx2,y2\n"},
        "o/odd": {"odd.zip": b"zip"},
        "o/odd@convert": {"default/train/0000.parquet": table("story", "c1", "c2")},
        "o/none": {"odd.zip": b"zip"},
        "o/none@convert": {},
    }
    stories, wiki, rows, odd, none, missing = in_process(
        stand_in, "tinystories", "wikitext-2", "hf:o/rows:b", "hf:o/odd", "hf:o/none", "hf:o/gone"
    )
    assert stories == [
        "tinystories",
        {"train": ["one", "three", "four"], "valid": ["five", "two"]},
        {
            "set": "tinystories",
            "revision": COMMIT,
            "hub": "roneneldan/TinyStories/data",
            "files": [
                "data/validation-00000-of-00001-ab.parquet",
                "data/train-00000-of-00002-ab.parquet",
                "data/train-00001-of-00002-ab.parquet",
            ],
        },
        ["1 train documents that also lie in another split were dropped"],
    ]
    text = " \n = {} = \n \n one . \n"
    assert wiki[1] == {
        "train": [text.format("train")] * 2,
        "valid": [text.format("validation")] * 2,
        "test": [text.format("test")] * 2,
    }
    assert rows[0] == "rows" and sorted(rows[1]["train"] + rows[1]["valid"]) == ["y1", "y2"]
    assert sorted(odd[1]["train"] + odd[1]["valid"]) == ["c1", "c2"]
    assert "has no .parquet, .jsonl, .csv or .txt files" in none
    assert missing.startswith("DataError: o/gone couldn't be fetched from the Hub")


@pytest.mark.parametrize("keep", [True, False])
def test_room_for_a_file_is_asked_where_it_is_fetched_to(
    keep: bool, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is kept goes to the Hub's own cache."""
    (path := tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"text": f"story {n}"}) + "\n" for n in range(60))
    )
    size = path.stat().st_size
    file = HubFile("o/n", "a.jsonl", COMMIT, size, keep, "")
    asked = list[int]()
    monkeypatch.setattr(hub_module, "list_files", lambda wanted, name: ([file], []))
    monkeypatch.setattr(HubFile, "fetched", lambda self, folder: nullcontext(path))
    monkeypatch.setattr(Build, "_need", lambda self, needed, what: asked.append(needed))
    prepare("hf:o/n", vocab_size=256)
    assert asked == [int(TEXT_SHARE * size) + (0 if keep else size)]


STREAMED = """
import sys
from pathlib import Path
from itera_lite.data import building, hub
from itera_lite.data.prepare import prepare
hub.MAX_BYTES, building.PART_BYTES, building.KEPT_BYTES = 5_000, 1_000, 0
for spec in sys.argv[1:]:
    dataset = prepare(spec, vocab_size=300, workers=2, quiet=True)
    print(dataset.path, dataset.manifest["source"]["revision"][:7])
    print(*(dataset.manifest["splits"][split]["documents"] for split in dataset.splits))
"""


def test_a_large_set_is_streamed(
    hub: Hub, stand_in: dict[str, str], tmp_path: Path, cache: Path
) -> None:
    """A file after another is fetched and removed; a killed process doesn't fetch it again, and
    the revision stays."""
    pytest.importorskip("huggingface_hub")
    texts = [f"Text {number} of many, with some words in it." for number in range(400)]
    rows = [json.dumps({"text": text}) + "\n" for text in texts]
    files = {
        f"data/train-{number}.jsonl": "".join(rows[100 * number : 100 * number + 100]).encode()
        for number in range(4)
    }
    hub.datasets = {"o/big": {**files, "data/other.bin": b"x"}}
    command = [sys.executable, "-c", STREAMED]
    variables = {**stand_in, "ITERA_CACHE": str(cache)}
    hub.stall_at = "data/train-3.jsonl"
    specs = ["hf:o/big/data/*.jsonl", "hf://datasets/o/big/data/train-[0-3].jsonl"]
    process = subprocess.Popen([*command, specs[0]], env=variables, stderr=subprocess.PIPE)
    assert hub.stalled.wait(600)
    work = next(cache.glob(".preparing-*"))
    until = time.monotonic() + 600
    while len(list(work.glob("part-*.json"))) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    hub.stall_at = None
    hub.requests.clear()
    run = subprocess.run(
        [*command, *specs, specs[0]], env=variables, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    path, counts = run.stdout.splitlines()[:2]
    assert path.endswith("ccccccc") and sum(map(int, counts.split())) == 400
    fetched = [line for line in hub.requests if line.startswith("GET") and "resolve" in line]
    assert "train-3" in fetched[0] and len(fetched) == 1 + 4  # of the second spec, all four
    assert not list((tmp_path / "hf").rglob("*.jsonl"))
    assert not list(cache.glob(".[pb]*"))


@pytest.mark.parametrize("name", ["tinystories", "wikitext-103"])
def test_offline_names_itera_data_and_the_layout(name: str) -> None:
    pytest.importorskip("huggingface_hub")
    with pytest.raises(DataError) as caught:  # the tests run with HF_HUB_OFFLINE=1
        load_documents(name)
    message = str(caught.value)
    assert "couldn't be fetched from the Hub" in message
    assert "$ITERA_DATA is not set" in message
    assert f"$ITERA_DATA/{name}/train.txt and valid.txt" in message
    assert "\n" not in message


def test_without_the_package_the_extra_and_the_layout_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtra) as caught:
        load_documents("tinystories")
    assert "pip install 'itera-lite[hub]'" in str(caught.value)
    assert "$ITERA_DATA/tinystories/train.txt" in str(caught.value)
