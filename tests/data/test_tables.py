"""Tables: the column by name, the delimiter found, each broken row named by its line."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from itera_lite.data.readers import read_documents
from itera_lite.data.repairs import Repairs
from itera_lite.errors import DataError


def read(path: Path, content: str | bytes, **options: Any) -> list[bytes]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_documents(path, Repairs(), **options)


def notes(path: Path, content: str) -> list[str]:
    repairs = Repairs()
    path.write_text(content)
    read_documents(path, repairs)
    return repairs.notes()


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_delimiter_is_found(tmp_path: Path, delimiter: str, end: str) -> None:
    rows = [("id", "text"), ("1", '"one, two; three | four\t"'), ("2", '"a ""b"""')]
    text = "\ufeff" + end.join(delimiter.join(row) for row in rows) + end
    assert read(tmp_path / "a.csv", text) == [b"one, two; three | four\t", b'a "b"']


def test_delimiters_that_the_header_leaves_open(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    assert read(file, "id;text, whole\n1;one\n2;two\n", column="text, whole") == [b"one", b"two"]
    assert read(file, 'sep=;\nid;text\n1;"one"\n') == [b"one"]
    assert read(file, '"id";"text"\n"1";"one, two"\n') == [b"one, two"]
    assert read(file, ',text\n0,"one\r\ntwo"\n1,three\n') == [b"one\r\ntwo", b"three"]  # pandas
    assert read(file, "id, text\n1,one\n\n \n2,two\n") == [b"one", b"two"]


def test_tsv_with_and_without_quotes(tmp_path: Path) -> None:
    for name in ("a.tsv", "A.TSV"):
        assert read(tmp_path / name, "id\ttext\n1\tone, two\n") == [b"one, two"]
    assert read(tmp_path / "a.tsv", 'id\ttext\n1\t"one\ttwo"\n') == [b"one\ttwo"]
    assert read(tmp_path / "a.tsv", 'id\ttext\n1\t"No," he said\n') == [b'"No," he said']
    assert read(tmp_path / "a.tsv", 'id\ttext\n1\t"a\nb"\n2\tc\n') == [b"a\nb", b"c"]
    assert read(tmp_path / "a.tsv", 'text\n"a\nb"\nc\n') == [b"a\nb", b"c"]


def test_a_quote_over_several_rows_of_a_tsv_is_text(tmp_path: Path) -> None:
    """Sentences of one text: the first opens a quote, and the third closes it."""
    rows = 'id\ttext\n1\t"He ran .\n2\tShe sat .\n3\tThey slept ."\n'
    assert read(tmp_path / "a.tsv", rows) == [b'"He ran .', b"She sat .", b'They slept ."']


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("text\nfirst, cut\n", "line 2: found 2 cells, expected 1 .*stands in quotes"),
        ('n,text\n1,"a\nb"\n2,x,y\n', "line 4: found 3 cells, expected 2"),
        ("n,text\n1,one\n2\n", "line 3: found 1 cells, expected 2 .*empty cell"),
        ('a,b\n"x","y"\n"he said "no" twice","z"\n', "line 3: not a readable CSV row"),
        ('text\n"a"\n"never\nclosed\n', r"line 3: .* up to line 4\)"),
        ("sep=;\nn;text\n1;a;b\n", "line 3: found 3 cells, expected 2"),
        ('sep=;\ntext\n"a\nb" c\n', r"line 3: not a readable CSV row .* up to line 4\)"),
        ("sep=;\nA cat sat. A dog ran.\n", "line 2 looks like a text"),
        ('"A cat, and a dog. They sat."\n"More."\n', "line 1 looks like a text"),
        (f'{"word " * 30}\n"More."\n', "line 1 looks like a text"),
        ("text,text\na,b\n", "2 columns are called 'text'"),
    ],
)
def test_broken_rows_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"a\.csv: {message}"):
        read(tmp_path / "a.csv", text)


def test_an_assumed_header_is_said(tmp_path: Path) -> None:
    assert "'story', was taken for the name" in notes(tmp_path / "a.csv", "story\none\n")[0]
    assert notes(tmp_path / "b.csv", "text\none\n") == []


def test_json_column_is_chosen_over_all_rows(tmp_path: Path) -> None:
    lines = [{"id": "a", "text": None}, {"id": "b", "text": "one"}, {"id": "c"}, {"text": " "}]
    text = "\n".join(map(json.dumps, lines))
    for name in ("a.jsonl", "A.NDJSON"):
        assert read(tmp_path / name, text) == [b"one"]
        assert notes(tmp_path / name, text) == [
            f"3 rows without text were left out ({name}, line 1, {name}, line 3, {name}, line 4)"
        ]
    assert read(tmp_path / "b.jsonl", '{"n": 1, "body": null}\n{"n": 2, "body": "x"}') == [b"x"]
    with pytest.raises(DataError, match=r"which column .* id, body, title.*such as SET:id"):
        rows = '{"id": "1"}\n{"id": "2", "body": "x", "title": "y"}'
        read(tmp_path / "c.jsonl", rows, data="SET")
    with pytest.raises(DataError, match=r"no column 'words'. Its rows have no columns"):
        read(tmp_path / "d.jsonl", '"x"\n', column="words")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "b", "x": ' + "[" * 20_000 + "]" * 20_000 + "}", "nested too deep"),
        ('{"text": "b"', "isn't JSON"),
        ('{"text": ["b"]}', "found an array, expected a string"),
        ("7", "found a number"),
    ],
)
def test_bad_lines_of_json_are_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(DataError, match=f"line 3.*{message}"):
        read(tmp_path / "a.jsonl", f'{{"text": "a"}}\n\n{line}\n')


