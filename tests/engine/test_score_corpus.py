"""The verb `score` over many files: an output each, whole or not at all, and nothing is lost."""

import csv
import gzip
import io
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from itera_lite import cli
from itera_lite.commands.score import score_lines
from itera_lite.data.rows import CsvReader
from itera_lite.engine import Model, score_sample
from itera_lite.engine.score_fields import Fields
from itera_lite.engine.score_formats import format_of
from itera_lite.engine.score_jobs import ScoreJob
from itera_lite.engine.score_processes import Processes
from itera_lite.engine.score_sample import find_threshold, plan
from itera_lite.engine.scorer import Scorer
from itera_lite.errors import DataError, IteraError, IteraWarning, UsageError

STATE = ".itera-score"
WORDS = "the cat sat on a höher mat and ran to see many others".split()


def texts(n: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 12))) for _ in range(n)]


def write_parquet(path: Path, documents: Sequence[str | None], **options: Any) -> None:
    """With a column of each sort that might get lost, and metadata of the file and of a field."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    n = len(documents)
    table = arrow.table(
        {
            "id": arrow.array(range(n), arrow.int32()),
            "text": arrow.array(documents, arrow.string()),
            "kind": arrow.array([["a", "b"][i % 2] for i in range(n)]).dictionary_encode(),
            "nested": [{"x": [i, None], "y": "s"} for i in range(n)],
            "when": arrow.array([i * 10**6 for i in range(n)], arrow.timestamp("us", "UTC")),
        }
    )
    field = arrow.field("id", arrow.int32(), nullable=False, metadata={"unit": "none"})
    table = table.cast(table.schema.set(0, field))
    parquet.write_table(table.replace_schema_metadata({"mine": "é"}), path, **options)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder with a file of each kind."""
    pytest.importorskip("pyarrow")
    zstandard = pytest.importorskip("zstandard")
    (folder := tmp_path / "corpus" / "sub").mkdir(parents=True)

    def lines(seed: int) -> bytes:
        rows = [{"id": i, "text": t, "é": [1.5]} for i, t in enumerate(texts(30, seed))]
        return "".join(json.dumps(row) + "\n" for row in rows).encode()

    folder = folder.parent
    (folder / "a.jsonl").write_bytes(lines(1))
    (folder / "sub" / "b.jsonl.zst").write_bytes(zstandard.compress(lines(2)))
    (folder / "sub" / "c.json.gz").write_bytes(gzip.compress(lines(3)))
    (folder / "d.txt.gz").write_bytes(gzip.compress("\n".join(texts(30, 4)).encode()))
    rows = [f'{i};"{t}";"a;""b"""' for i, t in enumerate(texts(30, 5))]
    (folder / "e.csv").write_bytes("\r\n".join(["id;text;more", *rows, ""]).encode())
    write_parquet(
        folder / "sub" / "f.parquet",
        [None, "", *texts(28, 6)],
        row_group_size=7,
        compression="gzip",
    )
    (folder / "README.md").write_text("not text to score")
    (folder / ".hidden.jsonl").write_text("not json")
    return folder


