"""The verb `score`: what it writes, what it refuses, how it goes on after a stop."""

import fcntl
import gzip
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from itera_lite import cli
from itera_lite.commands.score import score_lines
from itera_lite.data import lines as lines_module
from itera_lite.engine import Model, scorer
from itera_lite.engine import score as module
from itera_lite.engine.find import load_model
from itera_lite.errors import DataError, ModelFileError, UsageError

# The last but one is half of a surrogate pair, which is scored as U+FFFD.
# Of Hypothesis: one folder serves all examples, and a busy machine draws them slowly.
NOT_CHECKED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
TEXTS = ["one", "two words", "höher", "a" * 700, "", " ", "line\nbreak", "\ud800 half", "end"]


def record_of(output: Path) -> Path:
    """The file that says how an output was made."""
    return output.with_name(f".{output.name}.resume")


def results(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture(scope="session")
def model(itera_file: Path) -> Model:
    return Model.load(itera_file)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """JSON lines with other fields, a blank line, awkward texts."""
    lines = [json.dumps({"id": i, "text": t, "more": {"é": [1.5]}}) for i, t in enumerate(TEXTS)]
    lines.insert(3, "")
    (path := tmp_path / "corpus.jsonl").write_text("\n".join(lines), "utf-8")
    return path


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch", [1, 1 << 16])
def test_each_line_has_its_score_and_keeps_its_fields(
    threads, batch, corpus, model, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "BATCH_BYTES", batch)
    out = tmp_path / "out.jsonl"
    summary = score_lines(corpus, checkpoint=model.path, output=out, threads=threads)
    found = results(out)
    assert [f["id"] for f in found] == list(range(len(TEXTS)))
    assert [f["line"] for f in found] == [1, 2, 3, *range(5, len(TEXTS) + 2)]
    whole = [text.replace("\ud800", "\ufffd") for text in TEXTS]
    for record, text, expected in zip(found, TEXTS, model.score(whole), strict=True):
        assert (record["text"], record["more"]) == (text, {"é": [1.5]})
        assert record["bytes"] == expected.bytes == len(text.encode("utf-8", "surrogatepass"))
        assert (record["tokens"], record["nats"]) == (expected.tokens, expected.nats)
        assert record["perplexity"] == pytest.approx(math.exp(record["nats"] / record["tokens"]))
        bits = None if not text else pytest.approx(record["nats"] / math.log(2) / record["bytes"])
        assert record["bits_per_byte"] == bits
    assert summary.lines == summary.kept == len(TEXTS)
    assert summary.bytes == sum(f["bytes"] for f in found)
    assert summary.nats == pytest.approx(sum(f["nats"] for f in found))


def test_plain_text_is_a_document_a_line(model, tmp_path, capsys):
    (source := tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbffirst\r\n\n  \nsec\xffond\nlast")
    score_lines(source, checkpoint=model.path)
    out, err = capsys.readouterr()
    found = [json.loads(line) for line in out.splitlines()]
    assert [(f["line"], f["text"]) for f in found] == [
        (1, "first"),
        (4, "sec\ufffdond"),
        (5, "last"),
    ]
    assert "3 lines, " in err and "1 lines had invalid UTF-8" in err


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_compressed_files_give_the_same(suffix, corpus, model, tmp_path):
    packed = corpus.with_name(corpus.name + suffix)
    if suffix == ".gz":
        packed.write_bytes(gzip.compress(corpus.read_bytes()))
    else:
        zstandard = pytest.importorskip("zstandard")
        packed.write_bytes(zstandard.compress(corpus.read_bytes()))
    score_lines(corpus, checkpoint=model.path, output=tmp_path / "plain.jsonl")
    score_lines(packed, checkpoint=model.path, output=tmp_path / "packed.jsonl")
    assert results(tmp_path / "packed.jsonl") == results(tmp_path / "plain.jsonl")
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(DataError, match="damaged"):
        score_lines(packed, checkpoint=model.path)


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        (b'\n{"text": "a"}\n{"text": "b", "x": null}\n', [("a", 2), ("b", 3)]),
        (b'plain\n{"text": "a"}\n', [("plain", 1), ('{"text": "a"}', 2)]),
        (b"12\n", [("12", 1)]),
        (b"", []),
    ],
)
def test_standard_input_is_json_lines_if_it_begins_so(
    given_text, expected, model, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given_text)))
    assert cli.main(["score", "-", "--checkpoint", str(model.path)]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(f["text"], f["line"]) for f in found] == expected


