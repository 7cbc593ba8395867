"""Writes the tables of README.md and of pages in docs/ again from the committed results.

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
from itera_lite.model.cost import cost
from itera_lite.records import (
    BrowserDecoding,
    Filtering,
    Keystrokes,
    Quantization,
    Scaling,
    ServerLoad,
    Serving,
    SpeedRatio,
    TeacherComparison,
)
from itera_lite.report.filter import filter_notes, filter_rows, mean_auc, verdict
from itera_lite.report.ladder import CPU, findings, rungs_table
from itera_lite.report.metrics import compare_pairs
from itera_lite.report.results import ModelResults, Results, load_results
from itera_lite.report.sections.engine import (
    OURS,
    decode_speeds,
    ratio_to,
    targets,
)
from itera_lite.report.sections.steps import steps_table, targets_table
from itera_lite.report.seeds import seeds_table
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
from itera_lite.stats.targets import Target
from itera_lite.studies.teacher_or_not import SIDES
from tools.scaling import measured_table, scaling_table

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "README.md",
    "docs/compression.md",
    "docs/filter.md",
    "docs/results.md",
    "docs/scaling.md",
)
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
    last = ladder.rungs[-1]
    for reference, name in (
        (ladder.rungs[0], "GPT-2 in `transformers`"),
        (ladder.quantized, "the same GPT-2, quantised, in llama.cpp"),
    ):
        if reference is None:
            continue
        cpu = [1e3 * CPU.of(rung) for rung in (last, reference)]
        bpb = [fixed(rung.bpb.median) for rung in (last, reference)]
        rows.append(
            [
                "CPU time of 1,000 bytes of text, 4-bit weights, the engine",
                f"{significant(cpu[0])} ms",
                f"{significant(cpu[1])} ms: {name}",
                f"Itera better by {times(cpu[1] / cpu[0])} ({bpb[0]} against {bpb[1]} bits/byte)",
            ]
        )
    return table(["", "Itera-Lite", "compared with", "verdict"], rows, "lrrl")


def models_table(results: Results) -> str:
    """The first pair of models side by side."""
    pair = compare_pairs(results)[0]
    headers = ["", code(pair.ours.name), code(pair.other.name), "verdict"]
    return table(headers, comparison_rows(pair, (*KEYS, "word_ppl")), "lrrl")


def all_seeds_table(results: Results) -> str:
    """Every model and budget of the study of seeds."""
    return seeds_table(results.seeds)


def training_table(results: Results) -> str:
    """Whole training steps beside those of `transformers`, and the targets."""
    return paragraphs(steps_table(results.models), targets_table(results.models))


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


def rounding_table(results: Results) -> str:
    """What 8 and 4 bits cost each model that was rounded, by the method, as the engine scores it.

    Raises:
        IteraError: where nothing was rounded.
    """
    rows = []
    for model in results.models:
        made = model.summary and model.summary.compression
        if not (isinstance(made, Quantization) and made.start and made.bpb):
            continue
        tokens = f", {significant(model.training.tokens / 1e6)} M tokens" if model.training else ""
        taught = ", with a teacher" if model.summary and model.summary.distillation else ""
        rows.append(
            [
                f"{code(made.start.name)}, {significant(made.start.params / 1e6)} M",
                code(made.type),
                f"{made.method}{tokens}{taught}",
                f"{count(made.bytes.before)} to {count(made.bytes.after)}",
                f"{fixed(made.bpb.before_engine)} to {fixed(made.bpb.after_engine)}",
            ]
        )
    if not rows:
        raise IteraError(f"'{results.folder}' has no summary of `itera compress quantize`")
    rows.sort(key=lambda row: (row[0], row[4]))
    return table(["model, parameters", "type", "method", "bytes", "bits/byte"], rows, "lllrr")


def teachers_table(results: Results) -> str:
    """The same student with and without a teacher, a row a comparison.

    Raises:
        IteraError: where nothing was compared.
    """
    rows = []
    for path in sorted(results.folder.glob("teacher_*.json")):
        record = TeacherComparison.read(path)
        tokens = significant(record.settings.budget.amount / 1e6)
        sides = [fixed(record.sides[side].valid_bpb.median) for side in SIDES]
        params = significant(cost(record.settings.student).params_total / 1e6)
        seeds = record.sides["distilled"].valid_bpb.repeats
        verdict = record.verdicts["alone_longer"].winner or "no clear difference"
        student = f"{params} M parameters, {tokens} M tokens, {seeds} seeds"
        rows.append([student, *sides, verdict])
    if not rows:
        raise IteraError(f"'{results.folder}' has no result of `itera compress distill --compare`")
    headers = ["student", *(SIDES[side] for side in SIDES), "the first or the last"]
    return table(headers, rows, "lrrrl")


def applications_table(results: Results) -> str:
    """The server, the page and the completions, each beside what else there is.

    Raises:
        IteraError: where one of them wasn't measured.
    """
    folder = results.folder
    serving = Serving.read(_only(folder, "_serving.json"))
    browser = BrowserDecoding.read(folder / "browser.json")
    typed = Keystrokes.read(_only(folder, "_keystrokes.json"))
    first, many, *others = serving.loads
    rows: list[list[str]] = [
        [
            f"Server, {first.streams} clients, tokens/s",
            count(first.tokens_per_second.median),
            f"{count(serving.engine.median)}: the bare engine",
            _judged(serving.targets[0]),
        ]
    ]
    for other in others:
        rate = first.tokens_per_second.median / other.tokens_per_second.median
        speed = count(other.tokens_per_second.median)
        rows.append(["", "", f"{speed}: {other.runtime}", f"{times(rate)} as fast"])
    rows += [
        ["First text, 50 % and 99 % of the answers", _first_text(first), MISSING, ""],
        [
            f"Server, {many.streams} clients for {duration(many.seconds)}, tokens/s",
            count(many.tokens_per_second.median),
            MISSING,
            f"{many.lost:,} of {many.requests:,} answers lost, {many.different} texts that "
            "aren't the single stream's",
        ],
        ["First text, 50 % and 99 % of the answers", _first_text(many), MISSING, ""],
    ]
    ours, *peers = browser.runtimes
    rows += [
        [
            "In Chromium, one thread, tokens/s",
            count(browser.runtimes[ours].tokens_per_second.median),
            f"{count(browser.runtimes[name].tokens_per_second.median)}: {name}",
            _judged(browser.targets[0]),
        ]
        for name in peers
    ]
    (_, model), (floor, counted) = typed.completers.items()
    rows += [
        [
            f"Keystrokes saved with {typed.offered} offers",
            f"{model.saved:.1%}",
            f"{counted.saved:.1%}: {floor}",
            "",
        ],
        [
            "A keystroke's completions, median and 99 %",
            f"{model.median_ms:.2f} and {model.p99_ms:.2f} ms",
            f"{counted.median_ms:.2f} and {counted.p99_ms:.2f} ms: {floor}",
            "",
        ],
    ]
    filtering = Filtering.read(folder / "filter.json")
    scorer = filtering.scorers[0]  # the one whose speed has a target
    (peer,) = (one for one in filtering.scorers if one.name == filtering.peer)
    rows += [
        [
            f"Bad sentences found by {code(scorer.name)}, mean AUC",
            fixed(mean_auc(scorer), 3),
            f"{fixed(mean_auc(peer), 3)}: {peer.name}",
            verdict(scorer, peer.name).removeprefix(f"{scorer.name}: ").removesuffix("."),
        ],
        [
            "Sentences scored, MB/s a core",
            fixed(scorer.mb_per_second.median, 2),
            f"{fixed(peer.mb_per_second.median, 2)}: {peer.name}",
            _judged(filtering.targets[0]),
        ],
    ]
    return table(["", "Itera-Lite", "compared with", ""], rows, "lrrl")


def filter_table(results: Results) -> str:
    """AUC and speed of the scorers of `itera bench filter`, then what must be known of them."""
    record = Filtering.read(results.folder / "filter.json")
    header, rows = filter_rows(record)
    cells = [[escape(cell) for cell in row] for row in rows]
    notes = "\n".join(f"- {escape(note)}" for note in filter_notes(record))
    return paragraphs(table(header, cells, "l" + "r" * (len(header) - 1)), notes)


def processes_table(results: Results) -> str:
    """How training scaled with processes on one machine.

    Raises:
        IteraError: it wasn't measured, or for several models.
    """
    return measured_table(Scaling.read(_only(results.folder, "_scaling.json")))


def _only(folder: Path, suffix: str) -> Path:
    """Return the one file in a folder with this suffix.

    Raises:
        IteraError: there is none, or more than one.
    """
    found = sorted(folder.glob(f"*{suffix}"))
    if len(found) != 1:
        raise IteraError(f"'{folder}' has {len(found)} files *{suffix}: expected one")
    return found[0]


def _judged(target: Target) -> str:
    """What was found, what was wanted, and the verdict."""
    _, found, wanted, verdict = target.cells
    return f"{found}; {wanted} wanted: {verdict}"


def _first_text(load: ServerLoad) -> str:
    return f"{load.first_token_ms_p50:.1f} and {load.first_token_ms_p99:.1f} ms"


TABLES = {
    "applications": applications_table,
    "summary": summary_table,
    "models": models_table,
    "seeds": all_seeds_table,
    "training": training_table,
    "engine": engine_table,
    "filter": filter_table,
    "ladder": ladder_table,
    "processes": processes_table,
    "rounding": rounding_table,
    "scaling": scaling_table,
    "teachers": teachers_table,
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
