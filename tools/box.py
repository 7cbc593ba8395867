"""Scores the model in the box as each type of weights stores it: results/tinystories/box.json.

    python -m tools.box CHECKPOINT FILE

CHECKPOINT is the model before it was rounded, FILE the GGUF file that was trained with rounding.
Needs TinyStories with its official validation file.
"""

from __future__ import annotations

import math
import sys
import tempfile
from pathlib import Path

from itera_lite.compress.quantize import WINDOW, engine_score
from itera_lite.data.corpus import load_documents
from itera_lite.export.gguf import export_gguf
from itera_lite.machine.processor import default_threads
from itera_lite.machine.provenance import Provenance
from itera_lite.records import StoredQuality, StoredType, TextBits


def stored_type(file: Path, splits: dict[str, list[bytes]]) -> StoredType:
    """Size of a file, and its score on the two texts."""

    def bits(split: str) -> TextBits:
        nats, tokens, size = engine_score(file, splits[split], default_threads())
        return TextBits(bpb=nats / math.log(2) / size, nats_per_token=nats / tokens)

    return StoredType(
        bytes=file.stat().st_size, valid=bits("valid"), official=bits("official-valid")
    )


def stored_quality(checkpoint: Path, trained: Path) -> StoredQuality:
    """The scores of four types and of the file that was trained with rounding."""
    splits = load_documents("tinystories").splits
    types = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("f32", "q8_0", "mixed", "q4_0"):
            file = Path(folder) / f"{kind}.gguf"
            export_gguf(checkpoint, kind, file)
            types[kind] = stored_type(file, splits)
    types["q4_0_qat"] = stored_type(trained, splits)
    return StoredQuality(
        description="bits per byte and nats a token of the model in the box by the native engine, "
        f"windows of {WINDOW} tokens (Model.score(texts, window={WINDOW}))",
        window=WINDOW,
        types=types,
        provenance=Provenance.now(),
    )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    record = stored_quality(Path(sys.argv[1]), Path(sys.argv[2]))
    target = Path(__file__).resolve().parents[1] / "results" / "tinystories" / "box.json"
    print(record.write(target))
