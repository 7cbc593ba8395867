"""Carries the committed results over to typed records, once. It changes no figure.

``python tools/carry_over.py`` in the repository: every old file of ``results/`` becomes a part of
``results/SET/STUDY/STAGE/SEED.json`` or a record ``results/SET/STUDY.json``. Every number and every
text of an old file must be in the new one; the script stops where one is lost.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from itera_lite.config import DEFAULT_VOCABULARY, NAMES, ModelConfig
from itera_lite.machine.provenance import Provenance
from itera_lite.model.cost import describe
from itera_lite.records import (
    KINDS,
    BudgetRecord,
    ModelDescription,
    Params,
    Run,
    Source,
)
from itera_lite.stats.samples import Stat

ROOT = Path("results")
ENDINGS = {  # of the old file's name -> field of a `Run`, which is the kind too
    "summary": "summary",
    "eval": "evaluation",
    "heldout": "held_out",
    "benchmark": "benchmark",
    "training_speed": "training_speed",
    "decode": "decode",
    "scoring": "scoring",
}
PLACES = {  # old folder -> set, study
    "box": ("tinystories", "box"),
    "equal-tokens": ("tinystories", "equal-tokens"),
    "tinystories": ("tinystories", "models"),
    "tinystories/compress": ("tinystories", "compress"),
    "tinystories/ladder": ("tinystories", "ladder"),
    "wikitext-2": ("wikitext-2", "models"),
    "wikitext-2/ladder": ("wikitext-2", "ladder"),
}
STUDIES = {  # old file -> new file, kind
    "box/quality.json": ("tinystories/box.json", "stored_quality"),
    "tinystories/engine_sizes.json": ("tinystories/engine_sizes.json", "engine_sizes"),
    "tinystories/ladder.json": ("tinystories/ladder.json", "ladder"),
    "tinystories/seeds.json": ("tinystories/seeds.json", "seeds"),
    "tinystories/compress/pico_6m_comparison.json": (
        "tinystories/teacher_pico_6m.json",
        "teacher_comparison",
    ),
    "tinystories/ladder/student_600k_comparison.json": (
        "tinystories/teacher_nano_600k.json",
        "teacher_comparison",
    ),
    "wikitext-2/ladder.json": ("wikitext-2/ladder.json", "ladder"),
    "wikitext-2/seeds.json": ("wikitext-2/seeds.json", "seeds"),
}
RENAMED = {
    "fused_kernels": "fused_operations",
    "learning_rates_times": "learning_rate_factor",
    "places": "positions",
    "k": "top_k",
    "tokens_a_pass": "tokens_per_pass",
    "from": "start",
    "spec": "source",
    "contenders": "runtimes",
    "scorers": "runtimes",
}
DIRTY = "the tree that measured differed from its commit"
UNKNOWN = "the program that measured didn't write where its numbers come from"


def main() -> None:
    old = {path: json.loads(path.read_text()) for path in sorted(ROOT.rglob("*.json"))}
    runs: dict[tuple[str, str, str, int], dict[str, Any]] = {}
    logs: dict[Path, Path] = {}
    written: dict[Path, list[Path]] = {}
    for path in old:
        place = str(path.relative_to(ROOT))
        if place in STUDIES:
            target, kind = STUDIES[place]
            new = convert_study(kind, old[path])
            new["provenance"] = provenance(path, old[path])
            if lacking := sum("git_commit" not in run for run in old[path].get("runs", ())):
                new["provenance"]["to_measure_again"] = (
                    f"{lacking} of {len(old[path]['runs'])} runs don't say which commit made them"
                )
            record = msgspec.convert(new | {"kind": kind, "version": 1}, KINDS[kind])
            msgspec.json.decode(msgspec.json.encode(record), type=KINDS[kind])
            written.setdefault(ROOT / target, []).append(path)
            old[path] = (old[path], record)
            continue
        stem, ending = re.fullmatch(rf"(.+)_({'|'.join(ENDINGS)})\.json", path.name).groups()
        stage, _, seed = stem.partition("-seed")
        key = (*PLACES[str(path.parent.relative_to(ROOT))], stage, int(seed or 0))
        log = path.with_name(f"{stem}_metrics.csv")
        target = ROOT.joinpath(*key[:3], f"{key[3]}.json")
        if log.exists():
            logs[log] = target.with_suffix(".csv")
        summary = path.with_name(f"{stem}_summary.json")
        model = description(json.loads(summary.read_text()), key[3])
        part = convert_part(ENDINGS[ending], old[path], model)
        part["provenance"] = provenance(path, old[path], key[3])
        runs.setdefault(key, {})[ENDINGS[ending]] = part
        written.setdefault(target, []).append(path)
    made: dict[Path, Any] = {}
    for key, parts in runs.items():
        plain = {"kind": "run", "version": 1, "study": key[1], "stage": key[2], "seed": key[3]}
        for kind, part in parts.items():
            plain[kind] = {"kind": kind, "version": 1} | part
        made[ROOT.joinpath(*key[:3], f"{key[3]}.json")] = msgspec.convert(plain, Run, str_keys=True)
    for target, paths in written.items():
        if target not in made:
            made[target] = old[paths[0]][1]
            old[paths[0]] = old[paths[0]][0]
    before = {log: log.read_text() for log in logs}
    originals = {
        path: (value[0] if isinstance(value, tuple) else value) for path, value in old.items()
    }
    for path in [*originals, *before]:
        path.unlink()
    for target, record in made.items():
        record.write(target)
        assert type(record).read(target) == record, target
    for log, target in logs.items():
        target.write_text(before[log])
    for target, paths in written.items():
        check(target, [originals[path] for path in paths], paths)
    for folder in sorted((p for p in ROOT.rglob("*") if p.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
    print(
        f"{len(originals)} JSON files and {len(logs)} logs became {len(made)} records and "
        f"{len(logs)} logs; every number and text of the old files is in the new ones"
    )


def description(summary: dict[str, Any], seed: int) -> ModelDescription:
    compress, teaching = summary.get("compress"), summary.get("distillation")
    sources = []
    if compress and "from" in compress:
        sources.append(Source(compress["from"]["name"], "start"))
    for teacher in (teaching or {}).get("teachers", ()):
        sources.append(Source(teacher["name"], "teacher", teacher["sha256"]))
    config = ModelConfig(**summary["config"])
    model = describe(
        summary["name"],
        config,
        seed=summary["provenance"]["seed"],
        made="compressed" if compress else "distilled" if teaching else "trained",
        made_from=sources,
    )
    assert msgspec.to_builtins(model.params) == summary["params"], summary["name"]
    assert model.seed == seed, summary["name"]
    return model


def renamed(value: Any) -> Any:
    if isinstance(value, list):
        return [renamed(v) for v in value]
    if isinstance(value, dict):
        return {RENAMED.get(key, key): renamed(v) for key, v in value.items()}
    return value


def provenance(path: Path, record: dict[str, Any], seed: int | None = None) -> dict[str, Any]:
    found = record.get("provenance")
    if found is not None:
        found = dict(found)
        if found.get("git_dirty"):
            found["to_measure_again"] = DIRTY
        return found
    commit, date = subprocess.run(
        ["git", "log", "-1", "--format=%H %cI", "--", str(path)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return msgspec.to_builtins(
        Provenance(
            command=None,
            git_commit=commit,
            date=date,
            seed=seed,
            machine=None,
            origin="commit and date are those that added the file",
            to_measure_again=UNKNOWN,
        )
    )


def convert_part(kind: str, old: dict[str, Any], model: ModelDescription) -> dict[str, Any]:
    new = renamed({k: v for k, v in old.items() if k not in ("provenance", "config")})
    if kind != "held_out":
        assert new.pop("name") == model.name, (kind, model.name)
        assert new.pop("family") == model.family if "family" in new else True
    new["model"] = msgspec.to_builtins(model)
    params = new.pop("params", None)
    if kind == "summary":
        new["training"], new["compression"] = new.pop("train", None), new.pop("compress", None)
        if new["training"]:
            assert new["training"].pop("seed") == model.seed
            budget = new["training"]["budget"]
            new["training"]["budget"] = msgspec.to_builtins(BudgetRecord(**budget))
    elif kind == "evaluation":
        new["source"] = new.pop("data")
    elif kind == "held_out":
        del new["model"]
        new["name"] = model.name
    elif kind in ("decode", "scoring", "training_speed"):
        assert params == model.params.total
    if kind in ("decode", "scoring"):
        new["ratios"] = [ratio(row) for row in new["ratios"]]
        new["targets"] = [target(row) for row in new["targets"]]
    if kind == "decode":
        outer = ("startup", "targets", "interleaved_with")
        new = {k: new.pop(k) for k in outer} | {"decoding": new}
    return new


def ratio(row: dict[str, Any]) -> dict[str, Any]:
    winner = None
    if " better by " in row["verdict"]:
        winner = "ours" if row["verdict"].startswith("itera-lite better") else "other"
        assert (row["ratio"] > 1) == (winner == "ours")
    return row | {"winner": winner}


def target(row: dict[str, Any]) -> dict[str, Any]:
    verdict = "not clear" if "not clearly" in row["verdict"] else row["verdict"]
    return row | {"verdict": verdict}


def convert_study(kind: str, old: dict[str, Any]) -> dict[str, Any]:
    new = renamed({k: v for k, v in old.items() if k != "provenance"})
    if kind == "stored_quality":
        new["description"] = new.pop("what")
    elif kind == "engine_sizes":
        for model in new["models"]:
            name, family = model.pop("name"), model.pop("family")
            params = Params(model.pop("params"))
            model["model"] = msgspec.to_builtins(ModelDescription(name, family, params))
            model["ratios"] = [ratio(row) for row in model["ratios"]]
    elif kind == "ladder":
        new["source"] = new.pop("data")
        for rung in new["rungs"]:
            if not isinstance(rung["bpb"], dict):
                rung["bpb"] = msgspec.to_builtins(Stat.of([rung["bpb"]]))
        new["targets"] = [ladder_target(row) for row in new["targets"]]
    elif kind == "seeds":
        families = {name: family for family, name in NAMES.items()}
        for run in new["runs"]:
            name, _, size = run["name"].rpartition("_")
            run |= {"family": families[name], "size": size, "source": run.pop("data")}
            run.setdefault("vocab_size", DEFAULT_VOCABULARY)
        new["speeds"] = [speeds(key, models) for key, models in new.get("speeds", {}).items()]
    return new


def speeds(key: str, models: dict[str, Any]) -> dict[str, Any]:
    size, batch = re.fullmatch(r"(\w+), batch (\d+)", key).groups()
    return {
        "size": size,
        "batch_size": int(batch),
        "vocab_size": DEFAULT_VOCABULARY,
        "models": models,
    }


def ladder_target(row: dict[str, Any]) -> dict[str, Any]:
    words = {True: "met", False: "missed", None: None}
    return {
        "key": row["key"],
        "label": row["label"],
        "sense": "at least",
        "target": row["least"],
        "goal": row["goal"],
        "value": row["factor"],
        "verdict": words[row["reached"]],
        "goal_verdict": words[row["goal_reached"]],
        "reason": "" if row["as_good"] else "the quality is below the reference's",
    }


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for v in value.values():
            yield from leaves(v)
    elif isinstance(value, list):
        for v in value:
            yield from leaves(v)
    elif value not in (None, "") and not isinstance(value, bool):
        yield float(value) if isinstance(value, int) else value


def check(target: Path, old: list[dict[str, Any]], paths: list[Path]) -> None:
    """Stop where a number or a text of an old file isn't in the new one as often."""
    new = json.loads(target.read_text())
    for record, path in zip(old, paths, strict=True):
        ending = path.stem.rpartition("_")[2]
        part = new
        if new["kind"] == "run":
            field = next(f for e, f in ENDINGS.items() if path.stem.endswith(f"_{e}"))
            part = new[field]
        lost = Counter(leaves(record)) - Counter(leaves(part))
        lost = {k: n for k, n in lost.items() if "not clearly" not in str(k)}
        if lost:
            raise SystemExit(f"{path} ({ending}): lost {lost}")


if __name__ == "__main__":
    main()
