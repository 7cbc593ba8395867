"""The verb `pull`: a model from the Hugging Face Hub, checked."""

from __future__ import annotations

from pathlib import Path

from itera_lite.hub.client import repository_of, require_package


def pull(repository: str, *, out: Path | None = None, overwrite: bool = False) -> Path:
    """Download a model from the Hugging Face Hub.

    Takes the checkpoint, GGUF files, card and licence; no pickles. Each file is compared with its
    hash on the Hub, and the whole is read as `itera check` does. What was interrupted goes on when
    the command is run again.

    Args:
        repository: OWNER/NAME, or OWNER/NAME:revision: a branch, a tag or a commit.
        out: Folder for the model; by default checkpoints/NAME.
        overwrite: Replace a model of Itera-Lite that lies there.

    Returns:
        The folder.
    """
    require_package("Downloading from the Hub")
    name, revision = repository_of(repository)
    from itera_lite.hub.pull import pull as fetch

    folder = Path("checkpoints", name.partition("/")[2]) if out is None else Path(out)
    commit, found = fetch(name, revision, folder, overwrite=overwrite)
    print(f"{folder}: {name} at commit {commit[:12]}")
    for checked in found:
        print("\n".join(checked.lines()[1:]))
    return folder
