"""`itera-run`: what it says to wrong use, its exit codes, what it reads and writes."""

import gzip
import json
import math
import os
import subprocess
from pathlib import Path
from random import Random
from typing import Any

import pytest

from itera_lite.bench.processes import find_program
from itera_lite.data.lines import LineReader
from itera_lite.engine.model import Model
from tests.native.gguf_bytes import BOOL, F32, scalar
from tests.native.gguf_models import llama

RANDOM = Random(0).randbytes(3000)


@pytest.fixture(scope="module")
def program() -> Path:
    found = find_program()
    if found is None:
        pytest.skip("itera-run isn't installed")
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights whose texts begin with <|endoftext|>."""
    draft = llama("f32", "aa", context=4096).set("tokenizer.ggml.add_bos_token", scalar(BOOL, True))
    path = tmp_path_factory.mktemp("program") / "model.gguf"
    path.write_bytes(draft.render())
    return path


def run(
    program: Path, *arguments: str | bytes | Path, cwd: Path | None = None, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    options = {"capture_output": True, "timeout": 600} | options
    return subprocess.run([program, *arguments], cwd=cwd, **options)


def shell(program: Path, command: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The shell's command, in which "$@" is the program with its arguments."""
    return subprocess.run(
        ["sh", "-c", command, "sh", program, *arguments],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=600,
    )


