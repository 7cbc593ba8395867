"""Locks that one process holds at a time: files that name the process and machine holding them.

A file is locked with flock, which goes with its process, however that ends. On a file system
without flock, as some network drives are, a second file beside it (``NAME.owner``) is the lock: it
can be made only where there is none. Left behind by a process of this machine that has ended, it is
taken over. One of another machine is left alone: whether its process lives can't be seen from here.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from itera_lite.errors import UsageError
from itera_lite.files import has_ended, output_errors, process_space, started_at

_TAKE_OVER = 0.05  # seconds in which two processes that take over one lock notice each other


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file at ``path`` for the length of the block; it names its owner meanwhile.

    Args:
        what: what is locked, in the words that begin the error's message.

    Raises:
        UsageError: another process or thread holds it.
        OutputError: the file can't be written.
    """
    with output_errors(path):
        file, guard = _hold(path, what)
        try:
            os.ftruncate(file, 0)
            os.pwrite(file, _owner().encode("utf-8", "backslashreplace"), 0)
        except OSError:
            _release(path, file, guard)
            raise
    try:
        yield
    finally:
        _release(path, file, guard)


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock at ``path``. Changes nothing."""
    try:
        with open(path, "rb") as file:
            # A shared lock: over NFS an exclusive one needs a file that is open to write.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except OSError:
        return _guard(path).exists() and not _is_left_over(_read(_guard(path)))
    return False


def _hold(path: Path, what: str) -> tuple[int, Path | None]:
    """Lock the file. Gives its descriptor, and the file beside it where flock doesn't work.

    Raises:
        UsageError: another process holds it.
    """
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise _in_use(what, _read(path)) from None
        except OSError:  # a file system without locks
            try:
                return file, _take(_guard(path), what)
            except BaseException:
                os.close(file)
                raise
        try:
            if os.path.samestat(os.fstat(file), os.stat(path)):
                return file, None
        except FileNotFoundError:
            pass
        os.close(file)  # its last holder removed it after it was opened: once more


def _take(guard: Path, what: str) -> Path:
    """Make the file that is the lock where flock doesn't work.

    Raises:
        UsageError: it is there, and its owner may live.
    """
    while True:
        try:
            file = os.open(guard, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            found = _read(guard)
            if not _is_left_over(found):
                advice = (
                    f" If it has ended, remove '{guard}'." if found else f" Its file: '{guard}'."
                )
                raise _in_use(what, found, advice) from None
            with suppress(FileNotFoundError):  # another process takes it over too
                guard.unlink()
            continue
        own = _owner().encode("utf-8", "backslashreplace")
        try:
            try:
                os.write(file, own)
            finally:
                os.close(file)  # which may be where a network drive says that it is full
        except OSError:
            guard.unlink(missing_ok=True)
            raise
        # Of two processes that find a left-over file, the slower one may remove the other's new
        # one. The last one to make it holds it, and each looks whether it is that one.
        time.sleep(_TAKE_OVER)
        if _read(guard) == own.decode():
            return guard
        raise _in_use(what, _read(guard))


def _release(path: Path, file: int, guard: Path | None) -> None:
    for each in (guard, path):
        if each is not None:
            with suppress(OSError):  # such as a folder that may not be written any more
                each.unlink(missing_ok=True)  # while it is held, so it is nobody else's
    os.close(file)


def _guard(path: Path) -> Path:
    return path.with_name(f"{path.name}.owner")


def _owner() -> str:
    """Describe this process in a line for people and a line for `_is_left_over`."""
    pid = os.getpid()
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    command = re.sub(r"\s+", " ", shlex.join(sys.argv))
    words = f"process {pid} on {os.uname().nodename} ({command}), since {since}"
    facts = {"pid": pid, "space": process_space(), "start": started_at(pid)}
    return f"{words}\n{json.dumps(facts)}\n"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _is_left_over(owner: str) -> bool:
    """Whether the process that wrote ``owner`` ran here and has ended."""
    try:
        facts = json.loads(owner.splitlines()[1])
        return bool(
            facts["space"] == process_space() and has_ended(int(facts["pid"]), facts["start"])
        )
    except (IndexError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return False


def _in_use(what: str, owner: str, advice: str = "") -> UsageError:
    lines = owner.splitlines()
    who = lines[0] if lines else "another process"
    return UsageError(
        f"{what} is in use by {who}. Wait until that has ended, or give another --name.{advice}"
    )
