"""Where an export may go, and that a failed one leaves everything as it was."""

import gzip
import os
import resource
import shutil
import threading

import numpy as np
import pytest

from itera_lite.cli import main
from itera_lite.engine.find import load_model
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


def test_a_compressed_file_holds_the_same_and_is_what_the_engine_reads(checkpoint, tmp_path):
    plain = export_gguf(checkpoint, "q8_0")
    packed = export_gguf(checkpoint, "q8_0", format="gguf.gz")
    assert packed.path == checkpoint / "model-q8_0.gguf.gz"
    data = packed.path.read_bytes()
    assert gzip.decompress(data) == plain.path.read_bytes()
    assert (packed.bytes, packed.content_bytes) == (len(data), plain.bytes)
    assert f"{len(data):,} bytes compressed" in str(packed)
    assert data[3] == 0 and data[4:8] == bytes(4), "neither a name nor a time"
    assert export_gguf(checkpoint, "q8_0", tmp_path / "a.gguf.gz").path.read_bytes() == data
    model, exact = load_model(packed.path), load_model(plain.path)
    assert model.path == packed.path
    ids = exact.tokenize("the cat")
    np.testing.assert_array_equal(model.logits(ids), exact.logits(ids))
    for inside in (packed.path, tmp_path / "a.gguf.gz"):
        with pytest.raises(CheckpointError, match="is a GGUF file, which can be run"):
            export_gguf(inside, "q8_0")


def test_a_compressed_file_of_another_kind_is_not_replaced(checkpoint, tmp_path, capsys):
    for name, content in {"notes.gz": gzip.compress(b"Dear"), "cut.gz": b"\x1f\x8b\x08"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match="no GGUF file"):
            export_gguf(checkpoint, "f32", tmp_path / name)
        assert (tmp_path / name).read_bytes() == content
    for format, name, expected in (
        ("gguf", "x.gguf.gz", "doesn't end in .gz"),
        ("gguf.gz", "x.gguf", "ends in .gz"),
    ):
        output = str(tmp_path / name)
        assert main(["export", str(checkpoint), "--format", format, "--output", output]) == 2
        assert expected in capsys.readouterr().err
        assert not (tmp_path / name).exists()