def test_the_file_that_is_refused_is_named_with_a_way_out(program: Path, tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("no model")
    (tmp_path / "empty.gguf").touch()
    (tmp_path / "folder").mkdir()
    header = b'{"a": {"dtype": "F32"}}'
    saved = len(header).to_bytes(8, "little") + header + bytes(64)
    (tmp_path / "model.safetensors").write_bytes(saved)
    for name, message in (
        ("nothing.gguf", "can't be opened: No such file or directory"),
        ("text.gguf", "doesn't begin with 'GGUF'"),
        ("empty.gguf", "is empty"),
        ("folder", "is a folder"),
        ("model.safetensors", "is a safetensors file"),
    ):
        done = run(program, name, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (1, b"")
        way_out = "expected a GGUF file: make one of a model with `itera export`"
        assert done.stderr.decode() == f"itera-run: error: {name}: {message}; {way_out}\n"


def test_a_compressed_model_is_the_same_model(program: Path, model: Path, tmp_path: Path) -> None:
    packed = tmp_path / "model.gguf.gz"
    packed.write_bytes(gzip.compress(model.read_bytes()))
    arguments = ("-p", "the", "-n", "20", "-t", "0", "-q")
    plain, done = (run(program, path, *arguments) for path in (model, packed))
    assert done.stdout == plain.stdout and done.returncode == 0
    packed.write_bytes(packed.read_bytes()[:-1])
    done = run(program, packed.name, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(b"itera-run: error: model.gguf.gz: is a gzip file that is cut")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "a GGUF file is needed: make one of a model with `itera export`"),
        (("a.gguf", "b"), "unexpected argument 'b'. Text with spaces needs quotes"),
        (("-",), "'-' (standard input) can be a prompt or a text to score, but no model: "
                 "expected a GGUF file"),
        (("a.gguf", "--colour"), "unknown option --colour. If it is a text to go on from, give "
                                 "it as: --prompt '--colour'"),
        (("a.gguf", "-5 degrees"), "unknown option -5 degrees. If it is a text to go on from, "
                                   "give it as: --prompt '-5 degrees'"),
        (("a.gguf", "--temp", "1"), "unknown option --temp. Did you mean --temperature?"),
        (("a.gguf", "--temp=1"), "unknown option --temp. Did you mean --temperature?"),
        (("a.gguf", "--topk", "1"), "unknown option --topk. Did you mean --top-k?"),
        (("a.gguf", "--n-predict", "1"), "unknown option --n-predict. Did you mean --max-tokens?"),
        (("a.gguf", "--repetition-penalty", "2"),
         "unknown option --repetition-penalty. Did you mean --repeat?"),
        (("a.gguf", "--seed"), "--seed needs a value"),
        (("a.gguf", "--seed", "-1"), "--seed -1: expected a whole number from 0 to 2^63-1"),
        (("a.gguf", "--seed", str(2**63)),
         f"--seed {2**63}: expected a whole number from 0 to 2^63-1"),
        (("a.gguf", "--seed", "1e3"), "--seed 1e3: expected a whole number from 0 to 2^63-1"),
        (("a.gguf", "--top-k=few"), "--top-k few: expected a whole number, 0 or more"),
        (("a.gguf", "-n", "0"), "-n 0: expected a whole number, 1 or more"),
        (("a.gguf", "-n", "-7"), "-n -7: expected a whole number, 1 or more"),
        (("a.gguf", "-t", "warm"), "-t warm: expected a number"),
        (("a.gguf", "--quiet=yes"), "--quiet takes no value"),
        (("a.gguf", "--context", "0"), "--context 0: expected 1 to 16777216 tokens"),
        (("a.gguf", "--window", "0"), "--window 0: expected a whole number, 1 or more"),
        (("a.gguf", "--threads", "0"), "--threads 0: expected a whole number from 1 to 4096"),
        (("a.gguf", "--threads", "-1"), "--threads -1: expected a whole number from 1 to 4096"),
        (("a.gguf", "--threads", "1000000000"),
         "--threads 1000000000: expected a whole number from 1 to 4096"),
        (("a.gguf", "--lines"), "--lines needs --score FILE"),
        (("a.gguf", "--score="), "--score : expected a file, or - for standard input"),
        (("a.gguf", "--lines", "--score", ""),
         "--score : expected a file, or - for standard input"),
    ],
)  # fmt: skip
def test_wrong_use_is_said(
    arguments: tuple[str, ...], message: str, program: Path, tmp_path: Path
) -> None:
    done = run(program, *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode() == f"itera-run: error: {message}\nSee: itera-run --help\n"


def test_help_and_version_need_no_model(program: Path) -> None:
    assert run(program, "--help").stdout.startswith(b"itera-run MODEL.gguf [options]\n")
    version = run(program, "--version")
    assert version.returncode == 0 and version.stdout.startswith(b"itera-run ")


def test_every_kernel_computes_what_the_portable_one_does(program: Path) -> None:
    done = run(program, "--check")
    rows = done.stdout.decode().splitlines()
    assert [row for row in rows if not row.endswith(" good")] == [] and done.returncode == 0
    assert any("attend8 shows NaN" in row for row in rows)


@pytest.mark.parametrize("prompt", ["--help", "--check", "-5 degrees", "--temp", "-"])
def test_a_prompt_may_begin_with_a_dash(prompt: str, program: Path, model: Path) -> None:
    done = run(program, model, "-p", prompt, "-n", "2", "-q", "--seed", "1", input=b"from stdin")
    assert done.returncode == 0
    assert done.stdout.startswith(b"from stdin" if prompt == "-" else prompt.encode())


def test_the_seed_means_the_same_as_from_python(program: Path, model: Path) -> None:
    engine = Model.load(model)
    for seed in (0, 7, 2**63 - 1):
        done = run(program, model, "-p", "he", "-n", "20", "-q", "--seed", str(seed))
        text = engine.generate("he", max_tokens=20, seed=seed).text
        assert done.stdout.decode("utf-8", "replace") == f"he{text}\n"


def test_the_penalties_mean_the_same_as_from_python(program: Path, model: Path) -> None:
    for given in ({"presence_penalty": 2.0}, {"frequency_penalty": 1.5}):
        option = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
        written = run(program, model, "-q", "-p", "a", "-n", "30", "-t", "0", *option)
        text = Model.load(model).generate("a", max_tokens=30, temperature=0, **given).text
        plain = Model.load(model).generate("a", max_tokens=30, temperature=0).text
        assert written.stdout.decode("utf-8", "replace") == f"a{text}\n" != f"a{plain}\n"


@pytest.mark.parametrize(
    "prompt", [b"", b"a\0b", b"\0", bytes(range(256)), RANDOM[:300], b"\xed\xa0\x80\xff"]
)
def test_a_prompt_of_any_bytes_is_read_as_it_is(prompt: bytes, program: Path, model: Path) -> None:
    done = run(program, model, "-p", "-", "-n", "5", "-q", "--seed", "3", input=prompt)
    assert done.returncode == 0
    assert done.stdout.startswith(prompt)
    engine = Model.load(model)
    assert engine._engine.decode(engine.tokenize(prompt)) == prompt
    ids = engine.generate(prompt, max_tokens=5, seed=3).token_ids
    assert done.stdout == prompt + engine._engine.decode(ids) + b"\n"
    if prompt and b"\0" not in prompt:
        told = run(program, model, "-p", prompt, "-n", "5", "-q", "--seed", "3")
        assert told.stdout == done.stdout


TEXTS = {
    "plain": b"one line\nthe heat\n",
    "crlf": b"one line\r\nthe heat\r\n\r\n",
    "bom": b"\xef\xbb\xbfone line\nthe heat\n\xef\xbb\xbfnot at the beginning\n",
    "bom-only": b"\xef\xbb\xbf\n\xef\xbb\xbf\n",
    "cr": b"one\rline\n\rthe heat\r\r\n\r\n",
    "separators": "a\u2028b\u2029c\x0bd\x0ce\x85f\x1cg\n\u2028\n\x0b\x1f\u3000\n\x1a\n".encode(),
    "bad-utf-8": b"a\xffb\xc3\n\xe2\x82\n\xf0\x9f\x98\n\xed\xa0\x80x\n\xc0\xaf\xe0\x80\xaf\n"
    b"\xf4\x90\x80\x80\n\xf5\xf8\x80\xf0\x80\x80\x80\nok \xf0\x9f\x98\x80\n\xe0\xa0\xf1\x80\n",
    "no-newline-at-the-end": b"the heat\none line",
    "blanks": b"\n \n\t\nthe heat\n\n \xc2\xa0\r\n\xe2\x80\x83\n",
    "empty": b"",
    "only-blanks": b"\n\n  \r\n",
    "random": RANDOM.replace(b"\0", b"\n"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_lines_are_read_as_itera_score_reads_them(
    name: str, program: Path, model: Path, tmp_path: Path
) -> None:
    (path := tmp_path / "text.txt").write_bytes(TEXTS[name])
    lines = list(LineReader(path))
    expected = Model.load(model).score([line.text for line in lines])
    for source, options in ((str(path), {}), ("-", {"input": TEXTS[name]})):
        done = run(program, model, "--score", source, "--lines", "--threads", "2", **options)
        assert done.returncode == 0, done.stderr
        found = [json.loads(line) for line in done.stdout.splitlines()]
        assert [row["line"] for row in found] == [line.number for line in lines]
        for row, score in zip(found, expected, strict=True):
            assert (row["bytes"], row["tokens"]) == (score.bytes, score.tokens)
            assert row["nats"] == pytest.approx(score.nats, abs=1e-5)
            assert row["bits_per_byte"] == pytest.approx(score.bits_per_byte, abs=1e-5)


def test_a_line_with_a_nul_is_refused_with_its_number(
    program: Path, model: Path, tmp_path: Path
) -> None:
    (path := tmp_path / "text.txt").write_bytes(b"good\nb\0d\n")
    done = run(program, model, "--score", path, "--lines")
    assert (done.returncode, done.stdout) == (1, b"")
    assert f"{path}: line 2 holds NUL bytes" in done.stderr.decode()


def test_a_whole_file_is_one_text_of_just_its_bytes(
    program: Path, model: Path, tmp_path: Path
) -> None:
    raw = b"\xef\xbb\xbfa\r\nb\0\xff\n\n"
    (path := tmp_path / "text").write_bytes(raw)
    (score,) = Model.load(model).score(raw)
    row = json.loads(run(program, model, "--score", path).stdout)
    assert row["bytes"] == len(raw) and math.isclose(row["nats"], score.nats, abs_tol=1e-5)


def test_what_cannot_be_read_is_named(program: Path, model: Path, tmp_path: Path) -> None:
    for path, reason in ((tmp_path, "Is a directory"), (tmp_path / "no", "No such file")):
        done = run(program, model, "--score", path)
        assert (done.returncode, done.stdout) == (1, b"")
        assert f"'{path}' can't be read: {reason}" in done.stderr.decode()


WRITES = {
    "text": ("-p", "the", "-n", "5", "-q"),
    "score": ("--score", "TEXT"),
    "lines": ("--score", "TEXT", "--lines"),
    "help": ("--help",),
    "version": ("--version",),
}


@pytest.mark.parametrize("what", WRITES)
def test_output_that_fails_is_an_error(
    what: str, program: Path, model: Path, tmp_path: Path
) -> None:
    (text := tmp_path / "text.txt").write_text("the heat\n")
    arguments = [str(model), *(str(text) if w == "TEXT" else w for w in WRITES[what])]
    full = shell(program, '"$@" > /dev/full', *arguments)
    assert full.returncode == 1
    message = "itera-run: error: standard output can't be written: "
    assert full.stderr == message + "No space left on device\n"
    closed = shell(program, '"$@" >&-', *arguments)
    assert (closed.returncode, closed.stderr) == (1, message + "Bad file descriptor\n")
    quiet = shell(program, '"$@" 2>&-', *arguments)
    assert quiet.returncode == 0 and quiet.stdout
    without_input = shell(program, '"$@" <&-', *arguments)
    assert (without_input.returncode, without_input.stderr) == (0, "")
    nothing = shell(program, '"$@" <&- >&- 2>&-', *arguments)
    assert nothing.returncode == 1
    read, write = os.pipe()
    os.close(read)  # nobody will read
    broken = run(program, *arguments, stdout=write, stderr=subprocess.PIPE, capture_output=False)
    os.close(write)
    assert (broken.returncode, broken.stderr) == (1, b"")


def test_a_closed_standard_input_is_said_where_it_is_read(program: Path, model: Path) -> None:
    for option in ("-p", "--score"):
        done = shell(program, '"$@" <&-', model, option, "-")
        assert (done.returncode, done.stdout) == (1, "")
        assert "standard input can't be read: Bad file descriptor" in done.stderr


def test_what_is_left_out_of_a_file_is_said(program: Path, tmp_path: Path) -> None:
    draft = llama().set("llama.logit_scale", scalar(F32, 2.0))
    (tmp_path / "model.gguf").write_bytes(draft.render())
    done = run(program, "model.gguf", "-p", "he", "-n", "2", "-q", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr.startswith(b"itera-run: note: model.gguf: llama.logit_scale=2 is left out")


def test_the_speed_can_be_measured_of_any_model(program: Path, tmp_path: Path) -> None:
    """Also of one whose texts begin without a mark."""
    (tmp_path / "model.gguf").write_bytes(llama(context=512).render())
    done = run(program, "model.gguf", "--bench", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith(b"decode, context 128")
    full = shell(program, '"$@" > /dev/full', tmp_path / "model.gguf", "--bench")
    assert full.returncode == 1


def test_threads_that_cannot_be_started_are_done_without(
    program: Path, model: Path, tmp_path: Path
) -> None:
    """Each thread's stack is a gigabyte here, and there is no room for one."""
    (text := tmp_path / "text.txt").write_text("the heat of the hut\n" * 50)
    arguments = (model, "--context", "128", "--score", text, "--lines", "--threads", "8")
    expected = run(program, *arguments)
    command = 'ulimit -s 1000000 && ulimit -v 600000 && exec "$@"'
    done = shell(program, command, *arguments)
    if "ulimit" in done.stderr:
        pytest.skip("this system doesn't allow such limits")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == expected.stdout.decode()
