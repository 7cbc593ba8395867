"""What a user has is never lost: names, folders, locks, `--overwrite`, failed writes."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from itera_lite.checkpoint import folder as checkpoint
from itera_lite.checkpoint.folder import is_own, load_checkpoint, save_checkpoint, tidy
from itera_lite.errors import OutputError, UsageError
from itera_lite.files import is_special, replacing, write_json, write_text
from itera_lite.train.log import write_metrics
from itera_lite.train.run_files import RunFiles, checked_name


@pytest.fixture
def model(tiny_pair):
    return load_checkpoint(tiny_pair["itera_lite_test"])


def files(folder: Path, name: str = "mine") -> RunFiles:
    return RunFiles(name, folder / "c", folder / "r")


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../my_texts", "a/b", "/abs", "-x", ".hidden", "a\0b", "a\nb", "x" * 201],
)
def test_a_name_is_one_component_of_a_path(name):
    with pytest.raises(UsageError, match="--name"):
        checked_name(name)


def test_a_name_never_is_the_folder_that_another_run_goes_on_from():
    with pytest.raises(UsageError, match="'-last' at the end"):
        checked_name("mine-last")
    assert checked_name("mine-lasting") == "mine-lasting"


@pytest.mark.parametrize("suffix", ["", "-last"])
def test_a_folder_of_the_users_is_never_taken(tmp_path, suffix):
    notes = tmp_path / "c" / f"mine{suffix}" / "notes.txt"
    write_text(notes, "mine")
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with (
            pytest.raises(UsageError, match=r"didn't write: it holds notes\.txt"),
            files(tmp_path).claimed(**options),
        ):
            pass
    assert notes.read_text() == "mine"
    assert not (tmp_path / "r").exists()


def test_a_file_of_that_name_is_never_taken(tmp_path):
    write_text(tmp_path / "c" / "mine", "text")
    with pytest.raises(UsageError, match="is a file"), files(tmp_path).claimed(overwrite=True):
        pass
    assert (tmp_path / "c" / "mine").read_text() == "text"


def test_a_model_of_another_program_is_never_taken(tmp_path):
    write_text(tmp_path / "c" / "mine" / "config.json", '{"model_type": "llama"}')
    with (
        pytest.raises(UsageError, match="Itera-Lite didn't write"),
        files(tmp_path).claimed(overwrite=True),
    ):
        pass


def test_a_model_is_replaced_only_when_asked(tmp_path, model):
    mine = files(tmp_path)
    save_checkpoint(mine.best, *model)
    write_json(mine.summary, {"name": "mine", "valid": {"bpb": 1.25}})
    with (
        pytest.raises(UsageError, match=r"1\.2500 bits per byte.*--overwrite replaces it"),
        mine.claimed(),
    ):
        pass
    with pytest.raises(UsageError, match="nothing to go on from"), mine.claimed(resume=True):
        pass
    with mine.claimed(overwrite=True):
        pass
    assert is_own(mine.best)


def test_resume_and_overwrite_exclude_each_other(tmp_path):
    with (
        pytest.raises(UsageError, match="give one of them"),
        files(tmp_path).claimed(resume=True, overwrite=True),
    ):
        pass


def test_what_lies_beside_a_model_stays_there(tmp_path, model):
    folder = save_checkpoint(tmp_path / "mine", *model)
    for name in ("notes.txt", "plots/loss.png", "training_state/mine.txt", "other.gguf"):
        write_text(folder / name, name)
    stale = folder / "model-q8_0.gguf"
    write_text(stale, "of the model before")
    for _ in range(2):
        save_checkpoint(folder, *model, training_state={"step": 1})
    for name in ("notes.txt", "plots/loss.png", "training_state/mine.txt", "other.gguf"):
        assert (folder / name).read_text() == name
    assert not stale.exists(), "a file made from the model that is replaced goes with it"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    load_checkpoint(folder)


@pytest.mark.parametrize("lost", [False, True])
def test_a_save_that_was_cut_off_loses_nothing(tmp_path, model, lost):
    folder = save_checkpoint(tmp_path / "mine", *model)
    write_text(folder / "notes.txt", "mine")
    folder.rename(tmp_path / ".mine.old")
    if not lost:
        save_checkpoint(tmp_path / "new", *model).rename(folder)
    load_checkpoint(folder)
    assert (folder / "notes.txt").read_text() == "mine"
    assert not (tmp_path / ".mine.old").exists()


def test_a_save_that_was_cut_off_while_it_removed_the_old_one_is_finished(tmp_path, model):
    folder = save_checkpoint(tmp_path / "mine", *model)
    old = tmp_path / ".mine.old"
    save_checkpoint(old, *model)
    (old / "model.safetensors").unlink()
    tidy(folder)
    assert not old.exists() and is_own(folder)


def test_a_link_stays_a_link(tmp_path, model):
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "mine"
    link.symlink_to(tmp_path / "elsewhere")
    for _ in range(2):
        save_checkpoint(link, *model)
    assert link.is_symlink()
    load_checkpoint(tmp_path / "elsewhere")
    file = tmp_path / "result.json"
    write_text(tmp_path / "target.json", "old")
    file.symlink_to(tmp_path / "target.json")
    write_json(file, {"a": 1})
    assert file.is_symlink() and json.loads((tmp_path / "target.json").read_text()) == {"a": 1}


def test_a_dangling_link_is_named(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "mine").symlink_to(tmp_path / "gone")
    with pytest.raises(UsageError, match="which isn't there"), files(tmp_path).claimed():
        pass


def test_a_saved_folder_of_the_users_is_not_replaced(tmp_path, model):
    write_text(tmp_path / "texts" / "a.txt", "text")
    with pytest.raises(OutputError, match="wasn't written by Itera-Lite"):
        save_checkpoint(tmp_path / "texts", *model)
    assert (tmp_path / "texts" / "a.txt").read_text() == "text"


def test_two_runs_of_one_name_exclude_each_other(tmp_path):
    code = (
        "import sys, pathlib; from itera_lite.train.run_files import RunFiles\n"
        "with RunFiles('mine', pathlib.Path('c'), pathlib.Path('r')).claimed():\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with (
            pytest.raises(UsageError, match=f"in use by process {other.pid} on"),
            files(tmp_path).claimed(overwrite=True),
        ):
            pass
        with files(tmp_path, "other").claimed():
            pass
        other.kill()
    with files(tmp_path).claimed():  # a lock goes with its process
        pass
    assert not list(tmp_path.rglob(".*.lock"))


def test_two_threads_of_one_process_exclude_each_other(tmp_path):
    failures = []

    def claim():
        try:
            with files(tmp_path).claimed():
                pass
        except UsageError as error:
            failures.append(str(error))

    with files(tmp_path).claimed():
        thread = threading.Thread(target=claim)
        thread.start()
        thread.join()
    assert len(failures) == 1 and "in use by" in failures[0]


def test_discarding_a_run_leaves_what_is_not_its_own(tmp_path, model):
    mine = files(tmp_path)
    save_checkpoint(mine.best, *model)
    save_checkpoint(mine.last, *model, training_state={})
    write_text(mine.best / "notes.txt", "mine")
    write_text(mine.summary, "{}")
    mine.discard()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["c", "mine", "notes.txt", "r"]


def test_folders_that_cannot_be_written_are_named_first(tmp_path):
    write_text(tmp_path / "r", "a file")
    with pytest.raises(UsageError, match="is no folder"), files(tmp_path).claimed():
        pass
    with (
        pytest.raises(OutputError, match="nothing can be written to the folder '/proc/x"),
        RunFiles("mine", Path("/proc/x"), tmp_path / "r2").claimed(),
    ):
        pass


FULL = """
import resource, signal, sys
from pathlib import Path
from itera_lite.checkpoint.folder import load_checkpoint, save_checkpoint
from itera_lite.errors import OutputError
model = load_checkpoint(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    save_checkpoint(sys.argv[2], *model, training_state={"step": 2})
except OutputError as error:
    print(error)
"""


def test_a_write_that_fails_leaves_what_was_there_and_nothing_of_ours(tmp_path, model, tiny_pair):
    """A limit on the size of files stands for a full disk: it fails in the same place."""
    folder = save_checkpoint(tmp_path / "mine", *model, training_state={"step": 1})
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    source = str(tiny_pair["itera_lite_test"])
    done = subprocess.run(
        [sys.executable, "-c", FULL, source, str(folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"'{folder}' can't be written: " in done.stdout and "large" in done.stdout
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_file_that_fails_is_named_with_its_reason(tmp_path):
    with pytest.raises(OutputError, match=r"'/dev/full' can't be written: No space left"):
        write_text("/dev/full", "text")
    with pytest.raises(OutputError, match=r"can't be written: "):
        write_text(tmp_path / ("x" * 300), "text")
    with (
        pytest.raises(OutputError, match="can't be written: No space left"),
        replacing(tmp_path / "a.gguf") as temporary,
    ):
        temporary.write_bytes(b"half")
        raise OSError("104448 requested and 44800 written")  # as numpy says it
    assert not list(tmp_path.iterdir())


def test_what_is_no_regular_file_is_written_into(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    write_text(pipe, "through")
    reader.join(timeout=60)
    assert got == [b"through"] and pipe.is_fifo()
    write_text("/dev/null", "gone")
    assert Path("/dev/null").is_char_device()


def test_a_file_in_shared_memory_is_replaced_as_on_a_disk():
    """All else in /dev is written into."""
    assert not is_special(Path("/dev/shm/itera-there-is-none.json"))
    for path in ("/dev/itera-there-is-none", "/dev/shm/../null", "/dev/stdout", "/proc/self/fd/1"):
        assert is_special(Path(path))


def test_saved_files_follow_the_umask(tmp_path, model):
    before = os.umask(0o022)
    try:
        folder = save_checkpoint(tmp_path / "mine", *model, training_state={})
    finally:
        os.umask(before)
    modes = {p.name: oct(p.stat().st_mode & 0o777) for p in folder.rglob("*") if p.is_file()}
    assert set(modes.values()) == {"0o644"}, modes


def test_a_reader_waits_for_a_save_that_is_going_on(tmp_path, model, monkeypatch):
    """Between the two renames of a save the folder is away for a moment."""
    mine = files(tmp_path)
    save_checkpoint(mine.best, *model)
    with mine.claimed(overwrite=True):
        old = mine.best.with_name(".mine.old")
        mine.best.rename(old)
        waits = threading.Event()
        monkeypatch.setattr(checkpoint.time, "sleep", lambda _: waits.set() or writer.join())

        def save():
            waits.wait()
            save_checkpoint(tmp_path / "new", *model).rename(mine.best)

        writer = threading.Thread(target=save, daemon=True)
        writer.start()
        load_checkpoint(mine.best)
        assert waits.is_set() and not writer.is_alive()
        assert old.exists(), "the writer's own folder is left to it"
    assert checkpoint.is_own(mine.best)


@pytest.mark.parametrize("suffix", ["summary.json", "metrics.csv"])
@pytest.mark.parametrize("content", ["my notes", '{"name": "another"}', '[{"name": "mine"}]'])
def test_a_file_of_the_users_is_never_taken_for_a_result(tmp_path, suffix, content):
    write_text(path := tmp_path / "r" / f"mine_{suffix}", content)
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with (
            pytest.raises(UsageError, match="holds something that Itera-Lite didn't write"),
            files(tmp_path).claimed(**options),
        ):
            pass
    assert path.read_text() == content


def test_the_results_of_a_model_elsewhere_are_replaced_only_when_asked(tmp_path, model):
    first = RunFiles("mine", tmp_path / "first", tmp_path / "r")
    save_checkpoint(first.best, *model)
    write_json(first.summary, {"name": "mine"})
    write_metrics(first.metrics, [{"step": 1}])
    with pytest.raises(UsageError, match="result of another run"), files(tmp_path).claimed():
        pass
    assert json.loads(first.summary.read_text()) == {"name": "mine"}
    with files(tmp_path).claimed(overwrite=True):
        pass


@pytest.mark.parametrize("written", ["caf\ufffd", "caf\udce9"])  # by this version, by earlier ones
def test_results_of_a_name_that_isnt_utf8_are_known_again(tmp_path, written):
    mine = files(tmp_path, "caf\udce9")
    write_json(mine.summary, {"model": {"name": written}})
    with pytest.raises(UsageError, match="is the result of another run"), mine.claimed():
        pass
    with mine.claimed(overwrite=True):
        pass


def test_what_describes_a_replaced_model_goes(tmp_path, model):
    mine = files(tmp_path)
    for folder in (mine.best, mine.last):
        save_checkpoint(folder, *model, training_state={})
    write_text(mine.last / "notes.txt", "mine")
    write_json(mine.summary, {"name": "mine"})
    mine.forget()
    assert is_own(mine.best) and not mine.resumable and not mine.summary.exists()
    assert (mine.last / "notes.txt").read_text() == "mine"


def test_a_folder_that_one_is_in_is_not_replaced(tmp_path, model, monkeypatch):
    mine = files(tmp_path)
    save_checkpoint(mine.best, *model)
    monkeypatch.chdir(mine.best)
    with (
        pytest.raises(UsageError, match="is the current folder"),
        RunFiles("mine", Path(".."), Path("../../r")).claimed(overwrite=True),
    ):
        pass


def test_a_name_may_begin_with_any_letter():
    assert checked_name("übung") == "übung" and checked_name("日本語") == "日本語"


def test_who_asks_whether_a_run_can_go_on_leaves_its_save_alone(tmp_path, model, monkeypatch):
    """Between the two renames of a save the folder must stay away until the run puts it there."""
    mine = files(tmp_path)
    monkeypatch.setattr(checkpoint.time, "sleep", lambda _: None)
    with mine.claimed():
        save_checkpoint(mine.last, *model, training_state={})
        os.replace(mine.last, old := mine.last.with_name(".mine-last.old"))
        assert not mine.resumable and old.is_dir()
    assert mine.resumable and not old.is_dir()


def test_a_second_demo_says_how_to_replace_the_first(tmp_path, model):
    """In its own options: it has no --name and no --resume."""
    from itera_lite.commands.demo import demo

    save_checkpoint(tmp_path / "c" / "transformer_tiny", *model)
    folders = {"checkpoints": tmp_path / "c", "results": tmp_path / "r", "reports": tmp_path / "p"}
    with pytest.raises(UsageError, match="itera demo --overwrite replaces it, --checkpoints"):
        demo(minutes=1, **folders)
    assert not (tmp_path / "r").exists()
