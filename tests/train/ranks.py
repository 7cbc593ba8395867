"""What several processes do together, for test_processes.py: torchrun starts this file.

    ranks.py four|two|undisturbed TEXT OUT

Several trainings in one start of the processes, because a start takes seconds.
"""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from itera_lite.checkpoint.folder import load_checkpoint
from itera_lite.commands.train import train
from itera_lite.data.loader import TokenLoader
from itera_lite.data.prepare import prepare
from itera_lite.evaluate.bits import score_documents
from itera_lite.train import precision
from itera_lite.train.distributed import World
from itera_lite.train.loop import Trainer, score_part
from itera_lite.train.terminal import Stopped
from itera_lite.workers import Workers
from tests.train.small import make_small

SETTINGS = {
    "vocab_size": 302,  # which four processes can't share evenly
    "batch_size": 8,
    "seq_len": 32,
    "precision": "fp32",
    "patience": 0,
    "quiet": True,
    "workers": 2,
    # Low rates: float noise in near-zero gradients grows with the rate, not with the processes.
    "lr_matrix": 0.002,
    "lr_embedding": 0.001,
    "lr_other": 0.001,
}
STEPS = 24
TOKENS = str(STEPS * 8 * 32)
FIRST_STOP, SECOND_STOP = 8, 16  # steps


def run(text: Path, out: Path, **options):
    """Train with `SETTINGS`."""
    options = {"tokens": TOKENS, "model": "itera"} | SETTINGS | options
    return train(str(text), checkpoints=out / "c", results=out / "r", **options)


def run_until(text: Path, out: Path, step: int, rank: int, **options) -> None:
    """Train until one of the processes gets a signal before a step."""
    original = Trainer._step

    def stepping(self):
        if self.state.step == step and self.world.rank == rank:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_step", stepping)
        with pytest.raises(Stopped):
            run(text, out, **options)


def record_windows(patch: pytest.MonkeyPatch) -> dict[int, list[list[int]]]:
    """By loader, the first positions of the windows of each batch that this process reads."""
    read: dict[int, list[list[int]]] = {}
    original = TokenLoader.next_positions

    def recording(self):
        positions = original(self)
        read.setdefault(id(self), []).append(positions[:, 0].tolist())
        return positions

    patch.setattr(TokenLoader, "next_positions", recording)
    return read


def check_scores(text: Path, model_folder: Path, world: World) -> None:
    """Every process scores a part; all have the score of one process, bit for bit."""
    model, tokenizer = load_checkpoint(model_folder)
    dataset = prepare(str(text), vocab_size=SETTINGS["vocab_size"], quiet=True)
    with Workers(2) as workers:
        assert score_part(model, dataset, 32, workers, world) == score_part(model, dataset, 32)
        documents = list(dataset.documents("valid"))
        options = {"seq_len": 32, "batch_tokens": 64}
        shared = score_documents(
            *(model, tokenizer, documents), **options, run=lambda tasks: world.map(workers, tasks)
        )
        assert shared == score_documents(model, tokenizer, documents, **options)
        assert shared.tokens > 1000


def main(scenario: str, text: Path, out: Path) -> None:
    world = World.join()
    leave = world.leave
    World.join = classmethod(lambda cls: world)  # once for all trainings
    World.leave = lambda self: None
    patch = pytest.MonkeyPatch()
    make_small(patch)
    patch.setattr(precision, "SECONDS", 0.02)
    if scenario == "four":
        windows = record_windows(patch)
        run(text, out / "whole", shard=False)
        (out / f"windows-{world.rank}.json").write_text(json.dumps(list(windows.values())))
        run(text, out / "sharded", model="both", shard=True)
        run_until(text, out / "cut", FIRST_STOP, 2, shard=True)
        run_until(text, out / "cut whole", FIRST_STOP, 1, shard=False)
        check_scores(text, out / "whole" / "c" / "itera_lite_tiny", world)
        assert world.traffic.bytes > 0 and world.traffic.seconds > 0
    elif scenario == "two":
        run_until(text, out / "cut", SECOND_STOP, 1, shard=True, resume=True)
        run(text, out / "cut whole", shard=True, resume=True)
    else:
        patch.undo()
        run(text, out / "undisturbed", params="200K", name="run")
    world.on_leader(lambda: None)  # all are done before the first one leaves
    leave()  # or a thread of the process group may abort the process at its end


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
