"""The results and comparisons that every section reads, and helpers that several share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from itera_lite.config import NAMES
from itera_lite.report.metrics import Pair
from itera_lite.report.results import ModelResults, Results
from itera_lite.report.text import MISSING, code, escape, quantity, table
from itera_lite.stats.comparison import Comparison

Row = tuple[str, Callable[[ModelResults], str]]

# The command that makes each kind of result, for the tiny models.
COMMANDS = {
    "train": "itera train --model both",
    "eval": "itera eval checkpoints/NAME",
    "bench": "itera bench",
    "steps": "itera bench train",
}


def command(kind: str, model: ModelResults, beside: Sequence[ModelResults] = ()) -> str:
    """The command that makes this kind of result.

    Args:
        kind: A key of `COMMANDS`.
        model: For which; of any size.
        beside: The models there are: those of one size are benchmarked in one run, so that
            their timings compare. Without any, both of a preset size.
    """
    text = COMMANDS[kind].replace("NAME", model.name)
    if kind == "eval":
        return text
    usual = [f"{name}_{model.preset}" for name in NAMES.values()] if model.preset else []
    preset = model.name in usual  # the name that a training of the preset gives
    if preset and model.preset == "tiny":
        return text
    if kind == "bench":
        both = usual if preset else [model.name]
        names = [m.name for m in beside if m.size == model.size] or both
        return " ".join([text, *(f"checkpoints/{name}" for name in names)])
    return f"{text} --config {model.preset}" if preset else text


@dataclass(frozen=True)
class Context:
    """The results, every comparison made from them, and the plots by name."""

    results: Results
    pairs: list[Pair]
    plots: dict[str, Path]

    @property
    def models(self) -> list[ModelResults]:
        return self.results.models

    def figure(self, name: str, caption: str) -> str:
        """The plot with its caption; empty where it wasn't drawn."""
        if name not in self.plots:
            return ""
        return f"![{caption}]({self.plots[name].name})\n\n*{caption}*"

    def model_table(self, rows: Sequence[Row], models: Sequence[ModelResults] = ()) -> str:
        """A column a model; rows that no model has are left out, and so is an empty table."""
        models = models or self.models
        cells = [[name, *(read(model) for model in models)] for name, read in rows]
        cells = [row for row in cells if any(cell != MISSING for cell in row[1:])]
        headers = ["", *(code(model.name) for model in models)]
        return table(headers, cells) if cells else ""

    def gap(self, kind: str, what: str, have: Callable[[ModelResults], object]) -> str:
        """Names the models without a result and the command that would make it."""
        missing = [model for model in self.models if not have(model)]
        if not missing:
            return ""
        names = ", ".join(code(model.name) for model in missing)
        line = command(kind, missing[0], self.models)
        return f"> **Not measured:** {what} of {names}. `{line}` fills this gap."

    def alone(self) -> str:
        """Names the models that nothing is compared with, beside pairs that are compared."""
        paired = {model.name for pair in self.pairs for model in (pair.ours, pair.other)}
        single = [model for model in self.models if model.name not in paired]
        if not self.pairs or not single:
            return ""
        names = ", ".join(code(model.name) for model in single)
        other = "transformer" if single[0].family == "itera" else "itera"
        line = command("train", single[0]).replace("both", other)
        return (
            f"> **Not compared:** {names}, for want of the other family's model of that size. "
            f"`{line}`, then `{command('bench', single[0])}`, fill this gap."
        )

    def both(self) -> str:
        """The two commands that give the first model its pair."""
        if not self.models:
            return "`itera train`, then `itera bench`"
        return f"`{command('train', self.models[0])}`, then `{command('bench', self.models[0])}`"

    def verdicts(self, *keys: str) -> str:
        """The verdicts of these metrics, a sentence a pair; empty without a pair."""
        sentences = []
        for pair in self.pairs:
            name = escape(pair.ours.size or pair.ours.name)
            names = f" ({name})" if len(self.pairs) > 1 else ""
            if found := pair.both(*keys):
                parts = "; ".join(f"{_lower(c.metric.label)}: **{c.verdict}**" for c in found)
                sentences.append(f"Verdict{names}: {parts}.")
        return "\n\n".join(sentences)


def against(comparison: Comparison) -> str:
    """Both numbers: ``Itera 1,150, Transformer 1,393 tokens/s, medians of 7``."""
    unit = comparison.metric.unit
    a, b = comparison.ours, comparison.other
    if a is None or b is None:
        return ""
    texts = [quantity(a.value, unit), quantity(b.value, unit)]
    if unit and texts[0].endswith(f" {unit}"):
        texts[0] = texts[0].removesuffix(unit).strip()
    repeats = sorted({a.repeats, b.repeats})
    spread = "" if repeats == [1] else f"medians of {' and '.join(map(str, repeats))}"
    tail = "".join(f", {part}" for part in (spread, comparison.note) if part)
    return f"Itera {texts[0]}, Transformer {texts[1]}{tail}"


def _lower(label: str) -> str:
    """A label inside a sentence; an abbreviation stays in capitals."""
    return label if label[:2].isupper() else label[:1].lower() + label[1:]
