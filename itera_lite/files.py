"""Reading and writing files, with errors that say what failed and why.

A file is written whole or not at all: a temporary file, then a rename. A temporary file that a
killed process has left goes when the same file is written again. A file that is missing, one that
is damaged and one that this user may not read are told apart: where a folder may not be searched,
`exists` and its like raise PermissionError, for which some versions of Python's `Path.exists` say
that the file is missing.
"""

from __future__ import annotations

import binascii
import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from itera_lite.errors import IteraError, OutputError, UsageError

GZIP = ".gz"  # ends the name of a compressed file
TEMPORARY = r"\.[0-9a-f]{8}-(\d+)-(\d+)\.itera\.tmp"  # name of a temporary file
_READ = 1 << 20  # bytes that are hashed at a time
_SURROGATES = re.compile("[\ud800-\udfff]")


def gzipped(data: bytes) -> bytes:
    """The data in gzip's format, in as few bytes as deflate allows; without name or time, so the
    same data give the same bytes."""
    import deflate

    return bytes(deflate.gzip_compress(data, 12))  # beyond zlib's 9: up to 6 % fewer bytes


def begins_with(path: str | Path, n: int) -> bytes:
    """The first bytes of a file, or of what it holds in gzip's format."""
    with open(path, "rb") as file:
        begins = file.read(max(n, 2))
        if begins[:2] != b"\x1f\x8b":
            return begins[:n]
        import gzip  # 4 ms of every start otherwise
        import zlib

        file.seek(0)
        try:
            return gzip.GzipFile(fileobj=file).read(n)
        except (EOFError, gzip.BadGzipFile, zlib.error):
            return begins[:n]


def expand_home(path: str) -> str:
    """The path with the home folder for a leading ``~``.

    Raises:
        UsageError: the home folder isn't known.
    """
    expanded = os.path.expanduser(path)
    if path.startswith("~") and expanded == path and not os.path.exists(path):
        raise UsageError(
            f"'{path}': the home folder isn't known. Write the path without ~, or set HOME"
        )
    return expanded


def folder_name(folder: str | Path) -> str:
    """The name of a folder, also for ``.``, ``..`` and ``/``.

    As `in_utf8` has it, because names are written into files.
    """
    return in_utf8(Path(folder).resolve().name or "root")


def in_utf8(text: str) -> str:
    """The text with U+FFFD for each byte of a name or an argument that isn't UTF-8, which Python
    holds as a surrogate; no file or answer in UTF-8 can hold that."""
    return _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", text)


@contextmanager
def named_in_utf8(path: Path) -> Iterator[Path]:
    """The path, or a link to it with a name in UTF-8, which the engine and safetensors need."""
    try:
        os.fspath(path).encode("utf-8")
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory(prefix="itera-") as folder:
            link = Path(folder) / folder_name(path)
            link.symlink_to(path.resolve())
            yield link
    else:
        yield path


def cache_folder() -> Path:
    """$ITERA_CACHE, else ~/.cache/itera-lite.

    Raises:
        UsageError: ITERA_CACHE isn't set and there is no home folder.
    """
    given = os.environ.get("ITERA_CACHE") or "~/.cache/itera-lite"
    folder = os.path.expanduser(given)
    if folder == given and given.startswith("~"):
        raise UsageError(
            "there is no home folder for the cache: set ITERA_CACHE to a folder, or HOME"
        )
    return Path(folder)


def exists(path: str | Path) -> bool:
    """Whether there is something at ``path``."""
    return _mode(path) is not None


def is_file(path: str | Path) -> bool:
    """Whether ``path`` is a regular file, or a link to one."""
    mode = _mode(path)
    return mode is not None and stat.S_ISREG(mode)


def is_folder(path: str | Path) -> bool:
    """Whether ``path`` is a folder, or a link to one."""
    mode = _mode(path)
    return mode is not None and stat.S_ISDIR(mode)


def check_output_file(path: Path) -> None:
    """Raises `UsageError` if ``path`` is a folder, or its own folder doesn't exist."""
    if is_folder(path):
        raise UsageError(f"the output '{path}' is a folder: expected the name of a file")
    if not is_folder(path.parent):
        raise UsageError(f"there is no folder '{path.parent}' for the output: make it first")


