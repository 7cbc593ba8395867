"""Stores a model's matrices in 8 or 4 bits: a checkpoint of rounded weights and its GGUF file."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from itera_lite.checkpoint.folder import load_checkpoint, save_checkpoint
from itera_lite.compress.gptq import gptq
from itera_lite.compress.qat import train_rounded
from itera_lite.compress.rounding import Kinds, kinds_of, rounded
from itera_lite.compress.sensitivity import (
    assign,
    calibration,
    groups_of,
    room_above,
    sensitivity,
)
from itera_lite.compress.start import Start, TextOptions, save_untrained
from itera_lite.config import preset_of
from itera_lite.data.prepare import Dataset, prepare
from itera_lite.distill.objective import MIX
from itera_lite.engine import Model
from itera_lite.evaluate.bits import validation_score
from itera_lite.export.gguf import refuse_gpt2, write_gguf
from itera_lite.export.types import SCHEMES
from itera_lite.files import write_json
from itera_lite.machine.provenance import provenance
from itera_lite.train.resume import RunFiles
from itera_lite.train.session import Compute, first_bytes

Type = Literal["q8_0", "q4_0", "mixed"]
Method = Literal["plain", "gptq", "qat"]

WINDOW = 256
CALIBRATION_TOKENS = 65_536  # for gptq; half of it for the sensitivity of each group
LEAST_WINDOWS = 16


@dataclass(frozen=True)
class QuantizeOptions:
    """How to quantise.

    Attributes:
        type: q4_0, q8_0, or mixed: q4_0 with the embedding in q8_0.
        method: plain rounding; gptq, which compensates errors on a calibration text; qat, a short
            training with rounded weights.
        max_bytes: size of the file at most: each matrix gets 8 or 4 bits, whatever ``type`` says.
        teachers: folders of checkpoints that teach in qat's training, with a share of ``mix``.
    """

    type: Type
    method: Method
    max_bytes: int | None = None
    teachers: tuple[Path, ...] = ()
    mix: float = MIX


def usual_method(type: Type, text: TextOptions | None) -> Method:
    """The method where none is asked for: plain for 8 bits, which lose next to nothing."""
    if text is None or type == "q8_0":
        return "plain"
    return "gptq" if text.minutes == 0 else "qat"


def quantize(
    start: Start,
    files: RunFiles,
    compute: Compute,
    options: QuantizeOptions,
    text: TextOptions | None,
) -> dict[str, Any]:
    """Write the model with rounded weights, and the GGUF file inside the checkpoint.

    Args:
        text: to calibrate or train on and to measure with; only plain rounding to a type can do
            without.

    Returns:
        The summary, as it is written.

    Raises:
        ExportError: the model can't be stored so.
        UsageError: ``max_bytes`` is too small, the text is too short, or qat has no budget.
    """
    refuse_gpt2(start.folder, start.model.config)
    kinds: Kinds = {} if options.max_bytes else kinds_of(start.model, SCHEMES[options.type])
    record: dict[str, Any] = {"verb": "quantize", "type": options.type, "method": options.method}
    if text is None:
        model, documents = rounded(start.model, kinds), []
        files.forget()
        save_checkpoint(files.best, model, start.tokenizer)
        summary: dict[str, Any] = {
            "name": files.name,
            "family": model.config.family,
            "preset": preset_of(model.config.to_dict()),
            "config": model.config.to_dict(),
            "provenance": provenance(),
            "compress": record,
        }
    else:
        dataset = prepare(text.data, tokenizer=start.tokenizer, quiet=compute.quiet)
        documents = list(first_bytes(dataset.documents("valid")))
        record["from"] = start.record(start.score(documents))
        if options.max_bytes:
            kinds = _types_within(options.max_bytes, start, files, dataset, record)
        if options.method == "qat":
            summary = train_rounded(
                *(start, dataset, files, kinds, compute, record, text),
                *(options.teachers, options.mix),
            )
            model, _ = load_checkpoint(files.best)
        else:
            if options.method == "plain":
                model = rounded(start.model, kinds)
            else:
                model = gptq(start.model, kinds, _calibration(dataset, CALIBRATION_TOKENS))
            valid = validation_score(model, start.tokenizer, documents)
            summary = save_untrained(model, dataset, files, valid, text, record)
    # In a chosen mix, `auto` finds the type of each matrix again: its rounded weights fit one.
    type = "auto" if options.max_bytes else options.type
    output = files.best / f"model-{options.type}.gguf"
    written = write_gguf(files.best, model, start.tokenizer, type, output)
    record = summary["compress"]
    record["bytes"] = {
        "before": start.file_bytes(kinds_of(start.model, SCHEMES["f32"])),
        "after": written.bytes,
    }
    if documents:
        record["bpb"] = {
            "before": record["from"]["bpb"],
            "after": summary["valid"]["bpb"],
            "before_engine": _exact_engine_bpb(start, documents),
            "after_engine": engine_bpb(output, documents),
        }
    record["bits_per_weight"] = written.bits_per_weight
    record["weights"] = {kind: stored.weights for kind, stored in written.by_type.items()}
    record["file"] = str(output)
    write_json(files.summary, summary)
    return summary


def _types_within(
    max_bytes: int, start: Start, files: RunFiles, dataset: Dataset, record: dict[str, Any]
) -> Kinds:
    """The type of each matrix for a file of at most ``max_bytes``, where 4 bits cost least."""
    groups, fixed = groups_of(start.model)
    room = room_above(groups, start.file_bytes(fixed, files.best), max_bytes)
    windows = _calibration(dataset, CALIBRATION_TOKENS // 2)
    groups = sensitivity(start.model, groups, windows)
    kinds = {**assign(groups, room), **fixed}
    record["max_bytes"] = max_bytes
    record["sensitivity"] = [
        {
            "group": group.name,
            "nats_per_token": group.cost,
            "bytes_saved": group.saved,
            "type": kinds[group.matrices[0]].name,
        }
        for group in groups
    ]
    return kinds


def _calibration(dataset: Dataset, n_tokens: int) -> Tensor:
    return calibration(dataset.tokens("train"), WINDOW, n_tokens, LEAST_WINDOWS)


def _exact_engine_bpb(start: Start, documents: Sequence[bytes]) -> float:
    """Bits per byte of the engine with the weights as they were, in float32."""
    with tempfile.TemporaryDirectory(prefix="itera-") as folder:
        file = Path(folder) / "model.gguf"
        write_gguf(start.folder, start.model, start.tokenizer, "f32", file)
        return engine_bpb(file, documents)


def engine_bpb(file: Path, documents: Sequence[bytes]) -> float:
    """Bits per byte of a file in the native engine, in the windows of `validation_score`."""
    model = Model.load(file)
    window = min(WINDOW, model.context)
    scores = model.score(documents, window=window, threads=torch.get_num_threads())
    nats = sum(score.nats for score in scores)
    return nats / math.log(2) / sum(score.bytes for score in scores)
