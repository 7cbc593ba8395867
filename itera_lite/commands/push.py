"""The verb `push`: a checkpoint to the Hugging Face Hub, with its model card."""

from __future__ import annotations

import sys
from pathlib import Path

from itera_lite.errors import UsageError
from itera_lite.hub.client import repository_of, require_package


def push(
    checkpoint: Path,
    repository: str,
    *,
    license: str | None = None,
    language: list[str] | None = None,
    base_model: list[str] | None = None,
    private: bool = False,
    dry_run: bool = False,
    results: Path = Path("results"),
) -> str:
    """Upload a model to the Hugging Face Hub.

    Sends, in one commit, the checkpoint, the GGUF files that lie in it and a model card, which is
    written from the records of the training and of `itera eval`. Never sends training_state. A
    README.md of your own in the folder is taken as the card instead.

    Args:
        checkpoint: Folder of the model; its name is the NAME of the records.
        repository: OWNER/NAME; it is made where there is none.
        license: Of the weights: an identifier of the Hub, such as mit. Needed where the folder has
            no card.
        language: Of the text, such as en; several may be given. By default what is known of a
            named set.
        base_model: The model on the Hub that this one was made from, OWNER/NAME; several may be
            given.
        private: Make a new repository private.
        dry_run: Print the card, list the files, send nothing.
        results: Folder of the records.

    Returns:
        The address of the commit; the card in a dry run.
    """
    require_package("Uploading to the Hub")
    name, revision = repository_of(repository)
    if revision is not None:
        raise UsageError(f"'{repository}': a push makes a new commit; leave out ':{revision}'")
    for base in base_model or ():
        repository_of(base)
    from itera_lite.hub.push import prepare_upload
    from itera_lite.hub.push import push as send

    upload = prepare_upload(
        Path(checkpoint),
        name,
        Path(results),
        license=license,
        languages=tuple(language or ()),
        base_models=tuple(base_model or ()),
    )
    card = "its own README.md" if upload.own_card else "a card from the records"
    print(f"{checkpoint} to {name}, with {card}:", file=sys.stderr)
    for path, given in upload.files.items():
        size = len(given) if isinstance(given, bytes) else given.stat().st_size
        print(f"  {path}: {size:,} bytes", file=sys.stderr)
    if not upload.checked.files:
        print("  no GGUF file: `itera export` writes one into the folder", file=sys.stderr)
    if dry_run:
        print(upload.card)
        return upload.card
    address = send(upload, private=private)
    print(address)
    return address
