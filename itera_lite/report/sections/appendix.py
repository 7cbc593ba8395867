"""Section 12: how to make every number again, and where each came from."""

from __future__ import annotations

from collections.abc import Iterator

from itera_lite.machine.provenance import Machine, Provenance
from itera_lite.report.context import Context
from itera_lite.report.results import ModelResults
from itera_lite.report.text import (
    MISSING,
    bullets,
    code,
    count,
    escape,
    fence,
    paragraphs,
    quantity,
    table,
)

Sources = list[tuple[str, Provenance]]


def appendix(context: Context) -> str:
    """12. Appendix."""
    sources = list(_sources(context))
    return paragraphs(
        "## 12. Appendix",
        "### Commands",
        fence("\n".join(_commands(context, sources)), "sh"),
        "### Where the numbers come from",
        _origins(sources),
        bullets(dict.fromkeys(line for _, found in sources for line in _machine(found))),
        bullets(dict.fromkeys(filter(None, map(_dataset, context.models)))),
        "### How verdicts are made",
        "Every metric declares whether lower or higher is better. Counts (parameters, FLOPs, "
        "bytes) are exact, so any difference counts. For timings both models were measured in one "
        "run, in turn; a side is better only with at least 3 repeats a side, intervals that don't "
        "touch, and a difference of at least 1 %. An interval is the distribution-free 95 % one "
        "of the median, or smallest to largest below six repeats; below five it is widened by "
        "half its range on both sides before two are compared. Quality over seeds is judged by the "
        "same intervals; from one run a side, the verdict says so and asks for at least 1 %. "
        "Numbers of different text, tokenizers, machines or sessions get no verdict.",
    )


def _sources(context: Context) -> Iterator[tuple[str, Provenance]]:
    """(file, provenance) of every record that the report shows."""
    for model in context.models:
        for part, record in model.records.items():
            yield model.files[part], record.provenance
    if context.results.seed_study:
        yield "seeds.json", context.results.seed_study.provenance
    if context.results.ladder:
        yield "ladder.json", context.results.ladder.provenance


def _commands(context: Context, sources: Sources) -> list[str]:
    folder = context.results.folder.as_posix()
    report = "itera report" if folder == "results" else f"itera report --results {folder}"
    # One command may have written several files; the order of first use is kept, by stage.
    stages = ("train", "eval", "bench", "ladder")
    unique = list(dict.fromkeys(found.command for _, found in sources if found.command))
    unique.sort(key=lambda c: next((i for i, s in enumerate(stages) if s in c.split()), 0))
    return [c for c in unique if not c.startswith("itera report")] + [report]


def _origins(sources: Sources) -> str:
    rows = []
    for name, found in sources:
        dirty = " with local changes" if found.git_dirty else ""
        seeds = found.seeds if len(found.seeds) > 1 else [found.seed]
        rows.append(
            [
                code(name),
                escape(found.date or MISSING),
                f"{code(found.git_commit[:12])}{dirty}" if found.git_commit else MISSING,
                ", ".join(MISSING if seed is None else str(seed) for seed in seeds),
                "**yes**" if found.to_measure_again else "",
            ]
        )
    headers = ["Record", "Date", "Commit", "Seed", "To be measured again"]
    return table(headers, rows, "lllll") if rows else ""


def _machine(found: Provenance) -> Iterator[str]:
    """The machine and the versions, a line each."""
    if machine := found.machine:
        yield f"Machine: {'; '.join(_machine_parts(machine))}"
    if found.versions:
        versions = (f"{escape(k)} {escape(v)}" for k, v in found.versions.items())
        yield f"Versions: {', '.join(versions)}"


def _machine_parts(machine: Machine) -> Iterator[str]:
    yield escape(machine.cpu)
    yield f"cores {machine.cores}"
    if machine.threads is not None:
        yield f"threads {machine.threads}"
    if machine.isa:
        yield f"isa {escape(' '.join(machine.isa))}"
    if machine.memory_bytes is not None:
        yield f"memory {quantity(machine.memory_bytes, 'bytes')}"
    yield escape(machine.os)


def _dataset(model: ModelResults) -> str:
    """Size and hashes of the text and the tokenizer."""
    data = model.dataset
    if data is None:
        return ""
    return (
        f"Text: {escape(data.name)}; "
        f"train {count(data.train_bytes)} bytes, {count(data.train_tokens)} tokens; "
        f"valid {count(data.valid_bytes)} bytes, {count(data.valid_tokens)} tokens; "
        f"sha256 {code(data.sha256)}; tokenizer sha256 {code(data.tokenizer_sha256)}"
    )
