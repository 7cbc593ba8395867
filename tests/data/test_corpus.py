"""What the user writes, and the documents that come of it."""

import io
import json
import sys
import types
from pathlib import Path

import pytest

from itera_lite.data import corpus as corpus_module
from itera_lite.data.corpus import Corpus, load_documents, locate
from itera_lite.errors import DataError

ARTICLE = " \n = Title {0} = \n \n Text of {0} . \n \n = = Section = = \n \n More . \n"


def put(folder: Path, **files: str | bytes) -> Path:
    """Write files into a folder; ``__`` in a name stands for a dot, ``___`` for a slash."""
    for name, content in files.items():
        path = folder / name.replace("___", "/").replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def stories(*names: str) -> str:
    return "".join(f"story of {name}\n<|endoftext|>\n" for name in names)


def many(prefix: str, count: int = 60) -> str:
    return stories(*(f"{prefix}{number}" for number in range(count)))


def everything(corpus: Corpus) -> list[bytes]:
    return [text for texts in corpus.splits.values() for text in texts]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty $ITERA_DATA."""
    folder = tmp_path / "itera-data"
    folder.mkdir()
    monkeypatch.setenv("ITERA_DATA", str(folder))
    return folder


def test_one_file_is_split_by_document(story_file: Path, stories: list[bytes]) -> None:
    corpus = load_documents(str(story_file))
    assert corpus.name == "stories" and list(corpus.splits) == ["train", "valid"]
    assert sorted(corpus.splits["train"] + corpus.splits["valid"]) == sorted(stories)
    assert corpus.source == {"set": "stories.txt", "files": ["stories.txt"]}
    assert corpus.notes == []


def test_folder_each_file_is_a_document(tmp_path: Path) -> None:
    files = {f"book{number}__txt": f"book {number}\n" for number in range(30)}
    put(tmp_path / "books", **files, sub___deep__md="deep", x__rst="no", __hidden__txt="no")
    corpus = load_documents(str(tmp_path / "books"))
    assert corpus.name == "books"
    assert len(corpus.splits["train"] + corpus.splits["valid"]) == 31


def test_folder_with_given_splits(tmp_path: Path) -> None:
    folder = put(
        tmp_path / "set",
        train_0__txt=stories("a", "b", "shared"),
        validation__jsonl=json.dumps({"text": "story of shared"}),
        test__txt=stories("t"),
        notes__txt="not a split",
        README__md="about",
    )
    (folder / "train_0.txt").rename(folder / "train-00000-of-00001.txt")
    corpus = load_documents(str(folder))
    assert corpus.splits == {
        "train": [b"story of a", b"story of b"],
        "valid": [b"story of shared"],
        "test": [b"story of t"],
    }
    assert corpus.notes == [
        "left out, because they belong to none of the splits: notes.txt",
        "1 train documents that also lie in another split were dropped",
    ]


def test_split_by_folder_name(tmp_path: Path) -> None:
    folder = put(tmp_path / "set", train___a__txt="a", train___b__txt="b", val___a__txt="c")
    assert load_documents(str(folder)).splits == {"train": [b"a", b"b"], "valid": [b"c"]}


def test_held_out_files_without_training_files_are_said(tmp_path: Path) -> None:
    folder = put(tmp_path / "set", story__txt="one", valid__txt="two", test__txt="three")
    assert load_documents(str(folder)).notes[0] == (
        "read as any other file, for none is named train: test.txt, valid.txt"
    )


def test_a_lone_train_file_among_others_is_a_document(tmp_path: Path) -> None:
    folder = put(tmp_path / "set", train__txt="about trains", ship__txt="about ships")
    corpus = load_documents(str(folder))
    assert everything(corpus) in (
        [b"about trains", b"about ships"],
        [b"about ships", b"about trains"],
    )


def test_train_without_valid_gets_one_from_train(tmp_path: Path) -> None:
    folder = put(tmp_path / "set", train__txt=many("a"), test__txt=stories("t"))
    corpus = load_documents(str(folder))
    assert list(corpus.splits) == ["train", "valid", "test"]
    assert len(corpus.splits["train"]) + len(corpus.splits["valid"]) == 60
    assert any("no validation files were given" in note for note in corpus.notes)


def test_glob_and_column(tmp_path: Path) -> None:
    put(tmp_path, a__log="first log", b__log="second log", c__csv="x,y\nq,w\nq,e\n")
    corpus = load_documents(str(tmp_path / "*.log"))
    assert sorted(everything(corpus)) == [b"first log", b"second log"]
    corpus = load_documents(str(tmp_path / "c.csv") + ":y")
    assert sorted(everything(corpus)) == [b"e", b"w"]
    corpus = load_documents(str(tmp_path / "*.csv") + ":y")
    assert sorted(everything(corpus)) == [b"e", b"w"]


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = many("x").encode() + b"caf\xe9 is a word"
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(raw)))
    corpus = load_documents("-")
    assert corpus.name == "stdin" and corpus.notes[0].startswith("1 invalid UTF-8 sequences")
    assert len(corpus.splits["train"]) + len(corpus.splits["valid"]) == 61


@pytest.mark.parametrize(
    ("raw", "spec", "wanted"),
    [
        (b'\n{"text": "one"}\n{"id": 1}\n{"text": "two"}\n', "-", {b"one", b"two"}),
        (b'{"a": "one", "b": "x"}\n{"a": "two", "b": "y"}\n', "-:a", {b"one", b"two"}),
        (b"[1] one\n<|endoftext|>\ntwo\n", "-", {b"[1] one", b"two"}),
    ],
)
def test_json_lines_on_standard_input(
    monkeypatch: pytest.MonkeyPatch, raw: bytes, spec: str, wanted: set[bytes]
) -> None:
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(raw)))
    for _ in range(2):  # a verb may prepare a set twice
        assert set(everything(load_documents(spec))) == wanted


@pytest.mark.parametrize("line", ['{"text": "one"', "{'text': 'one'}", '{"text": "one"} x'])
def test_broken_json_on_standard_input_is_no_plain_text(
    monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    raw = f'\n{line}\n{{"text": "two"}}\n'.encode()
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(raw)))
    with pytest.raises(DataError, match=r"line 2 begins like JSON .*plain text.*\.txt"):
        load_documents("-")


def test_what_was_left_out_is_said_where_nothing_remains(tmp_path: Path) -> None:
    put(tmp_path, a__jsonl='{"text": null}\n{"text": " "}\n', b__jsonl='{"text": "x"}\n' * 3)
    with pytest.raises(DataError, match=r"holds no text.*2 rows without text were left out"):
        load_documents(str(tmp_path / "a.jsonl"))
    with pytest.raises(DataError, match="2 exact copies of other documents were dropped"):
        load_documents(str(tmp_path / "b.jsonl"))


def test_python_is_the_standard_library() -> None:
    corpus = load_documents("python")
    documents = corpus.splits["train"] + corpus.splits["valid"]
    with open(json.__file__, "rb") as file:
        assert file.read() in documents
    assert corpus.source["python"] == ".".join(map(str, sys.version_info[:3]))
    labels = [label for _, label, _ in locate("python").files]
    assert "json/__init__.py" in labels
    assert not any(
        part in ("test", "site-packages") for label in labels for part in label.split("/")
    )
    size = sum(map(len, documents))
    assert 4_000_000 < size <= corpus_module.PYTHON_LIMIT_BYTES
    share = sum(map(len, corpus.splits["valid"])) / size
    assert 0.01 < share < 0.15


def test_python_cap_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_module, "PYTHON_LIMIT_BYTES", 1000)
    documents = [bytes([65 + number]) * 300 for number in range(9)]
    kept, notes = corpus_module.cap_python(documents)
    assert len(kept) == 3 and set(kept) <= set(documents)
    assert "only" in notes[-1]


def test_tinystories_layout(data: Path) -> None:
    put(
        data / "tinystories",
        train__txt=stories("a", "b", "o"),
        valid__txt=stories("v"),
        official__txt=stories("o"),
        extra__txt=stories("lower"),
    )
    folder = data / "tinystories"
    (folder / "train.txt").rename(folder / "train-00000.txt")
    (folder / "official.txt").rename(folder / "official-valid-v2-part.txt")
    (folder / "extra.txt").rename(folder / "extra-lowercase.txt")
    corpus = load_documents("tinystories")
    assert corpus.splits == {
        "train": [b"story of a", b"story of b"],
        "valid": [b"story of v"],
        "official-valid": [b"story of o"],
    }
    assert corpus.notes == ["1 train documents that also lie in another split were dropped"]


def test_wikitext_documents_are_articles_and_together_the_file(data: Path) -> None:
    texts = {
        split: "".join(ARTICLE.format(f"{split} {number}") for number in range(count))
        for split, count in (("train", 4), ("valid", 2), ("test", 3))
    }
    for split, text in texts.items():
        put(data / "wikitext-2", **{f"wiki__{split}__tokens": text})
    corpus = load_documents("wikitext-2")
    assert {split: len(articles) for split, articles in corpus.splits.items()} == {
        "train": 4,
        "valid": 2,
        "test": 3,
    }
    for split, text in texts.items():
        assert b"".join(corpus.splits[split]) == text.encode()


def test_tinyshakespeare_is_cut_by_custom(data: Path) -> None:
    text = "".join(f"line {number}\n" for number in range(100))
    put(data / "tinyshakespeare", input__txt=text)
    splits = load_documents("tinyshakespeare").splits
    cut = int(len(text) * 0.9)
    assert splits == {"train": [text[:cut].encode()], "valid": [text[cut:].encode()]}


def test_any_folder_in_itera_data_is_a_named_set(data: Path) -> None:
    put(data / "fables", a__txt="fox", b__txt="crow")
    assert load_documents("fables").name == "fables"


def test_a_folder_in_itera_data_may_name_its_column(data: Path) -> None:
    put(data / "fables", a__csv="title,body\nA,fox\nB,crow\n")
    corpus = load_documents("fables:body")
    assert corpus.name == "fables" and sorted(everything(corpus)) == [b"crow", b"fox"]
    for spec in ("fable:body", "x" * 5000 + ":body"):
        with pytest.raises(DataError, match="no such file"):
            load_documents(spec)


def test_one_document_is_cut_and_said(tmp_path: Path) -> None:
    put(tmp_path, a__txt="A line of text.\n" * 100)
    corpus = load_documents(str(tmp_path / "a.txt"))
    assert [len(texts) for texts in corpus.splits.values()] == [1, 1]
    assert any("the set is one document" in note for note in corpus.notes)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere", r"no such file, .*Named sets: python, tinystories, .*not set"),
        ("", "no such file"),
        ("x" * 5000, "no such file"),
        ("*.nothing", "no such file"),
        ("nowhere.csv:text", "no such file"),
        ("hf:justname", "expected hf:OWNER/NAME"),
        ("/dev/null", "found something else"),
    ],
)
def test_no_such_set(spec: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_documents(spec)


def test_bad_files(tmp_path: Path) -> None:
    put(tmp_path, empty__txt="", blank__txt=" \n\n", other___x__rst="x", binary__txt=b"a\0b")
    for name, message in (
        ("empty.txt", "holds no text"),
        ("blank.txt", "holds no text"),
        ("other", r"found no \.txt"),
        ("binary.txt", "binary file"),
    ):
        with pytest.raises(DataError, match=message):
            load_documents(str(tmp_path / name))
    same = put(tmp_path / "same", train__txt="x", valid__txt="x")
    with pytest.raises(DataError, match="every training document also lies"):
        load_documents(str(same))
    hollow = put(tmp_path / "hollow", train__txt="", valid__txt="x")
    with pytest.raises(DataError, match="the training files hold no text"):
        load_documents(str(hollow))


def test_known_names_list_what_lies_in_itera_data(data: Path) -> None:
    put(data / "fables", a__txt="fox")
    with pytest.raises(DataError, match="fables"):
        load_documents("fable")
