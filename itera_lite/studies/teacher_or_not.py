"""Whether a teacher helps: the same student trained with and without it, with several seeds."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class TeacherStudy:
    """Trainings of the same student with and without its teachers.

    With a budget in minutes, ``alone`` has the same training time, and ``alone_longer`` the
    teachers' seconds on top. With one in tokens, ``alone`` reads as many tokens, and
    ``alone_longer`` what it would read in all the time that the distilled run and its teachers
    took.
    """

    plan: DistillationPlan
    objective: Distillation
    budget: Budget
    compute: Compute

    def run(self, files: RunFiles, seeds: range, overwrite: bool = False) -> TeacherComparison:
        """Train each side with each seed and judge. Writes NAME_comparison.json.

        A run that is in the file already, with the same settings, is kept: a comparison that was
        stopped goes on with the run that was cut off.

        Args:
            overwrite: begin anew where the file holds a comparison with other settings.

        Raises:
            UsageError: the file holds something else, and ``overwrite`` isn't set; or another
                process writes it.
        """
        path = files.results / f"{files.name}_comparison.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(lock_path(path), files.name):
            settings = self._settings()
            runs = _earlier(path, settings) if path.exists() and not overwrite else []

            def run(side: str, seed: int, budget: Budget) -> TeacherRun:
                """Train once, unless the file has the run."""
                for known in runs:
                    if (known.side, known.seed) == (side, seed):
                        return known
                made = self._train(side, seed, budget)
                runs.append(made)
                now = Provenance.now(seeds=[run.seed for run in runs])
                TeacherComparison(settings=settings, runs=runs, provenance=now).write(path)
                if not self.compute.quiet:
                    score = f"{made.valid_bpb:.4f} bits per byte"
                    print(f"{SIDES[side]}, seed {seed}: {score}", flush=True)
                return made

            for seed in seeds:
                distilled = run("distilled", seed, self.budget)
                alone = run("alone", seed, self.budget)
                longer = self.budget.amount
                if self.budget.unit == "seconds":
                    longer += distilled.teacher_seconds
                else:
                    whole = distilled.seconds + distilled.teacher_seconds
                    longer *= max(1.0, whole / alone.seconds)
                run("alone_longer", seed, replace(self.budget, amount=longer))
            sides = {side: _side(side, runs) for side in SIDES}
            seconds = sides["distilled"].teacher_seconds.median
            record = TeacherComparison(
                settings=settings,
                runs=runs,
                sides=sides,
                verdicts={side: _verdict(sides, side) for side in ("alone", "alone_longer")},
                distillation=self.plan.record(self.objective, seconds, self.compute.workers),
                provenance=Provenance.now(seeds=[run.seed for run in runs]),
            )
            record.write(path)
        return record

    def _train(self, side: str, seed: int, budget: Budget) -> TeacherRun:
        """One training, of which only the numbers are kept; all have the study's batch size."""
        student, plan, taught = self.plan.student, self.plan, side == "distilled"
        config = student.recipe(self.budget, seed)
        teacher_seconds = plan.compute_targets(config, budget, self.compute) if taught else 0.0
        with tempfile.TemporaryDirectory() as folder:
            files = RunFiles("run", Path(folder), Path(folder))
            summary = run_training(
                *(student.shape, config, plan.dataset, budget, files, self.compute),
                source=plan.source,
                initial=student.initial_model(),
                objective=self.objective if taught else None,
                patience=0,
                evaluations=1,  # only the end counts
            )
        run = summary.training
        assert run and summary.valid
        return TeacherRun(
            *(side, seed, teacher_seconds, summary.valid.bpb),
            seconds=run.seconds,
            tokens=run.tokens,
            tokens_per_second=run.tokens_per_second,
            git_commit=summary.provenance.git_commit,
        )

    def _settings(self) -> TeacherSettings:
        student = self.plan.student
        return TeacherSettings(
            student=student.shape,
            student_from=None if student.folder is None else str(student.folder),
            dataset_sha256=self.plan.dataset.manifest["sha256"],
            tokenizer_sha256=student.tokenizer.sha256,
            budget=BudgetRecord(self.budget.unit, self.budget.amount),
            precision=self.compute.precision.name,
            **self.objective.identity(),
        )


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
