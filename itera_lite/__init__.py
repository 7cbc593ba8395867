"""Itera-Lite: tiny language models that anybody can train, shrink and run on a CPU.

    from itera_lite import load_checkpoint, prepare
    from itera_lite.commands.generate import generate
    from itera_lite.commands.train import train

Each verb of the command line is a function (the table is in `itera_lite.cli`).
Importing this package is fast: each public name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from itera_lite.checkpoint.folder import load_checkpoint as load_checkpoint
    from itera_lite.checkpoint.folder import save_checkpoint as save_checkpoint
    from itera_lite.config import ModelConfig as ModelConfig
    from itera_lite.data.corpus import load_documents as load_documents
    from itera_lite.data.prepare import prepare as prepare
    from itera_lite.data.tokenizer import Tokenizer as Tokenizer
    from itera_lite.errors import CheckpointError as CheckpointError
    from itera_lite.errors import ConfigError as ConfigError
    from itera_lite.errors import DataError as DataError
    from itera_lite.errors import ExportError as ExportError
    from itera_lite.errors import HubError as HubError
    from itera_lite.errors import Interrupted as Interrupted
    from itera_lite.errors import IteraError as IteraError
    from itera_lite.errors import IteraWarning as IteraWarning
    from itera_lite.errors import MissingExtra as MissingExtra
    from itera_lite.errors import ModelFileError as ModelFileError
    from itera_lite.errors import OutputError as OutputError
    from itera_lite.errors import TextTooSmall as TextTooSmall
    from itera_lite.errors import TokenizerMismatch as TokenizerMismatch
    from itera_lite.errors import TrainingError as TrainingError
    from itera_lite.errors import UsageError as UsageError
    from itera_lite.model import LanguageModel as LanguageModel
    from itera_lite.model.cost import cost as cost

# module -> the public names that it defines
_PUBLIC = {
    "config": "ModelConfig",
    "model": "LanguageModel",
    "model.cost": "cost",
    "data.tokenizer": "Tokenizer",
    "data.corpus": "load_documents",
    "data.prepare": "prepare",
    "checkpoint.folder": "load_checkpoint save_checkpoint",
    "errors": "IteraError IteraWarning UsageError ConfigError DataError TokenizerMismatch "
    "TextTooSmall Interrupted CheckpointError ExportError ModelFileError HubError OutputError "
    "TrainingError MissingExtra",
}
_MODULES = {name: module for module, names in _PUBLIC.items() for name in names.split()}

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"itera_lite.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
