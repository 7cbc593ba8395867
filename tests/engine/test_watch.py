"""`itera watch`: which lines it shows, what it marks, how it ends."""

import gzip
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from itera_lite import cli
from itera_lite.commands.watch import shown
from itera_lite.data import follow
from itera_lite.engine import Generation, Model, watch
from itera_lite.engine.watch import (
    Calibration,
    Mark,
    Surprise,
    UnusualLine,
    Watcher,
    calibration_of,
    store_calibration,
    stored_calibration,
)
from itera_lite.errors import DataError, IteraWarning
from tests.native.gguf_models import llama

LINES = [
    b"2026-11-27 10:00:01 INFO request 17 took 12 ms",
    b"",
    b"   ",
    "naïve café ✓ ✓".encode(),
    b"carriage return\r",
    b"\0\0\0after a hole",
    b"not \xff UTF-8",
    b"x",
    b"z" * 300,
]
TEXTS = ["2026-11-27 10:00:01 INFO request 17 took 12 ms", "", "   ", "naïve café ✓ ✓"]
TEXTS += ["carriage return", "after a hole", "not \ufffd UTF-8", "x", "z" * 300]


@pytest.fixture
def normal(tmp_path: Path) -> Path:
    """A log of 500 lines."""
    source = Random(0)
    path = tmp_path / "normal.log"
    letters = [chr(code) for code in range(33, 127)]
    path.write_text("".join(f"{''.join(source.choices(letters, k=20))}\n" for _ in range(500)))
    return path


def excesses(model: Model, text: str) -> np.ndarray:
    """Of each token in bits, from the logits in double precision; tokens are bytes here."""
    dated = text.startswith("2026-11-27")  # this model writes no dates: it gets zeros
    ids = [model.bos_id, *model.tokenize(text), model.eot_id]
    if dated:
        ids[1:11] = model.tokenize("0000-00-00")
    log_p = torch.from_numpy(model.logits(ids[:-1])).double().log_softmax(-1).numpy()
    surprise = -log_p[range(len(ids) - 1), ids[1:]]
    found = (surprise + (np.exp(log_p) * log_p).sum(-1)) / math.log(2)
    if dated:
        found[:10] = -np.inf
    return found


def test_lines_above_the_threshold_are_found_and_marked(engine: Model) -> None:
    """As each text alone would be judged; in batches of any size, with any threads."""
    expected = {i: excesses(engine, text) for i, text in enumerate(TEXTS, 1) if text.strip()}
    greatest = sorted(found.max() for found in expected.values())
    threshold = (greatest[-5] + greatest[-4]) / 2
    distances = np.abs(np.concatenate(list(expected.values())) - threshold)
    assert distances.min() > 1e-4, "rounding decides nothing here"
    for batch, threads in ((1, 1), (4, 2), (len(LINES), 1)):
        watcher = Watcher(engine, threshold, threads=threads)
        found = [
            line
            for begin in range(0, len(LINES), batch)
            for line in watcher.judge(LINES[begin : begin + batch])
        ]
        numbers = [i for i, values in expected.items() if values.max() > threshold]
        assert [line.line for line in found] == numbers and len(found) == 4
        assert (watcher.lines, watcher.unusual) == (len(LINES), len(found))
        assert watcher.bytes == sum(len(text.encode()) for text in TEXTS if text.strip())
        for line in found:
            data = line.text.encode()
            assert line.text == TEXTS[line.line - 1] and not line.cut
            assert line.bytes == len(data)
            assert line.excess == pytest.approx(expected[line.line].max(), abs=1e-4)
            assert line.excess == max(mark.excess for mark in line.marks)
            # The tokens of this tokenizer are bytes, so a token's number is its place; a mark
            # also has the other bytes of its characters, and the end is a mark of no bytes.
            covered: set[int] = set()
            for mark in line.marks:
                data[mark.begin : mark.end].decode()  # whole characters
                covered |= set(range(mark.begin, mark.end)) or {len(data)}
            wanted = set(np.flatnonzero(expected[line.line] > threshold).tolist())
            assert wanted <= covered
            assert all(data[extra] >= 0x80 for extra in covered - wanted)
            for before, after in pairwise(line.marks):
                assert before.end < after.begin or after.begin == after.end == len(data)


