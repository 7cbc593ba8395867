"""Finds and loads the model of a verb: the one named, the user's own, or the package's."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from itera_lite.engine.model import Model
from itera_lite.errors import CheckpointError, ModelFileError
from itera_lite.files import in_utf8, named_in_utf8

TRAINED = Path("checkpoints/itera_lite_tiny")  # the default of `itera train`
BOX = Path(__file__).parents[1] / "models"


def find_model(given: str | Path | None = None) -> Path:
    """A checkpoint folder or a GGUF file, compressed or not.

    Args:
        given: what the user named. Without it: `TRAINED` if it is there, else the file
            that comes with the package.

    Raises:
        CheckpointError: there is no model.
    """
    if given is not None:
        path = Path(given)
        expected = "expected a GGUF file, or a checkpoint folder as `itera train` writes it"
        try:
            os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            raise CheckpointError(f"no model at '{path}': {expected}") from None
        except OSError as error:
            raise CheckpointError(f"'{path}' can't be read: {error.strerror}; {expected}") from None
        return path
    if TRAINED.is_dir():
        return TRAINED
    boxed = sorted(BOX.glob("*.gguf*"))
    if not boxed:
        raise CheckpointError(
            f"no model: there is no '{TRAINED}', and none comes with this installation. "
            "Train one with `itera train`, or name one with --checkpoint"
        )
    return boxed[0]


def display_name(path: Path) -> str:
    """The name of a model in the output."""
    if path.parent == BOX:
        return f"{path.name}, which comes with Itera-Lite"
    return str(path if path.name.strip(".") else path.resolve())


def model_name(path: Path) -> str:
    """A model's name: that of its file or folder."""
    return in_utf8(path.resolve().name.removesuffix(".gz").removesuffix(".gguf"))


def load_model(path: Path) -> Model:
    """The engine's model of a GGUF file, or of a checkpoint with its exact weights.

    Only a checkpoint needs PyTorch: it is exported to a temporary F32 file.

    Raises:
        ModelFileError: a file that the engine can't use.
        CheckpointError: a folder that is no checkpoint, or a damaged one.
        ExportError: a checkpoint of a family that the engine doesn't run.
    """
    with engine_file(path) as file:
        return _load_file(file)


@contextmanager
def engine_file(path: Path) -> Iterator[Path]:
    """The file that the engine reads: that of a GGUF file, or a checkpoint's temporary one.

    Raises:
        CheckpointError, ExportError: as `load_model`.
    """
    if not path.is_dir():
        yield path
        return
    _check_readable(path)
    from itera_lite.checkpoint.folder import load_checkpoint
    from itera_lite.export.gguf import check_engine_runs, write_gguf

    model, tokenizer = load_checkpoint(path)
    check_engine_runs(path, model.config)
    with tempfile.TemporaryDirectory(prefix="itera-") as folder:
        yield write_gguf(path, model, tokenizer, "f32", Path(folder) / "model.gguf").path


def _load_file(path: Path) -> Model:
    """The model of a GGUF file.

    Raises:
        ModelFileError: it can't be read or used; for a file of a checkpoint, the message names
            the folder.
    """
    try:
        if path.is_file():  # to open a pipe would wait for its writer; the engine refuses it
            path.open("rb").close()
    except OSError as error:
        raise ModelFileError(f"'{path}' can't be read: {error.strerror or error}") from None
    if path.suffix == ".safetensors" or path.name == "config.json":
        raise ModelFileError(
            f"'{path}' is a part of a checkpoint: name its folder, '{path.parent}'"
        )
    with named_in_utf8(path) as named:
        return Model.load(named)


def _check_readable(folder: Path) -> None:
    """Check that the files of a checkpoint's folder can be opened.

    Raises:
        CheckpointError: they can't, or the folder holds only GGUF files.
    """
    try:
        names = os.listdir(folder)
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            if name in names:
                (folder / name).open("rb").close()
    except OSError as error:
        raise CheckpointError(
            f"'{error.filename or folder}' can't be read: {error.strerror or error}"
        ) from None
    files = sorted(name for name in names if name.endswith((".gguf", ".gguf.gz")))
    if files and "config.json" not in names:
        raise CheckpointError(
            f"'{folder}' is no checkpoint, but holds GGUF files: name one, '{folder / files[0]}'"
        )
