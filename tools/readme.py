"""Writes the tables of README.md and docs/results.md again from the committed results.

    python -m tools.readme

A table stands between `<!-- table: KIND FOLDER -->` and `<!-- end -->`. KIND is a key of `TABLES`;
FOLDER holds result files and is relative to the root of the repository.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from itera_lite.errors import IteraError
from itera_lite.files import write_text
from itera_lite.records import SpeedRatio
from itera_lite.report.ladder import CPU, findings, rungs_table
from itera_lite.report.metrics import compare_pairs
from itera_lite.report.results import ModelResults, Results, load_results
from itera_lite.report.sections.engine import (
    OURS,
    decode_speeds,
    ratio_to,
    targets,
)
from itera_lite.report.sections.steps import steps_table
from itera_lite.report.table import KEYS, comparison_rows
from itera_lite.report.text import (
    MISSING,
    code,
    count,
    duration,
    escape,
    fixed,
    paragraphs,
    significant,
    table,
)
from itera_lite.stats.comparison import times

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/results.md")
PEERS = ("llama.cpp", "transformers")


def renew(page: Path, root: Path = ROOT) -> None:
    """Write every table of a Markdown page again, from result folders below `root`."""

    def written(found: re.Match[str]) -> str:
        kind, folder = found.groups()
        text = TABLES[kind](load_results(root / folder))
        return f"<!-- table: {kind} {folder} -->\n{text}\n<!-- end -->"

    pattern = r"<!-- table: (\w+) (\S+) -->\n.*?<!-- end -->"
    text = page.read_text(encoding="utf-8")
    write_text(page, re.sub(pattern, written, text, flags=re.DOTALL))


def summary_table(results: Results) -> str:
    """Four rows on the architectures, one on the engine, one on compression.

    Raises:
        IteraError: where one of them wasn't measured.
    """
    pair = compare_pairs(results)[0]
    model, ladder = pair.ours, results.ladder
    against = ratio_to(model.decode.decoding.ratios, "q8_0", "llama.cpp") if model.decode else None
    if not (model.training and model.decode and against and ladder):
        raise IteraError(f"'{results.folder}' lacks a training, the engine's decoding or a ladder")
    labels = {
        "bpb": f"Bits per byte after {duration(model.training.seconds)} of training each",
        "bpb_time": None,  # its own label has the number of tokens
        "flops_forward": "FLOPs a token",
        "decode_1_128": "Decoding with PyTorch",
    }
    chosen = comparison_rows(pair, tuple(labels))
    rows = [
        [label or own, ours, f"{other}: Transformer", verdict]
        for label, (own, ours, other, verdict) in zip(labels.values(), chosen, strict=True)
    ]
    runtimes = model.decode.decoding.types["q8_0"].runtimes
    ours, other = (
        count(runtimes[runtime].tokens_per_second.median) for runtime in (OURS, "llama.cpp")
    )
    rows.append(
        [
            "Decoding with the engine, 8-bit weights, one thread",
            f"{ours} tokens/s",
            f"{other} tokens/s: llama.cpp, same file",
            against.verdict.replace(OURS, "Itera"),
        ]
    )
    ends = (ladder.rungs[-1], ladder.rungs[0])
    cpu = [1e3 * CPU.of(rung) for rung in ends]
    bpb = [fixed(rung.bpb.median) for rung in ends]
    rows.append(
        [
            "CPU time of 1,000 bytes of text, 4-bit weights, the engine",
            f"{significant(cpu[0])} ms",
            f"{significant(cpu[1])} ms: GPT-2 in `transformers`",
            f"Itera better by {times(cpu[1] / cpu[0])} ({bpb[0]} against {bpb[1]} bits/byte)",
        ]
    )
    return table(["", "Itera-Lite", "compared with", "verdict"], rows, "lrrl")


def models_table(results: Results) -> str:
    """The first pair of models side by side."""
    pair = compare_pairs(results)[0]
    headers = ["", code(pair.ours.name), code(pair.other.name), "verdict"]
    return table(headers, comparison_rows(pair, (*KEYS, "word_ppl")), "lrrl")


def training_table(results: Results) -> str:
    """Whole training steps beside those of `transformers`."""
    return steps_table(results.models)


def engine_table(results: Results) -> str:
    """Tokens a second of the engine and its peers, then the targets.

    Raises:
        IteraError: where the engine wasn't measured.
    """
    speeds = [row for model in results.models for row in (*_decoding(model), *_scoring(model))]
    if not speeds:
        raise IteraError(
            f"'{results.folder}' has no NAME_decode.json or NAME_scoring.json. "
            "Run `itera bench decode` and `itera bench score` to make them."
        )
    judged = [list(map(escape, t.cells)) for model in results.models for t in targets(model)]
    return paragraphs(
        table(["tokens/s, one thread", "engine", "llama.cpp", "transformers (float32)"], speeds),
        table(["target", "found", "wanted", "verdict"], judged, "lrrl") if judged else "",
    )


def ladder_table(results: Results) -> str:
    """The rungs of the ladder, then its targets.

    Raises:
        IteraError: where the ladder wasn't measured.
    """
    if not results.ladder:
        raise IteraError(f"'{results.folder}' has no ladder.json. Run `itera ladder` to make it.")
    return paragraphs(rungs_table(results.ladder), *findings(results.ladder))


TABLES = {
    "summary": summary_table,
    "models": models_table,
    "training": training_table,
    "engine": engine_table,
    "ladder": ladder_table,
}


def _decoding(model: ModelResults) -> Iterator[list[str]]:
    if model.decode:
        speeds = {(k, r): s.tokens_per_second.median for k, r, s in decode_speeds(model)}
        yield from _speed_rows(model, "decoding", speeds, model.decode.decoding.ratios)


def _scoring(model: ModelResults) -> Iterator[list[str]]:
    if model.scoring:
        speeds = {
            (row.type, row.runtime): row.tokens_per_second.median
            for row in model.scoring.runtimes
            if row.threads == 1
        }
        yield from _speed_rows(model, "scoring", speeds, model.scoring.ratios)


def _speed_rows(
    model: ModelResults,
    what: str,
    speeds: dict[tuple[str, str], float],
    ratios: list[SpeedRatio],
) -> Iterator[list[str]]:
    """A row for each type of weights; a peer's speed with our engine's advantage over it."""
    for kind in [kind for kind, runtime in speeds if runtime == OURS]:
        cells = []
        for peer in PEERS:
            speed = speeds.get((kind, peer)) or speeds.get(("fp32", peer))
            against = ratio_to(ratios, kind, peer)
            if speed is None or against is None:
                cells.append(MISSING)
                continue
            words = "no clear difference"
            if against.winner:
                words = f"{times(against.ratio)} {'faster' if against.ratio > 1 else 'slower'}"
            cells.append(f"{count(speed)} ({words})")
        label = f"{code(model.name)}, {what}, {escape(kind.upper())}"
        yield [label, count(speeds[kind, OURS]), *cells]


if __name__ == "__main__":
    for name in PAGES:
        renew(ROOT / name)
