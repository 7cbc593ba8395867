"""Section 12: how to make every number again, and where each came from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from itera_lite.report.context import Context
from itera_lite.report.results import KINDS, ModelResults, get
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


def appendix(context: Context) -> str:
    """12. Appendix."""
    files = list(_files(context))
    return paragraphs(
        "## 12. Appendix",
        "### Commands",
        fence("\n".join(_commands(context, files)), "sh"),
        "### Where the numbers come from",
        _origins(files),
        _machines(files),
        _data(context),
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


def _files(context: Context) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file name, provenance) of every result file that has one."""
    for model in context.models:
        for kind, attribute in KINDS.items():
            record: dict[str, Any] = getattr(model, attribute)
            if record and kind.endswith(".json"):
                yield f"{model.name}_{kind}", record.get("provenance") or {}
    if context.results.ladder:
        yield "ladder.json", context.results.ladder_provenance


def _commands(context: Context, files: list[tuple[str, dict[str, Any]]]) -> list[str]:
    commands = [str(p["command"]) for _, p in files if p.get("command")]
    folder = context.results.folder.as_posix()
    report = "itera report" if folder == "results" else f"itera report --results {folder}"
    # One command may have written several files; the order of first use is kept, by stage.
    stages = ("train", "eval", "bench", "ladder")
    unique = list(dict.fromkeys(commands))
    unique.sort(key=lambda c: next((i for i, s in enumerate(stages) if s in c.split()), 0))
    return [c for c in unique if not c.startswith("itera report")] + [report]


def _origins(files: list[tuple[str, dict[str, Any]]]) -> str:
    rows = []
    for name, record in files:
        commit = str(record.get("git_commit") or "")[:12]
        dirty = " with local changes" if record.get("git_dirty") else ""
        seeds = record.get("seeds") or []
        seed = ", ".join(map(str, seeds)) if len(seeds) > 1 else record.get("seed")
        rows.append(
            [
                code(name),
                escape(record.get("date") or MISSING),
                f"{code(commit)}{dirty}" if commit else MISSING,
                MISSING if seed is None else escape(seed),
            ]
        )
    return table(["File", "Date", "Commit", "Seed"], rows, "llll") if rows else ""


def _machines(files: list[tuple[str, dict[str, Any]]]) -> str:
    """Each different machine and set of versions once."""
    lines: dict[str, None] = {}
    for _, record in files:
        machine = record.get("machine") or {}
        parts = [_machine_part(k, v) for k, v in machine.items() if _shown(v)]
        if parts:
            lines[f"Machine: {'; '.join(parts)}"] = None
        versions = record.get("versions") or {}
        parts = [f"{escape(k)} {escape(v)}" for k, v in versions.items() if _shown(v)]
        if parts:
            lines[f"Versions: {', '.join(parts)}"] = None
    return bullets(lines)


def _shown(value: Any) -> bool:
    return value is not None and value != "" and value != []


def _machine_part(key: str, value: Any) -> str:
    """``2 cores``, ``memory 8.590 GB``, and names as they are."""
    if key in ("cores", "threads"):
        return f"{key} {escape(value)}"
    if key == "memory_bytes":
        return f"memory {quantity(value, 'bytes')}"
    words = " ".join(map(str, value)) if isinstance(value, list | tuple) else value
    return escape(words) if key in ("cpu", "os") else f"{escape(key)} {escape(words)}"


def _data(context: Context) -> str:
    """Hashes of the text and the tokenizer, each set once."""
    return bullets(dict.fromkeys(filter(None, map(_dataset, context.models))))


def _dataset(model: ModelResults) -> str:
    data = model.summary.get("dataset") or {}
    parts = []
    if name := data.get("name"):
        parts.append(f"Text: {escape(name)}")
    for split in ("train", "valid"):
        if (size := data.get(f"{split}_bytes")) is not None:
            tokens = get(data, f"{split}_tokens")
            parts.append(f"{split} {count(size)} bytes, {count(tokens)} tokens")
    for key, label in (("sha256", "sha256"), ("tokenizer_sha256", "tokenizer sha256")):
        if data.get(key):
            parts.append(f"{label} {code(data[key])}")
    return "; ".join(parts)