def outputs(folder: Path) -> dict[str, bytes]:
    """What lies in an output folder, by name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and STATE not in path.parts
    }


def unpacked(name: str, data: bytes) -> bytes:
    if name.endswith(".zst"):
        import zstandard

        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return gzip.decompress(data) if name.endswith(".gz") else data


def rows_of(name: str, data: bytes) -> list[dict[str, Any]]:
    """The rows of an output, with the results as numbers."""
    data = unpacked(name, data)
    if name.endswith(".parquet"):
        import pyarrow.parquet as parquet

        return parquet.read_table(io.BytesIO(data)).to_pylist()
    if ".csv" in name:
        return list(csv.DictReader(io.StringIO(data.decode(), newline=""), delimiter=";"))
    return [json.loads(line) for line in data.splitlines()]


@pytest.mark.parametrize("threads", [1, 3])
def test_every_file_has_its_output(
    threads: int, corpus: Path, itera_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In its own format, with every row and field, and the scores that `Model.score` gives."""
    out = tmp_path / "out"
    done = score_lines(corpus, checkpoint=itera_file, output=out, threads=threads)
    found = outputs(out)
    names = "a.jsonl d.txt.jsonl.gz e.csv sub/b.jsonl.zst sub/c.json.gz sub/f.parquet".split()
    assert sorted(found) == names
    assert not list((out / STATE / "scratch").iterdir())
    model = Model.load(itera_file)
    total = 0
    for seed, name in enumerate(names_by_seed(names), 1):
        rows = rows_of(name, found[name])
        source = [None, "", *texts(28, 6)] if name.endswith(".parquet") else texts(30, seed)
        assert [row["text"] for row in rows] == source
        for number, (row, score) in enumerate(
            zip(rows, model.score([text or "" for text in source]), strict=True)
        ):
            assert int(row["line"]) == number + 1 + (".csv" in name)
            assert (int(row["bytes"]), float(row["nats"])) == (score.bytes, score.nats)
            assert row["bits_per_byte"] is None or (
                float(row["bits_per_byte"]) == score.bits_per_byte
            )
            assert (row["bits_per_byte"] is None) == (not row["text"])
            total += score.bytes
        if "id" in rows[0]:
            assert [int(row["id"]) for row in rows] == list(range(30))
    assert (done.lines, done.bytes, done.kept) == (180, total, 180)
    assert sum(done.histogram.cells.values()) == 178
    err = capsys.readouterr().err
    assert "6 of 6 files are done" in err and "left out files of other kinds: 1 .md" in err


def names_by_seed(names: list[str]) -> list[str]:
    a, d, e, b, c, f = names
    return [a, b, c, d, e, f]


def test_a_line_is_as_in_the_output_of_one_file(
    corpus: Path, itera_file: Path, tmp_path: Path
) -> None:
    options = {"checkpoint": itera_file, "prefix": "x_", "text": False, "max_bits": 9.0}
    score_lines(corpus, output=tmp_path / "out", **options)
    for name, other in (("a.jsonl", "a.jsonl"), ("d.txt.gz", "d.txt.jsonl.gz")):
        score_lines(corpus / name, output=tmp_path / "one.jsonl", **options)
        data = (tmp_path / "out" / other).read_bytes()
        assert unpacked(other, data) == (tmp_path / "one.jsonl").read_bytes() != b""
        (tmp_path / "one.jsonl").unlink()
    for name in ("e.csv", "sub/f.parquet"):
        one = tmp_path / Path(name).name
        score_lines(corpus / name, output=one, **options)
        assert one.read_bytes() == (tmp_path / "out" / name).read_bytes()
        rows = rows_of(name, one.read_bytes())
        assert 0 < len(rows) < 30 and "text" not in rows[0] and "x_nats" in rows[0]


def test_parquet_keeps_its_schema(corpus: Path, itera_file: Path, tmp_path: Path) -> None:
    """Types, metadata and compression; and the kept rows are the right ones."""
    import pyarrow.parquet as parquet

    every, few = tmp_path / "every.parquet", tmp_path / "few.parquet"
    source = corpus / "sub" / "f.parquet"
    score_lines(source, checkpoint=itera_file, output=every)
    before, after = parquet.read_table(source), parquet.read_table(every)
    assert after.select(before.schema.names).equals(before)
    assert after.schema.metadata == before.schema.metadata == {b"mine": "é".encode()}
    for name in before.schema.names:
        assert after.schema.field(name).equals(before.schema.field(name), check_metadata=True)
    column = parquet.ParquetFile(every).metadata.row_group(0).column(1)
    assert column.compression == "GZIP"
    bits = after["bits_per_byte"].to_pylist()
    limit = sorted(bit for bit in bits if bit is not None)[9]
    score_lines(source, checkpoint=itera_file, output=few, max_bits=limit, scores=False)
    kept = [i for i, bit in enumerate(bits) if bit is not None and bit <= limit]
    assert parquet.read_table(few).equals(before.take(kept)) and len(kept) == 10