def test_only_lines_that_are_probable_enough(corpus, model, tmp_path, capsys):
    every, few = tmp_path / "every.jsonl", tmp_path / "few.jsonl"
    score_lines(corpus, checkpoint=model.path, output=every)
    bits = sorted(f["bits_per_byte"] for f in results(every) if f["bits_per_byte"] is not None)
    limit = bits[3]
    summary = score_lines(corpus, checkpoint=model.path, output=few, max_bits=limit, text=False)
    expected = [f for f in results(every) if f["bytes"] and f["bits_per_byte"] <= limit]
    assert results(few) == [{k: v for k, v in f.items() if k != "text"} for f in expected]
    assert (summary.lines, summary.kept) == (len(TEXTS), 4)
    assert "4 kept" in capsys.readouterr().err


def test_a_share_of_the_lines(corpus, model, tmp_path, capsys):
    """The threshold is that of all lines here, is printed, and a resumed run takes it over."""
    few, every = tmp_path / "few.jsonl", tmp_path / "every.jsonl"
    score_lines(corpus, checkpoint=model.path, output=every)
    scored = sorted(f["bits_per_byte"] for f in results(every) if f["bytes"])
    summary = score_lines(corpus, checkpoint=model.path, output=few, keep="40%")
    limit = scored[round(0.4 * len(scored)) - 1]
    assert summary.limit == limit and summary.kept == round(0.4 * len(scored)) == 3
    assert results(few) == [f for f in results(every) if f["bytes"] and f["bits_per_byte"] <= limit]
    assert f"--keep 40%: bits per byte of at most {limit:.4f}, by a sample of 8" in (
        capsys.readouterr().err
    )
    data = few.read_bytes()
    few.write_bytes(data[:-30])
    again = score_lines(corpus, checkpoint=model.path, output=few, keep="40%", resume=True)
    assert few.read_bytes() == data and again.limit == limit and again.threshold is None
    for options in ({}, {"keep": "50%"}):
        with pytest.raises(DataError, match="was made with --keep 40%"):
            score_lines(corpus, checkpoint=model.path, output=few, resume=True, **options)


def test_lines_without_results(corpus, model, tmp_path):
    """A filter alone: objects keep their fields, plain text stays plain text."""
    every, few = tmp_path / "every.jsonl", tmp_path / "few.jsonl"
    score_lines(corpus, checkpoint=model.path, output=every)
    limit = sorted(f["bits_per_byte"] for f in results(every) if f["bytes"])[4]
    score_lines(corpus, checkpoint=model.path, output=few, max_bits=limit, scores=False)
    kept = [f["id"] for f in results(every) if f["bytes"] and f["bits_per_byte"] <= limit]
    assert few.read_text("utf-8").splitlines() == [
        line
        for line in corpus.read_text("utf-8").splitlines()
        if line and json.loads(line)["id"] in kept
    ]
    (source := tmp_path / "a.txt").write_bytes(b"first\r\n\nsecond\n")
    score_lines(
        source, checkpoint=model.path, output=tmp_path / "b.txt", max_bits=1e9, scores=False
    )
    assert (tmp_path / "b.txt").read_text() == "first\nsecond\n"
    (source := tmp_path / "c.jsonl").write_bytes(b' { "text": "a" ,"x":1} \r\n')
    score_lines(
        source, checkpoint=model.path, output=tmp_path / "d.jsonl", max_bits=1e9, scores=False
    )
    assert (tmp_path / "d.jsonl").read_bytes() == b'{"text": "a" ,"x":1}\n'


