"""Files of other machines, read one at a time: object stores and the like through fsspec.

A file is copied into a folder of ours, read and removed. So no more than a file of each process is
on the disk, and an interrupted connection never lies inside a document.
"""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itera_lite.data.readers import kind_of
from itera_lite.errors import DataError, Interrupted, MissingExtra

# Of an HTTP server's answer, what changes when the file does
_HTTP_VERSIONS = ("ETag", "Content-MD5", "Digest", "Last-Modified")


@dataclass(frozen=True)
class RemoteFile:
    """A file that fsspec can read.

    Attributes:
        url: with its protocol, such as ``s3://bucket/a.jsonl``.
        size: in bytes.
        version: changes when the file does (its etag, time of change and the like); None: nothing
            is known that does.
    """

    url: str
    size: int
    version: str | None

    @contextmanager
    def fetched(self, folder: Path | None) -> Iterator[Path]:
        """A copy in ``folder`` (None: in the system's folder for such), while the block runs.

        Raises:
            Interrupted: it can't be read.
        """
        with tempfile.TemporaryDirectory(prefix="remote-", dir=folder) as own:
            copy = Path(own) / "file"
            system, path = _system(self.url)
            try:
                system.get_file(path, str(copy))
            except Exception as error:  # a protocol raises its own
                raise Interrupted(f"{self.url}: can't be read ({_reason(error)})") from error
            yield copy

    @property
    def in_this_process(self) -> bool:
        """Whether no other process can read the file."""
        return self.url.startswith("memory:")


def is_url(data: str) -> bool:
    """Whether a name begins with a protocol, such as ``s3://``."""
    protocol, found, _ = data.partition("://")
    return bool(found) and protocol.replace("+", "").isalnum()


def list_remote(url: str) -> tuple[list[RemoteFile], str, list[str]]:
    """The files at a URL: (files by name, the URL of their folder with ``/``, what is left out).

    A folder gives the files in it and below it that can be read, a pattern those that match, and
    anything else is a file.

    Raises:
        DataError: it can't be read, or there is none.
        MissingExtra: fsspec isn't installed.
    """
    system, path = _system(url)
    protocol = url.partition("://")[0]
    is_web = protocol in ("http", "https")  # of which a folder can't be told from a file
    try:
        if glob.has_magic(path):
            found = system.glob(path, detail=True)
            folder = path.rsplit("/", 1)[0]
        elif not is_web and system.isdir(path):
            found = system.find(path, detail=True)
            folder = path
        else:
            found = {path: system.info(path)}
            folder = path.rsplit("/", 1)[0]
    except Exception as error:  # a protocol raises its own
        raise DataError(f"{url}: can't be read ({_reason(error)})") from error
    infos = {name: info for name, info in found.items() if info.get("type") != "directory"}
    named = glob.has_magic(path) or path in infos
    hidden = [n for n in infos if any(p.startswith(".") for p in n[len(folder) :].split("/"))]
    chosen = [n for n in sorted(infos) if named or (kind_of(n) and n not in hidden)]
    if not chosen:
        raise DataError(
            f"{url}: found no files"
            + ("" if named else ", or none that can be read (.txt, .md, .jsonl, .csv, .parquet)")
        )
    files = [_file(system.unstrip_protocol(name), infos[name], is_web) for name in chosen]
    others = len(infos) - len(chosen)
    left_out = [f"left out: {others:,} files with other endings, or hidden ones"] if others else []
    return files, system.unstrip_protocol(folder).rstrip("/") + "/", left_out


def _file(url: str, info: dict[str, Any], is_web: bool) -> RemoteFile:
    return RemoteFile(url, info.get("size") or 0, _version(info, is_web))


def _version(info: dict[str, Any], is_web: bool) -> str | None:
    """The fields of a file's description, of which one changes when the file does."""
    if is_web and not any(info.get(field) for field in _HTTP_VERSIONS):
        return None
    return str(sorted((name, str(value)) for name, value in info.items()))


def _system(url: str) -> tuple[Any, str]:
    """(fsspec's file system, the path in it) of a URL."""
    protocol = url.partition("://")[0]
    try:
        import fsspec
        from fsspec.registry import known_implementations
    except ImportError as error:
        raise MissingExtra("fsspec", "remote", f"Reading {url}") from error
    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        known = known_implementations.get(protocol, {})
        package = str(known.get("class", "")).partition(".")[0]
        advice = f"pip install {package}" if package not in ("", "fsspec") else str(error)
        raise DataError(
            f"{url}: reading {protocol}:// needs a package that isn't installed "
            f"({_reason(error)}). Install it: {advice}"
        ) from error
    except ValueError as error:
        raise DataError(
            f"{url}: '{protocol}://' isn't known ({_reason(error)}); expected s3://, gs://, "
            "hf://datasets/, https:// or another protocol of fsspec"
        ) from error
    return system, path


def _reason(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return f"there is no such file: {text}" if isinstance(error, FileNotFoundError) else text
