"""The verb `bench decode`: the native engine beside llama.cpp and `transformers`."""

from __future__ import annotations

import argparse
import hashlib
import inspect
import itertools
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tqdm import tqdm

from itera_lite import _engine
from itera_lite.bench import llama
from itera_lite.bench.decode_record import LLAMA, OURS, SAMPLED, Subject, model_record
from itera_lite.bench.decode_table import print_record
from itera_lite.bench.decode_targets import decode_targets
from itera_lite.bench.decoders import (
    Contender,
    Decoder,
    EngineDecoder,
    LlamaDecoder,
    TorchDecoder,
    take_turns,
)
from itera_lite.bench.shapes import SHAPES, write_shape
from itera_lite.bench.startup import measure_startup
from itera_lite.checkpoint.weights import weight_files
from itera_lite.errors import UsageError
from itera_lite.export.types import SCHEMES
from itera_lite.files import check_writable, folder_name, write_json
from itera_lite.machine.provenance import provenance
from itera_lite.quantities import MOST_THREADS, whole_number

DEFAULT_CHECKPOINTS = (Path("checkpoints/itera_lite_tiny"), Path("checkpoints/transformer_tiny"))
TYPES = ("f32", "q8_0", "q4_0")
REPEATS, QUICK_REPEATS = 15, 3
TOKENS = 64  # a pass
SLOW_TOKENS = 16  # of what takes milliseconds a token
CONTEXT, LONG_CONTEXT = 128, 8192
MOST_COUNT = 1 << 24  # of repeats, tokens and documents
SIZES_FILE = "engine_sizes.json"
BANDWIDTH_SECONDS = 0.02  # a round
SAMPLING = {"temperature": 0.8, "top_k": 0, "top_p": 0.95}


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
    thread, greedily. Also measured: the share of what reading the weights alone would take
    and where the rest goes, a long context, models of llama2.c's sizes, loading, the first
    token and memory. Writes NAME_decode.json for each.

    Args:
        checkpoints: Folders of the models; by default both tiny ones.
        types: How the weights are stored, such as f32, q8_0, q4_0.
        quick: Three repeats.
        repeats: Turns of each; by default 15, or 3 with quick.
        context: Tokens of the prompt.
        long_context: The same, for the cost of a long text; 0 leaves it out.
        peers: Also measure llama.cpp and transformers, where they are installed.
        pytorch: Also measure our own PyTorch model.
        sizes: Also measure models of llama2.c's sizes, with random weights.
        startup: Also measure loading, the first token, memory and the import.
        results: Folder of the result files.
    """
    import torch

    folders = [Path(folder) for folder in checkpoints or DEFAULT_CHECKPOINTS]
    check(folders, types, repeats=repeats, context=context)
    if whole_number("long_context", long_context, least=0, most=MOST_COUNT) and (
        long_context <= context
    ):
        raise UsageError(
            f"--long-context {long_context}: expected more than --context {context}, or 0"
        )
    for folder in folders:
        check_writable(Path(results) / f"{folder_name(folder)}_decode.json")
    repeats = repeats or (QUICK_REPEATS if quick else REPEATS)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            subjects = [exported(folder, types, Path(scratch)) for folder in folders]
            for subject in subjects:
                _add_native(subject, context, peers, {OURS: None, SAMPLED: SAMPLING})
                _add_torch(subject, context, peers, pytorch)
                if long_context:
                    _add_long(subject, long_context, peers)
            shapes = [_shape(name, Path(scratch)) for name in SHAPES] if sizes else []
            for subject in shapes:
                _add_native(subject, context, peers, {OURS: None})
            say_missing(peers)
            _measure([*subjects, *shapes], repeats)
            for subject in subjects:
                _profile(subject, context, long_context, repeats)
                if startup:
                    subject.startup = measure_startup(subject.files[subject.main_type], repeats)
        origin = origin_of(subjects, peers)
    finally:
        torch.set_num_threads(before)
    everybody = [*subjects, *shapes]
    records = {}
    for subject in subjects:
        record = model_record(subject, context, long_context)
        record["targets"] = decode_targets(subject, subjects, context, long_context)
        record["interleaved_with"] = [s.name for s in everybody if s is not subject]
        record["provenance"] = origin
        print_record(record)
        write_json(Path(results) / f"{subject.name}_decode.json", record)
        records[subject.name] = record
    if shapes:
        small = [model_record(shape, context, 0) for shape in shapes]
        for record in small:
            print_record(record)
        write_json(Path(results) / SIZES_FILE, {"models": small, "provenance": origin})
    print(f"\nWritten to {Path(results) / 'NAME_decode.json'}")
    return records


def check(folders: Sequence[Path], types: Sequence[str] = TYPES, **counts: int | None) -> None:
    """Refuse what can't be measured.

    Raises:
        UsageError: an unknown type, a count below 1, or two checkpoints of one name.
    """
    for option, value in counts.items():
        if value is not None:
            whole_number(option, value, most=MOST_THREADS if option == "threads" else MOST_COUNT)
    for kind in types:
        if kind not in SCHEMES:
            raise UsageError(f"--types {kind}: expected some of {', '.join(SCHEMES)}")
    names = [folder_name(folder) for folder in folders]
    if len(set(names)) < len(names):
        raise UsageError(
            f"checkpoints {', '.join(names)}: two folders have one name, and their results would "
            "go to one file; rename one"
        )


def exported(folder: Path, types: Sequence[str], scratch: Path) -> Subject:
    """A checkpoint as GGUF files in a scratch folder."""
    from itera_lite.export.gguf import export_gguf

    name = folder_name(folder)
    files = {}
    for kind in dict.fromkeys(types):
        files[kind] = scratch / f"{name}-{kind}.gguf"
        export_gguf(folder, kind, files[kind])
    model = _engine.Model.load(str(next(iter(files.values()))), 256)
    family = "transformer" if model.architecture == "llama" else "itera"
    digest = hashlib.sha256()
    for file in weight_files(folder):
        digest.update(file.read_bytes())
    weights = digest.hexdigest()
    return Subject(name, family, model.parameters, files, folder, weights, model.isa)


def prompt_ids(path: Path, context: int) -> list[int]:
    """The first ``context`` tokens of a document, in a file's own tokenizer."""
    return prompt_ids_of(_engine.Model.load(str(path), 256), context)