def test_two_models_that_contrast(corpus, model, gguf_pair, tmp_path):
    """Beside `Model.score` of each; the difference decides what is kept, and may be negative."""
    out = tmp_path / "out.jsonl"
    bad = Model.load(gguf_pair["transformer_test"])
    score_lines(corpus, good=model.path, bad=bad.path, output=out, window=20)
    found = results(out)
    texts = [text.replace("\ud800", "\ufffd") for text in TEXTS]
    for record, a, b in zip(
        found, model.score(texts, window=20), bad.score(texts, window=20), strict=True
    ):
        assert record["nats"] == a.nats
        if a.bytes:
            assert record["bad_bits_per_byte"] == b.bits_per_byte
            assert record["difference"] == a.bits_per_byte - b.bits_per_byte
        else:
            assert record["bad_bits_per_byte"] is record["difference"] is None
    limit = sorted(f["difference"] for f in found if f["bytes"])[1]
    few = tmp_path / "few.jsonl"
    options = {"good": model.path, "bad": bad.path, "output": few, "window": 20}
    score_lines(corpus, **options, max_bits=limit)
    assert results(few) == [f for f in found if f["bytes"] and f["difference"] <= limit]
    data = few.read_bytes()
    few.write_bytes(data[: len(data) // 2])
    score_lines(corpus, **options, max_bits=limit, resume=True)
    assert few.read_bytes() == data
    with pytest.raises(DataError, match="another model"):
        options |= {"good": bad.path, "bad": model.path}
        score_lines(corpus, **options, max_bits=limit, resume=True)


def test_a_share_by_surprise(corpus, model, tmp_path, capsys):
    """Beside `Model.score`: the field, the threshold and what is kept; resumed in the same way."""
    every, few = tmp_path / "every.jsonl", tmp_path / "few.jsonl"
    score_lines(corpus, checkpoint=model.path, output=every, by="surprise")
    found = results(every)
    texts = [text.replace("\ud800", "\ufffd") for text in TEXTS]
    assert [f["surprise"] for f in found] == [
        s.surprise if s.bytes else None for s in model.score(texts)
    ]
    limit = sorted(f["surprise"] for f in found if f["bytes"])[2]
    expected = [f for f in found if f["bytes"] and f["surprise"] <= limit]
    by_bits = sorted((f for f in found if f["bytes"]), key=lambda f: f["bits_per_byte"])[:3]
    assert {f["line"] for f in expected} != {f["line"] for f in by_bits}
    options = {"checkpoint": model.path, "by": "surprise"}
    done = score_lines(corpus, **options, output=few, keep="40%")
    assert done.limit == limit and results(few) == expected
    assert f"--keep 40%: surprise of at most {limit:.4f}" in capsys.readouterr().err
    data = few.read_bytes()
    few.write_bytes(data[:-30])
    score_lines(corpus, **options, output=few, keep="40%", resume=True)
    assert few.read_bytes() == data
    with pytest.raises(DataError, match="was made with --by surprise, now it is no --by"):
        score_lines(corpus, checkpoint=model.path, output=few, keep="40%", resume=True)
    limited = tmp_path / "limited.jsonl"
    score_lines(corpus, **options, output=limited, max_bits=limit)
    assert results(limited) == expected


def test_the_histogram_is_drawn(model, tmp_path, capsys):
    (source := tmp_path / "a.txt").write_text("".join(f"line {'x' * i}\n" for i in range(40)))
    plot = tmp_path / "scores.png"
    score_lines(source, checkpoint=model.path, output=tmp_path / "o.jsonl", plot=plot, keep="25%")
    assert plot.read_bytes().startswith(b"\x89PNG")
    err = capsys.readouterr().err
    table = err[err.index("bits per byte   ") :].splitlines()
    counts = [int(re.search(r" (\d+) +[\d.]+ %", row)[1]) for row in table[1:]]
    assert sum(counts) == 40
    assert sum("is kept" in row for row in table) == 1
    assert "10 kept with at most" in err


def test_the_text_may_stand_in_another_field(model, tmp_path):
    (source := tmp_path / "a.jsonl").write_text('{"body": "abc", "text": 3}')
    out = tmp_path / "out.jsonl"
    score_lines(source, checkpoint=model.path, output=out, text_field="body", window=2)
    (record,) = results(out)
    assert (record["body"], record["text"], record["bytes"]) == ("abc", 3, 3)
    assert record["nats"] == model.score("abc", window=2)[0].nats != model.score("abc")[0].nats


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"text": "a"}\n{"text": \n', "line 2 isn't JSON"),
        (b'{"text": "a"}\n\n["a"]\n', "line 3 is JSON, but no object"),
        (b'{"id": 1, "body": "a"}\n', "line 1 has no field 'text'. Its fields: id, body"),
        (b'{"text": 5}\n', "line 1: the field 'text' is a number, expected a string"),
        (b'{"text": "a", "x": NaN}\n', "line 1 isn't JSON (NaN is no number in JSON)"),
        (b'{"text": "a", "x": -Infinity}\n', "line 1 isn't JSON (-Infinity is no number"),
        (b'{"x": ' + b"[" * 100_000, "line 1 isn't JSON that can be read: it is nested too"),
        (b'{"text": "a"} {"text": "b"}\n', "more after the object at character 15"),
        (b'{"text": "a",}\n', "expected a name in double quotes at character 14"),
        (b'{"text" "a"}\n', "expected ':' at character 9"),
        (b'{"text": "a" "b"}\n', "expected ',' or '}' at character 14"),
        (b'{"text": "a", "x": 01}\n', "expected ',' or '}' at character 21"),
        (b'{"text": "a', "line 1 isn't JSON"),
        (b'{"text": "a"}\n{"text": "b", "tokens": 1}\n', "line 2 has a field 'tokens' already"),
        (b'{"text": null}\n', "line 1: the field 'text' is null, expected a string"),
        ('{"text": "a"}'.encode("utf-16"), "UTF-16"),
    ],
)
def test_a_bad_line_is_named(content, told, model, tmp_path, capsys):
    (source := tmp_path / "bad.jsonl").write_bytes(content)
    assert cli.main(["score", str(source), "--checkpoint", str(model.path)]) == 1
    err = capsys.readouterr().err
    assert told in err and "bad.jsonl" in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"resume": True}, "--output"),
        ({"max_bits": math.nan}, "--max-bits nan"),
        ({"threads": 0}, "--threads 0"),
        ({"window": 0}, "--window 0"),
        ({"text_field": "line"}, "--text-field line.*--prefix"),
        ({"text_field": "x_line", "prefix": "x_"}, "--text-field x_line"),
        ({"output": "full.jsonl.gz"}, "there already: name another"),
        ({"output": "new.jsonl.gz", "resume": True}, "uncompressed file"),
        ({"output": "/dev/null", "resume": True}, "uncompressed file"),
        ({"output": "link.jsonl"}, "is the input"),
        ({"output": "hard.jsonl"}, "is the input"),
        ({"output": "corpus.jsonl"}, "is the input"),
        ({"output": "full.jsonl"}, "add --resume"),
        ({"output": "none/out.jsonl"}, "no folder"),
        ({"output": "."}, "is a folder"),
        ({"file": "a.md"}, "expected .txt"),
        ({"file": "a.csv"}, "'a.csv' is a table.*--output"),
        ({"file": "a.csv", "output": "b.jsonl"}, "expected a name that ends in .csv"),
        ({"file": "a.parquet", "output": "b.parquet", "resume": True}, "--resume: 'a.parquet'"),
        ({"file": "-", "keep": "30%"}, "--keep reads a sample.*standard input"),
        ({"keep": "0%"}, "--keep 0%: expected more than 0%"),
        ({"keep": "101%"}, "--keep 101%"),
        ({"keep": "0.3"}, "--keep 0.3: expected a percentage"),
        ({"keep": "30%", "max_bits": 2.0}, "give one of them"),
        ({"scores": False}, "would copy the input"),
        ({"scores": False, "text": False, "max_bits": 2.0}, "--no-scores .* and --no-text"),
        ({"scores": False, "max_bits": 2.0, "output": "x.jsonl", "resume": True}, "--no-scores"),
        ({"good": Path("m.gguf")}, "--good needs --bad"),
        ({"good": Path("m.gguf"), "bad": Path("m.gguf")}, "give one of them"),
        ({"bad": "full.jsonl", "by": "surprise"}, "not by surprise"),
        ({"plot": Path("x.pdf")}, "--plot x.pdf: expected a name that ends in .png"),
    ],
)
def test_wrong_use(options, told, corpus, model, monkeypatch):
    monkeypatch.chdir(corpus.parent)
    Path("full.jsonl").write_text("{}\n")
    Path("full.jsonl.gz").write_bytes(b"x")
    Path("link.jsonl").symlink_to("corpus.jsonl")
    Path("hard.jsonl").hardlink_to("corpus.jsonl")
    before = corpus.read_bytes()
    for name in ("output", "file"):
        if name in options:
            options = {**options, name: Path(options[name])}
    with pytest.raises(UsageError, match=told):
        score_lines(**{"file": Path("corpus.jsonl"), "checkpoint": model.path, **options})
    assert Path("full.jsonl").read_text() == "{}\n"
    assert Path("full.jsonl.gz").read_bytes() == b"x" and corpus.read_bytes() == before
    assert not Path("new.jsonl.gz").exists()


