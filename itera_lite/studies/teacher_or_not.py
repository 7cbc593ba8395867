"""Whether a teacher helps: the same student trained with and without it, with several seeds."""

from __future__ import annotations

import tempfile
from pathlib import Path

from itera_lite.checkpoint.folder import lock_path
from itera_lite.distill.objective import Distillation
from itera_lite.distill.plan import DistillationPlan
from itera_lite.errors import IteraError, UsageError
from itera_lite.machine.provenance import Provenance
from itera_lite.records import (
    BudgetRecord,
    TeacherComparison,
    TeacherRun,
    TeacherSettings,
    TeacherSide,
    TeacherVerdict,
)
from itera_lite.stats.comparison import Measurement, Metric, compare
from itera_lite.stats.samples import Stat
from itera_lite.train.compute import Compute
from itera_lite.train.recipe import Budget
from itera_lite.train.run_files import RunFiles, locked
from itera_lite.train.train import run_training

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
) -> TeacherComparison:
    """Train each side with each seed and judge. Writes NAME_comparison.json.

    With a budget in minutes, ``alone`` has the same training time, and ``alone_longer`` the
    teacher's seconds on top. With one in tokens, ``alone`` reads as many tokens, and
    ``alone_longer`` what it would read in all the time that the distilled run and its teachers
    took. A run that is in the file already, with the same settings, is kept: a comparison that
    was stopped goes on with the run that was cut off.

    Args:
        overwrite: begin anew where the file holds a comparison with other settings.

    Returns:
        The record, as it is written.

    Raises:
        UsageError: the file holds something else, and ``overwrite`` isn't set; or another process
            writes it.
    """
    path = files.results / f"{files.name}_comparison.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(lock_path(path), files.name):
        settings = _settings(plan, objective, budget, compute)
        runs: list[TeacherRun] = []
        if path.exists() and not overwrite:
            runs = _earlier(path, settings)

        def run(side: str, seed: int, own: Budget) -> TeacherRun:
            """Train once, unless the file has the run."""
            for known in runs:
                if (known.side, known.seed) == (side, seed):
                    return known
            seconds = 0.0
            if side == "distilled":
                recipe = plan.student.recipe(budget, seed)
                seconds = plan.compute_targets(recipe, budget, compute)
            taught = objective if side == "distilled" else None
            made = _train(side, plan, taught, own, budget, compute, seed, seconds)
            runs.append(made)
            now = Provenance.now(seeds=[run.seed for run in runs])
            TeacherComparison(settings=settings, runs=runs, provenance=now).write(path)
            if not compute.quiet:
                bpb = made.valid_bpb
                print(f"{SIDES[side]}, seed {seed}: {bpb:.4f} bits per byte", flush=True)
            return made

        for seed in range(first_seed, first_seed + seeds):
            distilled = run("distilled", seed, budget)
            alone = run("alone", seed, budget)
            if budget.unit == "seconds":
                longer = budget.amount + distilled.teacher_seconds
            else:
                whole = distilled.seconds + distilled.teacher_seconds
                longer = max(budget.amount, budget.amount * whole / alone.seconds)
            run("alone_longer", seed, Budget(budget.unit, longer))
        sides = {side: _side(side, runs) for side in SIDES}
        record = TeacherComparison(
            settings=settings,
            runs=runs,
            sides=sides,
            verdicts={side: _verdict(sides, side) for side in ("alone", "alone_longer")},
            distillation=plan.record(objective, sides["distilled"].teacher_seconds.median),
            provenance=Provenance.now(seeds=[run.seed for run in runs]),
        )
        record.write(path)
    return record


def _earlier(path: Path, settings: TeacherSettings) -> list[TeacherRun]:
    """The runs that the file holds, if it has these settings.

    Raises:
        UsageError: it has others, or is something else.
    """
    try:
        record = TeacherComparison.read(path)
        if record.settings == settings:
            return record.runs
    except IteraError:
        pass
    raise UsageError(
        f"'{path}' holds a comparison with other settings, or something else: --overwrite "
        "replaces it, another --name leaves it as it is"
    )


def _train(
    side: str,
    plan: DistillationPlan,
    objective: Distillation | None,
    own: Budget,
    budget: Budget,
    compute: Compute,
    seed: int,
    teacher_seconds: float,
) -> TeacherRun:
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
    assert summary.training and summary.valid
    return TeacherRun(
        side=side,
        seed=seed,
        teacher_seconds=teacher_seconds,
        valid_bpb=summary.valid.bpb,
        seconds=summary.training.seconds,
        tokens=summary.training.tokens,
        tokens_per_second=summary.training.tokens_per_second,
        git_commit=summary.provenance.git_commit,
    )


def _settings(
    plan: DistillationPlan, objective: Distillation, budget: Budget, compute: Compute
) -> TeacherSettings:
    student = plan.student
    return TeacherSettings(
        student=student.shape,
        student_from=None if student.folder is None else str(student.folder),
        dataset_sha256=plan.dataset.manifest["sha256"],
        tokenizer_sha256=student.tokenizer.sha256,
        budget=BudgetRecord(budget.unit, budget.amount),
        precision=compute.precision.name,
        **objective.identity(),
    )


def _side(side: str, runs: list[TeacherRun]) -> TeacherSide:
    own = [run for run in runs if run.side == side]
    return TeacherSide(
        label=SIDES[side],
        valid_bpb=Stat.of([run.valid_bpb for run in own]),
        seconds=Stat.of([run.seconds for run in own]),
        teacher_seconds=Stat.of([run.teacher_seconds for run in own]),
        tokens=Stat.of([run.tokens for run in own]),
    )


def _verdict(sides: dict[str, TeacherSide], side: str) -> TeacherVerdict:
    """The taught student against another side."""
    found = compare(
        QUALITY,
        *(Measurement.of_samples(sides[s].valid_bpb.samples) for s in ("distilled", side)),
        names={"ours": SIDES["distilled"], "other": SIDES[side]},
    )
    return TeacherVerdict(
        winner=found.winner and found.names[found.winner], ratio=found.ratio, text=found.verdict
    )
