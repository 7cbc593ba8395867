"""The verb `bench decode`: the native engine beside llama.cpp and `transformers`."""

from __future__ import annotations

import argparse
import hashlib
import inspect
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tqdm import tqdm

from itera_lite import _engine
from itera_lite.bench import llama
from itera_lite.bench.decode_record import SIZES_FILE, model_record, print_record, sizes_record
from itera_lite.bench.decoders import (
    Contender,
    EngineDecoder,
    LlamaDecoder,
    TorchDecoder,
    take_turns,
)
from itera_lite.bench.profile import profile
from itera_lite.bench.provenance import provenance
from itera_lite.bench.shapes import SHAPES, write_shape
from itera_lite.bench.startup import measure_startup
from itera_lite.errors import UsageError
from itera_lite.export.gguf import export_gguf
from itera_lite.export.types import SCHEMES
from itera_lite.files import write_json

DEFAULT_CHECKPOINTS = (Path("checkpoints/itera_lite_tiny"), Path("checkpoints/transformer_tiny"))
TYPES = ("f32", "q8_0", "q4_0")
REPEATS, QUICK_REPEATS = 15, 3
TOKENS = 64  # a pass
SLOW_TOKENS = 16  # of what takes milliseconds a token
CONTEXT, LONG_CONTEXT = 128, 8192
SAMPLING = {"temperature": 0.8, "top_k": 0, "top_p": 0.95}


@dataclass
class Subject:
    """A model with its files, and what is measured of it.

    Attributes:
        name: of the checkpoint, or of the shape.
        files: type of the weights -> GGUF file.
        folder: the checkpoint; None for a shape with random weights.
        bandwidth: type -> bytes a second at which its bytes of a token can be read, a round each.
    """

    name: str
    files: dict[str, Path]
    folder: Path | None = None
    contenders: list[Contender] = field(default_factory=list)
    bandwidth: dict[str, list[float]] = field(default_factory=dict)
    startup: dict[str, Any] = field(default_factory=dict)
    profiles: dict[str, Any] = field(default_factory=dict)


def bench_decode(
    *checkpoints: Path,
    types: Sequence[str] = TYPES,
    quick: bool = False,
    repeats: int | None = None,
    context: int = CONTEXT,
    long_context: int = LONG_CONTEXT,
    peers: bool = True,
    pytorch: bool = False,
    sizes: bool = True,
    startup: bool = True,
    results: Path = Path("results"),
) -> dict[str, dict[str, Any]]:
    """Measure the native engine's decoding beside llama.cpp and transformers.

    Every model is exported, then everybody decodes the same files in turns: one text, one
    thread, greedily. Also measured: the share of what reading the weights alone would take,
    a long context, models of llama2.c's sizes, loading, the first token and memory.
    Writes NAME_decode.json for each.

    Args:
        checkpoints: Folders of the models; by default both tiny ones.
        types: How the weights are stored: f32, f16, bf16, q8_0, q4_0.
        quick: Three repeats.
        repeats: Turns of each; by default 15, or 3 with quick.
        context: Tokens of the prompt.
        long_context: The same for the cost of a long text; 0 leaves it out.
        peers: Also measure llama.cpp and transformers, where they are installed.
        pytorch: Also measure our own PyTorch model.
        sizes: Also measure models of llama2.c's sizes, with random weights.
        startup: Also measure loading, the first token, memory and the import.
        results: Folder of the result files.
    """
    import torch

    folders = [Path(folder) for folder in checkpoints or DEFAULT_CHECKPOINTS]
    _check(folders, types, repeats, context, long_context)
    repeats = repeats or (QUICK_REPEATS if quick else REPEATS)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            subjects = [_exported(folder, types, Path(scratch)) for folder in folders]
            for subject in subjects:
                subject.contenders = _contenders(subject, context, long_context, peers, pytorch)
            shapes = [_shape(name, Path(scratch), context, peers) for name in SHAPES if sizes]
            everybody = [*subjects, *shapes]
            _measure(everybody, repeats)
            for subject in subjects:
                for kind, path in subject.files.items():
                    prompt = subject.contenders[0].prompt
                    subject.profiles[kind] = profile(path, prompt, repeats=min(repeats, 5))
                if startup:
                    subject.startup = measure_startup(next(iter(_main_file(subject))), repeats)
            origin = _provenance(peers, subjects)
            records = {
                s.name: model_record(s, context, long_context) | {"provenance": origin}
                for s in subjects
            }
            small = sizes_record(shapes, context) | {"provenance": origin} if shapes else {}
    finally:
        torch.set_num_threads(before)
    results = Path(results)
    for name, record in records.items():
        record["interleaved_with"] = [s.name for s in everybody if s.name != name]
        write_json(results / f"{name}_decode.json", record)
        print_record(record)
    if small:
        write_json(results / SIZES_FILE, small)
        print_record(small)
    print(f"\nWritten to {results / 'NAME_decode.json'}")
    return records