def test_a_missing_file_is_said(model, tmp_path):
    with pytest.raises(DataError, match=r"none\.txt: can't be read \(No such file"):
        score_lines(tmp_path / "none.txt", checkpoint=model.path)


@settings(max_examples=25, deadline=None, suppress_health_check=NOT_CHECKED)
@given(share=st.floats(0, 1), limit=st.sampled_from([None, 8.0]))
def test_cut_anywhere_and_resumed_it_is_the_same(share, limit, corpus, model, tmp_path):
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    whole.unlink(missing_ok=True)
    score_lines(corpus, checkpoint=model.path, output=whole, max_bits=limit)
    data = whole.read_bytes()
    part.write_bytes(data[: round(share * len(data))])
    shutil.copy(record_of(whole), record_of(part))
    score_lines(corpus, checkpoint=model.path, output=part, max_bits=limit, resume=True)
    assert part.read_bytes() == data


def test_resume_begins_where_there_is_nothing(corpus, model, tmp_path):
    out = tmp_path / "out.jsonl"
    assert score_lines(corpus, checkpoint=model.path, output=out, resume=True).lines == len(TEXTS)
    assert score_lines(corpus, checkpoint=model.path, output=out, resume=True).lines == 0
    assert len(results(out)) == len(TEXTS)


