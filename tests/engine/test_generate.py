"""The verb `generate`: both kinds of model, what it writes where, errors before any text."""

import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from itera_lite import cli
from itera_lite.commands.generate import generate
from itera_lite.engine import Model, find
from itera_lite.errors import CheckpointError, ModelFileError, UsageError

NAMES = ["itera_lite_test", "transformer_test"]


@pytest.mark.parametrize("name", NAMES)
def test_prints_the_text_and_returns_it(name, gguf_pair, capsys):
    options = {"checkpoint": gguf_pair[name], "max_tokens": 12, "temperature": 1.0}
    first = generate("héllo", **options, seed=5)
    out, err = capsys.readouterr()
    assert out == "héllo" + first.text + "\n"
    assert f"[{first.tokens} tokens in" in err and "tokens/s" in err
    assert f"model: {gguf_pair[name]}]" in err
    assert first.finish_reason in ("length", "stop") and 0 < first.tokens <= 12
    assert len(first.token_ids) == first.tokens and not first.log_probabilities
    assert generate("héllo", **options, seed=5).text == first.text
    others = {generate("héllo", **options, seed=seed).text for seed in range(6, 10)}
    assert others != {first.text}


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_folder_writes_what_its_exact_file_writes(name, tiny_pair, gguf_pair):
    options = {"max_tokens": 30, "seed": 3, "log_probabilities": True}
    folder = generate("a", checkpoint=tiny_pair[name], **options)
    file = generate("a", checkpoint=gguf_pair[name], **options)
    assert folder.token_ids == file.token_ids
    assert folder.log_probabilities == file.log_probabilities
    assert folder.model == tiny_pair[name]


def test_log_probabilities_go_to_standard_error(gguf_pair, capsys):
    done = generate(
        "a", checkpoint=gguf_pair["transformer_test"], max_tokens=5, seed=0, log_probabilities=True
    )
    out, err = capsys.readouterr()
    *lines, _speed = err.splitlines()
    assert out == f"a{done.text}\n" and len(lines) == done.tokens
    for line, token, value in zip(lines, done.token_ids, done.log_probabilities, strict=True):
        shown, token_id, piece = line.split(maxsplit=2)
        assert (float(shown), int(token_id)) == (pytest.approx(value, abs=1e-4), token)
        assert piece.startswith('"') and value < 0


def test_a_bias_from_the_command_line_decides(gguf_pair, capsys):
    file = str(gguf_pair["itera_lite_test"])
    options = ["--checkpoint", file, "--max-tokens", "6", "--logit-bias.65=1000"]
    letter = find.load_model(Path(file)).detokenize([65])
    assert cli.main(["generate", "x", *options]) == 0
    assert capsys.readouterr().out == "x" + 6 * letter + "\n"
    assert cli.main(["generate", "x", "--checkpoint", file, "--logit-bias.the=1"]) == 2
    assert "--logit-bias.the" in capsys.readouterr().err


def test_penalties_from_the_command_line_make_a_text_repeat_less(gguf_pair, capsys):
    file = str(gguf_pair["itera_lite_test"])
    options = ["--checkpoint", file, "--max-tokens", "30", "--temperature", "0"]

    def distinct(*penalties: str) -> int:
        assert cli.main(["generate", "x", *options, "--log-probabilities", *penalties]) == 0
        *lines, _speed = capsys.readouterr().err.splitlines()
        return len({line.split()[1] for line in lines})

    assert distinct("--presence-penalty", "2") > distinct() < distinct("--frequency-penalty", "2")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "--temperature -1"),
        ({"temperature": math.nan}, "--temperature nan"),
        ({"top_k": -1}, "--top-k -1"),
        ({"top_p": 0.0}, "--top-p 0"),
        ({"top_p": 1.5}, "--top-p 1.5"),
        ({"min_p": 2.0}, "--min-p 2"),
        ({"repetition_penalty": 0.0}, "--repetition-penalty 0"),
        ({"presence_penalty": 3.0}, "--presence-penalty 3"),
        ({"frequency_penalty": math.nan}, "--frequency-penalty nan"),
        ({"max_tokens": 0}, "--max-tokens 0"),
        ({"max_tokens": 600}, "room for 512"),
        ({"max_tokens": 10**12}, "room for 512"),
        ({"prompt": "x" * 400}, "a text of 401 tokens"),
        ({"stop": ("",)}, "empty stop text"),
        ({"logit_bias": {"9999": 1.0}}, "9999"),
        ({"logit_bias": {"9": math.nan}}, "--logit-bias.9 nan"),
        ({"seed": -1}, "--seed -1: expected a whole number from 0"),
        ({"seed": 10**30}, "--seed 10000"),
        ({"max_tokens": -1}, "--max-tokens -1"),
        ({"temperature": math.inf}, "--temperature inf"),
        ({"temperature": 1e300}, "temperature=inf"),
        ({"logit_bias": {str(10**12): 1.0}}, str(10**12)),
    ],
)
def test_wrong_use_is_said_before_anything_is_written(options, message, gguf_pair, capsys):
    with pytest.raises(UsageError, match=message):
        generate(**{"checkpoint": gguf_pair["itera_lite_test"], **options})
    assert capsys.readouterr().out == ""


