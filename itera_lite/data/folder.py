"""Lists the text files of a folder, and what else it holds, by the reason to leave it out."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from itera_lite.data.readers import kind_of
from itera_lite.data.repairs import first_few, printable
from itera_lite.files import cache_folder
from itera_lite.records import is_record

# A folder that holds one of these files is a virtual environment, a cache or a build.
_TOOL_FILES = ("pyvenv.cfg", "CACHEDIR.TAG", "CMakeCache.txt")
_TOOL_FOLDERS = ("node_modules", "site-packages", "__pycache__")


@dataclass
class Listing:
    """What a folder holds.

    Attributes:
        files: the files to read, sorted.
        endings: names of files with other endings.
        hidden: hidden folders, and hidden files that would be read otherwise.
        links: links to folders.
        tools: folders of tools, such as virtual environments.
        own: files and folders that Itera-Lite wrote: checkpoints, result files, reports.
        unreadable: files and folders that can't be read, each with the reason.
    """

    files: list[Path] = field(default_factory=list)
    endings: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    tools: list[str] = field(default_factory=list)
    own: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def notes(self) -> list[str]:
        """One sentence for each reason to leave something out."""
        counts = Counter(Path(name).suffix.lower() or "no ending" for name in self.endings)
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in counts.most_common(5))
        reasons = (
            (self.endings, f"files with other endings ({kinds}); give a glob to read them"),
            (self.hidden, "hidden files and folders"),
            (self.links, "links to folders"),
            (self.tools, "folders of tools"),
            (self.own, "files and folders that Itera-Lite wrote"),
            (self.unreadable, "files and folders that can't be read"),
        )
        return [
            f"left out: {len(names):,} {reason}: {first_few(names)}"
            for names, reason in reasons
            if names
        ]


def list_folder(folder: Path) -> Listing:
    """The files and folders in ``folder`` and below it, by what is done with them.

    Raises:
        OSError: the folder itself can't be read.
    """
    listing = Listing()
    os.scandir(folder).close()

    def failed(error: OSError) -> None:
        name = _inside(folder, Path(os.fsdecode(error.filename or folder)))
        listing.unreadable.append(f"{name} ({error.strerror or error})")

    for parent, folders, names in os.walk(folder, onerror=failed):
        below = []
        for name in sorted(folders):
            path = Path(parent, name)
            group = _folder_group(path, listing)
            if group is None:
                below.append(name)
            else:
                group.append(_inside(folder, path))
        folders[:] = below
        for name in sorted(names):
            path = Path(parent, name)
            _file_group(path, folder, listing)
    listing.files.sort()
    return listing


def _folder_group(path: Path, listing: Listing) -> list[str] | None:
    """The list that a folder to leave out belongs to; None for one that is read."""
    if path.name.startswith("."):
        return listing.hidden
    if path.is_symlink():
        return listing.links
    if path.name in _TOOL_FOLDERS or any(os.path.isfile(path / name) for name in _TOOL_FILES):
        return listing.tools
    if _is_checkpoint(path) or path.resolve() == cache_folder().resolve():
        return listing.own
    return None


def _file_group(path: Path, folder: Path, listing: Listing) -> None:
    name = _inside(folder, path)
    if kind_of(path) is None:
        if not path.name.startswith("."):
            listing.endings.append(name)
        return
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        listing.unreadable.append(f"{name} ({error.strerror or error})")
        return
    if path.name.startswith("."):
        listing.hidden.append(name)
    elif not regular:
        listing.unreadable.append(f"{name} (not a regular file)")
    elif not os.access(path, os.R_OK):
        listing.unreadable.append(f"{name} ({os.strerror(errno.EACCES)})")
    elif _is_result(path):
        listing.own.append(name)
    else:
        listing.files.append(path)


def _is_checkpoint(path: Path) -> bool:
    """Whether a folder holds a model or a training state."""
    return os.path.isfile(path / "training_state" / "state.json") or (
        os.path.isfile(path / "config.json") and os.path.isfile(path / "model.safetensors")
    )


def _is_result(path: Path) -> bool:
    """Whether a file is a log, record or report of Itera-Lite, by its first bytes."""
    if path.suffix == ".json":
        return is_record(path)
    begin = b"# Efficiency report\n"
    if path.suffix == ".csv":
        begin = b"step,tokens,seconds,epoch,"
    elif path.name != "efficiency_report.md":
        return False
    try:
        with path.open("rb") as file:
            return file.read(len(begin)) == begin
    except OSError:
        return False


def _inside(folder: Path, path: Path) -> str:
    return printable(path.relative_to(folder).as_posix())