def test_an_empty_output_is_begun_anew_by_another_command(corpus, model, tmp_path):
    """Nothing of the record of the first one counts, such as its threshold."""
    fresh, out = tmp_path / "fresh.jsonl", tmp_path / "out.jsonl"
    score_lines(corpus, checkpoint=model.path, output=fresh, keep="80%")
    score_lines(corpus, checkpoint=model.path, output=out, keep="40%")
    out.write_bytes(b"")
    score_lines(corpus, checkpoint=model.path, output=out, keep="80%", resume=True)
    assert out.read_bytes() == fresh.read_bytes()
    assert record_of(out).read_bytes() == record_of(fresh).read_bytes()


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_two_at_once_never_write_to_one_output(suffix, corpus, model, tmp_path, monkeypatch):
    """The second, begun while the first is at work or just before it, leaves the output alone."""
    out = tmp_path / f"out.jsonl{suffix}"
    options = {"checkpoint": model.path, "output": out}
    with (
        (tmp_path / "first").open("wb") as first,
        pytest.raises(UsageError, match="another process writes to the output"),
    ):
        os.link(tmp_path / "first", out)
        fcntl.flock(first, fcntl.LOCK_EX)
        score_lines(corpus, **options)
    assert out.read_bytes() == b""
    out.unlink()

    def load_model(path):
        monkeypatch.undo()
        score_lines(corpus, **options)  # meanwhile
        return Model.load(path)

    monkeypatch.setattr(scorer, "load_model", load_model)
    with pytest.raises(UsageError, match="or has just done so"):
        score_lines(corpus, **options)
    score_lines(corpus, checkpoint=model.path, output=tmp_path / f"other{suffix}")
    assert out.read_bytes() == (tmp_path / f"other{suffix}").read_bytes()


def test_resume_changes_nothing_but_what_this_command_wrote(corpus, model, gguf_pair, tmp_path):
    """Another model, input or option, or a file that scoring never wrote: an error, and the file
    stays as it is."""
    out = tmp_path / "out.jsonl"
    score_lines(corpus, checkpoint=model.path, output=out, max_bits=1e9)
    lines = out.read_bytes().splitlines(keepends=True)
    record = record_of(out).read_bytes()
    (short := tmp_path / "short.jsonl").write_text('{"text": "a"}\n')
    edited = tmp_path / "edited.jsonl"
    edited.write_bytes(corpus.read_bytes().replace(b'"end"', b'"eng"'))
    same = {"file": corpus, "checkpoint": model.path, "max_bits": 1e9}
    part = b"".join(lines[:3])
    for content, options, told in (
        (part, {"checkpoint": gguf_pair["transformer_test"]}, "another model"),
        (
            part,
            {"max_bits": None},
            "was made with --max-bits 1000000000.0, now it is no --max-bits",
        ),
        (part, {"window": 3}, "was made with no --window, now it is --window 3"),
        (part, {"text": False}, "was made with --text, now it is --no-text"),
        (part, {"text_field": "id"}, "--text-field"),
        (part, {"prefix": "x_"}, "--prefix"),
        (b"".join(lines), {"file": short}, "another input"),
        (b"".join(lines), {"file": edited}, "its last result isn't what"),
        (part.replace(b'"bytes": ', b'"bytes": 9'), {}, "its last result isn't what"),
        (part + b'{"text": "mine"}\n', {}, "its last line is no result"),
        (part + b"my notes", {}, "what stands after its last line break is no result"),
        (b"".join(lines) + b"my notes", {}, "what stands after its last line break is no result"),
        (b"my notes", {}, "what stands after its last line break is no result"),
        (b"my notes\nin two lines\n", {}, "its last line is no result"),
    ):
        out.write_bytes(content)
        record_of(out).write_bytes(record)
        with pytest.raises(DataError, match=told):
            score_lines(**{**same, **options}, output=out, resume=True)
        assert out.read_bytes() == content, told
    for made in (None, b"", b"[]", b'{"options": 1}'):
        out.write_bytes(b"my notes, which scoring never wrote")
        record_of(out).unlink(missing_ok=True)
        if made is not None:
            record_of(out).write_bytes(made)
        with pytest.raises(DataError, match="it isn't known how it was made"):
            score_lines(**same, output=out, resume=True)
        assert out.read_bytes() == b"my notes, which scoring never wrote"


