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

# public name -> the module that defines it
_PUBLIC = {
    "ModelConfig": "itera_lite.config",
    "LanguageModel": "itera_lite.model",
    "cost": "itera_lite.model.cost",
    "Tokenizer": "itera_lite.data.tokenizer",
    "load_documents": "itera_lite.data.corpus",
    "prepare": "itera_lite.data.prepare",
    "load_checkpoint": "itera_lite.checkpoint.folder",
    "save_checkpoint": "itera_lite.checkpoint.folder",
    "IteraError": "itera_lite.errors",
    "IteraWarning": "itera_lite.errors",
    "UsageError": "itera_lite.errors",
    "ConfigError": "itera_lite.errors",
    "DataError": "itera_lite.errors",
    "TokenizerMismatch": "itera_lite.errors",
    "TextTooSmall": "itera_lite.errors",
    "CheckpointError": "itera_lite.errors",
    "ExportError": "itera_lite.errors",
    "ModelFileError": "itera_lite.errors",
    "OutputError": "itera_lite.errors",
    "TrainingError": "itera_lite.errors",
    "MissingExtra": "itera_lite.errors",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_PUBLIC[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
