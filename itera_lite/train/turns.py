"""Trainings that take turns of a few seconds: what slows the machine for a while slows all alike.

The training that has used the smallest share of its budget goes next. So all of them end together,
whatever their budgets and speeds. One training alone takes every turn.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence

import numpy as np

from itera_lite.errors import IteraError
from itera_lite.train.distributed import PeerFailed
from itera_lite.train.loop import Trainer
from itera_lite.train.pace import time_left
from itera_lite.train.terminal import Progress, Stopped, StopSignal

TURN_SECONDS = 3.0  # of steps; an evaluation in a turn belongs to the training, not to the turn
TURN_SHARE = 0.02  # of the budget, which ends a turn before that


def train_in_turns(trainers: Sequence[Trainer]) -> None:
    """Train all until the budget of each is used, or until its scores stop getting better.

    All processes of a world take the same turns: seconds are the leading process's
    (`World.agree`), and whose turn it is follows from them.

    Raises:
        Stopped: after Ctrl-C, SIGTERM or SIGHUP, with everything saved for ``--resume``.
        IteraError: one of them failed, such as by a loss that isn't finite, or couldn't be saved.
            The others are saved.
    """
    running = [trainer for trainer in trainers if trainer.state.ended is None]
    if not running:
        return
    stop = StopSignal()
    progress = Progress(
        [f"{trainer.files.name} ({trainer.budget.unit})" for trainer in trainers],
        [trainer.progress for trainer in trainers],
        quiet=trainers[0].quiet,
    )
    gc.collect()
    gc.freeze()  # what was imported stays: no need to look at it in every collection
    try:
        with stop.listening():
            while running:
                trainer = min(running, key=lambda each: each.progress)
                try:
                    _take_turn(trainer, trainers, stop, progress)
                except Stopped:
                    if failed := _save(running, progress):
                        raise failed[0] from None
                    raise
                except PeerFailed:
                    raise  # saving needs all processes
                except Exception as error:
                    # Another error may have come in one process alone, and saving needs all.
                    if isinstance(error, IteraError) or trainer.world.size == 1:
                        others = [other for other in running if other is not trainer]
                        _save(others, progress)
                    raise
                if trainer.state.ended is not None:
                    running.remove(trainer)
    finally:
        gc.unfreeze()
        progress.close()


def _take_turn(
    trainer: Trainer, trainers: Sequence[Trainer], stop: StopSignal, progress: Progress
) -> None:
    """Let one training make steps until its turn is over, or until it has ended.

    Raises:
        Stopped: a signal came.
    """
    place = trainers.index(trainer)
    seconds, share = trainer.state.seconds + TURN_SECONDS, trainer.progress + TURN_SHARE
    with trainer.turn():
        while trainer.state.ended is None:
            evaluated = trainer.advance()
            if not trainer.quiet:
                left = time_left(seconds_left(trainers))
                progress.show(place, trainer.progress, _status(trainer), left)
                if evaluated:
                    progress.write(_evaluation(trainer, left))
            if number := trainer.world.largest(stop.number):  # of a signal to any process
                raise Stopped(int(number))
            if trainer.state.seconds >= seconds or trainer.progress >= share:
                return


def seconds_left(trainers: Sequence[Trainer]) -> float | None:
    """Wall seconds until the last training has its score; None before each has made a step."""
    total = 0.0
    for trainer in trainers:
        own = trainer.seconds_left()
        if own is not None:
            total += own
        elif trainer.state.ended is None:
            return None
    return total


def _save(trainers: Sequence[Trainer], progress: Progress) -> list[IteraError]:
    """Save trainings that were cut off, each as far as that is possible; gives the errors."""
    failed = []
    for trainer in trainers:
        try:
            with trainer.turn():
                trainer.save()
        except IteraError as error:
            failed.append(error)
            progress.write(f"{trainer.files.name} couldn't be saved: {error}")
        else:
            progress.write(
                f"{trainer.files.name} is saved at step {trainer.state.step}: --resume goes on"
            )
    return failed


def _status(trainer: Trainer) -> str:
    """Loss in nats, speed in tokens/s, share of the peak."""
    loss, speed = trainer.smooth_loss or 0.0, trainer.speed
    bpb = loss / np.log(2) / trainer.bytes_per_token
    return (
        f"step {trainer.state.step} loss {loss:.3f} {bpb:.3f} bits/byte "
        f"{speed / 1e3:.1f}k tok/s {trainer.mfu(speed):.0%} of peak"
    )


def _evaluation(trainer: Trainer, left: str) -> str:
    """The last evaluation: its score, and how the model goes on with a text."""
    state = trainer.state
    text, bpb = state.samples[-1], state.rows[-1]["valid_bpb"]
    return (
        f"{trainer.files.name}: step {state.step} ({min(trainer.progress, 1):.0%}, {left} left), "
        f"valid {bpb:.4f} bits/byte: {text['prompt']}│{' '.join(text['text'].split())[:90]}"
    )