def test_resume_knows_what_was_read_where_nothing_was_kept(corpus, model, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BATCH_BYTES", 1)
    out, limit = tmp_path / "out.jsonl", 1e-9
    whole = corpus.read_bytes()
    corpus.write_bytes(b"\n".join(whole.splitlines()[:6]) + b"\nbad\n")
    with pytest.raises(DataError, match="line 7 isn't JSON"):
        score_lines(corpus, checkpoint=model.path, output=out, max_bits=limit)
    assert out.read_bytes() == b""
    corpus.write_bytes(whole)  # mended
    summary = score_lines(corpus, checkpoint=model.path, output=out, max_bits=limit, resume=True)
    assert summary.lines == len(TEXTS) - 5
    corpus.write_text('{"text": "another"}\n')
    with pytest.raises(DataError, match="another input"):
        score_lines(corpus, checkpoint=model.path, output=out, max_bits=limit, resume=True)


def test_what_comes_before_a_bad_line_is_kept(model, tmp_path, capsys):
    (source := tmp_path / "a.jsonl").write_text('{"text": "ok"}\nnot json\n{"text": "after"}\n')
    out = tmp_path / "out.jsonl"
    command = ["score", str(source), "--checkpoint", str(model.path), "--output", str(out)]
    assert cli.main(command) == 1
    err = capsys.readouterr().err
    assert "line 2 isn't JSON" in err and "go on with --resume" in err
    assert [f["text"] for f in results(out)] == ["ok"]
    source.write_text('{"text": "ok"}\n{"text": "mended"}\n{"text": "after"}\n')
    assert cli.main([*command, "--resume"]) == 0
    assert [f["text"] for f in results(out)] == ["ok", "mended", "after"]


ODD = [
    *('"id": 12345678901234567890123', '"f":0.1234567890123456789', '"big": 1e400', '"z": -0.0'),
    *('"m":  -0', '"v": 1.10', r'"text": "hi \u00e9"', r'"u": "\u00e9\ud83d\ude00 \/ é"'),
    *(r'"half": "\ud800"', '"twice": 1', '"twice": [2,3 ,{"a":1}]', '"digits": ' + "9" * 5000),
]


@pytest.mark.parametrize("text", [True, False])
def test_fields_stay_as_they_stand(text, model, tmp_path):
    """Numbers of any size and form, escapes, spaces, order, names that are there twice."""
    source, out = tmp_path / "a.jsonl", tmp_path / "out.jsonl"
    source.write_text(f"  {{ {' ,'.join(ODD)}  }} \n" + '{"text": "only"}', "utf-8")
    score_lines(source, checkpoint=model.path, output=out, text=text)
    first, second, rest = out.read_text("utf-8").split("\n")
    begin, _, added = first.rpartition(', "line": ')
    if text:
        assert begin == "{" + " ,".join(ODD)
        assert second.startswith('{"text": "only", "line": 2')
    else:
        assert begin == "{" + ", ".join(each for each in ODD if "text" not in each)
        assert second.startswith('{"line": 2')
    assert added.startswith('1, "bytes": 5, "tokens": ') and added.endswith("}") and not rest


@settings(deadline=None)
@given(
    st.dictionaries(
        st.text(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=5,
        ),
    ),
    st.sampled_from([None, 0]),
)
def test_objects_are_read_as_json_reads_them(fields, indent):
    text = json.dumps(fields, indent=indent, ensure_ascii=False)
    if "Infinity" in text:
        return
    members = lines_module._members(text) or []
    assert [m.name for m in members] == list(fields)
    parts = [json.loads(f"{{{text[m.begin : m.end]}}}") for m in members]
    assert {k: v for part in parts for k, v in part.items()} == fields


@settings(deadline=None, suppress_health_check=NOT_CHECKED)
@given(
    fields=st.dictionaries(
        st.sampled_from(["text", "a", "line", "é"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=4,
        ),
    ),
    space=st.sampled_from(["", " ", "\t ", "\u00a0"]),
    cut=st.none() | st.integers(0, 60),
)
def test_the_quick_reading_of_a_line_is_the_careful_one(fields, space, cut, tmp_path):
    """The same document, or the same error, of whole lines and of damaged ones."""
    line = space + json.dumps(fields, ensure_ascii=False) + space
    if cut is not None:
        line = line[:cut] + line[cut + 1 :]
    (tmp_path / "a.jsonl").touch()
    found = []
    for quick in (True, False):
        reader = lines_module.LineReader(tmp_path / "a.jsonl", reserved=["line"])
        if not quick:
            reader._quick = lambda text, number: None
        try:
            found.append((reader.parse(line.encode("utf-8", "replace"), 7), reader.halves))
        except DataError as error:
            found.append((str(error), reader.halves))
    assert found[0] == found[1]


def test_a_prefix_leaves_the_fields_of_the_line_alone(model, tmp_path):
    fields = {"text": "good one", "tokens": [1, 2, 3], "line": "L7", "bytes": 99}
    (source := tmp_path / "a.jsonl").write_text(json.dumps(fields) + "\n")
    out = tmp_path / "out.jsonl"
    with pytest.raises(DataError, match=r"line 1 has a field 'tokens' already.*--prefix"):
        score_lines(source, checkpoint=model.path, output=out)
    assert not out.exists()
    score_lines(source, checkpoint=model.path, output=out, prefix="score_")
    (record,) = results(out)
    assert fields.items() <= record.items() and record["score_bytes"] == 8
    again = score_lines(source, checkpoint=model.path, output=out, prefix="score_", resume=True)
    assert again.lines == 0


@pytest.mark.parametrize("first", [b'{"text": "a"\n', b"{" + b'"x":[' * 50_000, b"{}x", b"{plain"])
def test_a_broken_first_line_of_standard_input_is_an_error(first, model, monkeypatch, capsys):
    given_text = b"\n" + first + b'\n{"text": "b"}\n'
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given_text)))
    assert cli.main(["score", "-", "--checkpoint", str(model.path)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "standard input: line 2 isn't JSON" in err
    assert ".txt" in err or "nested too deeply" in err


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_an_output_is_compressed_by_its_ending(suffix, corpus, model, tmp_path):
    plain, packed = tmp_path / "plain.jsonl", tmp_path / f"packed.jsonl{suffix}"
    score_lines(corpus, checkpoint=model.path, output=plain)
    score_lines(corpus, checkpoint=model.path, output=packed)
    if suffix == ".gz":
        text = gzip.decompress(packed.read_bytes())
    else:
        text = pytest.importorskip("zstandard").decompress(packed.read_bytes(), 1 << 20)
    assert text == plain.read_bytes()
    assert not record_of(packed).exists()


def test_devices_and_pipes_are_written_to(corpus, model, tmp_path, capsys):
    expected = tmp_path / "plain.jsonl"
    score_lines(corpus, checkpoint=model.path, output=expected)
    score_lines(corpus, checkpoint=model.path, output=Path("/dev/null"))
    score_lines(corpus, checkpoint=model.path, output=Path("-"))
    assert capsys.readouterr().out == expected.read_text("utf-8")
    os.mkfifo(pipe := tmp_path / "pipe")
    reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE)
    score_lines(corpus, checkpoint=model.path, output=pipe)
    assert reader.communicate(timeout=300)[0] == expected.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [corpus.name, "plain.jsonl", record_of(expected).name, "pipe"]
    )


