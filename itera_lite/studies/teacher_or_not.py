"""Whether the teacher helped: the same student with and without it, with several seeds."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from itera_lite.distill.objective import Distillation
from itera_lite.distill.plan import Lesson
from itera_lite.errors import UsageError
from itera_lite.files import write_json
from itera_lite.machine.provenance import provenance
from itera_lite.stats.comparison import Measurement, Metric, compare
from itera_lite.stats.samples import stat
from itera_lite.train.compute import Compute
from itera_lite.train.recipe import Budget
from itera_lite.train.run_files import RunFiles
from itera_lite.train.train import run_training

QUALITY = Metric("valid_bpb", "held-out text", "bits per byte", "lower", "run", "quality")
SIDES = {
    "distilled": "with the teacher",
    "alone": "without it",
    "alone_longer": "without it, and the teacher's time too",
}


def compare_distillation(
    lesson: Lesson,
    objective: Distillation,
    budget: Budget,
    files: RunFiles,
    compute: Compute,
    seeds: int,
    first_seed: int,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Train each side with each seed and judge. Writes NAME_comparison.json.

    With a budget in minutes, ``alone`` has the same training time, and ``alone_longer`` the
    teacher's seconds on top. With one in tokens, ``alone`` sees as many tokens, and
    ``alone_longer`` what it would see in all the time that the distilled run and its teachers
    took. A run that is in the file already, with the same settings, is kept: stopped, the
    comparison goes on with the run that was cut off.

    Args:
        overwrite: begin anew where the file holds a comparison with other settings.

    Returns:
        What the file holds: ``runs``, ``sides``, ``verdicts``, ``settings``, ``provenance``.

    Raises:
        UsageError: the file holds something else, and ``overwrite`` isn't set.
    """
    path = files.results / f"{files.name}_comparison.json"
    settings = _settings(lesson, objective, budget, compute)
    record: dict[str, Any] = {"settings": settings, "runs": []}
    if path.exists() and not overwrite:
        record = _earlier(path, settings)

    def run(side: str, seed: int, own: Budget, teacher_seconds: float = 0.0) -> dict[str, Any]:
        """Train once, unless the file has the run."""
        for known in record["runs"]:
            if (known["side"], known["seed"]) == (side, seed):
                return dict(known)
        taught = objective if side == "distilled" else None
        made = {"side": side, "seed": seed, "teacher_seconds": teacher_seconds}
        made |= _train(lesson, taught, own, budget, compute, seed)
        record["runs"].append(made)
        write_json(path, record)
        if not compute.quiet:
            print(f"{SIDES[side]}, seed {seed}: {made['valid_bpb']:.4f} bits per byte", flush=True)
        return made

    for seed in range(first_seed, first_seed + seeds):
        recipe = lesson.student.recipe(budget, seed)
        known = [r for r in record["runs"] if (r["side"], r["seed"]) == ("distilled", seed)]
        asked = 0.0 if known else lesson.prepare_for(recipe, budget, compute)
        distilled = run("distilled", seed, budget, asked)
        alone = run("alone", seed, budget)
        if budget.unit == "seconds":
            longer = budget.amount + distilled["teacher_seconds"]
        else:
            whole = distilled["seconds"] + distilled["teacher_seconds"]
            longer = max(budget.amount, budget.amount * whole / alone["seconds"])
        run("alone_longer", seed, Budget(budget.unit, longer))
    return _judge(record, path, lesson, objective, compute.quiet)


def _earlier(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The comparison that the file holds, if it has these settings."""
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        same = record["settings"] == settings and isinstance(record["runs"], list)
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise UsageError(
            f"'{path}' holds a comparison with other settings, or something else: --overwrite "
            "replaces it, another --name leaves it as it is"
        )
    return record


def _train(
    lesson: Lesson,
    objective: Distillation | None,
    own: Budget,
    budget: Budget,
    compute: Compute,
    seed: int,
) -> dict[str, Any]:
    """One training, of which only the numbers are kept; all take the batch of ``budget``."""
    with tempfile.TemporaryDirectory() as folder:
        files = RunFiles("run", Path(folder), Path(folder))
        summary = run_training(
            *(lesson.student.shape, lesson.student.recipe(budget, seed), lesson.dataset),
            *(own, files, compute),
            source=lesson.spec,
            initial=lesson.student.begin(),
            objective=objective,
            patience=0,
            evaluations=1,  # only the end counts
        )
    train = summary["train"]
    return {
        "valid_bpb": summary["valid"]["bpb"],
        "seconds": train["seconds"],
        "tokens": train["tokens"],
        "tokens_per_second": train["tokens_per_second"],
        "git_commit": summary["provenance"].get("git_commit"),
    }


def _settings(
    lesson: Lesson, objective: Distillation, budget: Budget, compute: Compute
) -> dict[str, Any]:
    """What must be alike for runs to be compared."""
    return {
        "student": lesson.student.shape.to_dict(),
        "student_from": None if lesson.student.folder is None else str(lesson.student.folder),
        "dataset_sha256": lesson.dataset.manifest["sha256"],
        "tokenizer_sha256": lesson.student.tokenizer.sha256,
        "budget": {"unit": budget.unit, "amount": budget.amount},
        "precision": compute.precision.name,
        **objective.identity(),
    }


def _judge(
    record: dict[str, Any], path: Path, lesson: Lesson, objective: Distillation, quiet: bool
) -> dict[str, Any]:
    """Medians, spreads and verdicts of the runs, written and shown."""
    sides: dict[str, dict[str, Any]] = {}
    for side, says in SIDES.items():
        runs = [run for run in record["runs"] if run["side"] == side]
        sides[side] = {"label": says} | {
            key: stat([run[key] for run in runs])
            for key in ("valid_bpb", "seconds", "teacher_seconds", "tokens")
        }
    taught = Measurement.of_samples(sides["distilled"]["valid_bpb"]["samples"])
    verdicts: dict[str, dict[str, Any]] = {}
    for side in ("alone", "alone_longer"):
        verdict = compare(
            QUALITY,
            taught,
            Measurement.of_samples(sides[side]["valid_bpb"]["samples"]),
            names={"ours": SIDES["distilled"], "other": SIDES[side]},
        )
        verdicts[side] = {"winner": verdict.winner and verdict.names[verdict.winner]}
        verdicts[side] |= {"ratio": verdict.ratio, "text": verdict.verdict}
    record |= {
        "sides": sides,
        "verdicts": verdicts,
        **lesson.notes(objective, sides["distilled"]["teacher_seconds"]["median"]),
        "provenance": provenance(seeds=[run["seed"] for run in record["runs"]]),
    }
    write_json(path, record)
    if not quiet:
        print(table(record))
    return record


def table(record: dict[str, Any]) -> str:
    """The comparison as a person reads it."""
    lines = [
        "| student | bits per byte: median | spread | training s | teacher s | tokens |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for side in record["sides"].values():
        bpb = side["valid_bpb"]
        lines.append(
            f"| {side['label']} | {bpb['median']:.4f} | {bpb['min']:.4f} to {bpb['max']:.4f} "
            f"| {side['seconds']['median']:.0f} | {side['teacher_seconds']['median']:.0f} "
            f"| {side['tokens']['median']:,.0f} |"
        )
    lines += [
        f"Against {SIDES[side]}: {verdict['text']}." for side, verdict in record["verdicts"].items()
    ]
    return "\n".join(lines)
