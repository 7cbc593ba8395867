"""The verb `compress quantize`: a model's matrices in 8 or 4 bits, as GGUF stores them."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from gguf import GGMLQuantizationType as GGML
from torch import Tensor

from itera_lite.checkpoint.folder import save_checkpoint
from itera_lite.compress.gptq import gptq
from itera_lite.compress.qat import Wish, train_rounded
from itera_lite.compress.rounding import Kinds, kinds_of, rounded
from itera_lite.compress.sensitivity import (
    assign,
    calibration,
    groups_of,
    room_above,
    sensitivity,
)
from itera_lite.compress.start import Start, check_numbers, save_untrained
from itera_lite.config import preset_of
from itera_lite.data.prepare import Dataset, prepare
from itera_lite.distill.objective import MIX
from itera_lite.engine import Model
from itera_lite.errors import UsageError
from itera_lite.evaluate.bits import first_bytes, validation_score
from itera_lite.export.gguf import check_exportable, export_gguf, header_bytes
from itera_lite.export.tensors import gguf_tensors
from itera_lite.export.types import SCHEMES, is_matrix, packed_bytes
from itera_lite.files import write_json
from itera_lite.machine.provenance import provenance
from itera_lite.quantities import bytes_of
from itera_lite.train.compute import Compute
from itera_lite.train.run_files import RunFiles, refuse_input

Type = Literal["q8_0", "q4_0", "mixed"]
Method = Literal["auto", "plain", "gptq", "qat"]

WINDOW = 256
CALIBRATION_TOKENS = 65_536  # for gptq; half of it for the sensitivity of each group
LEAST_WINDOWS = 16


def quantize(
    checkpoint: Path,
    *,
    type: Type | None = None,
    method: Method = "auto",
    data: str | None = None,
    max_bytes: str | None = None,
    minutes: float | None = None,
    tokens: str | None = None,
    teacher: list[Path] | None = None,
    mix: float = MIX,
    seed: int = 0,
    name: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    threads: int | None = None,
    quiet: bool = False,
    checkpoints: Path = Path("checkpoints"),
    results: Path = Path("results"),
) -> dict[str, Any]:
    """Store a model in 8 or 4 bits, with as little loss as the time allows.

    Writes a checkpoint with the rounded weights and, inside it, the GGUF file. The checkpoint
    given stays as it is.

    Args:
        checkpoint: Folder of the model.
        type: q4_0 by default; mixed is q4_0 with the embedding in q8_0.
        method: plain rounding; gptq, which compensates errors on a calibration text; qat, a short
            training with rounded weights; auto takes qat for 4 bits where there is text (gptq with
            --minutes 0), else plain.
        data: Set or path to calibrate or train on, and to measure with. Plain needs none.
        max_bytes: Size of the file at most, such as 1MB: each matrix gets 8 or 4 bits so that the
            loss is least.
        minutes: Length of qat's training; 3 by default.
        tokens: Length of qat's training in tokens instead, such as 2M.
        teacher: Checkpoint that teaches in qat's training, as in `compress distill`; several are
            averaged.
        mix: Share of the teacher in the loss; the rest is the text itself.
        seed: Of the order of the text.
        name: Name of the result; by default the checkpoint's with the type.
        resume: Go on where the run of this name was stopped.
        overwrite: Replace a model of this name, if there is one.
        threads: Processor threads; by default one a core.
        quiet: No progress bar.
        checkpoints: Folder of the checkpoints.
        results: Folder of the result files.

    Returns:
        The summary. Under ``compress`` it has bytes and bits per byte before and after, these as
        PyTorch and as the native engine score the validation text.
    """
    check_numbers(seed=seed, threads=threads, minutes=minutes, tokens=tokens, mix=mix)
    if max_bytes is not None and type not in (None, "mixed"):
        raise UsageError(f"--max-bytes chooses the type of each matrix: leave out --type {type}")
    limit = None if max_bytes is None else bytes_of("max-bytes", max_bytes)
    type = type or ("q4_0" if max_bytes is None else "mixed")
    chosen = _method(type, method, data is not None, minutes)
    if teacher and chosen != "qat":
        raise UsageError(f"--teacher is for --method qat: nothing is trained by {chosen}")
    for wanted, needed in (
        (f"--method {chosen}", chosen != "plain"),
        ("--max-bytes", limit is not None),
        ("--tokens or --minutes", minutes is not None or tokens is not None),
    ):
        if needed and data is None:
            raise UsageError(f"{wanted} needs text: name a set or a path with --data")
    start = Start.load(checkpoint)
    check_exportable(start.folder, start.model.config)
    with start.claimed(
        *(name, f"{start.name}_{type}", checkpoints, results), resume=resume, overwrite=overwrite
    ) as files:
        for folder in teacher or ():
            refuse_input(files, Path(folder))
        kinds: Kinds = kinds_of(start.model, SCHEMES[type]) if limit is None else {}
        compute = Compute.prepare(threads=threads, quiet=quiet)
        record: dict[str, Any] = {"verb": "quantize", "type": type, "method": chosen}
        notes = {"compress": record}
        documents: list[bytes] = []
        if data is None:
            files.forget()
            save_checkpoint(files.best, rounded(start.model, kinds), start.tokenizer)
            summary: dict[str, Any] = {
                "name": files.name,
                "family": start.model.config.family,
                "preset": preset_of(start.model.config.to_dict()),
                "config": start.model.config.to_dict(),
                "provenance": provenance(),
                **notes,
            }
        else:
            dataset = prepare(data, tokenizer=start.tokenizer, quiet=quiet)
            documents = list(first_bytes(dataset.documents("valid")))
            record["from"] = start.record(start.score(documents))
            if limit is not None:
                kinds = _fit(start, files, limit, dataset, record)
            if chosen == "qat":
                summary = train_rounded(
                    *(start, dataset, files, kinds, compute, record),
                    Wish(data, minutes, tokens, tuple(teacher or ()), mix, seed, resume),
                )
            else:
                made = (
                    rounded(start.model, kinds)
                    if chosen == "plain"
                    else gptq(start.model, kinds, _calibrate(dataset, CALIBRATION_TOKENS))
                )
                valid = validation_score(made, start.tokenizer, documents)
                summary = save_untrained(
                    made, dataset, files, valid, source=data, seed=seed, notes=notes
                )
        # In a chosen mix, `auto` finds the type of each matrix again: its rounded weights fit one.
        _finish(start, files, type if limit is None else "auto", summary, documents, quiet)
        return summary


def _method(type: Type, method: Method, has_text: bool, minutes: float | None) -> Method:
    """What `auto` stands for: 8 bits lose nothing that could be won back."""
    if method != "auto":
        return method
    if not has_text or type == "q8_0":
        return "plain"
    return "gptq" if minutes == 0 else "qat"


def _calibrate(dataset: Dataset, n_tokens: int) -> Tensor:
    return calibration(dataset.tokens("train"), WINDOW, n_tokens, LEAST_WINDOWS)


def _fit(
    start: Start, files: RunFiles, limit: int, dataset: Dataset, record: dict[str, Any]
) -> Kinds:
    """The type of each matrix for a file of at most ``limit`` bytes."""
    groups, fixed = groups_of(start.model)
    room = room_above(groups, file_bytes(start, files.best, fixed), limit)
    groups = sensitivity(start.model, groups, _calibrate(dataset, CALIBRATION_TOKENS // 2))
    kinds = {**assign(groups, room), **fixed}
    record["max_bytes"] = limit
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


def file_bytes(start: Start, folder: Path, kinds: Kinds) -> int:
    """Exact size of the model's GGUF file. Matrices that ``kinds`` lacks are left out.

    Args:
        folder: of the checkpoint that the file will belong to; its name stands in the file.
    """
    total = header_bytes(folder, start.model, start.tokenizer)
    for name, weights in gguf_tensors(start.model):
        kind = kinds.get(name) if is_matrix(name) else GGML.F32
        total += 0 if kind is None else packed_bytes(weights.shape, kind)
    return total


def _finish(
    start: Start,
    files: RunFiles,
    type: str,
    summary: dict[str, Any],
    documents: list[bytes],
    quiet: bool,
) -> None:
    """Write the file, hold both files against each other, complete the summary."""
    record = summary["compress"]
    output = files.best / f"model-{record['type']}.gguf"
    written = export_gguf(files.best, type, output)
    with tempfile.TemporaryDirectory(prefix="itera-") as folder:
        exact = export_gguf(start.folder, "f32", Path(folder) / "model.gguf")
        record["bytes"] = {"before": exact.bytes, "after": written.bytes}
        if documents:
            record["bpb"] = {
                "before": record["from"]["bpb"],
                "after": summary["valid"]["bpb"],
                "before_engine": engine_bpb(exact.path, documents),
                "after_engine": engine_bpb(output, documents),
            }
    record["bits_per_weight"] = written.bits_per_weight
    record["weights"] = {kind: stored.weights for kind, stored in written.by_type.items()}
    record["file"] = str(output)
    write_json(files.summary, summary)
    if not quiet:
        print(_told(record))


def engine_bpb(file: Path, documents: Sequence[bytes]) -> float:
    """Bits per byte as the native engine scores a file, in the windows of `common.score`."""
    model = Model.load(file)
    window = min(WINDOW, model.context)
    scores = model.score(documents, window=window, threads=torch.get_num_threads())
    nats = sum(score.nats for score in scores)
    return nats / math.log(2) / sum(score.bytes for score in scores)


def _told(record: dict[str, Any]) -> str:
    size = record["bytes"]
    lines = [
        f"{record['file']}: {record['type']} by {record['method']}, "
        f"{record['bits_per_weight']:.2f} bits per weight",
        f"  bytes          {size['before']:>10,} -> {size['after']:,} "
        f"({size['before'] / size['after']:.1f} times fewer than float32)",
    ]
    if "bpb" in record:
        b = record["bpb"]
        lines += [
            f"  bits per byte  {b['before']:10.4f} -> {b['after']:.4f}  (PyTorch)",
            f"                 {b['before_engine']:10.4f} -> {b['after_engine']:.4f}  "
            "(native engine, from the files)",
        ]
    else:
        lines.append("  bits per byte not measured: name a set with --data")
    return "\n".join(lines)
