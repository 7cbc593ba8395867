"""Commands name a full disk, a read-only one or a missing permission, and spoil no older file."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from itera_lite import cli
from itera_lite.checkpoint.folder import load_checkpoint, save_checkpoint
from itera_lite.config import preset
from tests.compress.checkpoints import old, text
from tests.export.models import random_model
from tests.faults.verbs import Given
from tests.other_user import as_other_user, shared_folder
from tests.train.small import make_small

__all__ = ["old", "text"]

SMALL_DISK = "6m"


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A disk of its own at a folder; skips where this process may not mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no program `mount`")
    if done.returncode:
        pytest.skip(f"this process may not mount a disk: {done.stderr.strip()[:100]}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    """A text, a checkpoint, a file and lines, as `make faults` has them."""
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        found = Given.make(tmp_path_factory.mktemp("disks"))
        found.save_model()
    return found


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch)


def commands(given: Given) -> dict[str, list[str]]:
    """What writes, into the current folder."""
    small = ["--workers", "1", "--quiet"]
    size = ["--vocab-size", "300", "--batch-size", "4", "--seq-len", "32", "--precision", "fp32"]
    return {
        "train": [
            *("train", str(given.text), "--model", "itera", "--name", "run", "--tokens", "4K"),
            *(*size, *small),
        ],
        "data": ["data", str(given.text), "--vocab-size", "300"],
        "export": ["export", str(given.model), "--output", "model.gguf"],
        "score": [
            *("score", str(given.lines), "--checkpoint", str(given.file)),
            *("--output", "scored.jsonl"),
        ],
        "score (folder)": [
            *("score", str(given.corpus), "--checkpoint", str(given.file)),
            *("--output", "scored", "--threads", "1"),
        ],
        "compress quantize": [
            *("compress", "quantize", str(given.model), "--type", "q8_0", "--name", "small"),
            *small,
        ],
    }


VERBS = ("train", "data", "export", "score", "score (folder)", "compress quantize")


def run(arguments: list[str], capsys: pytest.CaptureFixture[str], folder: Path) -> tuple[int, str]:
    """The exit code and the messages of a command in a folder."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        code = cli.main(arguments)
    finally:
        os.chdir(before)
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def is_clear(message: str) -> bool:
    """One error with a reason, and no traceback."""
    return message.count("itera: error: ") == 1 and "Traceback" not in message


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "kernels" not in path.parts
    }


@pytest.mark.parametrize("verb", VERBS)
def test_a_full_disk_is_said_and_what_was_there_stays(
    verb: str,
    given: Given,
    small: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where the verb has room, it ends as ever: on the same disk, after room was made."""
    arguments = commands(given)[verb]
    with mounted(tmp_path / "disk", f"size={SMALL_DISK}") as disk:
        if verb == "data":
            monkeypatch.setenv("ITERA_CACHE", str(disk / "cache"))
        mine = disk / "mine.txt"
        mine.write_text("of the user")
        ballast = disk / "ballast"
        with open(ballast, "wb", buffering=0) as file:
            while True:
                try:
                    file.write(bytes(4096))
                except OSError:
                    break
            os.ftruncate(file.fileno(), os.fstat(file.fileno()).st_size - 4096)  # a page is left
        before = content(disk)
        code, message = run(arguments, capsys, disk)
        assert code == 1 and is_clear(message), message
        # `data` compares what it needs with what is free before it begins.
        said = "Make room" if verb == "data" else "No space left on device"
        assert said in message, message
        left = {
            name for name in content(disk).keys() - before.keys() if not name.endswith(".resume")
        }
        # What was scored before the disk was full is kept, to go on with.
        kept = {"scored.jsonl"} if verb == "score" else set()
        if verb == "score (folder)":
            kept = {f"scored/.itera-score/{name}" for name in ("lock", "run.json")}
        assert left <= kept | {"cache/.lock"}, left
        assert mine.read_text() == "of the user"
        ballast.unlink()
        again = [*arguments, "--resume"] if verb == "score" else arguments
        code, message = run(again, capsys, disk)
        assert code == 0, message


@pytest.mark.parametrize("verb", VERBS)
def test_a_disk_that_is_only_read_is_said_before_any_work(
    verb: str,
    given: Given,
    small: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with mounted(tmp_path / "disk", "ro") as disk:
        if verb == "data":
            monkeypatch.setenv("ITERA_CACHE", str(disk / "cache"))
        code, message = run(commands(given)[verb], capsys, disk)
    assert code == 1 and is_clear(message), message
    assert "Read-only file system" in message, message


@pytest.mark.parametrize("verb", VERBS)
def test_a_folder_of_somebody_else_is_said(
    verb: str,
    given: Given,
    small: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with shared_folder() as folder:
        inputs = folder / "inputs"
        readable = _copied(given, inputs)
        target = folder / "closed"
        target.mkdir()
        cache = folder / "cache"
        cache.mkdir()
        (cache / "kernels").symlink_to(Path(os.environ["ITERA_CACHE"]).resolve() / "kernels")
        cache.chmod(0o777)
        monkeypatch.setenv("ITERA_CACHE", str(target / "cache" if verb == "data" else cache))
        target.chmod(0o555)
        with as_other_user():
            code, message = run(commands(readable)[verb], capsys, target)
        assert code == 1 and is_clear(message), message
        assert "Permission denied" in message, message
        assert list(target.iterdir()) == []


def _copied(given: Given, folder: Path) -> Given:
    """The inputs where every user may read them."""
    folder.mkdir()
    shutil.copytree(given.text, folder / "text")
    shutil.copytree(given.model, folder / "model")
    shutil.copytree(given.corpus, folder / "corpus")
    for path in (given.file, given.lines):
        shutil.copy(path, folder)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    paths = (given.text, given.model, given.file, given.lines, given.corpus)
    return Given(*(folder / path.name for path in paths))


def test_a_disk_that_fills_at_any_file_of_a_save_leaves_the_older_one(
    tmp_path: Path, tiny_pair: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every synchronisation of a save fails once."""
    source = tiny_pair["itera_lite_test"]
    model = load_checkpoint(source)
    folder = save_checkpoint(tmp_path / "mine", *model, training_state={"step": 1})
    before = content(folder)
    real, failing = os.fsync, [0, 0]

    def full(descriptor: int) -> None:
        failing[0] += 1
        if failing[0] == failing[1]:
            raise OSError(28, os.strerror(28))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    failures = 0
    for number in range(1, 40):
        failing[:] = [0, number]
        try:
            save_checkpoint(folder, *model, training_state={"step": 2})
        except OSError as error:
            assert re.search(rf"'{folder}' can't be written: No space left", str(error))
            assert content(folder) == before and [p.name for p in tmp_path.iterdir()] == ["mine"]
            failures += 1
            continue
        if failing[0] < number:
            break
        before = content(folder)  # it failed where that doesn't matter: the folder's own entry
    assert failures >= 6


def test_the_last_file_of_a_checkpoint_is_its_config(
    tmp_path: Path, old, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a copy of a folder that isn't finished is no checkpoint."""
    written: list[str] = []
    real = os.replace

    def replace(source, target):
        written.append(Path(target).name)
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    model = random_model(preset("itera", "pico", old.vocab_size))
    save_checkpoint(tmp_path / "mine", model, old, training_state={"step": 1})
    assert written[-2:] == ["config.json", "mine"]
    assert {"model.safetensors", "tokenizer.json", "state.json", "tensors.safetensors"} < {*written}
