"""The training loop: steps, and in between evaluations and saves, until the budget is used.

With a budget in tokens a run depends on its seed alone: stopped anywhere and
resumed, it takes exactly the path of the uninterrupted one. With a budget in
seconds the schedule follows the clock.
"""

from __future__ import annotations

import gc
import math
import time
from typing import Any

import numpy as np
import torch

from itera_lite.checkpoint.folder import save_checkpoint
from itera_lite.config import ModelConfig, TrainConfig
from itera_lite.data.loader import TokenLoader
from itera_lite.data.prepare import Dataset
from itera_lite.errors import TrainingError
from itera_lite.model import LanguageModel
from itera_lite.model.cost import cost
from itera_lite.train import validate
from itera_lite.train.distributed import World, parallel
from itera_lite.train.interrupt import Stop, Stopped
from itera_lite.train.metrics import Window
from itera_lite.train.objective import Objective
from itera_lite.train.optim import Optimizer
from itera_lite.train.precision import Choice
from itera_lite.train.progress import Progress
from itera_lite.train.recipe import Budget
from itera_lite.train.resume import RunFiles, save
from itera_lite.train.state import State

EVALUATIONS = 20  # in a run, evenly over its budget
ROW_STEPS = 20  # steps a row of the log


class Trainer:
    """Trains one model on one set. `run` does it; everything else is its parts.

    It begins from random weights, or from those of ``initial``, which it changes.
    """

    def __init__(
        self,
        model_config: ModelConfig,
        config: TrainConfig,
        dataset: Dataset,
        budget: Budget,
        files: RunFiles,
        precision: Choice,
        world: World,
        patience: int = 6,
        quiet: bool = False,
        evaluations: int = EVALUATIONS,
        initial: LanguageModel | None = None,
        objective: Objective | None = None,
    ) -> None:
        self.config, self.dataset, self.budget, self.files = config, dataset, budget, files
        self.precision, self.world, self.patience = precision, world, patience
        self.quiet, self.evaluations = quiet or not world.leads, evaluations
        torch.manual_seed(config.seed)
        self.objective = objective or Objective()
        self.model = (initial or LanguageModel(model_config)).to(world.device).train()
        self.model.compute_dtype = precision.dtype
        self.loss_of = parallel(self.model, world, self.objective)
        self.optimizer = Optimizer(self.model, config)
        self.loader = TokenLoader(
            dataset.tokens("train"),
            batch_size=world.share_of(config.batch_size),
            seq_len=config.seq_len,
            seed=config.seed,
            rank=world.rank,
            world_size=world.size,
        )
        train_bytes, train_tokens = dataset.n_bytes("train"), len(dataset.tokens("train"))
        self.bytes_per_token = train_bytes / train_tokens
        self.cost = cost(model_config, config.seq_len)
        self.state = State()
        self.window = self._new_window()
        self._resumed_at = time.monotonic()  # up to here ``state.wall`` counts

    @property
    def tokens(self) -> int:
        return self.state.step * self.config.batch_size * self.config.seq_len

    @property
    def progress(self) -> float:
        """Share of the budget that is used."""
        used = self.tokens if self.budget.unit == "tokens" else self.state.seconds
        return used / self.budget.amount

    def run(self) -> str:
        """Train until the budget is used. Returns why it ended: ``budget`` or ``early``.

        Raises:
            Stopped: after Ctrl-C, SIGTERM or SIGHUP, with everything saved for ``--resume``.
            TrainingError: the loss or the gradient isn't finite; nothing was saved of that.
        """
        stop = Stop()
        bar = Progress(
            self.files.name,
            self.budget.amount,
            min(self.progress, 1.0) * self.budget.amount,
            self.budget.unit,
            self.quiet,
        )
        smooth: float | None = None
        self._resumed_at = time.monotonic()
        gc.collect()
        gc.freeze()  # what was imported stays: no need to look at it in every collection
        try:
            with stop.listening():
                while self.state.ended is None:
                    loss, seconds = self._step()
                    smooth = loss if smooth is None else 0.95 * smooth + 0.05 * loss
                    speed = self.config.batch_size * self.config.seq_len / seconds
                    self._log_row()
                    done = self.progress * self.budget.amount
                    bpb = smooth / np.log(2) / self.bytes_per_token
                    bar.update(done, self.state.step, smooth, bpb, speed, self.mfu(speed))
                    due = self._due()
                    if due:
                        self._evaluate(bar)
                    (asked,) = self.world.agree(float(stop.number))
                    if asked:
                        if not due:
                            self.save()
                        raise Stopped(int(asked))
        finally:
            gc.unfreeze()
            bar.close()
        return self.state.ended

    def save(self) -> None:
        """Write everything that a resumed run needs."""
        now = time.monotonic()
        self.state.wall += now - self._resumed_at
        self._resumed_at = now
        save(self)

    def _due(self) -> bool:
        """Whether it is time to evaluate: at the end, and evenly on the way."""
        if self.progress >= 1:
            return True
        steps = self.state.step - self.state.evaluated
        due = (self.state.evaluations + 1) / self.evaluations
        return self.progress >= due and steps >= ROW_STEPS

    def _step(self) -> tuple[float, float]:
        """One batch, one update. Returns the loss (nats) and the seconds it took."""
        begin = time.perf_counter()
        factor = self.config.factor(self.progress)
        positions = self.loader.next_positions()
        total, cross_entropy = self.loss_of(
            torch.from_numpy(self.loader.at(positions)).to(self.world.device),
            torch.from_numpy(positions),
            self.config.balance_weight,
        )
        loss = self.world.mean(cross_entropy)
        self._refuse_infinite("loss", loss + self.world.mean(total.detach()))
        total.backward()
        norm = self.optimizer.step(factor)
        self._refuse_infinite("norm of the gradient", norm)
        self.state.step += 1
        (seconds,) = self.world.agree(time.perf_counter() - begin)
        self.state.seconds += seconds
        self.window.add(self.model, loss, norm, seconds)
        return loss, seconds

    def _refuse_infinite(self, what: str, value: float) -> None:
        """Raises `TrainingError` for a value that isn't finite."""
        if math.isfinite(value):
            return
        best = self.state.best
        kept = (
            f"'{self.files.best}' has the model of step {best['step']} ({best['bpb']:.4f} bits "
            "per byte)"
            if best["bpb"] is not None
            else "no model was saved yet"
        )
        config = self.config
        raise TrainingError(
            f"{self.files.name}: the {what} is {value} at step {self.state.step + 1}, so the "
            f"training stops before that update; {kept}. Train anew with lower learning rates "
            f"(these were --lr-matrix {config.lr_matrix:g}, --lr-embedding "
            f"{config.lr_embedding:g}, --lr-other {config.lr_other:g}) and --overwrite"
        )

    def _log_row(self) -> None:
        if self.window.steps < ROW_STEPS and self.progress < 1:
            return
        w, config = self.window, self.config
        factor = config.factor(self.progress)
        speed = w.steps * config.batch_size * config.seq_len / w.seconds
        load, entropy = w.balance()
        self.state.add(
            self._position()
            | {
                "train_loss": w.loss / w.steps,
                "train_bpb": w.loss / w.steps / np.log(2) / self.bytes_per_token,
                "lr_matrix": config.lr_matrix * factor,
                "lr_other": config.lr_other * factor,
                "grad_norm": w.grad_norm / w.steps,
                "tokens_per_second": speed,
                "mfu": self.mfu(speed),
                "expert_load_max": load,
                "expert_entropy": entropy,
            }
        )
        self.window = self._new_window()

    def _position(self) -> dict[str, Any]:
        """Where in the run a row of the log stands."""
        return {
            "step": self.state.step,
            "tokens": self.tokens,
            "seconds": self.state.seconds,
            "epoch": self.loader.epoch,
            "flops": self.tokens * self.cost.flops_train,
        }

    def mfu(self, tokens_per_second: float) -> float:
        """Model FLOPs over the measured matrix-product peak (of one process's processor)."""
        used = tokens_per_second * self.cost.flops_train
        return used / (self.precision.peak * self.world.size / self.world.local_size)

    def _evaluate(self, bar: Progress) -> None:
        """Score the validation text, write a sample, save; the best model is kept apart."""
        state = self.state
        state.evaluations = int(self.progress * self.evaluations)
        state.evaluated = state.step
        self.world.lead(lambda: self._score(bar))
        state.fruitless = int(self.world.agree(float(state.fruitless))[0])
        if self.progress >= 1:
            state.ended = "budget"
        elif self.patience and state.fruitless >= self.patience:
            state.ended = "early"
        self.save()

    def _score(self, bar: Progress) -> None:
        state = self.state
        artifact = self.objective.artifact(self.model)
        score = validate.score(artifact, self.dataset, self.config.seq_len)
        self._refuse_infinite("validation loss", score.loss)
        scores = {"valid_loss": score.loss, "valid_bpb": score.bpb, "valid_ppl": score.ppl}
        state.add(self._position() | scores)
        sample = validate.sample(artifact, self.dataset)
        state.samples.append({"step": state.step, **sample})
        bar.say(
            f"{self.files.name}: step {state.step}, valid {score.bpb:.4f} bits/byte: "
            f"{sample['prompt']}│{' '.join(sample['text'].split())[:90]}"
        )
        if state.judge(score.bpb):
            save_checkpoint(self.files.best, artifact, self.dataset.tokenizer)

    def _new_window(self) -> Window:
        config = self.model.config
        return Window(config.n_layers if config.n_experts else 0, config.n_experts)
