"""Files to documents: each kind, and what is wrong with a file."""

import gzip
import json
from pathlib import Path

import pytest

from itera_lite.data.readers import (
    kind_of,
    read_documents,
    split_articles,
    split_text,
    valid_utf8,
)
from itera_lite.data.repairs import Repairs
from itera_lite.errors import DataError

ARTICLE = " \n = Title {} = \n \n Text . = no heading = \n \n = = Section = = \n \n More . \n"


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path: Path, **options: object) -> list[bytes]:
    return read_documents(path, Repairs(), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.txt", "text"),
        ("A.MD.GZ", "text"),
        ("wiki.train.tokens", "text"),
        ("a.jsonl.zst", "jsonl"),
        ("a.csv", "csv"),
        ("a.parquet", "parquet"),
        ("a.rst", None),
        ("a", None),
        ("a.gz", None),
    ],
)
def test_kind_by_name(name: str, kind: str | None) -> None:
    assert kind_of(name) == kind


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_documents_between_eot_lines(end: str) -> None:
    text = f"one{end}two{end}<|endoftext|>{end}three <|endoftext|> here{end}<|endoftext|>"
    wanted = [f"one{end}two".encode(), b"three <|endoftext|> here"]
    assert split_text(text.encode()) == wanted
    assert split_text(text.encode() + end.encode()) == wanted


def test_a_text_without_eot_lines_is_one_document_unchanged() -> None:
    assert split_text(b"\n one\n\ntwo\n") == [b"\n one\n\ntwo\n"]
    assert split_text(b"<|endoftext|>\n<|endoftext|>\n \n") == []


def test_articles_together_are_the_exact_text() -> None:
    text = "".join(ARTICLE.format(number) for number in range(5)).encode()
    articles = split_articles(text)
    assert b"".join(articles) == text
    assert [a.split(b"\n")[1] for a in articles] == [f" = Title {i} = ".encode() for i in range(5)]
    assert split_articles(b"no heading") == [b"no heading"]
    assert split_articles(text[2:])[0] == articles[0][2:]


def test_jsonl(tmp_path: Path) -> None:
    rows = [{"id": "7", "text": "one\ntwo"}, {"text": "é", "id": "8"}, {"text": ""}]
    text = "\n\n".join(json.dumps(row) for row in rows) + "\n"
    file = write(tmp_path / "a.jsonl", text)
    assert read(file) == [b"one\ntwo", "é".encode()]
    assert read(write(tmp_path / "b.jsonl", '{"story": "x", "n": 1}\n')) == [b"x"]
    assert read(write(tmp_path / "c.jsonl", '"x"\n"y"')) == [b"x", b"y"]
    with pytest.raises(DataError, match=r"line 2 isn't JSON"):
        read(write(tmp_path / "d.jsonl", '"x"\n{oops'))
    with pytest.raises(DataError, match=r"line 1: found a number, expected a string"):
        read(write(tmp_path / "e.jsonl", '{"text": 3, "s": "x"}'), column="text")
    with pytest.raises(DataError, match=r"no column 'body'. Its columns: id, text"):
        read(file, column="body")


def test_csv(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", 'title,body\nA,"one, ""two""\nthree"\nB,x\n')
    assert read(file, column="body") == [b'one, "two"\nthree', b"x"]
    with pytest.raises(DataError, match=r"which column .* title, body.*a\.csv:title"):
        read(file)
    assert read(write(tmp_path / "b.csv", "n,text\n1,x\n2,\n3,z\n")) == [b"x", b"z"]
    long = write(tmp_path / "c.csv", "text\n" + "x" * 200_000)
    assert [len(text) for text in read(long)] == [200_000]
    with pytest.raises(DataError, match="not a readable CSV"):
        read(write(tmp_path / "d.csv", 'text\n"never closed\n'))


def test_parquet(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "a.parquet"
    parquet.write_table(arrow.table({"n": [1, 2, 3], "story": ["x", None, "é"]}), file)
    assert read(file) == [b"x", "é".encode()]
    with pytest.raises(DataError, match="no column 'text'"):
        read(file, column="text")
    with pytest.raises(DataError, match="found int"):
        read(file, column="n")
    with pytest.raises(DataError, match="not a readable Parquet"):
        read(write(tmp_path / "b.parquet", b"PAR1 no"))
    lines = " \n = A = \n \n text \n".splitlines(keepends=True)
    rows = ["" if line == " \n" else line for line in lines] * 2  # as the Hub holds WikiText
    parquet.write_table(arrow.table({"text": rows}), file)
    assert read(file, wikitext=True) == ["".join(lines).encode()] * 2


def test_compressed(tmp_path: Path) -> None:
    packed = gzip.compress(b"one\n<|endoftext|>\ntwo")
    assert read(write(tmp_path / "a.txt.gz", packed)) == [b"one", b"two"]
    with pytest.raises(DataError, match="damaged gzip"):
        read(write(tmp_path / "b.txt.gz", packed[:-9]))
    with pytest.raises(DataError, match="damaged gzip"):
        read(write(tmp_path / "c.txt.gz", b"plain"))
    zstandard = pytest.importorskip("zstandard")
    packed = zstandard.compress(b"one ") + zstandard.compress(b"two")
    assert read(write(tmp_path / "a.txt.zst", packed)) == [b"one two"]
    long = zstandard.ZstdCompressionParameters(window_log=30, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=long).compressobj()
    packed_long = packer.compress(b"one") + packer.flush()  # as `zstd --long=30` does
    assert read(write(tmp_path / "long.txt.zst", packed_long)) == [b"one"]
    with pytest.raises(DataError, match="damaged Zstandard"):
        read(write(tmp_path / "b.txt.zst", b"plain"))
    with pytest.raises(DataError, match="cut off"):
        read(write(tmp_path / "c.txt.zst", packed[:-3]))


def test_invalid_utf8_is_replaced_and_counted(tmp_path: Path) -> None:
    repairs = Repairs()
    file = write(tmp_path / "a.txt", b"good text \xff and \xe4\xb8 more \xef\xbf\xbd of it")
    documents = read_documents(file, repairs)
    assert documents == ["good text \ufffd and \ufffd more \ufffd of it".encode()]
    assert repairs.notes() == ["2 invalid UTF-8 sequences in a.txt were replaced by U+FFFD"]
    read_documents(write(tmp_path / "b.txt", b"caf\xe9, and some more words"), repairs)
    assert repairs.notes() == ["3 invalid UTF-8 sequences in a.txt, b.txt were replaced by U+FFFD"]


def test_byte_order_mark_is_dropped() -> None:
    assert valid_utf8(b"\xef\xbb\xbfhi", "x", Repairs()) == b"hi"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text\0more", "binary file"),
        ("text".encode("utf-16"), "UTF-16"),
        (bytes(range(128, 256)) * 5, "aren't valid UTF-8"),
    ],
)
def test_not_text(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(write(tmp_path / "a.txt", content))
    assert "a.txt" in str(caught.value)


def test_empty_and_missing(tmp_path: Path) -> None:
    repairs = Repairs()
    for name in ("a.txt", "a.parquet", "a.txt.gz"):
        assert read_documents(write(tmp_path / name, b""), repairs) == []
    assert repairs.notes() == ["3 empty files were left out"]
    with pytest.raises(DataError, match="can't be read"):
        read(tmp_path / "none.txt")
