"""Which size of vocabulary is the cheapest that is good enough: `compress vocab --auto`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from itera_lite.checkpoint.weights import weight_files
from itera_lite.compress.start import Start, adopt, trials
from itera_lite.config import TrainConfig
from itera_lite.data.prepare import prepare
from itera_lite.errors import CheckpointError, ExportError, TextTooSmall, UsageError
from itera_lite.export.gguf import export_gguf
from itera_lite.files import exists, read_object
from itera_lite.model.cost import cost
from itera_lite.train.run_files import RunFiles

SIZES = (512, 1024, 2048, 4096)
RULE = (
    "of the sizes tried whose bits per byte are at most {tolerance:.3g} % above the lowest, "
    "the one with the smallest product of file size and FLOPs per byte of text"
)


@dataclass(frozen=True)
class Row:
    """A size and what it costs.

    Attributes:
        bpb: bits per byte on the validation text.
        file_q8_0, file_f32: bytes of the exported file; None where the model can't be stored so.
        flops_per_byte: forward, of a byte of the validation text.
        tokens_per_byte: likewise.
    """

    size: int
    bpb: float
    file_q8_0: int | None
    file_f32: int
    flops_per_byte: float
    tokens_per_byte: float

    @property
    def cost(self) -> float:
        """A percent of the file's size counts as much as one of the FLOPs."""
        return (self.file_q8_0 or self.file_f32) * self.flops_per_byte


def cheapest(rows: Sequence[Row], tolerance: float) -> Row:
    """The row that `RULE` names."""
    limit = min(row.bpb for row in rows) * (1 + tolerance)
    return min((row for row in rows if row.bpb <= limit), key=lambda row: row.cost)


def choose(
    start: Start,
    data: str,
    files: RunFiles,
    tolerance: float,
    resize: Callable[[int, RunFiles], dict[str, Any]],
    *,
    resume: bool,
    quiet: bool,
) -> dict[str, Any]:
    """Try each size that the model and the text allow, keep the cheapest good one.

    Args:
        data: the set.
        files: of the result. The sizes are tried in folders beside it, which go at the end.
        tolerance: share by which bits per byte may be above the lowest.
        resize: writes the model with a vocabulary of a size to files, and gives the summary.
        resume: take the sizes that were finished before as they are.

    Raises:
        UsageError: no size is below the vocabulary of the model and supported by the text.
    """
    sizes = supported(start, data, quiet)
    with trials(files) as folders:
        rows, tried = [], {size: RunFiles(f"{files.name}_{size}", *folders) for size in sizes}
        for size, trial in tried.items():
            if not (resume and exists(trial.summary)):
                if not (resume and trial.resumable):
                    trial.discard()
                with trial.claimed(resume=resume):
                    resize(size, trial)
            rows.append(measure(trial))
        chosen = cheapest(rows, tolerance)
        winner = tried[chosen.size]
        summary = _read(winner)
        before = _as_it_was(start, summary["compress"]["from"])
        _warn(chosen, before, tolerance)
        rule = RULE.format(tolerance=100 * tolerance)
        summary["compress"]["sizes"] = {
            "rule": rule,
            "chosen": chosen.size,
            "tried": [asdict(row) | {"cost": row.cost} for row in rows],
            "before": asdict(before),
        }
        adopt(winner, files, summary)
        for trial in tried.values():
            trial.discard()
    if not quiet:
        print(table(rows, before, chosen))
        print(f"{files.name}: {chosen.size:,} tokens: {rule}")
    return summary


def _warn(chosen: Row, before: Row, tolerance: float) -> None:
    """Say so where even the chosen size lost more than the tolerance against the model itself."""
    loss = chosen.bpb / before.bpb - 1
    if loss > tolerance:
        print(
            f"warning: {chosen.size:,} tokens are {loss:.1%} above the model as it was "
            f"({chosen.bpb:.4f} against {before.bpb:.4f} bits per byte): adapt for longer "
            "(--minutes), or keep the model",
            file=sys.stderr,
        )


def supported(start: Start, data: str, quiet: bool) -> list[int]:
    """Those of `SIZES` that are below the model's vocabulary and that the text supports."""
    sizes = []
    for size in SIZES:
        if size >= start.tokenizer.vocab_size:
            break
        try:
            prepare(data, vocab_size=size, quiet=quiet)
        except TextTooSmall:
            break  # nor does it support a larger one
        sizes.append(size)
    if not sizes:
        raise UsageError(
            f"--auto: none of {', '.join(map(str, SIZES))} is below the vocabulary of "
            f"'{start.folder}' ({start.tokenizer.vocab_size:,}) and supported by '{data}'. Name a "
            "--size, or give more text"
        )
    return sizes


def measure(files: RunFiles) -> Row:
    """What a tried size costs."""
    summary = _read(files)
    valid = summary["valid"]
    q8_0, f32 = file_sizes(files.best)
    return Row(
        size=summary["config"]["vocab_size"],
        bpb=valid["bpb"],
        file_q8_0=q8_0,
        file_f32=f32,
        flops_per_byte=summary["flops_per_token"]["forward"] * valid["tokens"] / valid["bytes"],
        tokens_per_byte=valid["tokens"] / valid["bytes"],
    )


def _as_it_was(start: Start, began: dict[str, Any]) -> Row:
    q8_0, f32 = file_sizes(start.folder)
    per_byte = 1 / began["bytes_per_token"]
    flops = cost(start.model.config, TrainConfig().seq_len).flops_forward
    return Row(began["vocab_size"], began["bpb"], q8_0, f32, flops * per_byte, per_byte)


def file_sizes(checkpoint: Path) -> tuple[int | None, int]:
    """Bytes of the model as a GGUF file in Q8_0 and in F32; of the weights' file for one that
    has no GGUF form."""
    sizes: list[int | None] = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("q8_0", "f32"):
            try:
                sizes.append(export_gguf(checkpoint, kind, Path(folder) / kind).bytes)
            except ExportError:
                sizes.append(None)
    q8_0, f32 = sizes
    return q8_0, f32 or sum(file.stat().st_size for file in weight_files(checkpoint))


def table(rows: Sequence[Row], before: Row, chosen: Row) -> str:
    """The sizes side by side, and the model as it was."""
    lines = [
        f"{'vocabulary':>16} {'bits/byte':>10} {'Q8_0':>9} {'F32':>9} "
        f"{'FLOPs/byte':>11} {'tokens/byte':>12}"
    ]
    for row in (*rows, before):
        mark = "  as it was" if row is before else "  chosen" if row is chosen else ""
        q8_0 = "-" if row.file_q8_0 is None else f"{row.file_q8_0 / 1e6:.2f} MB"
        lines.append(
            f"{row.size:>16,} {row.bpb:>10.4f} {q8_0:>9} {f'{row.file_f32 / 1e6:.2f} MB':>9} "
            f"{row.flops_per_byte:>11,.0f} {row.tokens_per_byte:>12.4f}{mark}"
        )
    return "\n".join(lines)


def _read(files: RunFiles) -> dict[str, Any]:
    return read_object(files.summary, CheckpointError)