def test_csv_is_copied_character_for_character(
    corpus: Path, itera_file: Path, tmp_path: Path
) -> None:
    source = corpus / "e.csv"
    score_lines(source, checkpoint=itera_file, output=tmp_path / "every.csv")
    score_lines(
        source, checkpoint=itera_file, output=tmp_path / "all.csv", max_bits=1e9, scores=False
    )
    lines = source.read_bytes().split(b"\r\n")
    assert (tmp_path / "all.csv").read_bytes() == source.read_bytes()
    for before, after in zip(
        lines, (tmp_path / "every.csv").read_bytes().split(b"\r\n"), strict=True
    ):
        assert after.startswith(before)


def command(source: Path | str, out: Path, model: Path, *more: str) -> list[str]:
    start = [sys.executable, "-m", "itera_lite.cli", "score", str(source)]
    return [*start, "--output", str(out), "--checkpoint", str(model), *more]


# `itera score`, killed when the first file is marked as done: alone, or with all its processes.
KILLED = """
import os, signal, sys
from itera_lite import cli
from itera_lite.engine.score_corpus import State
mark, kill = State.mark, getattr(os, sys.argv[1])
def marking(self, *given):
    mark(self, *given)
    kill(os.getpid(), signal.SIGKILL)
State.mark = marking
cli.main(sys.argv[2:])
"""


@pytest.mark.parametrize("kill", ["kill", "killpg"])
def test_killed_and_given_again_it_ends_the_same(
    kill: str, itera_file: Path, tmp_path: Path
) -> None:
    """Kill -9 of the first process, or of all. What is there by then is whole already."""
    zstandard = pytest.importorskip("zstandard")
    pytest.importorskip("pyarrow")
    (source := tmp_path / "corpus").mkdir()
    for i in range(4):
        rows = [{"id": i, "text": text * 8} for text in texts(200, i)]
        lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
        (source / f"{i}.jsonl.zst").write_bytes(zstandard.compress(lines))
        write_parquet(source / f"{i}.parquet", [text * 8 for text in texts(200, i)])
    whole, part = tmp_path / "whole", tmp_path / "part"
    score_lines(source, checkpoint=itera_file, output=whole, keep="60%")
    expected = outputs(whole)

    started = command(source, part, itera_file, "--keep", "60%", "--threads", "1")
    killed = [sys.executable, "-c", KILLED, kill, *started[3:]]
    done = subprocess.run(killed, stderr=subprocess.DEVNULL, start_new_session=True)
    assert done.returncode == -signal.SIGKILL
    assert len(list((part / STATE / "done").glob("*.json"))) == 1
    found = outputs(part)
    assert found and found.items() <= expected.items()
    again = subprocess.run(started, stderr=subprocess.PIPE, text=True)
    assert again.returncode == 0, again.stderr
    assert "8 of 8 files are done, 1 of them before" in again.stderr
    assert outputs(part) == expected
    assert not list((part / STATE / "scratch").iterdir())


