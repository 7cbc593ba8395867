"""Trainings that were stopped: they go on where they were, and never with other settings.

A study keeps the settings of its trainings beside them. Where they differ from those asked for, the
study refuses to go on: numbers of two kinds of training would stand in one result.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from itera_lite.errors import CheckpointError, UsageError
from itera_lite.files import write_json
from itera_lite.records import Summary
from itera_lite.train.run_files import RunFiles
from itera_lite.train.train import Training, run_trainings

# Settings by their names on the terminal, such as ``--minutes``
Settings = Mapping[str, Any]
SETTINGS = "settings.json"


def refuse_other_settings(what: str, made: Settings, wanted: Settings, remedy: str) -> None:
    """Raise `UsageError` where something was made with other settings than those asked for.

    Args:
        what: was made, the beginning of the message.
        remedy: what to do, its end.
    """
    changed = [
        f"{name} was {_shown(made.get(name))} and is {_shown(wanted.get(name))} now"
        for name in dict.fromkeys((*made, *wanted))
        if made.get(name) != wanted.get(name)
    ]
    if changed:
        raise UsageError(f"{what} with other settings: {'; '.join(changed)}. {remedy}")


def _shown(value: object) -> str:
    return "not given" if value is None else str(value)


def read_settings(path: Path) -> dict[str, Any] | None:
    """The settings in a file that `write_json` wrote; None where there are none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def unfinished(record: Path) -> Path:
    """The folder of the trainings that a study's record doesn't hold yet."""
    return record.with_name(f".{record.name}.unfinished")


def train_for_numbers(
    folder: Path, settings: Settings, trainings: Mapping[str, Callable[[RunFiles], Training]]
) -> dict[str, Summary]:
    """Train models in turns, in a folder that goes afterwards.

    A call that is stopped leaves the folder, and the next one goes on with what lies there under
    the same name: a training with the same budget. What can't be read begins anew.

    Args:
        settings: of the study.
        trainings: by the names of their files.

    Returns:
        Each one's summary, by the same names.

    Raises:
        UsageError: the folder holds trainings with other settings.
    """

    def run() -> dict[str, Summary]:
        write_json(folder / SETTINGS, dict(settings))
        made = []
        for name, training in trainings.items():
            files = RunFiles(name, folder, folder)
            one = training(files)
            going_on = files.resumable and files.saved_budget() == one.budget
            made.append(replace(one, resume=going_on))
        return dict(zip(trainings, run_trainings(made), strict=True))

    if (before := read_settings(folder / SETTINGS)) is not None:
        refuse_other_settings(
            f"trainings that were stopped lie in '{folder}', and were made",
            *(before, settings),
            "Give the same settings to go on with them, or remove that folder to begin anew",
        )
    folder.mkdir(parents=True, exist_ok=True)
    try:
        summaries = run()
    except CheckpointError:
        shutil.rmtree(folder)
        folder.mkdir()
        summaries = run()
    shutil.rmtree(folder)
    return summaries
