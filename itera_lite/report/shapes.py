"""What each kind of result file holds, as far as the report reads it, and what doesn't fit.

A result file may be older than this program, damaged, or somebody else's. `conform` takes out
every part that isn't of the kind it must be, so that the rest of the report needs no such checks:
an object where one is expected, a list, a text. Numbers are checked where they are read
(`itera_lite.report.results.number`), for any of them may be missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from itera_lite.stats.comparison import is_number


class _Text:
    """A text."""


class _Number:
    """A finite number."""


class _Word:
    """A text or a finite number: what can be shown as it is."""


class _Any:
    """Anything."""


TEXT, NUMBER, WORD, ANY = _Text(), _Number(), _Word(), _Any()


@dataclass(frozen=True)
class ListOf:
    """A list; items of another kind are taken out."""

    item: Any


@dataclass(frozen=True)
class Pairs:
    """A list of [number, number]."""


@dataclass(frozen=True)
class MapOf:
    """An object with any keys; values of another kind are taken out."""

    value: Any
    numbered: bool = False  # the keys are whole numbers


OBJECT: dict[str, Any] = {}
MACHINE = {"cpu": TEXT, "os": TEXT, "cores": NUMBER, "threads": NUMBER, "memory_bytes": NUMBER}
PROVENANCE = {
    "command": TEXT,
    "git_commit": TEXT,
    "date": TEXT,
    "seed": WORD,
    "seeds": ListOf(WORD),
    "machine": MACHINE,
    "versions": MapOf(WORD),
}
_MODEL = {"name": TEXT, "family": TEXT, "preset": TEXT, "provenance": PROVENANCE}
_TARGETS = ListOf(
    {"key": TEXT, "label": TEXT, "sense": TEXT, "unit": TEXT, "verdict": TEXT, "target": NUMBER}
)
_FLOPS = MapOf(NUMBER)
SHAPES: dict[str, dict[str, Any]] = {
    "summary": _MODEL
    | {
        "config": {"pattern": TEXT, "family": TEXT},
        "train": OBJECT,
        "params": OBJECT,
        "flops_per_token": _FLOPS,
        "flops_breakdown": OBJECT,
        "valid": OBJECT,
        "best": OBJECT,
        "dataset": {"name": TEXT, "spec": TEXT, "sha256": TEXT, "tokenizer_sha256": TEXT},
        "expert_load": ListOf(ListOf(NUMBER)),
        "samples": ListOf({"prompt": TEXT, "text": TEXT, "step": NUMBER}),
        "compress": OBJECT,
        "distillation": OBJECT,
    },
    "evaluation": _MODEL
    | {
        "data": TEXT,
        "split": TEXT,
        "policy": TEXT,
        "by_position": Pairs(),
        "baselines": MapOf(OBJECT),
    },
    "benchmark": _MODEL
    | {
        "params": OBJECT,
        "flops_per_token": _FLOPS,
        "prefill": ListOf(OBJECT),
        "decode": ListOf(OBJECT),
        "memory": {"state_bytes": MapOf(NUMBER, numbered=True)},
        "energy": {"method": TEXT},
        "cpu": OBJECT,
        "peers": MapOf({"note": TEXT, "decode": ListOf(OBJECT), "prefill": ListOf(OBJECT)}),
        "peers_left_out": MapOf(TEXT),
        "interleaved_with": ListOf(TEXT),
    },
    "training_speed": _MODEL | {"contenders": MapOf(OBJECT), "speedup_of_first": MapOf(NUMBER)},
    "engine_decode": _MODEL
    | {
        "main_type": TEXT,
        "types": MapOf(
            {
                "runtimes": MapOf(OBJECT),
                "roofline": OBJECT,
                "profile_microseconds": MapOf(NUMBER),
            }
        ),
        "torch": MapOf(OBJECT),
        "ratios": ListOf(OBJECT),
        "targets": _TARGETS,
    },
    "engine_scoring": _MODEL
    | {"scorers": ListOf(OBJECT), "ratios": ListOf(OBJECT), "targets": _TARGETS},
    "run": {"name": TEXT, "budget": TEXT},  # of seeds.json
    "rung": {"name": TEXT, "stage": TEXT, "runtime": TEXT, "outside_teacher": TEXT},
    "target": {"key": TEXT, "label": TEXT, "verdict": TEXT},
    "reference": {"stage": TEXT},
}


def conform(value: Any, shape: Any, left_out: list[str], where: str = "") -> Any:
    """``value`` without the parts that aren't of the kind that ``shape`` says; None for itself.

    Args:
        left_out: gets the places of these parts, such as ``train.seconds``.
        where: the place of ``value``.
    """
    if value is None or isinstance(shape, _Any):
        return value
    if isinstance(shape, dict | MapOf) and isinstance(value, dict):
        return _object(value, shape, left_out, where)
    if isinstance(shape, ListOf) and isinstance(value, list):
        items = [conform(v, shape.item, left_out, f"{where}[{i}]") for i, v in enumerate(value)]
        return [item for item in items if item is not None]
    if isinstance(shape, Pairs) and isinstance(value, list):
        good = [v for v in value if isinstance(v, list) and len(v) == 2 and all(map(is_number, v))]
        if len(good) < len(value):
            left_out.append(where)
        return good
    if isinstance(shape, _Text | _Word) and isinstance(value, str):
        return value
    if isinstance(shape, _Number | _Word) and is_number(value):
        return value
    left_out.append(where)
    return None


def _object(
    value: dict[str, Any], shape: dict[str, Any] | MapOf, left_out: list[str], where: str
) -> dict[str, Any]:
    if isinstance(shape, dict):
        known = {
            key: conform(value[key], part, left_out, f"{where}.{key}".lstrip("."))
            for key, part in shape.items()
            if key in value
        }
        return value | known
    kept = {}
    for key, part in value.items():
        place = f"{where}.{key}".lstrip(".")
        if shape.numbered and not key.isdecimal():
            left_out.append(place)
            continue
        good = conform(part, shape.value, left_out, place)
        if good is not None:
            kept[key] = good
    return kept