def test_a_bad_file_costs_no_other(
    corpus: Path, itera_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    good = (corpus / "a.jsonl").read_bytes()
    (corpus / "a.jsonl").write_bytes(good + b"broken\n")
    packed = (corpus / "sub" / "c.json.gz").read_bytes()
    (corpus / "sub" / "c.json.gz").write_bytes(packed[:-9])
    parquet = (corpus / "sub" / "f.parquet").read_bytes()
    (corpus / "sub" / "f.parquet").write_bytes(parquet[:-9])
    arguments = command(corpus, out, itera_file)[3:]
    assert cli.main(arguments) == 1
    err = capsys.readouterr().err
    assert "a.jsonl: line 31 isn't JSON" in err and "c.json.gz: damaged gzip file" in err
    assert "f.parquet: not a readable Parquet file" in err and "Traceback" not in err
    assert "3 of 6 files couldn't be scored and have no output" in err
    assert sorted(outputs(out)) == ["d.txt.jsonl.gz", "e.csv", "sub/b.jsonl.zst"]
    before = {name: (out / name).stat().st_mtime_ns for name in outputs(out)}
    (corpus / "a.jsonl").write_bytes(good)
    (corpus / "sub" / "c.json.gz").write_bytes(packed)
    (corpus / "sub" / "f.parquet").write_bytes(parquet)
    assert cli.main(arguments) == 0
    assert "6 of 6 files are done, 3 of them before" in capsys.readouterr().err
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    score_lines(corpus, checkpoint=itera_file, output=tmp_path / "other")
    assert outputs(out) == outputs(tmp_path / "other")


def test_what_changed_is_scored_again(corpus: Path, itera_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def run() -> tuple[int, int]:
        found = score_lines(corpus, checkpoint=itera_file, output=out)
        return found.files, found.done_before  # type: ignore[attr-defined]

    assert run() == (6, 0)
    whole = outputs(out)
    assert run() == (6, 6)
    (out / "a.jsonl").unlink()
    (out / "e.csv").write_bytes(b"cut off")
    (out / STATE / "done" / "d.txt.jsonl.gz.json").write_bytes(b"{")
    assert run() == (6, 3)
    assert outputs(out) == whole
    (corpus / "a.jsonl").write_text('{"text": "another"}\n')
    (corpus / "new.txt").write_text("a line\n")
    assert run() == (7, 5)
    assert b"another" in (out / "a.jsonl").read_bytes()
    assert set(outputs(out)) == {*whole, "new.txt.jsonl"}


def test_an_output_that_cannot_be_written_ends_the_run(
    corpus: Path, itera_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It isn't the fault of a file; what is done stays."""
    out = tmp_path / "out"
    score_lines(corpus, checkpoint=itera_file, output=out)
    before = outputs(out)
    (out / "a.jsonl").unlink()
    (out / "a.jsonl").mkdir()
    capsys.readouterr()
    assert cli.main(command(corpus, out, itera_file)[3:]) == 1
    err = capsys.readouterr().err
    assert "a.jsonl' can't be written: Is a directory" in err and "Traceback" not in err
    assert f"'{out}' has 5 of 6 files: the same command goes on" in err
    assert not list((out / STATE / "scratch").iterdir())
    (out / "a.jsonl").rmdir()
    score_lines(corpus, checkpoint=itera_file, output=out)
    assert outputs(out) == before


def test_an_output_is_of_one_command(
    corpus: Path, itera_file: Path, gguf_pair: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    same = {"file": corpus, "checkpoint": itera_file, "output": out, "max_bits": 9.0}
    score_lines(**same)
    before = outputs(out)
    for options, told in (
        ({"max_bits": None}, "begun with --max-bits 9.0, now it is no --max-bits"),
        ({"max_bits": None, "keep": "30%"}, "--max-bits"),
        ({"prefix": "x_"}, "no --prefix, now it is --prefix x_"),
        ({"text": False}, "--text, now it is --no-text"),
        ({"scores": False}, "--scores, now it is --no-scores"),
        ({"window": 7}, "--window 7"),
        ({"by": "surprise"}, "no --by, now it is --by surprise"),
        ({"checkpoint": gguf_pair["transformer_test"]}, "another model"),
        ({"bad": itera_file}, "another model"),
        ({"file": corpus / "sub"}, "begun with files below"),
    ):
        with pytest.raises(DataError, match=told):
            score_lines(**{**same, **options})
    (out / STATE / "run.json").write_text("[]")
    with pytest.raises(DataError, match=r"run\.json' is damaged"):
        score_lines(**same)
    assert outputs(out) == before


def test_wrong_use(
    corpus: Path, itera_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (mine := tmp_path / "mine").mkdir()
    (mine / "notes.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "twice").mkdir()
    for name in ("a.txt", "a.txt.jsonl"):
        (tmp_path / "twice" / name).write_text('{"text": "a"}\n')
    for inputs, options, error, told in (
        (["corpus"], {}, UsageError, "name it with --output"),
        (["corpus"], {"output": "-"}, UsageError, "name it with --output"),
        (["corpus"], {"output": "mine"}, UsageError, "holds other things, such as 'notes.txt'"),
        (["corpus"], {"output": "file"}, UsageError, "'file' is a file"),
        (["corpus"], {"output": "corpus"}, UsageError, "is a folder that holds the input"),
        (["corpus"], {"output": "."}, UsageError, "is a folder that holds the input"),
        (["corpus/a.jsonl", "corpus/e.csv"], {"output": "corpus"}, UsageError, "holds the input"),
        (["twice"], {"output": "new"}, UsageError, "would both be written to"),
        (["empty"], {"output": "new"}, DataError, "no file to score in 'empty'"),
        (["corpus/*.pdf"], {"output": "new"}, DataError, r"no file matches 'corpus/\*.pdf'"),
        (["corpus", "none"], {"output": "new"}, DataError, "none: can't be read .there is none"),
        (["corpus", "corpus/README.md"], {"output": "new"}, UsageError, "README.md': expected"),
        (["corpus", "-"], {"output": "new"}, UsageError, "standard input is scored alone"),
    ):
        given = {name: Path(value) for name, value in options.items()}
        with pytest.raises(error, match=told):
            score_lines(*map(Path, inputs), checkpoint=itera_file, **given)
        assert not Path("new").exists(), told
    assert (mine / "notes.txt").read_text() == "mine" and len(list(mine.iterdir())) == 1


def test_an_output_below_the_input_is_left_out(
    itera_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("a.txt", "b.jsonl"):
        (tmp_path / "data" / name).write_text('{"text": "a"}\n')
    out = Path("data/scored")
    for inputs in (["data"], ["data/a.txt", "data/b.jsonl", "data/scored"], ["data/*.*"]):
        found = score_lines(*map(Path, inputs), checkpoint=itera_file, output=out)
        assert found.files == 2  # type: ignore[attr-defined]
    assert sorted(outputs(out)) == ["a.txt.jsonl", "b.jsonl"]


def test_another_run_is_kept_away(corpus: Path, itera_file: Path, tmp_path: Path) -> None:
    import fcntl

    out = tmp_path / "out"
    (out / STATE).mkdir(parents=True)
    with (out / STATE / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another process scores into"):
            score_lines(corpus, checkpoint=itera_file, output=out)
    assert outputs(out) == {}


@pytest.mark.usefixtures("trained_on_lines")
def test_the_unit_of_the_texts_is_compared_with_the_models(
    corpus: Path, itera_file: Path, tmp_path: Path
) -> None:
    with pytest.warns(IteraWarning, match="trained on lines, and documents are scored"):
        score_lines(corpus, checkpoint=itera_file, output=tmp_path / "out")
    with pytest.warns(IteraWarning, match="trained on lines, and documents are scored"):
        score_lines(corpus / "a.jsonl", checkpoint=itera_file, output=tmp_path / "a.jsonl")


@dataclass(frozen=True)
class Killed:
    """A job whose process the system ends, as where the memory is used up."""

    source: Path
    size: int = 10**9

    def run(self, scorer: Scorer, tick: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_costs_its_file(corpus: Path, itera_file: Path, tmp_path: Path) -> None:
    scorer = Scorer(itera_file)
    files = [corpus / name for name in ("a.jsonl", "e.csv", "sub/b.jsonl.zst")]
    jobs = [
        ScoreJob(file, file.stat().st_size, tmp_path / file.name, tmp_path, Fields(), None)
        for file in files
    ]
    done: list[str] = []
    failed: list[str] = []
    with Processes(scorer, 1) as processes:
        processes.run(
            [*jobs, Killed(Path("big.jsonl"))],
            lambda job, tally: done.append(job.source.name),
            lambda job, reason: failed.append(reason),
            lambda at: None,
        )
        assert sorted(done) == sorted(file.name for file in files)
        assert len(failed) == 1 and "big.jsonl: the process" in failed[0]
        assert "ended by SIGKILL" in failed[0] and "memory" in failed[0]
        with pytest.raises(IteraError, match="3 files one after another"):
            processes.run(
                [Killed(Path(str(i))) for i in range(9)],
                lambda *_: None,
                lambda *_: None,
                lambda at: None,
            )


class Lengths:
    """In the place of a `Scorer`: the score of a text is its length, so a sample that prefers
    long or short texts has another distribution."""

    def score(self, given: Sequence[str | bytes]) -> list[float | None]:
        return [float(len(text)) or None for text in given]


def test_a_sample_is_like_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of files of all formats, with texts of very different lengths; spread over each of them."""
    pytest.importorskip("pyarrow")
    rng = random.Random(3)
    n = 8000
    every: list[int] = []
    for number, kind in enumerate(("jsonl", "jsonl.gz", "csv", "parquet", "txt")):
        sizes = [round(rng.lognormvariate(3 + number / 2, 1)) for _ in range(n)]
        documents = [f"{i:05d} {rng.randbytes(size).hex()}" for i, size in enumerate(sizes)]
        every += map(len, documents)
        path = tmp_path / f"a.{kind}"
        lines = "".join(json.dumps({"text": text}) + "\n" for text in documents).encode()
        if kind == "jsonl":
            path.write_bytes(lines)
        elif kind == "jsonl.gz":
            path.write_bytes(gzip.compress(lines, 1))
        elif kind == "parquet":
            write_parquet(path, documents, row_group_size=3000, compression="none")
        else:
            head = "text\n" if kind == "csv" else ""
            path.write_text(head + "".join(f"{text}\n" for text in documents))
    files = [(path, path.stat().st_size) for path in sorted(tmp_path.iterdir())]
    monkeypatch.setattr(score_sample, "PLACES", 600)
    monkeypatch.setattr(score_sample, "BLOCK", 1500)
    seen: dict[str, list[int]] = {}

    class Noted(Lengths):
        def score(self, given: Sequence[str | bytes]) -> list[float | None]:
            seen.setdefault(name, []).extend(int(text[:5]) for text in given)
            return super().score(given)

    samples = []
    for job in plan(files, Fields()):
        name = job.source.name
        samples.append(job.run(Noted(), id))
        tenths = {place * 10 // n for place in seen[name]}
        assert tenths == set(range(10)) or (name.endswith(".gz") and len(tenths) > 5), name
        assert len(set(seen[name])) == len(seen[name]) < n / 2
    again = [job.run(Lengths(), id) for job in plan(files, Fields())]
    assert [sample.scores for sample in again] == [sample.scores for sample in samples]
    assert sum(sample.bytes for sample in samples) < 1.5 * 600 * 1500
    stood_for = [sample.weight * len(sample.scores) for sample in samples]  # as many texts in each
    assert max(stood_for) < 1.4 * min(stood_for), stood_for
    for keep in (0.1, 0.3, 0.7):
        found = find_threshold(samples, keep)
        assert found is not None
        kept = sum(length <= found.value for length in every) / len(every)
        assert abs(kept - keep) < 4 * found.error + 0.01, (keep, kept, found)


def test_a_small_corpus_is_its_own_sample(tmp_path: Path) -> None:
    """Places that touch hold each text once: at the edges of places and of files too."""
    for i in range(7):
        lines = "".join(f"{i}-{j} " + "y" * (j * 7 % 50) + "\n" for j in range(i * 40))
        (tmp_path / f"{i}.txt").write_text(lines)
    files = [(path, path.stat().st_size) for path in sorted(tmp_path.iterdir())]
    seen: list[str] = []

    class Noted(Lengths):
        def score(self, given: Sequence[str]) -> list[float | None]:  # type: ignore[override]
            seen.extend(given)
            return super().score(given)

    for job in plan(files, Fields()):
        assert job.run(Noted(), id).weight == pytest.approx(1)
    assert seen == [line for path, _ in files for line in path.read_text().splitlines()]


@pytest.mark.parametrize("kind", ["txt.gz", "csv.gz"])
def test_a_small_compressed_file_is_its_own_sample(kind: str, tmp_path: Path) -> None:
    documents = ["text", *(f"{i} {'y' * (i * 7 % 50)}" for i in range(300))]
    path = tmp_path / f"a.{kind}"
    path.write_bytes(gzip.compress("\n".join(documents).encode()))
    (job,) = plan([(path, path.stat().st_size)], Fields())
    sample = job.run(Lengths(), id)
    assert sample.scores == [len(text) for text in documents[kind == "csv.gz" :]]
    assert sample.weight == pytest.approx(1)


def test_about_the_share_is_kept(
    corpus: Path, itera_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(3):
        rows = [{"text": text} for text in texts(300, 20 + i)]
        (corpus / f"more{i}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    every, few = tmp_path / "every", tmp_path / "few"
    score_lines(corpus, checkpoint=itera_file, output=every)
    capsys.readouterr()
    done = score_lines(corpus, checkpoint=itera_file, output=few, keep="30%")
    assert done.limit is not None and abs(done.kept / done.lines - 0.3) < 0.03
    assert f"bits per byte of at most {done.limit:.4f}" in capsys.readouterr().err
    for name, data in outputs(every).items():
        kept = [
            row
            for row in rows_of(name, data)
            if row["bits_per_byte"] and float(row["bits_per_byte"]) <= done.limit
        ]
        assert rows_of(name, (few / name).read_bytes()) == kept
    again = score_lines(corpus, checkpoint=itera_file, output=few, keep="30%")
    assert again.limit == done.limit and again.done_before == 9  # type: ignore[attr-defined]


def test_processes_score_by_surprise_too(
    corpus: Path, itera_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In each format, the field is that of the model, and decides what is kept."""
    every, few = tmp_path / "every", tmp_path / "few"
    score_lines(corpus, checkpoint=itera_file, output=every, by="surprise")
    done = score_lines(corpus, checkpoint=itera_file, output=few, by="surprise", keep="50%")
    assert f"--keep 50%: surprise of at most {done.limit:.4f}" in capsys.readouterr().err
    model = Model.load(itera_file)
    for name, data in outputs(every).items():
        rows = rows_of(name, data)
        kept = [row for row in rows if row["surprise"] and float(row["surprise"]) <= done.limit]
        assert rows_of(name, (few / name).read_bytes()) == kept
        found = [float(row["surprise"]) for row in rows if row["surprise"]]
        texts = [row["text"] for row in rows if row["surprise"]]
        assert found and found == [score.surprise for score in model.score(texts)]


def test_nothing_that_can_be_used_is_said_with_its_line(itera_file: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text('\n{"body": "a"}\n' * 10)
    with pytest.raises(DataError, match=r"a\.jsonl: line 2 has no field 'text'"):
        score_lines(tmp_path / "in", checkpoint=itera_file, output=tmp_path / "o", keep="30%")
    (tmp_path / "in" / "a.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match="no text to find a threshold from"):
        score_lines(tmp_path / "in", checkpoint=itera_file, output=tmp_path / "p", keep="30%")


@pytest.mark.parametrize(
    ("kind", "few", "many"), [("jsonl.gz", 200, 2000), ("csv", 200, 2000), ("parquet", 2000, 6000)]
)
def test_memory_does_not_grow_with_the_file(
    kind: str, few: int, many: int, itera_file: Path, tmp_path: Path
) -> None:
    """Peak memory of a process that scores few texts, or many, beside a field of 20 kB."""
    pytest.importorskip("pyarrow")
    program = textwrap.dedent(
        """
        import re, sys
        from pathlib import Path
        from itera_lite.engine import score_formats
        from itera_lite.engine.score_fields import Fields
        from itera_lite.engine.score_jobs import ScoreJob
        from itera_lite.engine.scorer import Scorer
        score_formats.ROW_GROUP_BYTES = 1 << 20
        source, target, scratch, model = map(Path, sys.argv[1:])
        job = ScoreJob(source, 1, target, scratch, Fields(), None)
        print(job.run(Scorer(model), lambda at: None).lines)
        # Not getrusage, whose peak includes that of the process which has started this one
        status = Path("/proc/self/status").read_text()
        print(int(re.search(r"VmHWM:\\s*(\\d+) kB", status)[1]) * 1024)
        """
    )
    peaks = []
    for n in (few, many):
        source = tmp_path / f"{n}.{kind}"
        write_wide(source, n)
        arguments = [source, tmp_path / f"out{n}.{kind}", tmp_path, itera_file]
        done = subprocess.run(
            [sys.executable, "-c", program, *map(str, arguments)],
            capture_output=True,
            text=True,
            check=True,
        )
        lines, peak = map(int, done.stdout.split())
        assert lines == n
        peaks.append(peak)
    assert peaks[1] - peaks[0] < 0.4 * (many - few) * 20_000, peaks
    if kind == "parquet":
        import pyarrow.parquet as parquet

        meta = parquet.ParquetFile(tmp_path / f"out{many}.parquet").metadata
        assert meta.num_row_groups > 30
        assert max(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups)) < 3e6


def write_wide(path: Path, n: int) -> None:
    """Short texts beside a field of 20 kB; one row group where it is Parquet."""
    rng = random.Random(0)
    if path.suffix == ".parquet":
        import pyarrow as arrow
        import pyarrow.parquet as parquet

        blobs = arrow.array([rng.randbytes(20_000) for _ in range(n)], arrow.binary())
        table = arrow.table({"text": [f"text {i}" for i in range(n)], "blob": blobs})
        parquet.write_table(table, path, row_group_size=n, compression="none", use_dictionary=False)
    elif path.suffix == ".csv":
        with path.open("w") as file:
            file.write("text,blob\n")
            for i in range(n):
                file.write(f"text {i},{rng.randbytes(10_000).hex()}\n")
    else:
        with gzip.open(path, "wt", compresslevel=1) as file:
            for i in range(n):
                file.write(json.dumps({"text": f"text {i}", "blob": rng.randbytes(10_000).hex()}))
                file.write("\n")


def test_a_format_gives_what_comes_before_a_bad_row(tmp_path: Path) -> None:
    (path := tmp_path / "a.csv").write_text("text,x\na,1\nb,2,3\n")
    batches = format_of(path, Fields()).batches(1 << 16)
    assert next(batches).texts == ["a"]
    with pytest.raises(DataError, match=r"a\.csv: line 3: found 3 cells, expected 2"):
        next(batches)


def test_a_bad_header_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    for content, told in (
        (b"\nid,text\r1,a\r2,b\r", "line 2: not a readable header"),
        (b"sep=;\nid;words\n1;a\n", "line 2 has no column 'text'. Its columns: id, words"),
        (b"", "line 1 has no column 'text'. Its columns: none"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"a\.csv: {told}"):
            CsvReader(path, "text")
    path.write_bytes(b'id;"a\rb";text\n1;x;one\n')  # readable with one of the delimiters
    assert [row.text for row in CsvReader(path, "text")] == ["one"]


def test_parquet_of_a_name_that_is_not_utf8(itera_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (folder := tmp_path / os.fsdecode(b"caf\xe9")).mkdir()
    write_parquet(tmp_path / "a.parquet", ["one", "two words"])
    source = (tmp_path / "a.parquet").rename(folder / "a.parquet")
    score_lines(source, checkpoint=itera_file, output=folder / "b.parquet", keep="100%")
    rows = rows_of("b.parquet", (folder / "b.parquet").read_bytes())
    assert [row["text"] for row in rows] == ["one", "two words"]
