"""Following a log: every line once, through each way in which logs are rotated."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itera_lite.data import follow as module
from itera_lite.data.follow import LineSplitter, follow, lines_of, stream_lines
from itera_lite.errors import DataError

Action = Callable[[], object]


class Over(Exception):
    """All actions of a test are done."""


def followed(path: Path, *actions: Action, size: int = 1 << 16) -> tuple[list[bytes], list[str]]:
    """The lines and the notes, where an action follows whenever there is nothing new."""
    left, lines, notes = iter(actions), [], []

    def wait() -> None:
        action = next(left, None)
        if action is None:
            raise Over
        action()

    with pytest.raises(Over):
        for some in follow(path, size, note=notes.append, wait=wait):
            lines += some
    return lines, notes


def append(path: Path, data: bytes) -> Action:
    def act() -> None:
        with path.open("ab") as file:
            file.write(data)

    return act


@given(st.lists(st.binary(max_size=12).map(lambda b: b.replace(b"\1", b"\n")), max_size=12))
def test_lines_are_the_same_however_the_text_is_cut(pieces: list[bytes]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MOST_LINE", 5)
        splitter, found = LineSplitter(), []
        for piece in pieces:
            found += splitter.feed(piece)
        found += splitter.end()
    *whole, last = b"".join(pieces).split(b"\n")
    assert found == [line[:6] for line in [*whole, *([last] if last else [])]]


def test_a_line_without_end_takes_little_memory() -> None:
    splitter = LineSplitter()
    for _ in range(64):
        assert splitter.feed(b"x" * (1 << 20)) == []
    assert len(splitter.end()[0]) == module.MOST_LINE + 1


@pytest.mark.parametrize("size", [3, 1 << 16])
def test_new_lines_of_a_file(size: int, tmp_path: Path) -> None:
    """From its end on, but a line whose beginning was there already is whole."""
    (path := tmp_path / "a.log").write_bytes(b"old\nhalf a ")
    lines, notes = followed(
        path, append(path, b"line\nnext"), append(path, b"\n\nlast\nnot yet"), size=size
    )
    assert (lines, notes) == ([b"half a line", b"next", b"", b"last"], [])


def test_a_file_that_comes_later_is_read_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    lines, notes = followed(path, lambda: None, append(path, b"first\n"))
    assert lines == [b"first"]
    assert notes == [f"{path} isn't there: waiting for it"], "once"


def test_renamed_and_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the writer still adds to the renamed file is read, also after the new one appeared."""
    (path := tmp_path / "a.log").touch()
    old = tmp_path / "a.log.1"
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])

    def later() -> None:
        clock[0] += module.QUIET_SECONDS + 1

    lines, notes = followed(
        path,
        append(path, b"1\n"),
        later,
        lambda: path.rename(old),
        append(old, b"2\n"),
        append(path, b"4\n"),
        append(old, b"3\nno end"),
        append(path, b"5\n"),
        later,
        append(old, b"too late\n"),
        lambda: path.rename(tmp_path / "a.log.2"),
        append(path, b"6\n"),
    )
    assert lines == [b"1", b"2", b"4", b"3", b"5", b"no end", b"6"]
    assert notes == [f"{path} isn't there: waiting for it"] * 2


def test_order_is_kept_where_the_reader_is_behind(tmp_path: Path) -> None:
    """The renamed file is read to its end before the new one."""
    (path := tmp_path / "a.log").touch()

    def rotate() -> None:
        append(path, b"".join(b"%d\n" % i for i in range(50)))()
        path.rename(tmp_path / "a.log.1")
        append(path, b"".join(b"%d\n" % i for i in range(50, 100)))()

    lines, _ = followed(path, rotate, size=16)
    assert list(map(int, lines)) == list(range(100))


def test_truncated_in_place(tmp_path: Path) -> None:
    (path := tmp_path / "a.log").write_bytes(b"long ago\n")
    lines, _ = followed(
        path,
        append(path, b"1\nhalf"),
        lambda: os.truncate(path, 0),
        append(path, b"2\n"),
    )
    assert lines == [b"1", b"half", b"2"]


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the beginning an error; after a rotation it is waited for."""
    with pytest.raises(DataError, match="it is a folder"):
        next(follow(tmp_path, 10, note=print))
    (path := tmp_path / "a.log").touch()
    refused, opened = [True], os.open

    def refuse(name: object, *arguments: int) -> int:
        if name == path and refused[0]:
            raise PermissionError(13, "Permission denied")
        return opened(name, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module.os, "open", refuse)
    with pytest.raises(DataError, match=r"can't be read \(Permission denied\)"):
        next(follow(path, 10, note=print))

    refused[0] = False
    lines, notes = followed(
        path,
        lambda: (path.unlink(), refused.__setitem__(0, True), append(path, b"1\n")()),
        lambda: refused.__setitem__(0, False),
    )
    assert lines == [b"1"]
    assert notes == [f"{path} can't be read (Permission denied): waiting for it"]


def test_every_line_of_a_busy_log_comes_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that rotates under the reader, and notices it late, as loggers do."""
    # On a busy machine the writer may stand still between two lines for longer.
    monkeypatch.setattr(module, "QUIET_SECONDS", 3600.0)
    (path := tmp_path / "a.log").touch()
    total, ready = 20_000, threading.Event()

    def write() -> None:
        ready.wait()
        file = path.open("ab", buffering=0)
        for number in range(total):
            file.write(b"%d\n" % number)
            if number % 3000 == 2500:
                while len(found) < number - 2500:  # each file is seen
                    time.sleep(0.001)
                path.rename(tmp_path / f"a.log.{number}")
                path.touch()
            if number % 3000 == 2600:
                file.close()
                file = path.open("ab", buffering=0)
        file.close()

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    found: list[int] = []
    deadline = time.monotonic() + 600

    def wait() -> None:
        ready.set()
        assert time.monotonic() < deadline, f"{len(found)} of {total} lines"
        time.sleep(0.001)

    for lines in follow(path, 1 << 12, note=lambda _: None, wait=wait):
        found += map(int, lines)
        if len(found) >= total:
            break
    writer.join()
    assert sorted(found) == list(range(total))


def test_streams_are_read_to_their_ends(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"1\n2\n3")
    os.close(writer)
    assert list(stream_lines(reader, 1 << 16)) == [[b"1", b"2"], [b"3"]]
    os.close(reader)

    os.mkfifo(fifo := tmp_path / "fifo")
    thread = threading.Thread(target=lambda: fifo.write_bytes(b"4\n5\n"))
    thread.start()
    assert list(lines_of(fifo, 1 << 16, print)) == [[b"4", b"5"]]
    thread.join()


def test_closed_standard_input_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(DataError, match="standard input is closed"):
        next(lines_of(None, 10, print))
