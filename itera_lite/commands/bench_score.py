"""The verb `bench score`: reading documents and their probabilities, ours and others'."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tqdm import tqdm

from itera_lite import _engine
from itera_lite.bench import llama
from itera_lite.bench.decode_record import LLAMA, OURS, Subject
from itera_lite.commands.bench_decode import (
    DEFAULT_CHECKPOINTS,
    check,
    exported,
    origin_of,
    say_missing,
)
from itera_lite.engine import Model
from itera_lite.files import check_writable, folder_name, write_json
from itera_lite.machine.provenance import usable_cores
from itera_lite.stats.comparison import Measurement, Metric, compare
from itera_lite.stats.samples import stat
from itera_lite.stats.targets import Target, judge, lines, ratio

TYPES = ("f32", "q8_0")
REPEATS, QUICK_REPEATS = 9, 3
BATCHES = (16, 4, 1)  # documents that transformers may read at a time
SPEED = Metric("score", "Scoring", "tokens/s", "higher", "timing", "speed")


@dataclass
class Scorer:
    """Somebody who reads all the documents once; ``run`` returns the seconds."""

    kind: str
    runtime: str
    run: Callable[[], float]
    threads: int = 1
    note: str = ""
    seconds: list[float] = field(default_factory=list)

    def record(self, tokens: int) -> dict[str, Any]:
        return {
            "type": self.kind,
            "runtime": self.runtime,
            "threads": self.threads,
            "note": self.note,
            "tokens_per_second": stat([tokens / s for s in self.seconds]),
        }

    def measured(self, tokens: int) -> Measurement:
        return Measurement.of_samples([tokens / s for s in self.seconds])


def bench_score(
    *checkpoints: Path,
    types: Sequence[str] = TYPES,
    quick: bool = False,
    repeats: int | None = None,
    documents: int = 16,
    length: int = 256,
    threads: int = 2,
    peers: bool = True,
    results: Path = Path("results"),
) -> dict[str, dict[str, Any]]:
    """Measure the native engine's scoring beside llama.cpp and transformers.

    Everybody computes the probabilities of all tokens of the same documents, in turns, with
    one thread; ours also with more. Writes NAME_scoring.json for each.

    Args:
        checkpoints: Folders of the models; by default both tiny ones.
        types: How the weights are stored, such as f32, q8_0, q4_0.
        quick: Three repeats.
        repeats: Turns of each; by default 9, or 3 with quick.
        documents: Number of documents.
        length: Tokens of a document.
        threads: Of our second measurement.
        peers: Also measure llama.cpp and transformers, where they are installed.
        results: Folder of the result files.
    """
    import torch

    folders = [Path(folder) for folder in checkpoints or DEFAULT_CHECKPOINTS]
    counts = {"repeats": repeats, "documents": documents, "length": length, "threads": threads}
    check(folders, types, **counts)
    for folder in folders:
        check_writable(Path(results) / f"{folder_name(folder)}_scoring.json")
    repeats = repeats or (QUICK_REPEATS if quick else REPEATS)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    records = {}
    try:
        with tempfile.TemporaryDirectory() as scratch:
            subjects = [exported(folder, types, Path(scratch)) for folder in folders]
            say_missing(peers)
            every = [_scorers(s, documents, length, threads, peers) for s in subjects]
            _take_turns([one for scorers, _ in every for one in scorers], repeats)
        origin = origin_of(subjects, peers)
    finally:
        torch.set_num_threads(before)
    for subject, (scorers, tokens) in zip(subjects, every, strict=True):
        record = _record(subject, scorers, tokens, documents, threads)
        record["interleaved_with"] = [s.name for s in subjects if s is not subject]
        record["provenance"] = origin
        _print(record)
        write_json(Path(results) / f"{subject.name}_scoring.json", record)
        records[subject.name] = record
    print(f"\nWritten to {Path(results) / 'NAME_scoring.json'}")
    return records


def _scorers(
    subject: Subject, documents: int, length: int, threads: int, peers: bool
) -> tuple[list[Scorer], int]:
    """Everybody for one model, and the number of tokens of all documents."""
    first = next(iter(subject.files.values()))
    model = _engine.Model.load(str(first), length + 64)
    texts = list(_texts(model, documents, length))
    ids = [[model.eot, *model.encode(text)] for text in texts]
    found = []
    for kind, path in subject.files.items():
        engine = Model.load(path, context=max(map(len, ids)) + 1)
        for n in dict.fromkeys((1, threads)):
            found.append(Scorer(kind, OURS, _our_run(engine, texts, n), n))
        if peers and llama.available():
            found.append(Scorer(kind, LLAMA, _llama_run(path, ids)))
    if peers and subject.folder is not None and find_spec("transformers") is not None:
        found.append(_transformers(subject.folder, ids))
    return found, sum(map(len, ids))


def _texts(model: _engine.Model, documents: int, length: int) -> Iterator[bytes]:
    """Documents of about ``length`` tokens: consecutive pieces of a real text."""
    from itera_lite.commands.bench_decode import prompt_ids_of

    ids = prompt_ids_of(model, documents * (length - 1) + 1)[1:]
    for first in range(0, len(ids), length - 1):
        yield model.decode(ids[first : first + length - 1])


def _our_run(model: Model, texts: Sequence[bytes], threads: int) -> Callable[[], float]:
    """Texts in, log-probabilities out: the tokenizer and the softmax are included."""

    def run() -> float:
        begin = time.perf_counter()
        model.score(texts, threads=threads, log_probabilities=True)
        return time.perf_counter() - begin

    return run


def _llama_run(path: Path, documents: Sequence[Sequence[int]]) -> Callable[[], float]:
    """Seconds inside llama.cpp, a document a pass: several at once took as long or longer."""
    longest = max(map(len, documents))
    peer = llama.LlamaCpp(path, context=longest, batch=longest)

    def run() -> float:
        seconds = 0.0
        for ids in documents:
            peer.clear()
            seconds += peer.read(ids, every=True)
        return seconds

    return run


def _transformers(folder: Path, documents: Sequence[Sequence[int]]) -> Scorer:
    """Logits of all positions, with the attention and the batch that are fastest here."""
    import torch

    from itera_lite.bench.peers import load_transformers

    def run_of(model: Any, batch: int) -> Callable[[], float]:
        padded = [
            torch.nn.utils.rnn.pad_sequence(
                [torch.tensor(ids) for ids in documents[i : i + batch]], batch_first=True
            )
            for i in range(0, len(documents), batch)
        ]

        def run() -> float:
            begin = time.perf_counter()
            with torch.inference_mode():
                for rows in padded:
                    model(input_ids=rows, use_cache=False)
            return time.perf_counter() - begin

        return run

    choices = {}
    for attention in ("sdpa", "eager"):
        model = load_transformers(folder, attention).eval()
        for batch in BATCHES:
            run = run_of(model, batch)
            run()
            note = f"{attention} attention, {batch} documents at a time"
            choices[note] = (min(run(), run()), run)
    best = min(choices, key=lambda note: choices[note][0])
    return Scorer("fp32", "transformers", choices[best][1], note=best)


def _take_turns(scorers: Sequence[Scorer], repeats: int) -> None:
    with tqdm(total=(repeats + 1) * len(scorers), desc="bench score", disable=None) as bar:
        for repeat in range(-1, repeats):
            for turn in range(len(scorers)):
                one = scorers[(turn + repeat) % len(scorers)]
                bar.update()
                seconds = one.run()
                if repeat >= 0:
                    one.seconds.append(seconds)


def _record(
    subject: Subject, scorers: Sequence[Scorer], tokens: int, documents: int, threads: int
) -> dict[str, Any]:
    def find(kind: str, runtime: str, n: int = 1) -> Measurement | None:
        for one in scorers:
            if (one.kind, one.runtime, one.threads) == (kind, runtime, n):
                return one.measured(tokens)
        return None

    ratios = []
    for kind in subject.files:
        for one in scorers:
            ours = find(kind, OURS)
            if one.runtime == OURS or one.kind not in (kind, "fp32") or ours is None:
                continue
            names = {"ours": OURS, "other": one.runtime}
            verdict = compare(SPEED, ours, one.measured(tokens), names=names)  # type: ignore[arg-type]
            ratios.append(
                {
                    "type": kind,
                    "peer": one.runtime,
                    "peer_type": one.kind,
                    "ratio": verdict.ratio,
                    "verdict": verdict.verdict,
                }
            )
    main = subject.main_type
    ours, more = find(main, OURS), find(main, OURS, threads)
    label = main.upper()
    targets = [
        judge(
            Target("transformers", f"Scoring {label}, against transformers", "at least", 4),
            ratio(ours, find("fp32", "transformers")),
        ),
        judge(
            Target("llama_cpp", f"Scoring {label}, against llama.cpp", "at least", 5),
            ratio(ours, find(main, LLAMA)),
        ),
    ]
    if threads == 2:
        # Two busy threads on one core say nothing about the program.
        both = ratio(more, ours) if usable_cores() >= threads else None
        targets.append(
            judge(Target("threads", "Scoring, two threads against one", "at least", 1.7), both)
        )
    return {
        "name": subject.name,
        "family": subject.family,
        "params": subject.params,
        "documents": documents,
        "tokens": tokens,
        "main_type": main,
        "scorers": [one.record(tokens) for one in scorers],
        "ratios": ratios,
        "targets": targets if subject.family == "itera" else [],
    }


def _print(record: dict[str, Any]) -> None:
    print(
        f"\n{record['name']}: {record['params']:,} parameters; scoring {record['documents']} "
        f"documents, {record['tokens']:,} tokens"
    )
    for row in record["scorers"]:
        speed, n = row["tokens_per_second"], row["threads"]
        who = f"{row['runtime']}, {n} thread{'s' if n > 1 else ''}"
        print(
            f"  {row['type']:5} {who:24} {speed['median']:10,.0f} tokens/s "
            f"(spread {speed['spread']:,.0f}){', ' if row['note'] else ''}{row['note']}"
        )
    for row in record["ratios"]:
        against = f"{row['peer']} ({row['peer_type']})"
        print(f"  {row['type']:5} against {against:24} {row['ratio']:7.1f}×   {row['verdict']}")
    if record["targets"]:
        print("  Targets:")
        print("\n".join("  " + line for line in lines(record["targets"])))
