"""The verb `export`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal, get_args

from itera_lite.errors import UsageError
from itera_lite.export.summary import ExportSummary, Format
from itera_lite.files import is_special


def export(
    checkpoint: Path,
    *,
    format: Format | None = None,
    type: Literal["f32", "f16", "bf16", "q8_0", "q4_0", "mixed", "auto"] = "q8_0",
    output: Path | None = None,
) -> ExportSummary:
    """Write a checkpoint as one file for llama.cpp, Ollama and LM Studio.

    Args:
        checkpoint: Folder of the model, as `itera train` writes it.
        format: gguf, which holds the tokenizer too; or gguf.gz, the same file compressed, which
            the engine reads as it is, and llama.cpp after gunzip. By default as the output's name
            ends, else gguf.
        type: How the matrices are stored. mixed is q4_0 with the embedding in q8_0;
            auto takes what holds a quantised checkpoint's weights exactly.
        output: The file; by default model-TYPE.FORMAT inside the checkpoint.
    """
    from itera_lite.export.gguf import export_gguf

    if format not in (None, *get_args(Format)):  # from Python; the command line checks it itself
        raise UsageError(f"format='{format}': expected {' or '.join(get_args(Format))}")
    summary = export_gguf(checkpoint, type, output, format)
    # What is written into a pipe may be read from this process's own output.
    piped = output is not None and is_special(output)
    print(summary, file=sys.stderr if piped else sys.stdout)
    return summary
