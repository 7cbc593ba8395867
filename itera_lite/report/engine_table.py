"""The native engine beside its peers as Markdown, for the README."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from itera_lite.errors import IteraError
from itera_lite.report.results import ModelResults, get, load_results, number
from itera_lite.report.sections.engine import (
    OURS,
    best_ratio,
    decode_speeds,
    target_cells,
    targets,
)
from itera_lite.report.text import MISSING, code, count, escape, paragraphs, table
from itera_lite.stats.comparison import times

PEERS = ("llama.cpp", "transformers")


def engine_table(folder: str | Path) -> str:
    """Tokens a second of the engine and its peers, then the targets.

    Args:
        folder: Of the result files.

    Raises:
        IteraError: where the engine wasn't measured.
    """
    models = load_results(folder).models
    speeds = [row for model in models for row in [*_decoding(model), *_scoring(model)]]
    if not speeds:
        raise IteraError(
            f"'{folder}' has no NAME_decode.json or NAME_scoring.json. "
            "Run `itera bench decode` and `itera bench score` to make them."
        )
    headers = ["tokens/s, one thread", "engine", "llama.cpp", "transformers (float32)"]
    judged = [target_cells(row) for model in models for row in targets(model)]
    return paragraphs(
        table(headers, speeds),
        table(["target", "found", "wanted", "verdict"], judged, "lrrl") if judged else "",
    )


def _decoding(model: ModelResults) -> Iterator[list[str]]:
    found = {(k, r): number(s, "tokens_per_second", "median") for k, r, s in decode_speeds(model)}
    yield from _lines(model, "decoding", model.engine_decode, found)


def _scoring(model: ModelResults) -> Iterator[list[str]]:
    rows = model.engine_scoring.get("scorers")
    found = {
        (str(row.get("type")), str(row.get("runtime"))): number(row, "tokens_per_second", "median")
        for row in (rows if isinstance(rows, list) else [])
        if row.get("threads") == 1
    }
    yield from _lines(model, "scoring", model.engine_scoring, found)


def _lines(
    model: ModelResults,
    what: str,
    record: dict[str, Any],
    found: dict[tuple[str, str], float | None],
) -> Iterator[list[str]]:
    """A line for each type of weights; a peer's speed with our engine's advantage over it."""
    for kind in [kind for kind, runtime in found if runtime == OURS]:
        cells = []
        for peer in PEERS:
            speed = found.get((kind, peer)) or found.get(("fp32", peer))
            ratio = number(best_ratio(record, kind, peer), "ratio")
            if speed is None or not ratio:
                cells.append(MISSING)
                continue
            clear = " better by " in str(get(best_ratio(record, kind, peer), "verdict"))
            word = ("faster" if ratio > 1 else "slower") if clear else "no clear difference"
            cells.append(f"{count(speed)} ({times(ratio)} {word})" if clear
                         else f"{count(speed)} ({word})")  # fmt: skip
        yield [
            f"{code(model.name)}, {what}, {escape(kind.upper())}",
            count(found[kind, OURS]),
            *cells,
        ]