def test_numbers_of_any_size_do_no_harm(tmp_path: Path) -> None:
    numbers = ["9" * 5000, "1e999", "NaN", "-Infinity", "1.5"]
    text = "\n".join(f'{{"n": {number}, "text": "x"}}' for number in numbers)
    assert read(tmp_path / "a.jsonl", text) == [b"x"] * 5


def test_lone_surrogates_are_replaced_and_said(tmp_path: Path) -> None:
    text = r'{"text": "a \ud83d b \udc00"}' + "\n" + r'{"text": "\ud83d\ude00"}'
    assert read(tmp_path / "a.jsonl", text) == ["a \ufffd b \ufffd".encode(), "😀".encode()]
    assert notes(tmp_path / "a.jsonl", text) == [
        "2 lone surrogates were replaced by U+FFFD (a.jsonl, line 1)"
    ]


def test_json_files(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    rows = [{"id": 1, "text": "one"}, {"id": 2}, {"id": 3, "text": "two"}]
    for text in (json.dumps(rows), json.dumps(rows, indent=1), "\n".join(map(json.dumps, rows))):
        assert read(file, text) == [b"one", b"two"]
    assert read(file, '["one", "two"]') == [b"one", b"two"]
    assert read(file, json.dumps({"text": "one"}, indent=2)) == [b"one"]
    for other in ('{"name": "x",\n "version": "1"}', "[1, 2]", '{"data": [{"text": "x"}]}'):
        with pytest.raises(DataError, match="no table of texts"):
            read(file, other)
        repairs = Repairs()  # in a folder it is settings or the like
        assert read_documents(file, repairs, required=False) == []
        assert repairs.notes() == [
            "1 JSON files that are no tables of texts were left out (a.json)"
        ]
    assert read(file, "{ // a comment\n}", required=False) == []
    with pytest.raises(DataError, match=r"a\.json: not readable as JSON .*line 3"):
        read(file, '[\n{"text": "one"},\n{"text"', required=False)


def test_parquet_strings_of_every_kind(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "a.parquet"
    texts = ["x", None, "é"]
    plain = arrow.array(texts)
    for column in (
        plain,
        plain.cast(arrow.large_string()),
        plain.cast(arrow.string_view()),
        plain.dictionary_encode(),
    ):
        parquet.write_table(arrow.table({"n": [1, 2, 3], "story": column}), file)
        assert read_documents(file, repairs := Repairs()) == [b"x", "é".encode()]
        assert repairs.notes() == ["1 rows without text were left out (a.parquet, row 2)"]
    parquet.write_table(arrow.table({"tags": [["a"]], "n": [1]}), file)
    with pytest.raises(DataError, match=r"tags \(list<.*>\), n \(int64\)"):
        read_documents(file, Repairs())
    # A pandas table whose index is of strings.
    meta = {"index_columns": ["key"], "columns": [], "pandas_version": "2"}
    table = arrow.table({"story": ["x"], "key": ["a"]})
    parquet.write_table(table.replace_schema_metadata({"pandas": json.dumps(meta)}), file)
    assert read_documents(file, Repairs()) == [b"x"]
    # Nothing holds Parquet's strings to UTF-8.
    broken = arrow.array([b"caf\xe9"]).cast(arrow.binary()).view(arrow.string())
    parquet.write_table(arrow.table({"text": broken}), file)
    assert read_documents(file, repairs := Repairs()) == ["caf\ufffd".encode()]
    assert repairs.notes() == ["1 invalid UTF-8 sequences in a.parquet were replaced by U+FFFD"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("some longer text".encode("utf-16-le"), r"UTF-16LE.*iconv -f UTF-16LE -t UTF-8 a\.txt"),
        ("some longer text".encode("utf-16-be"), "looks like text in UTF-16BE"),
        ("some longer text".encode("utf-16"), "iconv -f UTF-16 "),
        (b"one\ntwo\0three and more", r"first in line 2, at byte 7\).*tr -d"),
        (b"PK\3\4\0\0 and so on" + bytes(9), "begins like a zip file"),
    ],
)
def test_what_is_no_text_comes_with_a_remedy(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path / "a.txt", content)


def test_the_suffix_settles_a_compressed_table(tmp_path: Path) -> None:
    packed = gzip.compress(b"id\ttext\n") + gzip.compress(b"1\tone\n")
    assert read(tmp_path / "a.tsv.gz", packed) == [b"one"]
