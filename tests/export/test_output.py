"""Where an export may go, and that a failed one leaves everything as it was."""

import os
import resource
import shutil
import threading

import pytest

from itera_lite.cli import main
from itera_lite.errors import CheckpointError, OutputError, UsageError
from itera_lite.export.gguf import export_gguf
from tests.compress.checkpoints import files
from tests.export.models import TRANSFORMER
from tests.other_user import as_other_user, shared_folder


@pytest.fixture
def checkpoint(save_random):
    return save_random(TRANSFORMER)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "model.safetensors.index.json"]
)
def test_an_input_is_never_the_output(name, checkpoint, tmp_path, capsys):
    before = files(checkpoint)
    (tmp_path / "link").symlink_to(checkpoint / name)
    for output in (checkpoint / name, tmp_path / "link", checkpoint / ".." / "a_model" / name):
        assert main(["export", str(checkpoint), "--output", str(output)]) == 2
        error = capsys.readouterr().err
        assert "made from" in error and "Traceback" not in error
    assert files(checkpoint) == before


def test_a_hard_link_to_an_input_is_the_input(checkpoint, tmp_path):
    os.link(checkpoint / "model.safetensors", tmp_path / "other-name")
    with pytest.raises(UsageError, match="made from"):
        export_gguf(checkpoint, "f32", tmp_path / "other-name")


def test_another_kind_of_file_is_not_replaced(checkpoint, tmp_path):
    letter = tmp_path / "letter.txt"
    letter.write_text("Dear")
    with pytest.raises(UsageError, match="no GGUF file"):
        export_gguf(checkpoint, "f32", letter)
    assert letter.read_text() == "Dear"
    letter.write_text("")
    whole = export_gguf(checkpoint, "f32", letter).bytes
    assert letter.stat().st_size == whole == export_gguf(checkpoint, "f32", letter).bytes


def test_a_link_stays_one_and_a_pipe_gets_the_bytes(checkpoint, tmp_path, capsys):
    target, link, pipe = tmp_path / "target.gguf", tmp_path / "link.gguf", tmp_path / "pipe"
    link.symlink_to(target)
    export_gguf(checkpoint, "f32", link)
    assert link.is_symlink() and target.read_bytes()[:4] == b"GGUF"
    os.mkfifo(pipe)
    got = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    assert main(["export", str(checkpoint), "--type", "f32", "--output", str(pipe)]) == 0
    reader.join()
    assert got == [target.read_bytes()]
    assert pipe.is_fifo()
    printed = capsys.readouterr()
    assert printed.out == "" and f"{len(got[0]):,}" in printed.err


@pytest.mark.parametrize("most", [100, 5000, 100_000])
def test_a_full_disk_leaves_what_was_there(most, checkpoint, tmp_path, capsys):
    output = tmp_path / "model.gguf"
    export_gguf(checkpoint, "q8_0", output)
    before = files(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        code = main(["export", str(checkpoint), "--type", "f32", "--output", str(output)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capsys.readouterr().err
    assert code == 1
    assert f"'{output}' can't be written: " in error and "Traceback" not in error
    assert files(tmp_path) == before


def test_a_folder_that_may_not_be_written_is_said(checkpoint):
    with shared_folder() as folder:
        model = shutil.copytree(checkpoint, folder / "model")
        folder.chmod(0o555)
        with as_other_user(), pytest.raises(OutputError, match=r"x.gguf' can't.*Permission denied"):
            export_gguf(model, "f32", folder / "x.gguf")


def test_damaged_sampling_defaults_are_named(checkpoint):
    path = checkpoint / "generation_config.json"
    for text in ("[]", "{", '{"top_k": Infinity}', '{"top_p": "x"}', '{"temperature": [1]}'):
        path.write_text(text)
        with pytest.raises(CheckpointError, match=r"generation_config\.json"):
            export_gguf(checkpoint, "f32")
