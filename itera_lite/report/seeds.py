"""Which runs of seeds.json are compared: those of one budget, of both models."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import median
from typing import Any

from itera_lite.report.results import number

Runs = list[dict[str, Any]]


def of_one_budget(seeds: Runs, names: Sequence[str], kind: str) -> list[Runs]:
    """Each name's runs of a kind of budget, ``time`` or ``tokens``, of one amount and vocabulary.

    Of several the one with the most seeds on all sides is taken, then the one with
    the most tokens: a mixture would compare lengths, not models. Without one that all sides
    have, whatever there is of each.
    """
    usable = [r for r in seeds if r.get("budget") == kind and number(r, "valid_bpb") is not None]
    groups: dict[tuple[str, str, str], list[Runs]] = defaultdict(lambda: [[] for _ in names])
    for run in usable:
        if run.get("name") in names:
            of = (str(run.get("data")), str(run.get("amount")), str(run.get("vocab_size", 2048)))
            groups[of][names.index(run["name"])].append(run)
    found = max(groups.values(), key=_worth) if groups else []
    if found and all(found):
        return found
    return [[run for run in usable if run.get("name") == name] for name in names]


def _worth(sides: list[Runs]) -> tuple[int, float]:
    return min(map(len, sides)), max(number(r, "tokens") or 0.0 for runs in sides for r in runs)


def length_words(sides: list[Runs]) -> str:
    """`` (3 M tokens)``, or `` (4.4 M and 3 M tokens)``; nothing where it isn't known."""
    counts = [[t for r in runs if (t := number(r, "tokens")) is not None] for runs in sides]
    if not all(counts):
        return ""
    millions = [f"{median(c) / 1e6:.3g} M" for c in counts]
    return f" ({' and '.join(dict.fromkeys(millions))} tokens)"