def prompt_ids_of(model: _engine.Model, context: int) -> list[int]:
    """The source of ``argparse``, as in `itera bench`, again and again where it is too short."""
    text = model.encode(inspect.getsource(argparse).encode())
    return [model.eot, *itertools.islice(itertools.cycle(text), context - 1)]


def _shape(name: str, scratch: Path) -> Subject:
    """A model of llama2.c's size, with random weights."""
    files = {
        kind: write_shape(name, kind, scratch / f"{name}-{kind}.gguf")
        for kind in SHAPES[name].types
    }
    model = _engine.Model.load(str(files["f32"]))
    return Subject(name, "transformer", model.parameters, files)


def _add_native(
    subject: Subject, context: int, peers: bool, ours: Mapping[str, Mapping[str, float] | None]
) -> None:
    """Our engine in each way of choosing tokens, and llama.cpp, on every file."""
    prompt = prompt_ids(next(iter(subject.files.values())), context)
    room = context + TOKENS + 1
    for kind, path in subject.files.items():
        decoders: dict[str, Decoder] = {n: EngineDecoder(path, room, s) for n, s in ours.items()}
        model = _engine.Model.load(str(path), room)
        subject.measure_bandwidth(kind, model, context + TOKENS // 2)
        if peers and llama.available():
            decoders[LLAMA] = LlamaDecoder(path, room)
        subject.contenders += [
            Contender(subject.name, kind, name, decoder, prompt, TOKENS)
            for name, decoder in decoders.items()
        ]


def say_missing(peers: bool) -> None:
    """Say which peers are wanted and aren't installed."""
    if peers and not llama.available():
        print("llama.cpp: not measured, llama-cpp-python isn't installed (extra 'llama')")
    if peers and find_spec("transformers") is None:
        print("transformers: not measured, it isn't installed (extra 'peers')")


def _profile(subject: Subject, context: int, long_context: int, repeats: int) -> None:
    """Where the time of a token goes, for each type; for the main one after a long text too."""

    def profile(kind: str, length: int) -> dict[str, float]:
        model = _engine.Model.load(str(subject.files[kind]), length + TOKENS + 1)
        prompt = prompt_ids(subject.files[kind], length)
        return _engine.profile(model, prompt, TOKENS, 2 * repeats)

    subject.profiles = {kind: profile(kind, context) for kind in subject.files}
    if long_context:
        subject.long_profile = profile(subject.main_type, long_context)


def _add_torch(subject: Subject, context: int, peers: bool, pytorch: bool) -> None:
    """`transformers`, and our own PyTorch model, in float32."""
    from itera_lite.bench.measure import IteraRunner
    from itera_lite.bench.peers import TransformersRunner
    from itera_lite.checkpoint.folder import load_checkpoint

    if subject.folder is None:
        return
    runners: list[tuple[str, Any]] = []
    if peers and find_spec("transformers") is not None:
        runners.append(("transformers", TransformersRunner(subject.name, subject.folder)))
    if pytorch:
        from itera_lite import ops

        ops.enable()
        model, _ = load_checkpoint(subject.folder)
        runners.append(("itera-lite in PyTorch", IteraRunner(subject.name, model.eval())))
    prompt = prompt_ids(next(iter(subject.files.values())), context)
    subject.contenders += [
        Contender(subject.name, "fp32", name, TorchDecoder(runner), prompt, SLOW_TOKENS)
        for name, runner in runners
    ]


def _add_long(subject: Subject, context: int, peers: bool) -> None:
    """The engine, and llama.cpp, after a long prompt."""
    kind = subject.main_type
    path = subject.files[kind]
    prompt = prompt_ids(path, context)
    room = context + TOKENS + 1
    subject.contenders.append(
        Contender(subject.name, kind, OURS, EngineDecoder(path, room), prompt, SLOW_TOKENS)
    )
    if peers and llama.available():
        subject.contenders.append(
            Contender(subject.name, kind, LLAMA, LlamaDecoder(path, room), prompt, SLOW_TOKENS)
        )


def _measure(subjects: Sequence[Subject], repeats: int) -> None:
    contenders = [one for subject in subjects for one in subject.contenders]
    with tqdm(total=(repeats + 1) * len(contenders), desc="bench decode", disable=None) as bar:

        def progress(what: str) -> None:
            bar.set_postfix_str(what, refresh=False)
            bar.update()

        take_turns(
            contenders,
            repeats,
            [lambda s=subject: s.read_bandwidths(BANDWIDTH_SECONDS) for subject in subjects],  # type: ignore[misc]
            progress,
        )


def origin_of(subjects: Sequence[Subject], peers: bool) -> dict[str, Any]:
    """The provenance of a result about the native engine."""
    origin = provenance(
        seed=0,
        engine_isa=subjects[0].isa,
        checkpoints={s.name: s.weights_sha256 for s in subjects},
        prompt="source of Python's argparse",
    )
    if peers and find_spec("transformers") is not None:
        from itera_lite.bench.peers import peer_versions

        origin["versions"] |= peer_versions()
    if peers and llama.available():
        origin["versions"] |= llama.build_info()
    return origin