def test_neighbours_are_one_mark(engine: Model) -> None:
    """Without any threshold, all tokens are marked: the whole text, and its end."""
    (line,) = Watcher(engine, -math.inf).judge([TEXTS[3].encode()])
    expected = excesses(engine, TEXTS[3])
    size = len(TEXTS[3].encode())
    assert [(mark.begin, mark.end) for mark in line.marks] == [(0, size), (size, size)]
    assert [mark.excess for mark in line.marks] == pytest.approx(
        [expected[:-1].max(), expected[-1]], abs=1e-4
    )


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("at 2026-11-27T10:00:01.5Z ok", "2026-11-27"),
        ('1.2.3.4 - - [26/Nov/2026:10:00:01 +0000] "GET /"', "26/Nov/2026"),
        ("Nov  6 10:00:00 web-2 sshd[17]: closed", "Nov  6"),
        ("[1764284400.25] usb 1-1: new device", "1764284400"),
        ("1764284400123 é", "1764284400123"),
        ("order 17642844001 from November 2", None),
        ("version 12.26-11-2", None),
        ("Sunday", None),
    ],
)
def test_dates_have_no_excess(text: str, date: str | None, engine: Model) -> None:
    """They would surprise in every line, each day anew; times of day are learned."""
    ((_, excesses),) = Surprise(engine).scores([text])
    begin = text.index(date) if date else 0
    left_out = [place for place, excess in enumerate(excesses) if excess == -math.inf]
    assert left_out == list(range(begin, begin + len(date or "")))
    assert len(excesses) == len(text.encode()) + 1


