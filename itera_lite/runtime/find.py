"""Which model a verb uses: the one that is named, the user's own, or the one in the box."""

from __future__ import annotations

import tempfile
from pathlib import Path

from itera_lite.errors import CheckpointError
from itera_lite.runtime.model import Model

TRAINED = Path("checkpoints/itera_lite_tiny")  # what `itera train` writes unless told otherwise
BOX = Path(__file__).parents[1] / "models"


def find_model(given: Path | None = None) -> Path:
    """A checkpoint folder or a GGUF file.

    Args:
        given: what the user named. Without it: `TRAINED` if it is there, else the file
            that comes with the package.

    Raises:
        CheckpointError: there is no model.
    """
    if given is not None:
        path = Path(given)
        if not path.exists():
            raise CheckpointError(
                f"no model at '{path}': expected a GGUF file, or a checkpoint folder as "
                "`itera train` writes it"
            )
        return path
    if TRAINED.is_dir():
        return TRAINED
    boxed = sorted(BOX.glob("*.gguf"))
    if not boxed:
        raise CheckpointError(
            f"no model: there is no '{TRAINED}', and none comes with this installation. "
            "Train one with `itera train`, or name one with --checkpoint"
        )
    return boxed[0]


def shown(path: Path) -> str:
    """How a model is called in the output."""
    return f"{path.name}, which comes with Itera-Lite" if path.parent == BOX else str(path)


def load_model(path: Path) -> Model:
    """The engine with a GGUF file, or with a checkpoint's exact weights.

    Only a checkpoint needs PyTorch: it becomes a temporary F32 file.

    Raises:
        ModelFileError: a file that the engine can't use.
        CheckpointError: a folder that is no checkpoint, or a damaged one.
    """
    if not path.is_dir():
        return Model.load(path)
    from itera_lite.export.gguf import export_gguf

    with tempfile.TemporaryDirectory(prefix="itera-") as folder:
        file = export_gguf(path, "f32", Path(folder) / f"{path.resolve().name}.gguf").path
        return Model.load(file)
