"""Whether a teacher helps: the same student trained with and without it, with several seeds."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from itera_lite.checkpoint.folder import lock_path
from itera_lite.distill.objective import Distillation
from itera_lite.distill.plan import DistillationPlan
from itera_lite.errors import UsageError
from itera_lite.files import write_json
from itera_lite.machine.provenance import provenance
from itera_lite.stats.comparison import Measurement, Metric, compare
from itera_lite.stats.samples import stat
from itera_lite.train.recipe import Budget
from itera_lite.train.resume import RunFiles
from itera_lite.train.run_files import locked
from itera_lite.train.session import Compute, run_training

QUALITY = Metric("valid_bpb", "held-out text", "bits per byte", "lower", "run", "quality")
SIDES = {
    "distilled": "with the teacher",
    "alone": "without it",
    "alone_longer": "without it, and the teacher's time too",
}


def compare_distillation(
    plan: DistillationPlan,
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
    teacher's seconds on top. With one in tokens, ``alone`` reads as many tokens, and
    ``alone_longer`` what it would read in all the time that the distilled run and its teachers
    took. A run that is in the file already, with the same settings, is kept: a comparison that
    was stopped goes on with the run that was cut off.

    Args:
        overwrite: begin anew where the file holds a comparison with other settings.

    Returns:
        What the file holds: ``runs``, ``sides``, ``verdicts``, ``settings``, ``provenance``.

    Raises:
        UsageError: the file holds something else, and ``overwrite`` isn't set; or another process
            writes it.
    """
    path = files.results / f"{files.name}_comparison.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(lock_path(path), files.name):
        settings = _settings(plan, objective, budget, compute)
        record: dict[str, Any] = {"settings": settings, "runs": []}
        if path.exists() and not overwrite:
            record = _earlier(path, settings)

        def known(side: str, seed: int) -> dict[str, Any] | None:
            found = (r for r in record["runs"] if (r["side"], r["seed"]) == (side, seed))
            return next(found, None)

        def run(side: str, seed: int, own: Budget, teacher_seconds: float = 0.0) -> dict[str, Any]:
            """Train once, unless the file has the run."""
            if (made := known(side, seed)) is not None:
                return made
            taught = objective if side == "distilled" else None
            made = {"side": side, "seed": seed, "teacher_seconds": teacher_seconds}
            made |= _train(plan, taught, own, budget, compute, seed)
            record["runs"].append(made)
            write_json(path, record)
            if not compute.quiet:
                bpb = made["valid_bpb"]
                print(f"{SIDES[side]}, seed {seed}: {bpb:.4f} bits per byte", flush=True)
            return made

        for seed in range(first_seed, first_seed + seeds):
            teacher_seconds = 0.0
            if known("distilled", seed) is None:
                recipe = plan.student.recipe(budget, seed)
                teacher_seconds = plan.compute_targets(recipe, budget, compute)
            distilled = run("distilled", seed, budget, teacher_seconds)
            alone = run("alone", seed, budget)
            if budget.unit == "seconds":
                longer = budget.amount + distilled["teacher_seconds"]
            else:
                whole = distilled["seconds"] + distilled["teacher_seconds"]
                longer = max(budget.amount, budget.amount * whole / alone["seconds"])
            run("alone_longer", seed, Budget(budget.unit, longer))
        record |= _judged(record["runs"], plan, objective)
        write_json(path, record)
    return record


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
    plan: DistillationPlan,
    objective: Distillation | None,
    own: Budget,
    budget: Budget,
    compute: Compute,
    seed: int,
) -> dict[str, Any]:
    """One training, of which only the numbers are kept; all take the batch of ``budget``."""
    student = plan.student
    with tempfile.TemporaryDirectory() as folder:
        files = RunFiles("run", Path(folder), Path(folder))
        summary = run_training(
            *(student.shape, student.recipe(budget, seed), plan.dataset, own, files, compute),
            source=plan.source,
            initial=student.initial_model(),
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
    plan: DistillationPlan, objective: Distillation, budget: Budget, compute: Compute
) -> dict[str, Any]:
    """What must be alike for runs to be compared."""
    student = plan.student
    return {
        "student": student.shape.to_dict(),
        "student_from": None if student.folder is None else str(student.folder),
        "dataset_sha256": plan.dataset.manifest["sha256"],
        "tokenizer_sha256": student.tokenizer.sha256,
        "budget": {"unit": budget.unit, "amount": budget.amount},
        "precision": compute.precision.name,
        **objective.identity(),
    }


def _judged(
    runs: list[dict[str, Any]], plan: DistillationPlan, objective: Distillation
) -> dict[str, Any]:
    """Medians, spreads and verdicts of the runs."""
    sides: dict[str, dict[str, Any]] = {}
    for side, label in SIDES.items():
        own = [run for run in runs if run["side"] == side]
        sides[side] = {"label": label} | {
            key: stat([run[key] for run in own])
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
    return {
        "sides": sides,
        "verdicts": verdicts,
        **plan.record(objective, sides["distilled"]["teacher_seconds"]["median"]),
        "provenance": provenance(seeds=[run["seed"] for run in runs]),
    }


def table(record: dict[str, Any]) -> str:
    """The comparison as a Markdown table, and the verdicts."""
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