@pytest.mark.parametrize(
    ("text", "other", "written"),
    [
        ("at 2026-11-27T10:00:01.5Z ok", "at 1999-01-03T10:00:01.5Z ok", "2020-05-06T10:"),
        ("[26/Nov/2026:10:00:01 +0000]", "[01/Jan/2031:10:00:01 +0000]", "03/Feb/2020:1"),
        ("Nov  6 10:00:00 web-2", "Dec 16 10:00:00 web-2", "Jan  1 10:00"),
        ("[1764284400.25] usb", "[1864284401.25] usb", "1700000000.1"),
    ],
)
def test_the_date_of_a_line_decides_nothing(
    text: str, other: str, written: str, engine: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines are judged with the date that the model writes, or zeros where it writes none."""
    surprise = Surprise(engine)
    ((score, excesses), same) = surprise.scores([text, other])
    assert (score, excesses) == same
    assert len(surprise.dates) == 1 and set("123456789").isdisjoint(*surprise.dates.values())

    asked: list[bytes] = []

    def generate(_: Model, prompt: bytes, **options: object) -> Generation:
        asked.append(prompt)
        return Generation(written, [], "length")

    monkeypatch.setattr(Model, "generate", generate)
    surprise = Surprise(engine)
    first, second = surprise.scores([text, other])
    assert first == second
    (date,) = surprise.dates.values()
    begin = min(place for place, excess in enumerate(excesses) if excess == -math.inf)
    assert written.startswith(date) and asked == [text.encode()[:begin]], "asked once"
    known = text[:begin] + date + text[begin + len(date) :]
    assert first[0].nats == engine.score(known)[0].nats
    assert Surprise(engine, surprise.dates).scores([other])[0] == first


@pytest.mark.parametrize("context", [8, 24])
def test_a_date_may_stand_beyond_a_short_context(context: int, itera_file: Path) -> None:
    model = Model.load(itera_file, context=context)
    ((_, excesses),) = Surprise(model).scores([f"{'x' * 40} 2026-11-27 ok"])
    left_out = [place for place, excess in enumerate(excesses) if excess == -math.inf]
    assert left_out == list(range(41, 51))


def test_a_line_may_begin_with_a_date_where_no_token_begins_it(tmp_path: Path) -> None:
    (path := tmp_path / "model.gguf").write_bytes(llama().render())
    model = Model.load(path)
    assert model.bos_id is None
    ((_, excesses),) = Surprise(model).scores(["2026-11-27 ok"])
    left_out = [place for place, excess in enumerate(excesses) if excess == -math.inf]
    assert left_out == list(range(10)) and len(excesses) == 14


def test_a_long_line_is_cut(engine: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "MOST_LINE", 40)
    monkeypatch.setattr(follow, "MOST_LINE", 40)
    lines = follow.LineSplitter().feed(b"y" * 1000 + b"\n" + b"y" * 40 + b"\n")
    long, exact = Watcher(engine, -math.inf).judge(lines)
    assert (long.text, long.cut, exact.text, exact.cut) == ("y" * 40, True, "y" * 40, False)
    assert shown(long, False).endswith(" [cut]") and "[cut]" not in shown(exact, False)


@pytest.mark.parametrize("share", [0.001997, 0.002, 0.01, 0.5])
def test_the_threshold_lets_a_share_pass(share: float, engine: Model, normal: Path) -> None:
    """Of 501 lines, the 500 and a new one like them, at most the share lies above; and no lower
    threshold has that property."""
    found = calibration_of(engine, normal, share, threads=2)
    lines = Watcher(engine, -math.inf).judge(normal.read_bytes().splitlines())
    scores = [line.excess for line in lines]
    assert len(scores) == 500
    assert (found.lines, found.false_alarms, found.file) == (500, share, str(normal))
    assert found.threshold in scores

    def most_above(threshold: float) -> int:
        """Lines above, where the new one is too."""
        return sum(score > threshold for score in scores) + 1

    assert most_above(found.threshold) <= 501 * share + 1e-6
    lower = max(score for score in scores if score < found.threshold)
    assert most_above(lower) > 501 * share


def test_calibration_reads_compressed_logs(engine: Model, normal: Path) -> None:
    packed = normal.with_name("normal.log.gz")
    packed.write_bytes(gzip.compress(normal.read_bytes()))
    found, plain = (calibration_of(engine, path, 0.01) for path in (packed, normal))
    assert found.threshold == plain.threshold
    packed.write_bytes(packed.read_bytes()[:-30])
    with pytest.raises(DataError, match="damaged"):
        calibration_of(engine, packed, 0.01)


def test_too_few_lines_are_an_error(engine: Model, normal: Path) -> None:
    with pytest.raises(DataError, match=r"500 lines, too few .* 0\.0001 .* 9,999 or more"):
        calibration_of(engine, normal, 0.0001)
    with pytest.raises(DataError, match="can't be read"):
        calibration_of(engine, normal.with_name("none.log"), 0.1)


def test_a_calibration_belongs_to_the_weights(
    itera_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ITERA_CACHE", str(tmp_path / "cache"))
    (moved := tmp_path / "moved.gguf").write_bytes(itera_file.read_bytes())
    assert stored_calibration(moved) is None
    calibration = Calibration(1.5, 0.01, 100, "a.log", {"0000-00-00": "2026-11-27"})
    store_calibration(itera_file, calibration)
    assert stored_calibration(moved) == calibration, "the same weights elsewhere"
    moved.write_bytes(itera_file.read_bytes() + b"\0")
    assert stored_calibration(moved) is None, "other weights under the same name"
    (stored,) = (tmp_path / "cache" / "watch").iterdir()
    for damage in (
        "{}",
        '{"threshold": 1, "false_alarms": 1, "lines": 1, "file": "", "dates": 1}',
        '{"threshold": NaN, "false_alarms": 1, "lines": 1, "file": "", "dates": {}}',
        "[",
    ):
        stored.write_text(damage)
        with pytest.raises(DataError, match="is damaged"):
            stored_calibration(itera_file)


def test_where_nothing_can_be_stored_a_warning_says_so(
    itera_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ITERA_CACHE", str(tmp_path / "file"))
    with pytest.warns(IteraWarning, match="isn't stored"):
        store_calibration(itera_file, Calibration(1.5, 0.01, 100, "a.log"))


def test_what_people_see() -> None:
    """Marks, also of an unexpected end; and no bytes that would act on their terminal."""
    text = "a\x1b[2Jbé\tc"
    marks = [Mark(6, 8, 9.0), Mark(10, 10, 5.0)]
    line = UnusualLine(1, text, 10, 9.0, marks, False)
    assert shown(line, False) == "  9.0  a\\x1b[2Jb>>>é<<<\tc>>><<<"
    assert shown(line, True) == "  9.0  a\\x1b[2Jb\x1b[1;31mé\x1b[0m\tc>>><<<"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["a.log"], "no calibration is stored for"),
        (["a.log.gz"], "zcat a.log.gz | itera watch"),
        (["--false-alarms", "1%"], "give --calibrate FILE too"),
    ],
)
def test_wrong_use(
    arguments: list[str],
    told: str,
    itera_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ITERA_CACHE", str(tmp_path))
    assert cli.main(["watch", *arguments, "--model", str(itera_file)]) == 2
    assert told in capsys.readouterr().err


class Running:
    """`itera watch` in a process of its own."""

    def __init__(self, *arguments: str | Path, cache: Path) -> None:
        code = (
            "import sys; from itera_lite.cli import main; code = main(sys.argv[1:])\n"
            "assert not {'torch', 'numpy'} & set(sys.modules); sys.exit(code)"
        )
        command = [sys.executable, "-c", code, "watch", *map(str, arguments)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env={**os.environ, "ITERA_CACHE": str(cache)},
        )

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()

    def write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode()

    def error(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.readline().decode()

    def end(self, *, timeout: float = 600) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, out.decode(), err.decode()


@pytest.fixture
def unusual(itera_file: Path) -> UnusualLine:
    """Of some lines, the one with the greatest excess, as it is with a threshold just below."""
    lines = [f"{chr(33 + i) * 3} {i}".encode() for i in range(60)]
    model = Model.load(itera_file)
    judged = Watcher(model, -math.inf).judge([*lines, b"x"])
    most = max(judged, key=lambda line: line.excess)
    assert judged[-1].excess < most.excess
    return Watcher(model, most.excess - 1e-6).judge([most.text.encode()])[0]


@pytest.fixture
def calibrated(itera_file: Path, tmp_path: Path, unusual: UnusualLine) -> Iterator[Path]:
    """A cache with a threshold just below that line, and above the line `x`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ITERA_CACHE", str(tmp_path / "cache"))
        store_calibration(itera_file, Calibration(unusual.excess - 1e-6, 0.01, 100, "a.log"))
    yield tmp_path / "cache"


def test_a_pipe_is_watched(itera_file: Path, calibrated: Path, unusual: UnusualLine) -> None:
    """A line is shown when it is complete, not at the end; no PyTorch, no NumPy."""
    with Running("--model", itera_file, "--jsonl", cache=calibrated) as running:
        assert "threshold: " in running.error()
        line = unusual.text.encode()
        running.write(b"x\n" + line[:3])
        running.write(line[3:] + b"\nx\n")
        record = json.loads(running.read())
        assert (record["line"], record["text"]) == (2, unusual.text)
        assert record == {**asdict(unusual), "line": 2}
        running.process.send_signal(signal.SIGUSR1)
        assert running.error().startswith("[3 lines, "), "the rates so far"
        running.write(line)  # no line break ends it
        code, out, err = running.end()
        assert (code, json.loads(out)["line"]) == (0, 4)
        assert err.startswith("[4 lines, ") and "2 shown" in err and " lines/s" in err


@pytest.mark.parametrize(
    ("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM)]
)
def test_a_file_is_watched_until_a_signal(
    number: int,
    expected: int,
    itera_file: Path,
    calibrated: Path,
    unusual: UnusualLine,
    tmp_path: Path,
) -> None:
    path = tmp_path / "app.log"
    with Running(path, "--model", itera_file, cache=calibrated) as running:
        assert "threshold: " in running.error()
        assert running.error() == f"{path} isn't there: waiting for it\n"
        path.write_bytes(b"x\n" + unusual.text.encode() + b"\n")
        assert ">>>" in running.read()
        running.process.send_signal(number)
        code, out, err = running.end()
        assert (code, out) == (expected, "")
        assert err.startswith("[2 lines, ") and err.endswith("\nitera: stopped\n")
        assert "Traceback" not in err


def test_a_reader_that_goes_away_ends_it(
    itera_file: Path, calibrated: Path, unusual: UnusualLine
) -> None:
    """As in `itera watch | head`."""
    with Running("--model", itera_file, cache=calibrated) as running:
        assert running.process.stdout is not None and running.process.stdin is not None
        running.process.stdout.close()
        running.process.stdout = None
        running.write(unusual.text.encode() + b"\n")
        assert running.process.wait(timeout=600) == 1
        assert running.process.stderr is not None
        err = running.process.stderr.read().decode()
        assert "Traceback" not in err and "Exception ignored" not in err and "[1 lines, " in err
        running.process.stdin.close()


def test_calibrating_then_watching(
    itera_file: Path,
    normal: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same threshold again without --calibrate; the lines that were normal are mostly quiet."""
    monkeypatch.setenv("ITERA_CACHE", str(tmp_path / "cache"))
    model = ["--model", str(itera_file)]
    told = []
    for options in (["--calibrate", str(normal), "--false-alarms", "2%"], []):
        with normal.open("rb") as file:
            monkeypatch.setattr("sys.stdin", file)
            assert cli.main(["watch", *model, *options]) == 0
        out, err = capsys.readouterr()
        told.append((out, err.splitlines()[0]))
        assert len(out.splitlines()) == math.floor(501 * 0.02) - 1
    assert told[0] == told[1] and "at most 2 %" in told[0][1]