def _mode(path: str | Path) -> int | None:
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def read_json(path: str | Path, error: type[IteraError]) -> Any:
    """The value in a JSON file.

    Args:
        error: raised if the file can't be read; the message has the path and the reason.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as reason:
        raise error(f"'{path}' can't be read: {reason.strerror}") from None
    except RecursionError:
        raise error(f"'{path}' is damaged: its brackets are nested too deeply") from None
    except ValueError as reason:  # not JSON, not UTF-8, a number of thousands of digits
        raise error(f"'{path}' is damaged: {reason}") from None


def read_object(path: str | Path, error: type[IteraError]) -> dict[str, Any]:
    """The object in a JSON file; another value is an error too. Arguments as in `read_json`."""
    value = read_json(path, error)
    if not isinstance(value, dict):
        raise error(
            f"'{path}' is damaged: it holds a {type(value).__name__}, expected an object {{...}}"
        )
    return value


def check_writable(path: str | Path) -> None:
    """Check before long work that its result can be written; changes nothing.

    Raises:
        OutputError: it can't, with the reason.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        existing = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
        with tempfile.TemporaryFile(dir=existing) as probe:
            probe.write(b"\0")
    except OSError as error:
        raise OutputError(
            f"the result '{path}' can't be written: {error.strerror or error}. Nothing was "
            "computed yet; name another folder"
        ) from error


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path to write to, which replaces ``path`` if the block ends without an error.

    A symbolic link stays one: the file that it points to is replaced. A device or a pipe is
    written into.

    Raises:
        OutputError: the file can't be written; no temporary file is left.
    """
    path = Path(path)
    with output_errors(path):
        special = is_special(path)
        target = Path(os.path.realpath(path))
        folder = Path(tempfile.gettempdir()) if special else target.parent
        temporary = _temporary(folder, target.name)
        try:
            yield temporary
            if special:
                with open(temporary, "rb") as source, open(path, "wb") as sink:
                    shutil.copyfileobj(source, sink)
                return
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, target)
            sync_folder(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _temporary(folder: Path, name: str) -> Path:
    """Where the new content of the file ``name`` is written first, as this thread's own file.

    Those that killed processes of this machine have left of the same file are removed.
    """
    place = f"{process_space()}/{name}".encode("utf-8", "surrogateescape")
    begins = f".{binascii.crc32(place):08x}-"
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            found = entry.name.startswith(begins) and re.fullmatch(TEMPORARY, entry.name)
            if found and _is_left_over(int(found[1]), int(found[2])):
                with suppress(OSError):
                    os.unlink(entry.path)
    return folder / f"{begins}{os.getpid()}-{threading.get_ident()}.itera.tmp"


def _is_left_over(pid: int, thread: int) -> bool:
    """Whether nobody writes a temporary file any more. A process in a container often has the
    number of the killed one before it."""
    if pid == os.getpid():
        return all(each.ident != thread for each in threading.enumerate())
    return has_ended(pid)


def process_space() -> str:
    """Where numbers of processes mean the same processes: the machine and its container."""
    try:
        space = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        space = 0
    return f"{os.uname().nodename}/{space}"


def has_ended(pid: int, start: str | None = None) -> bool:
    """Whether a process of this `process_space` has ended.

    Args:
        start: its `started_at`, for numbers are used again.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OverflowError:
        return True
    except OSError:  # it is another user's
        pass
    return start is not None and started_at(pid) not in (None, start)


def started_at(pid: int) -> str | None:
    """When a process was started, in ticks since the machine was; None where that isn't known."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[19].decode()
    except (OSError, IndexError):
        return None


def sha256_of(path: str | Path, start: int = 0) -> str:
    """The SHA-256 of a file's content from the byte ``start`` on, in hexadecimal digits."""
    digest, part = hashlib.sha256(), memoryview(bytearray(_READ))
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        while n := file.readinto(part):
            digest.update(part[:n])
    return digest.hexdigest()


def is_special(path: Path) -> bool:
    """Whether ``path`` is written into instead of replaced: a device, a pipe, a descriptor."""
    where = os.path.abspath(path)
    if where.startswith(("/dev/", "/proc/")) and not where.startswith("/dev/shm/"):
        return True
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


@contextmanager
def output_errors(path: str | Path) -> Iterator[None]:
    """Turns an `OSError` of the block into an `OutputError` that names ``path`` and the reason."""
    try:
        yield
    except (OutputError, BrokenPipeError):
        raise
    except OSError as error:
        raise OutputError(f"'{path}' can't be written: {reason_of(error)}") from error


def reason_of(error: BaseException) -> str:
    """The reason of a failed write in a few words, from an error of the system or of a library."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error)
    if "requested and" in text:  # NumPy's message of a full disk
        return os.strerror(errno.ENOSPC)
    return text.splitlines()[0] if text else type(error).__name__


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power failure, if the file system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Write ``data`` to ``path`` atomically, making its folder where needed."""
    path = Path(path)
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    return path


def write_text(path: str | Path, text: str) -> Path:
    """Write ``text`` as UTF-8, atomically."""
    return write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: str | Path, value: Any) -> Path:
    """Write ``value`` as indented JSON, atomically. NaN and infinity are refused."""
    return write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