def test_standard_output_is_never_emptied_nor_read(corpus, itera_file, tmp_path):
    """`--output /dev/stdout >> log` adds to the log; an input that is appended to is refused."""
    command = [sys.executable, "-m", "itera_lite.cli", "score", "--checkpoint", str(itera_file)]
    (log := tmp_path / "log").write_text("before\n")
    with log.open("a") as file:
        done = subprocess.run([*command, str(corpus), "--output", "/dev/stdout"], stdout=file)
    assert done.returncode == 0
    assert log.read_text("utf-8").startswith("before\n{") and log.read_bytes().endswith(b"}\n")
    before = corpus.read_bytes()
    with corpus.open("a") as file:
        done = subprocess.run([*command, str(corpus)], stdout=file, stderr=subprocess.PIPE)
    assert done.returncode == 2 and b"is the input" in done.stderr
    with corpus.open() as file:
        done = subprocess.run(
            [*command, "-", "--output", str(corpus)], stdin=file, stderr=subprocess.PIPE
        )
    assert done.returncode == 2 and b"is the input" in done.stderr
    assert corpus.read_bytes() == before


def test_an_output_that_takes_a_part_gets_the_rest(corpus, model, monkeypatch, tmp_path):
    """Standard output without a buffer (PYTHONUNBUFFERED) may write less than it is given."""

    class Slow(io.RawIOBase):
        taken = b""

        def writable(self):
            return True

        def write(self, data):
            self.taken += bytes(data[:7])
            return min(7, len(data))

    slow = Slow()
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=slow))
    score_lines(corpus, checkpoint=model.path)
    score_lines(corpus, checkpoint=model.path, output=tmp_path / "out.jsonl")
    assert slow.taken == (tmp_path / "out.jsonl").read_bytes()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("name", ["full", "full.gz"])
