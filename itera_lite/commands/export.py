"""The verb `export`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal, get_args

from itera_lite.errors import UsageError
from itera_lite.export.summary import CSummary, ExportSummary, Format
from itera_lite.files import is_folder, is_special

_FORMATS = (*get_args(Format), "c")


def export(
    checkpoint: Path,
    *,
    format: Format | Literal["c"] | None = None,
    type: Literal["f32", "f16", "bf16", "q8_0", "q4_0", "mixed", "auto"] = "q8_0",
    output: Path | None = None,
    context: int | None = None,
) -> ExportSummary | CSummary:
    """Write a checkpoint as one file for llama.cpp, Ollama and LM Studio.

    Args:
        checkpoint: Folder of the model, as `itera train` writes it. For the format c, a GGUF file
            will do too, which keeps its types.
        format: gguf, which holds the tokenizer too; gguf.gz, the same file compressed, which
            the engine reads as it is, and llama.cpp after gunzip; or c, a C99 file for
            microcontrollers. By default as the output's name ends, else gguf.
        type: How the matrices are stored. mixed is q4_0 with the embedding in q8_0;
            auto takes what holds a quantised checkpoint's weights exactly.
        output: The file; by default model-TYPE.FORMAT inside the checkpoint.
        context: Of the format c: tokens that a text may have, for which memory is taken. By default
            256, or what the model was made for where that is less.
    """
    if format not in (None, *_FORMATS):  # from Python; the command line checks it itself
        raise UsageError(f"format='{format}': expected {', '.join(_FORMATS[:-1])} or c")
    summary: ExportSummary | CSummary
    if format == "c" or (format is None and output is not None and output.suffix == ".c"):
        summary = _export_c(checkpoint, type, output, context)
    else:
        from itera_lite.export.gguf import export_gguf

        if context is not None:
            raise UsageError(
                f"--context {context}: a GGUF file takes no memory. It is for --format c"
            )
        summary = export_gguf(checkpoint, type, output, format)
    # What is written into a pipe may be read from this process's own output.
    piped = output is not None and is_special(output)
    print(summary, file=sys.stderr if piped else sys.stdout)
    return summary


def _export_c(checkpoint: Path, type: str, output: Path | None, context: int | None) -> CSummary:
    if is_folder(checkpoint):
        from itera_lite.export.c.source import export_c

        return export_c(checkpoint, type, output, context)
    from itera_lite.engine.find import find_model, load_model
    from itera_lite.export.c.source import write_c

    if type != "q8_0":  # the default
        raise UsageError(
            f"--type {type}: the file '{checkpoint}' has its types already. Leave --type out, or "
            "export a checkpoint folder"
        )
    load_model(find_model(checkpoint))  # checks all of it
    return write_c(checkpoint, output, context)
