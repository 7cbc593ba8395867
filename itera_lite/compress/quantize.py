"""Stores a model's matrices in 8 or 4 bits: a checkpoint of rounded weights and its GGUF file."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from itera_lite.checkpoint.folder import load_checkpoint, save_checkpoint
from itera_lite.compress.gptq import gptq
from itera_lite.compress.qat import RATE, train_rounded
from itera_lite.compress.rounding import Kinds, kinds_of, rounded
from itera_lite.compress.sensitivity import (
    assign,
    calibration,
    groups_of,
    room_above,
    sensitivity,
)
from itera_lite.compress.start import Job, Start, TextOptions
from itera_lite.data.prepare import Dataset
from itera_lite.distill.objective import MIX
from itera_lite.engine import Model
from itera_lite.evaluate.bits import first_bytes, validation_score
from itera_lite.export.gguf import check_engine_runs, write_gguf
from itera_lite.export.summary import Format
from itera_lite.export.types import SCHEMES
from itera_lite.files import gzipped
from itera_lite.machine.provenance import Provenance
from itera_lite.model import LanguageModel
from itera_lite.model.cost import describe
from itera_lite.records import (
    FileBytes,
    GroupSensitivity,
    Quantization,
    QuantizedBits,
    Source,
    Summary,
)

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
        levels: of q4_0's 16 those that are used, see `itera_lite.compress.rounding.few_levels`.
        format: of the file.
    """

    type: Type
    method: Method
    max_bytes: int | None = None
    teachers: tuple[Path, ...] = ()
    mix: float = MIX
    levels: int | None = None
    format: Format = "gguf"


def usual_method(type: Type, text: TextOptions) -> Method:
    """The method where none is asked for: plain for 8 bits, which lose next to nothing."""
    if text.data is None or type == "q8_0":
        return "plain"
    return "gptq" if text.minutes == 0 else "qat"


def quantize(job: Job, options: QuantizeOptions) -> Summary:
    """Write the model with rounded weights, and the GGUF file inside the checkpoint.

    Only plain rounding to a type can do without text.

    Raises:
        ExportError: the model can't be stored so.
        UsageError: ``max_bytes`` is too small, the text is too short, or qat has no budget.
    """
    start, files = job.start, job.files
    check_engine_runs(start.folder, start.model.config)
    kinds: Kinds = (
        {} if options.max_bytes else kinds_of(start.model, SCHEMES[options.type], options.levels)
    )
    if job.text.data is None:
        model = rounded(start.model, kinds, options.levels)
        files.forget()
        save_checkpoint(files.best, model, start.tokenizer)
        made_from = [Source(start.name, "start")]
        summary = Summary(
            model=describe(files.name, model.config, made="compressed", made_from=made_from),
            compression=_export(job, model, options),
            provenance=Provenance.now(),
        )
        summary.write(files.summary)
        return summary
    dataset = job.prepare()
    documents = list(first_bytes(dataset.documents("valid")))
    before = start.score(documents, job.workers)
    groups: list[GroupSensitivity] = []
    if options.max_bytes:
        kinds, groups = _types_within(job, dataset, options.max_bytes)

    def record(model: LanguageModel, bpb: float) -> Quantization:
        """Export the model, and measure what was lost."""
        made = _export(job, model, options)
        made.start, made.sensitivity = start.record(before), groups
        threads = job.workers.count
        engine_before = _engine_bpb_before(start, documents, threads)
        engine_after = engine_bpb(Path(made.file), documents, threads)
        made.bpb = QuantizedBits(before.bpb, bpb, engine_before, engine_after)
        return made

    if options.method == "qat":
        return train_rounded(
            *(job, dataset, kinds, options.levels, options.teachers, options.mix),
            lambda bpb: record(load_checkpoint(files.best)[0], bpb),
        )
    if options.method == "plain":
        model = rounded(start.model, kinds, options.levels)
    else:
        windows = _calibration(dataset, CALIBRATION_TOKENS)
        model = gptq(start.model, kinds, windows, job.workers, options.levels)
    valid = validation_score(model, start.tokenizer, documents, job.workers)
    return job.save(model, dataset, valid, lambda: record(model, valid.bpb))


def _export(job: Job, model: LanguageModel, options: QuantizeOptions) -> Quantization:
    """Write the GGUF file into the checkpoint."""
    start, files = job.start, job.files
    # In a chosen mix, `auto` finds the type of each matrix again: its rounded weights fit one.
    type = "auto" if options.max_bytes else options.type
    output = files.best / f"model-{options.type}.{options.format}"
    written = write_gguf(files.best, model, start.tokenizer, type, output)
    compressed = written.bytes
    if options.format == "gguf":
        compressed = len(gzipped(output.read_bytes()))
    exact_bytes = start.file_bytes(kinds_of(start.model, SCHEMES["f32"]))
    return Quantization(
        learning_rate_factor=RATE if options.method == "qat" else None,
        type=options.type,
        method=options.method,
        file=str(output),
        bytes=FileBytes(exact_bytes, written.content_bytes, compressed),
        levels=options.levels,
        bits_per_weight=written.bits_per_weight,
        weights={kind: stored.weights for kind, stored in written.by_type.items()},
        max_bytes=options.max_bytes,
    )


def _types_within(
    job: Job, dataset: Dataset, max_bytes: int
) -> tuple[Kinds, list[GroupSensitivity]]:
    """The type of each matrix for a file of at most ``max_bytes``, where 4 bits cost least."""
    model = job.start.model
    groups, fixed = groups_of(model)
    room = room_above(groups, job.start.file_bytes(fixed, job.files.best), max_bytes)
    windows = _calibration(dataset, CALIBRATION_TOKENS // 2)
    groups = sensitivity(model, groups, windows, job.workers)
    kinds = {**assign(groups, room), **fixed}
    return kinds, [
        GroupSensitivity(group.name, group.cost, group.saved, kinds[group.matrices[0]].name)
        for group in groups
    ]


def _calibration(dataset: Dataset, n_tokens: int) -> Tensor:
    return calibration(dataset.tokens("train"), WINDOW, n_tokens, LEAST_WINDOWS)


def _engine_bpb_before(start: Start, documents: Sequence[bytes], threads: int) -> float:
    """Bits per byte of the engine with the weights as they were, in float32."""
    with tempfile.TemporaryDirectory(prefix="itera-") as folder:
        file = Path(folder) / "model.gguf"
        write_gguf(start.folder, start.model, start.tokenizer, "f32", file)
        return engine_bpb(file, documents, threads)


def engine_bpb(file: Path, documents: Sequence[bytes], threads: int) -> float:
    """Bits per byte of a file in the native engine."""
    nats, _, size = engine_score(file, documents, threads)
    return nats / math.log(2) / size


def engine_score(file: Path, documents: Sequence[bytes], threads: int) -> tuple[float, int, int]:
    """Nats, tokens and bytes of documents, by the engine in the windows of `validation_score`."""
    model = Model.load(file)
    window = min(WINDOW, model.context)
    scores = model.score(documents, window=window, threads=threads)
    parts = ((score.nats, score.tokens, score.bytes) for score in scores)
    nats, tokens, size = map(sum, zip(*parts, strict=True))
    return nats, tokens, size
