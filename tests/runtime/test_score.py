"""The verb `score`: what it writes, what it refuses, how it goes on after a stop."""

import gzip
import io
import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from itera_lite import cli
from itera_lite.errors import DataError, UsageError
from itera_lite.runtime import Model
from itera_lite.runtime import score as module
from itera_lite.runtime.score import score_lines

TEXTS = ["one", "two words", "höher", "a" * 700, "", " ", "line\nbreak", "\ud800 half", "end"]


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
    for record, text, expected in zip(found, TEXTS, model.score(TEXTS), strict=True):
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


def test_the_text_may_stand_in_another_field(model, tmp_path):
    (source := tmp_path / "a.jsonl").write_text('{"body": "abc", "text": 3, "nats": "old"}')
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
        (b'{"text": 5}\n', "line 1: the field 'text' is int, expected a string"),
        (b'{"text": "a", "x": NaN}\n', "NaN is too large a number, or none"),
        (b'{"text": "a", "x": 1e999}\n', "1e999 is too large"),
        (b'{"text": "a", "x": ' + b"9" * 5000 + b"}", "line 1 isn't JSON"),
        (b'{"x": ' + b"[" * 100_000, "line 1 isn't JSON"),
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
        ({"max_bits": math.nan}, "max_bits=nan"),
        ({"threads": 0}, "threads=0"),
        ({"window": 0}, "window=0"),
        ({"text_field": "line"}, "text_field='line'"),
        ({"output": "corpus.jsonl"}, "is the input"),
        ({"output": "full.jsonl"}, "add --resume"),
        ({"output": "none/out.jsonl"}, "no folder"),
        ({"output": "."}, "is a folder"),
        ({"file": "a.csv"}, "expected .txt"),
    ],
)
def test_wrong_use(options, told, corpus, model, monkeypatch):
    monkeypatch.chdir(corpus.parent)
    Path("full.jsonl").write_text("{}\n")
    for name in ("output", "file"):
        if name in options:
            options = {**options, name: Path(options[name])}
    with pytest.raises(UsageError, match=told):
        score_lines(**{"file": Path("corpus.jsonl"), "checkpoint": model.path, **options})
    assert Path("full.jsonl").read_text() == "{}\n"


def test_a_missing_file_is_said(model, tmp_path):
    with pytest.raises(DataError, match=r"none\.txt: can't be read \(No such file"):
        score_lines(tmp_path / "none.txt", checkpoint=model.path)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(share=st.floats(0, 1), limit=st.sampled_from([None, 8.0]))
def test_cut_anywhere_and_resumed_it_is_the_same(share, limit, corpus, model, tmp_path):
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    whole.unlink(missing_ok=True)
    score_lines(corpus, checkpoint=model.path, output=whole, max_bits=limit)
    data = whole.read_bytes()
    part.write_bytes(data[: round(share * len(data))])
    score_lines(corpus, checkpoint=model.path, output=part, max_bits=limit, resume=True)
    assert part.read_bytes() == data


def test_resume_begins_where_there_is_nothing(corpus, model, tmp_path):
    out = tmp_path / "out.jsonl"
    assert score_lines(corpus, checkpoint=model.path, output=out, resume=True).lines == len(TEXTS)
    assert score_lines(corpus, checkpoint=model.path, output=out, resume=True).lines == 0
    assert len(results(out)) == len(TEXTS)


def test_resume_notices_another_model_input_or_file(corpus, model, gguf_pair, tmp_path):
    out = tmp_path / "out.jsonl"
    score_lines(corpus, checkpoint=model.path, output=out)
    before = out.read_bytes()
    with pytest.raises(DataError, match="same input, model and window"):
        score_lines(corpus, checkpoint=gguf_pair["transformer_test"], output=out, resume=True)
    (short := tmp_path / "short.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(DataError, match="where the input has no text"):
        score_lines(short, checkpoint=model.path, output=out, resume=True)
    assert out.read_bytes() == before
    out.write_bytes(b'{"text": "no result"}\n')
    with pytest.raises(DataError, match="no result of `itera score`"):
        score_lines(corpus, checkpoint=model.path, output=out, resume=True)


def test_ctrl_c_keeps_what_was_scored(itera_file, tmp_path):
    """A real signal to a real process, which then goes on to the same bytes."""
    source, out = tmp_path / "long.txt", tmp_path / "out.jsonl"
    n = 600
    source.write_text("".join(f"{i} {'some text ' * 40}\n" for i in range(n)))
    command = [sys.executable, "-m", "itera_lite.cli", "score", str(source), "--checkpoint"]
    command += [str(itera_file), "--resume", "--output", str(out)]
    running = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background job ignores Ctrl-C, and so would all that these tests start there
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while running.poll() is None and not (out.exists() and out.stat().st_size):
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=30)
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
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


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
    score_lines(source, checkpoint=model.path, output=tmp_path / "out.jsonl")
    assert sum(seen) == 500 and max(seen) <= 9
