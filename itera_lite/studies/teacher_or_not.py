"""Whether a teacher helps: the same student trained with and without it, with several seeds."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import msgspec

from itera_lite.checkpoint.folder import lock_path
from itera_lite.distill.objective import Distillation
from itera_lite.distill.plan import DistillationPlan
from itera_lite.errors import IteraError, UsageError
from itera_lite.locks import locked
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
from itera_lite.stats.load import Load
from itera_lite.stats.samples import Stat
from itera_lite.studies.unfinished import train_for_numbers, unfinished
from itera_lite.train.compute import Compute
from itera_lite.train.recipe import Budget
from itera_lite.train.run_files import RunFiles
from itera_lite.train.train import Training

QUALITY = Metric("valid_bpb", "held-out text", "bits per byte", "lower", "run", "quality")
SIDES = {
    "distilled": "with the teacher",
    "alone": "without it",
    "alone_longer": "without it, and the teacher's time too",
}


@dataclass(frozen=True)
class TeacherStudy:
    """Trainings of the same student with and without its teachers.

    The sides of a seed train in turns; ``alone_longer`` after them where its budget follows from
    what they took.

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
        stopped goes on where the runs were cut off.

        Args:
            overwrite: begin anew where the file holds a comparison with other settings.

        Raises:
            UsageError: the file holds something else, and ``overwrite`` isn't set; or another
                process writes it.
        """
        path = files.results / f"{files.name}_comparison.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(lock_path(path), f"the name '{files.name}'"):
            if overwrite:
                shutil.rmtree(unfinished(path), ignore_errors=True)
            settings = self._settings()
            runs = _earlier(path, settings) if path.exists() and not overwrite else []

            def known(seed: int) -> dict[str, TeacherRun]:
                return {run.side: run for run in runs if run.seed == seed}

            def run(seed: int, budgets: dict[str, Budget], taught: float) -> None:
                """Train these sides in turns, but for those that the file has."""
                wanted = {side: budgets[side] for side in budgets if side not in known(seed)}
                if not wanted:
                    return
                made = self._train(seed, wanted, taught, unfinished(path))
                runs.extend(made)
                now = _provenance(runs)
                TeacherComparison(settings=settings, runs=runs, provenance=now).write(path)
                for each in () if self.compute.quiet else made:
                    score = f"{each.valid_bpb:.4f} bits per byte"
                    print(f"{SIDES[each.side]}, seed {seed}: {score}", flush=True)

            for seed in seeds:
                before = known(seed).get("distilled")
                taught = self._teach(seed) if before is None else before.teacher_seconds
                budgets = dict.fromkeys(("distilled", "alone"), self.budget)
                amount = self.budget.amount
                if self.budget.unit == "seconds":
                    budgets["alone_longer"] = replace(self.budget, amount=amount + taught)
                run(seed, budgets, taught)
                if self.budget.unit == "tokens":
                    made = known(seed)
                    whole = made["distilled"].seconds + taught
                    amount *= max(1.0, whole / made["alone"].seconds)
                    run(seed, {"alone_longer": replace(self.budget, amount=amount)}, taught)
            sides = {side: _side(side, runs) for side in SIDES}
            seconds = sides["distilled"].teacher_seconds.median
            record = TeacherComparison(
                settings=settings,
                runs=runs,
                sides=sides,
                verdicts={
                    side: _verdict(sides, side, self._loads(runs, side))
                    for side in ("alone", "alone_longer")
                },
                distillation=self.plan.record(self.objective, seconds, self.compute.workers),
                provenance=_provenance(runs),
            )
            record.write(path)
        return record

    def _teach(self, seed: int) -> float:
        """Compute the targets of a seed. Returns the teachers' seconds."""
        config = self.plan.student.recipe(self.budget, seed)
        return self.plan.compute_targets(config, self.budget, self.compute)

    def _train(
        self, seed: int, budgets: dict[str, Budget], taught: float, folder: Path
    ) -> list[TeacherRun]:
        """Trainings in turns, of which only the numbers are kept; all have the study's batch size.

        Args:
            budgets: by the sides to train.
            taught: the teachers' seconds.
            folder: see `train_for_numbers`.
        """
        student, plan = self.plan.student, self.plan
        config = student.recipe(self.budget, seed)

        def training(side: str, files: RunFiles) -> Training:
            return Training(
                *(student.shape, config, plan.dataset, budgets[side], files, self.compute),
                source=plan.source,
                initial=student.initial_model(),
                objective=self.objective if side == "distilled" else None,
                patience=0,
                evaluations=1,  # only the end counts
            )

        makers = {f"{side}_seed{seed}": partial(training, side) for side in budgets}
        settings = msgspec.to_builtins(self._settings())
        summaries = train_for_numbers(folder, settings, makers)
        found = []
        for side, summary in zip(budgets, summaries.values(), strict=True):
            run = summary.training
            assert run and summary.valid
            found.append(
                TeacherRun(
                    *(side, seed, taught if side == "distilled" else 0.0, summary.valid.bpb),
                    seconds=run.seconds,
                    tokens=run.tokens,
                    tokens_per_second=run.tokens_per_second,
                    git_commit=summary.provenance.git_commit,
                    load=summary.provenance.load,
                )
            )
        return found

    def _loads(self, runs: list[TeacherRun], side: str) -> tuple[Load | None, Load | None]:
        """Load by others beside the taught student and beside another side.

        Of two trainings on as many tokens none counts: there, nothing depends on time.
        """
        if side == "alone" and self.budget.unit == "tokens":
            return None, None
        taught, other = (
            Load.mean([run.load for run in runs if run.side == each])
            for each in ("distilled", side)
        )
        return taught, other

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


def _provenance(runs: list[TeacherRun]) -> Provenance:
    load = Load.mean([run.load for run in runs])
    return Provenance.now(seeds=[run.seed for run in runs], load_by_others=load and load.by_others)


def _verdict(
    sides: dict[str, TeacherSide], side: str, loads: tuple[Load | None, Load | None]
) -> TeacherVerdict:
    """The taught student against another side; ``loads`` where the clock had a say."""
    found = compare(
        QUALITY,
        *(Measurement.of_samples(sides[s].valid_bpb.samples) for s in ("distilled", side)),
        loads=loads,
        names={"ours": SIDES["distilled"], "other": SIDES[side]},
    )
    return TeacherVerdict(
        winner=found.winner and found.names[found.winner], ratio=found.ratio, text=found.verdict
    )