def test_a_full_disk_is_said(name, corpus, model, tmp_path, capsys):
    (out := tmp_path / name).symlink_to("/dev/full")
    command = ["score", str(corpus), "--checkpoint", str(model.path), "--output", str(out)]
    assert cli.main(command) == 1
    err = capsys.readouterr().err
    assert f"'{out}' can't be written: No space left on device" in err and "Errno" not in err


def test_a_record_that_cannot_be_written_is_a_note(corpus, model, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    record_of(out).mkdir()
    assert score_lines(corpus, checkpoint=model.path, output=out).lines == len(TEXTS)
    assert len(results(out)) == len(TEXTS)
    assert "note: --resume won't work" in capsys.readouterr().err


# `itera score`, whose third batch takes minutes.
SLOW_SCORE = """
import sys
from itera_lite import cli
from itera_lite.engine import Model
score, batches = Model.score, []
def slow(self, texts, **options):
    batches.append(len(texts))
    if len(batches) == 3:
        print("two batches are written", flush=True)
        score(self, "a word " * 3_000_000, window=512)
    return score(self, texts, **options)
Model.score = slow
sys.exit(cli.main(sys.argv[1:]))
"""


def test_ctrl_c_keeps_what_was_scored(itera_file, tmp_path):
    """A real signal to a real process, which then goes on to the same bytes."""
    source, out = tmp_path / "long.txt", tmp_path / "out.jsonl"
    n = 600
    source.write_text("".join(f"{i} {'some text ' * 40}\n" for i in range(n)))
    command = [sys.executable, "-c", SLOW_SCORE, "score", str(source), "--checkpoint"]
    command += [str(itera_file), "--resume", "--output", str(out), "--threads", "1"]
    running = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background job ignores Ctrl-C, and so would all that these tests start there
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert running.stdout.readline() == "two batches are written\n"
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=300)
    assert running.returncode == 130, err
    assert "go on with --resume" in err and "Traceback" not in err
    done = len(results(out))
    assert 0 < done < n
    assert score_lines(source, checkpoint=itera_file, output=out, resume=True).lines == n - done
    assert [f["line"] for f in results(out)] == list(range(1, n + 1))


def test_no_torch_is_imported(corpus, itera_file):
    code = (
        "import sys; from itera_lite.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "sys.exit(code or sorted({'torch', 'tokenizers', 'gguf'} & set(sys.modules)) or 0)"
    )
    command = [sys.executable, "-c", code, "score", str(corpus), "--checkpoint", str(itera_file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def test_a_file_that_is_cut_while_it_is_read_is_an_error(tmp_path):
    (path := tmp_path / "text.txt").write_text("a line\n" * 50_000)
    lines = iter(lines_module.LineReader(path))
    next(lines)
    os.truncate(path, 1000)
    with pytest.raises(DataError, match="became shorter while it was read"):
        list(lines)


def test_a_pipe_is_no_model(tmp_path):
    os.mkfifo(tmp_path / "model.gguf")
    with pytest.raises(ModelFileError, match="not a regular file"):
        load_model(tmp_path / "model.gguf")  # and doesn't wait for a writer


def test_a_large_file_is_read_in_pieces(model, tmp_path, monkeypatch):
    """No batch is larger than its limit and a line, whatever the file's size."""
    (source := tmp_path / "many.txt").write_text("twelve chars\n" * 500)
    monkeypatch.setattr(module, "BATCH_BYTES", 100)
    seen = []
    monkeypatch.setattr(
        Model,
        "score",
        lambda self, texts, score=Model.score, **o: (
            seen.append(len(texts)),
            score(self, texts, **o),
        )[1],
    )
    score_lines(source, checkpoint=model.path, output=tmp_path / "out.jsonl", threads=1)
    assert sum(seen) == 500 and max(seen) <= 9
