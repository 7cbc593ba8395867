"""Measures how fast documents are scored: what `itera bench score` does.

Every runtime computes the probabilities of all tokens of the same documents, in turns.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from itera_lite.bench import runtimes
from itera_lite.bench.decode import engine_provenance
from itera_lite.bench.runtimes import LLAMA, OURS, TRANSFORMERS, Document, Runtime, installed
from itera_lite.bench.shapes import ModelFiles, export_model
from itera_lite.bench.turns import Entry, measure_in_turns, speed_ratios
from itera_lite.machine.peak import torch_threads
from itera_lite.machine.processor import usable_cores
from itera_lite.records import RuntimeScoring, Scoring
from itera_lite.stats.comparison import Measurement, Metric
from itera_lite.stats.load import Load
from itera_lite.stats.samples import Stat
from itera_lite.stats.targets import Target, ratio

BATCHES = (16, 4, 1)  # documents that transformers may read at a time
SPEED = Metric("score", "Scoring", "tokens/s", "higher", "timing", "speed")


@dataclass(kw_only=True)
class Scorer(Entry[float]):
    """A runtime that scores all documents of a model; its samples are tokens/s."""

    kind: str  # type of the weights: q8_0, or fp32 in PyTorch
    label: str  # the runtime's name in the results
    runtime: Runtime
    documents: list[Document]
    threads: int = 1
    note: str = ""  # how it was set up, where that was chosen here

    def measure(self) -> float:
        return _tokens(self.documents) / self.runtime.score(self.documents)


def measure_scoring(
    folders: Sequence[Path],
    *,
    types: Sequence[str],
    repeats: int,
    documents: int,
    length: int,
    threads: int,
    peers: bool,
) -> list[Scoring]:
    """Export the checkpoints, and let all runtimes score the same documents in turns.

    The arguments are the options of `itera bench score`. Returns a record of each checkpoint.
    """
    with torch_threads(1), tempfile.TemporaryDirectory() as scratch:
        models = [export_model(folder, types, Path(scratch)) for folder in folders]
        texts = [_documents(files, documents, length) for files in models]
        scorers = [
            list(_scorers(files, text, threads, peers))
            for files, text in zip(models, texts, strict=True)
        ]
        everybody = [one for group in scorers for one in group]
        rounds = measure_in_turns("bench score", everybody, repeats)
        for one in everybody:
            one.runtime.close()
        origin = engine_provenance(models, peers, rounds.load)
    return [
        Scoring(
            model=files.model,
            documents=len(text),
            tokens=_tokens(text),
            main_type=files.main_type,
            runtimes=[
                RuntimeScoring(
                    type=one.kind,
                    runtime=one.label,
                    threads=one.threads,
                    tokens_per_second=Stat.of(one.samples),
                    note=one.note,
                )
                for one in group
            ],
            ratios=speed_ratios(
                SPEED,
                files.paths,
                {(one.kind, one.label): one.samples for one in group if one.threads == 1},
                OURS,
                origin.load,
            ),
            targets=_targets(files, group, threads, origin.load),
            interleaved_with=[other.model.name for other in models if other is not files],
            repeated_rounds=rounds.repeated,
            provenance=origin,
        )
        for files, text, group in zip(models, texts, scorers, strict=True)
    ]


def _documents(files: ModelFiles, count: int, length: int) -> list[Document]:
    """Documents of about ``length`` tokens: consecutive pieces of a real text."""
    model = files.load(length + 64)
    ids = runtimes.prompt_ids(model, count * (length - 1) + 1)[1:]
    pieces = [ids[first : first + length - 1] for first in range(0, len(ids), length - 1)]
    texts = [model.decode(piece) for piece in pieces]
    return [Document(text, [model.eot, *model.encode(text)]) for text in texts]


def _tokens(documents: Sequence[Document]) -> int:
    return sum(len(document.ids) for document in documents)


def _scorers(
    files: ModelFiles, documents: list[Document], threads: int, peers: bool
) -> Iterator[Scorer]:
    """All runtimes with one model."""
    longest = max(len(document.ids) for document in documents)

    def scorer(kind: str, label: str, runtime: Runtime, threads: int = 1, note: str = "") -> Scorer:
        return Scorer(
            name=f"{files.model.name} {kind} {label}",
            kind=kind,
            label=label,
            runtime=runtime,
            documents=documents,
            threads=threads,
            note=note,
        )

    for kind, path in files.paths.items():
        for n in dict.fromkeys((1, threads)):
            yield scorer(kind, OURS, runtimes.Engine(path, longest + 1, threads=n), n)
        if peers and installed(LLAMA):
            yield scorer(kind, LLAMA, runtimes.Llama(path, longest, batch=longest))
    if peers and installed(TRANSFORMERS):
        runtime, note = _fastest_transformers(files.folder, documents)
        yield scorer("fp32", TRANSFORMERS, runtime, note=note)


def _fastest_transformers(
    folder: Path, documents: Sequence[Document]
) -> tuple[runtimes.Transformers, str]:
    """`transformers` with the attention and the batch that are fastest here, and which they are."""
    found = {}
    for attention in ("sdpa", "eager"):
        runtime = runtimes.Transformers(folder, attention=attention)
        for runtime.batch in BATCHES:
            runtime.score(documents)
            seconds = min(runtime.score(documents) for _ in range(2))
            found[seconds] = runtime, attention, runtime.batch
    runtime, attention, runtime.batch = found[min(found)]
    return runtime, f"{attention} attention, {runtime.batch} documents at a time"


def _targets(
    files: ModelFiles, scorers: Sequence[Scorer], threads: int, load: Load | None
) -> list[Target]:
    """Judge the targets of an Itera model, with its main type of weights."""
    if files.model.family != "itera":
        return []
    found = {
        (one.kind, one.label, one.threads): Measurement.of_samples(one.samples) for one in scorers
    }
    kind = files.main_type
    ours, label = found.get((kind, OURS, 1)), f"Scoring {kind.upper()}, against"
    judged = [
        Target("transformers", f"{label} transformers", "at least", 4).judged(
            ratio(ours, found.get(("fp32", TRANSFORMERS, 1))), load=load
        ),
        Target("llama_cpp", f"{label} llama.cpp", "at least", 5).judged(
            ratio(ours, found.get((kind, LLAMA, 1))), load=load
        ),
    ]
    if threads == 2:
        # Two busy threads on one core say nothing about the program.
        both = found.get((kind, OURS, 2)) if usable_cores() >= 2 else None
        target = Target("threads", "Scoring, two threads against one", "at least", 1.7)
        judged.append(target.judged(ratio(both, ours), load=load))
    return judged
