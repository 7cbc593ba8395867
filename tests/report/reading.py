"""Reads the Markdown of a report, for tests."""

import json
import re
from pathlib import Path

from itera_lite.report.build import to_markdown
from itera_lite.report.results import load_results

ITERA, TRANSFORMER = "itera_lite_tiny", "transformer_tiny"
FILES = ("metrics.csv", "summary.json", "eval.json", "benchmark.json", "training_speed.json",
         "decode.json", "scoring.json")  # fmt: skip


def markdown(folder: Path) -> str:
    """The report without plots."""
    return to_markdown(load_results(folder), {})


def section(text: str, title: str) -> str:
    return text.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def row(text: str, label: str) -> list[str]:
    """The cells of the first table row that begins with ``label``."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {label} |"))
    return [cell.strip() for cell in line.strip("| ").split("|")]


def between_models(text: str) -> str:
    """Without what compares a model with other programs: training steps and the engine."""
    text = re.sub(r"### The native engine\n.*?(?=\n##)", "", text, flags=re.DOTALL)
    return "\n".join(
        x for x in text.splitlines() if not re.search(" (threads|workers) better by ", x)
    )


def verdict(text: str, label: str) -> str:
    """The verdict of a metric in section 8."""
    return row(section(text, "8. Efficiency comparison"), label)[-1]


def edit(path: Path, change) -> None:
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
