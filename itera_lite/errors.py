"""The errors and warnings of Itera-Lite.

    IteraError                 something failed; the command line exits with 1
    ├── UsageError             wrong use: a bad option or argument; exits with 2
    ├── ConfigError            a model or training configuration that can't be built
    ├── DataError              text or token shards that can't be used
    │   ├── TokenizerMismatch  a model and data that were made with different tokenizers
    │   ├── TextTooSmall       a text that doesn't support a vocabulary of the size asked for
    │   └── Interrupted        work on a text that stopped and can go on
    ├── CheckpointError        a checkpoint folder that is missing, incomplete or damaged
    ├── ModelFileError         a GGUF file, or a saved state, that the engine can't use
    ├── ExportError            weights that can't be stored in the type asked for
    ├── HubError               a model that can't be pushed to the Hugging Face Hub, or pulled
    ├── OutputError            a file or folder that can't be written; an OSError too
    ├── TrainingError          a training that can't go on, such as one whose loss isn't finite
    └── MissingExtra           an optional dependency that isn't installed

A message says what was given, what was expected and what to do. `IteraWarning` is the category of
every warning: something in a file is ignored, so the result may not be the expected one.
"""


class IteraError(Exception):
    """Base of the tree.

    Attributes:
        exit_code: what the command line returns for it.
        is_consequence: another process failed before, and prints the reason.
    """

    exit_code = 1
    is_consequence = False


class UsageError(IteraError):
    """Wrong use: a bad option or argument."""

    exit_code = 2


class ConfigError(IteraError):
    """A model or training configuration that can't be built."""


class DataError(IteraError):
    """Text or token shards that can't be used."""


class TokenizerMismatch(DataError):
    """A model and data that were made with different tokenizers."""


class TextTooSmall(DataError):
    """A text that doesn't support a vocabulary of the size asked for."""


class Interrupted(DataError):
    """Work on a text that stopped and can go on; nothing is wrong with the text."""


class CheckpointError(IteraError):
    """A checkpoint folder that is missing, incomplete or damaged."""


class ModelFileError(IteraError):
    """A GGUF file, or a saved state, that the engine can't use."""


class ExportError(IteraError):
    """Weights that can't be stored in the type asked for."""


class HubError(IteraError):
    """A model that can't be pushed to the Hugging Face Hub, or pulled from it."""


class OutputError(IteraError, OSError):
    """A file or folder that can't be written."""


class TrainingError(IteraError):
    """A training that can't go on."""


class MissingExtra(IteraError):
    """An optional dependency that isn't installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package '{package}', which isn't installed. "
            f"Install it with: pip install 'itera-lite[{extra}]'"
        )


class IteraWarning(UserWarning):
    """Something in a file is ignored; the work continues."""
