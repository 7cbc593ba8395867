"""Trainings of which a study keeps the numbers alone, and which go on where they were stopped."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from itera_lite.errors import CheckpointError
from itera_lite.records import Summary
from itera_lite.train.run_files import RunFiles
from itera_lite.train.train import Training, run_trainings


def unfinished(record: Path) -> Path:
    """The folder of the trainings that a study's record doesn't hold yet."""
    return record.with_name(f".{record.name}.unfinished")


def train_for_numbers(
    folder: Path, trainings: Mapping[str, Callable[[RunFiles], Training]]
) -> dict[str, Summary]:
    """Train models in turns, in a folder that goes afterwards.

    A call that is stopped leaves the folder, and the next one goes on with what lies there under
    the same name: a training with the same budget. With other settings all begin anew.

    Args:
        trainings: by the names of their files.

    Returns:
        Each one's summary, by the same names.
    """

    def run() -> dict[str, Summary]:
        made = []
        for name, training in trainings.items():
            files = RunFiles(name, folder, folder)
            one = training(files)
            going_on = files.resumable and files.saved_budget() == one.budget
            made.append(replace(one, resume=going_on))
        return dict(zip(trainings, run_trainings(made), strict=True))

    folder.mkdir(parents=True, exist_ok=True)
    try:
        summaries = run()
    except CheckpointError:
        shutil.rmtree(folder)
        folder.mkdir()
        summaries = run()
    shutil.rmtree(folder)
    return summaries