def test_a_missing_or_foreign_model_is_said(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        generate(checkpoint=tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=tmp_path.name):
        generate(checkpoint=tmp_path)
    (foreign := tmp_path / "foreign.gguf").write_bytes(b"text" * 100)
    with pytest.raises(ModelFileError, match=r"foreign\.gguf"):
        generate(checkpoint=foreign)


def test_what_cannot_be_read_is_not_called_missing(gguf_pair, tiny_pair, not_measured):
    """As another user, who may not read them; the superuser may read everything."""
    code = (
        "import os, sys, cyclopts, itera_lite.commands.generate; from itera_lite import cli\n"
        "import itera_lite.engine.find, itera_lite.machine.load; os.chdir('/')\n"
        "os.geteuid() or os.seteuid(65534)\n"
        "for path in sys.argv[1:]: cli.main(['generate', 'a', '--checkpoint', path])"
    )
    with tempfile.TemporaryDirectory() as own:  # pytest's folders are closed to others
        (place := Path(own)).chmod(0o755)
        file, folder, inner, beside = (place / name for name in ("m.gguf", "f", "inner", "beside"))
        for copy in (folder, inner):
            shutil.copytree(tiny_pair["itera_lite_test"], copy).chmod(0o755)
        beside.mkdir()
        for copy in (file, beside / "m.gguf"):
            shutil.copy(gguf_pair["itera_lite_test"], copy)
        for path in (file, folder, inner / "model.safetensors"):
            path.chmod(0)
        paths = [file, folder, inner, folder / "more", beside, inner / "config.json"]
        try:
            done = subprocess.run(
                [sys.executable, "-c", code, *map(str, paths)],
                env=not_measured,
                capture_output=True,
                text=True,
                timeout=600,
            )
        finally:
            folder.chmod(0o755)
    told = done.stderr.splitlines()
    assert len(told) == len(paths) and "Traceback" not in done.stderr, done.stderr
    for line, path in zip(told, (file, folder, inner / "model.safetensors", folder), strict=False):
        assert str(path) in line and "can't be read: Permission denied" in line
    assert f"holds GGUF files: name one, '{beside / 'm.gguf'}'" in told[4]
    assert f"a part of a checkpoint: name its folder, '{inner}'" in told[5]


def test_names_that_are_no_utf8_and_the_folder_one_stands_in(
    gguf_pair, tiny_pair, tmp_path, monkeypatch, capsys
):
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    shutil.copytree(tiny_pair["itera_lite_test"], odd)
    shutil.copy(gguf_pair["itera_lite_test"], file := odd / os.fsdecode(b"m\xe9.gguf"))
    options = ["a", "--max-tokens", "2", "--seed", "1"]
    for path in (odd, file):
        assert cli.main(["generate", *options, "--checkpoint", str(path)]) == 0
    monkeypatch.chdir(odd)
    capsys.readouterr()
    for path in (".", "./", "../" + odd.name):
        assert cli.main(["generate", *options, "--checkpoint", path]) == 0
        assert "model: " in capsys.readouterr().err
    (odd / "inner").mkdir()
    monkeypatch.chdir(odd / "inner")
    assert cli.main(["generate", *options, "--checkpoint", ".."]) == 0
    assert "caf" in capsys.readouterr().err
    assert cli.main(["generate", *options, "--checkpoint", ""]) == 2
    assert "checkpoint is empty" in capsys.readouterr().err


def test_without_a_name_the_users_model_comes_before_the_one_in_the_box(
    gguf_pair, tiny_pair, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(find, "BOX", tmp_path / "box")
    with pytest.raises(CheckpointError, match="itera train"):
        generate()
    find.BOX.mkdir()
    (find.BOX / "small.gguf").write_bytes(gguf_pair["itera_lite_test"].read_bytes())
    assert generate(max_tokens=2, seed=0).model == find.BOX / "small.gguf"
    assert "model: small.gguf, which comes with Itera-Lite]" in capsys.readouterr().err
    find.TRAINED.parent.mkdir()
    find.TRAINED.symlink_to(tiny_pair["transformer_test"])
    assert generate(max_tokens=2, seed=0).model == find.TRAINED


def test_a_file_needs_no_torch_and_no_numpy(gguf_pair):
    code = (
        "import sys; from itera_lite.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "sys.exit(code or sorted({'torch', 'numpy', 'tokenizers', 'gguf'} & set(sys.modules)) or 0)"
    )
    arguments = ["generate", "a", "--checkpoint", str(gguf_pair["itera_lite_test"])]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr


def test_a_prompt_that_is_not_utf8_is_read_as_it_is(gguf_pair, capsys):
    """As `itera-run` reads it; what can't be printed is shown as U+FFFD."""
    prompt, path = os.fsdecode(b"a\xff"), gguf_pair["itera_lite_test"]
    generate(prompt, checkpoint=path, max_tokens=8, temperature=0)
    told = capsys.readouterr().out
    assert told == f"a\ufffd{Model.load(path).generate(prompt, max_tokens=8, temperature=0).text}\n"
    generate("a\ud800", checkpoint=path, max_tokens=1, seed=0)
    assert capsys.readouterr().out.startswith("a\ufffd")
