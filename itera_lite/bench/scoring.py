"""Measures how fast documents are scored: what `itera bench score` does.

Every runtime computes the probabilities of all tokens of the same documents, in turns.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from itera_lite import _engine
from itera_lite.bench.decode import engine_provenance
from itera_lite.bench.runtimes import (
    LLAMA,
    OURS,
    TRANSFORMERS,
    Document,
    EngineRuntime,
    LlamaRuntime,
    Runtime,
    TransformersRuntime,
    installed,
    prompt_ids,
)
from itera_lite.bench.shapes import ModelFiles, export_model
from itera_lite.bench.turns import progress_bar, speed_ratios, turns
from itera_lite.machine.peak import torch_threads
from itera_lite.machine.provenance import usable_cores
from itera_lite.stats.comparison import Measurement, Metric
from itera_lite.stats.samples import stat
from itera_lite.stats.targets import Target, judge, ratio

BATCHES = (16, 4, 1)  # documents that transformers may read at a time
SPEED = Metric("score", "Scoring", "tokens/s", "higher", "timing", "speed")


@dataclass
class Scorer:
    """A runtime that scores all the documents, and its times.

    Attributes:
        kind: type of the weights (``q8_0``, ``fp32``).
        runtime: its name in the results.
        loaded: the runtime.
        documents: the same texts for everybody, in the model's tokenizer.
        threads: that it has.
        note: how it was set up, where that was chosen.
        seconds: for all documents, a number a round.
    """

    kind: str
    runtime: str
    loaded: Runtime
    documents: list[Document]
    threads: int = 1
    note: str = ""
    seconds: list[float] = field(default_factory=list)

    @property
    def speeds(self) -> list[float]:
        """Tokens a second."""
        return [count_tokens(self.documents) / s for s in self.seconds]

    def record(self) -> dict[str, Any]:
        return {
            "type": self.kind,
            "runtime": self.runtime,
            "threads": self.threads,
            "note": self.note,
            "tokens_per_second": stat(self.speeds),
        }


def measure_scoring(
    folders: Sequence[Path],
    *,
    types: Sequence[str],
    repeats: int,
    documents: int,
    length: int,
    threads: int,
    peers: bool = True,
) -> list[dict[str, Any]]:
    """Export the checkpoints, and let all runtimes score the same documents in turns.

    Args:
        folders: checkpoints.
        types: of the exported weights.
        repeats: turns of each.
        documents: number of documents.
        length: tokens of a document.
        threads: of the engine's second measurement.
        peers: whether to measure llama.cpp and `transformers`, where they are installed.

    Returns:
        The record of each checkpoint.
    """
    with torch_threads(1), tempfile.TemporaryDirectory() as scratch:
        models = [export_model(folder, types, Path(scratch)) for folder in folders]
        scorers = [list(_scorers(model, documents, length, threads, peers)) for model in models]
        everybody = [one for group in scorers for one in group]
        with progress_bar("bench score", (repeats + 1) * len(everybody)) as progress:
            for repeat, one in turns(everybody, repeats, progress, lambda one: one.runtime):
                seconds = one.loaded.score(one.documents)
                if repeat >= 0:
                    one.seconds.append(seconds)
        for one in everybody:
            one.loaded.close()
        origin = engine_provenance(models, peers)
    return [
        {
            **_record(model, group, threads),
            "interleaved_with": [m.name for m in models if m is not model],
            "provenance": origin,
        }
        for model, group in zip(models, scorers, strict=True)
    ]


def count_tokens(documents: Sequence[Document]) -> int:
    """Tokens of all documents, ``<|endoftext|>`` in front of each among them."""
    return sum(len(document.ids) for document in documents)


def _scorers(
    model: ModelFiles, count: int, length: int, threads: int, peers: bool
) -> Iterator[Scorer]:
    """All runtimes with one model."""
    documents = _documents(model, count, length)
    longest = max(len(document.ids) for document in documents)
    for kind, path in model.paths.items():
        for n in dict.fromkeys((1, threads)):
            engine = EngineRuntime(path, longest + 1, threads=n)
            yield Scorer(kind, OURS, engine, documents, n)
        if peers and installed(LLAMA):
            yield Scorer(kind, LLAMA, LlamaRuntime(path, longest, batch=longest), documents)
    if peers and model.folder is not None and installed(TRANSFORMERS):
        runtime, note = _fastest_transformers(model.folder, documents)
        yield Scorer("fp32", TRANSFORMERS, runtime, documents, note=note)


def _documents(files: ModelFiles, count: int, length: int) -> list[Document]:
    """Documents of about ``length`` tokens: consecutive pieces of a real text."""
    model = _engine.Model.load(str(files.paths[files.first_type]), length + 64)
    ids = prompt_ids(model, count * (length - 1) + 1)[1:]
    pieces = [ids[first : first + length - 1] for first in range(0, len(ids), length - 1)]
    texts = [model.decode(piece) for piece in pieces]
    return [Document(text, [model.eot, *model.encode(text)]) for text in texts]


def _fastest_transformers(
    folder: Path, documents: Sequence[Document]
) -> tuple[TransformersRuntime, str]:
    """`transformers` with the attention and the batch that are fastest here, and which they are."""
    found = {}
    for attention in ("sdpa", "eager"):
        runtime = TransformersRuntime(folder, attention=attention)
        for runtime.batch in BATCHES:
            runtime.score(documents)
            seconds = min(runtime.score(documents) for _ in range(2))
            found[seconds] = runtime, attention, runtime.batch
    runtime, attention, runtime.batch = found[min(found)]
    return runtime, f"{attention} attention, {runtime.batch} documents at a time"


def _record(model: ModelFiles, scorers: Sequence[Scorer], threads: int) -> dict[str, Any]:
    documents = scorers[0].documents
    return {
        "name": model.name,
        "family": model.family,
        "params": model.params,
        "documents": len(documents),
        "tokens": count_tokens(documents),
        "main_type": model.main_type,
        "scorers": [one.record() for one in scorers],
        "ratios": speed_ratios(SPEED, model.paths, scorers, OURS),
        "targets": _targets(model.main_type, scorers, threads) if model.family == "itera" else [],
    }


def _targets(kind: str, scorers: Sequence[Scorer], threads: int) -> list[dict[str, Any]]:
    """Judge the targets of a model, with its main type of weights."""

    def find(kind: str, runtime: str, n: int = 1) -> Measurement | None:
        for one in scorers:
            if (one.kind, one.runtime, one.threads) == (kind, runtime, n):
                return Measurement.of_samples(one.speeds)
        return None

    ours, label = find(kind, OURS), f"Scoring {kind.upper()}, against"
    judged = [
        judge(
            Target("transformers", f"{label} transformers", "at least", 4),
            ratio(ours, find("fp32", TRANSFORMERS)),
        ),
        judge(
            Target("llama_cpp", f"{label} llama.cpp", "at least", 5), ratio(ours, find(kind, LLAMA))
        ),
    ]
    if threads == 2:
        target = Target("threads", "Scoring, two threads against one", "at least", 1.7)
        # Two busy threads on one core say nothing about the program.
        both = find(kind, OURS, 2) if usable_cores() >= 2 else None
        judged.append(judge(target, ratio(both, ours)))
    return judged
