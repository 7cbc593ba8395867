"""The training loop: steps, evaluations, checkpoints, until the budget is used.

With a budget in tokens a run depends on its seed alone: stopped anywhere and
resumed, it takes exactly the path of the uninterrupted one. With a budget in
seconds the schedule follows the clock.
"""

from __future__ import annotations

import gc
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import numpy as np
import torch

from itera_lite.config import ModelConfig, TrainConfig
from itera_lite.data.loader import TokenLoader
from itera_lite.data.shards import Dataset
from itera_lite.errors import CheckpointError
from itera_lite.evaluate.bits import stream_bits
from itera_lite.generate import stream
from itera_lite.model import LanguageModel
from itera_lite.model.cost import cost
from itera_lite.train.checkpoint import load_training_state, save_checkpoint
from itera_lite.train.distributed import World, parallel
from itera_lite.train.metrics import Window, write_metrics
from itera_lite.train.optim import Optimizer
from itera_lite.train.precision import Choice
from itera_lite.train.progress import Progress

EVALUATIONS = 20  # in a run, evenly over its budget
EVAL_TOKENS = 32_768  # of the validation text, the same ones each time
ROW_STEPS = 20  # steps a row of the log


@dataclass(frozen=True)
class Budget:
    """How long to train."""

    unit: Literal["tokens", "seconds"]
    amount: float


@dataclass(frozen=True)
class Places:
    """Where a run of one name keeps its files."""

    name: str
    checkpoints: Path
    results: Path

    @property
    def best(self) -> Path:
        return self.checkpoints / self.name

    @property
    def last(self) -> Path:
        return self.checkpoints / f"{self.name}-last"

    @property
    def metrics(self) -> Path:
        return self.results / f"{self.name}_metrics.csv"

    @property
    def summary(self) -> Path:
        return self.results / f"{self.name}_summary.json"


class Stop:
    """Ctrl-C asks for a stop at the end of the step; a second one stops at once."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    @contextmanager
    def listening(self) -> Iterator[None]:
        try:
            before = signal.signal(signal.SIGINT, self)
        except ValueError:  # not in the main thread: nobody can press Ctrl-C here
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


class Trainer:
    """Trains one model on one set. `run` does it; everything else is its parts."""

    def __init__(
        self,
        model_config: ModelConfig,
        config: TrainConfig,
        dataset: Dataset,
        budget: Budget,
        places: Places,
        precision: Choice,
        world: World,
        patience: int = 6,
        quiet: bool = False,
    ) -> None:
        self.config, self.dataset, self.budget, self.places = config, dataset, budget, places
        self.precision, self.world, self.patience = precision, world, patience
        self.quiet = quiet or not world.leads
        torch.manual_seed(config.seed)
        self.model = LanguageModel(model_config).to(world.device).train()
        self.model.compute_dtype = precision.dtype
        self.loss_of = parallel(self.model, world)
        self.optimizer = Optimizer(self.model, config)
        self.loader = TokenLoader(
            dataset.tokens("train"),
            batch_size=world.share_of(config.batch_size),
            seq_len=config.seq_len,
            seed=config.seed,
            rank=world.rank,
            world_size=world.size,
        )
        self.lengths = np.array([len(piece) for piece in dataset.tokenizer.token_bytes])
        train_bytes, train_tokens = dataset.n_bytes("train"), len(dataset.tokens("train"))
        self.bytes_per_token = train_bytes / train_tokens
        self.cost = cost(model_config, config.seq_len)
        self.step = 0
        self.seconds = 0.0
        self.rows: list[dict[str, Any]] = []
        self.samples: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {"step": 0, "bpb": None}
        self.evaluations = 0  # twentieths of the budget at the last evaluation
        self.evaluated = 0  # the step of the last evaluation
        self.fruitless = 0  # evaluations since the best one
        self.window = self._new_window()

    @property
    def tokens(self) -> int:
        return self.step * self.config.batch_size * self.config.seq_len

    @property
    def progress(self) -> float:
        """Share of the budget that is used."""
        used = self.tokens if self.budget.unit == "tokens" else self.seconds
        return used / self.budget.amount

    def run(self) -> str:
        """Train until the budget is used. Returns why it ended: ``budget`` or ``early``.

        Raises:
            KeyboardInterrupt: after Ctrl-C, with everything saved for ``--resume``.
        """
        stop = Stop()
        bar = Progress(
            self.places.name,
            self.budget.amount,
            min(self.progress, 1.0) * self.budget.amount,
            self.budget.unit,
            self.quiet,
        )
        smooth: float | None = None
        ended = "budget"
        gc.collect()
        gc.freeze()  # what was imported stays: no need to look at it in every collection
        try:
            with stop.listening():
                while self.progress < 1:
                    loss, seconds = self._step()
                    smooth = loss if smooth is None else 0.95 * smooth + 0.05 * loss
                    speed = self.config.batch_size * self.config.seq_len / seconds
                    self._log_row()
                    done = self.progress * self.budget.amount
                    bpb = smooth / np.log(2) / self.bytes_per_token
                    bar.update(done, self.step, smooth, bpb, speed, self.mfu(speed))
                    if self._due():
                        self._evaluate(bar)
                        if self.patience and self.fruitless >= self.patience:
                            ended = "early"
                            break
                    elif self.world.agree(float(stop.asked))[0]:
                        self._save()
                        raise KeyboardInterrupt
        finally:
            bar.close()
        return ended

    def _due(self) -> bool:
        """Whether it is time to evaluate: at the end, and 20 times on the way."""
        if self.progress >= 1:
            return True
        steps = self.step - self.evaluated
        return self.progress >= (self.evaluations + 1) / EVALUATIONS and steps >= ROW_STEPS

    def _step(self) -> tuple[float, float]:
        """One batch, one update. Returns the loss (nats) and the seconds it took."""
        begin = time.perf_counter()
        factor = self.config.factor(self.progress)
        batch = torch.from_numpy(self.loader.next_batch()).to(self.world.device)
        total, cross_entropy = self.loss_of(batch[:, :-1], batch[:, 1:], self.config.balance_weight)
        total.backward()
        norm = self.optimizer.step(factor)
        loss = self.world.mean(cross_entropy)
        self.step += 1
        (seconds,) = self.world.agree(time.perf_counter() - begin)
        self.seconds += seconds
        self.window.add(self.model, loss, norm, seconds)
        return loss, seconds

    def _log_row(self) -> None:
        if self.window.steps < ROW_STEPS and self.progress < 1:
            return
        w, config = self.window, self.config
        factor = config.factor(self.progress)
        speed = w.steps * config.batch_size * config.seq_len / w.seconds
        load, entropy = w.balance()
        self.rows.append(
            {
                "step": self.step,
                "tokens": self.tokens,
                "seconds": self.seconds,
                "epoch": self.loader.epoch,
                "flops": self.tokens * self.cost.flops_train,
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

    def mfu(self, tokens_per_second: float) -> float:
        """Model FLOPs over the measured matrix-product peak (of one process's processor)."""
        used = tokens_per_second * self.cost.flops_train
        return used / (self.precision.peak * self.world.size / self.world.local_size)

    def _evaluate(self, bar: Progress) -> None:
        """Score the validation text, write a sample, save; the best model is kept apart."""
        self.evaluations = int(self.progress * EVALUATIONS)
        self.evaluated = self.step
        if self.world.leads:
            score = stream_bits(
                self.model,
                self.dataset.tokens("valid"),
                self.lengths,
                seq_len=self.config.seq_len,
                batch_size=16,
                max_tokens=EVAL_TOKENS,
            )
            row = {
                "step": self.step,
                "tokens": self.tokens,
                "seconds": self.seconds,
                "epoch": self.loader.epoch,
                "flops": self.tokens * self.cost.flops_train,
                "valid_loss": score.loss,
                "valid_bpb": score.bpb,
                "valid_ppl": score.ppl,
            }
            if self.rows and self.rows[-1]["step"] == self.step:
                self.rows[-1].update(row)
            else:
                self.rows.append(row)
            sample = self._sample()
            bar.say(
                f"{self.places.name}: step {self.step}, valid {score.bpb:.4f} bits/byte: "
                f"{sample['prompt']}│{' '.join(sample['text'].split())[:90]}"
            )
            better = self.best["bpb"] is None or score.bpb < self.best["bpb"]
            self.fruitless = 0 if better else self.fruitless + 1
            if better:
                self.best = {"step": self.step, "bpb": score.bpb}
                save_checkpoint(self.places.best, self.model, self.dataset.tokenizer)
        self.fruitless = int(self.world.agree(float(self.fruitless))[0])
        self._save()

    def _sample(self) -> dict[str, Any]:
        """A short continuation of the beginning of a validation text."""
        first = next(iter(self.dataset.documents("valid"))).decode("utf-8", errors="replace")
        prompt = " ".join(first[:400].split()[:4])
        dtype, self.model.compute_dtype = self.model.compute_dtype, torch.float32
        self.model.eval()
        pieces = stream(
            self.model, self.dataset.tokenizer, prompt, max_tokens=40, temperature=0.7, seed=0
        )
        sample = {"step": self.step, "prompt": prompt, "text": "".join(pieces)}
        self.model.train()
        self.model.compute_dtype = dtype
        self.samples.append(sample)
        return sample

    def _save(self) -> None:
        """Everything that `resume` needs, and the log so far."""
        if self.world.leads:
            save_checkpoint(
                self.places.last,
                self.model,
                self.dataset.tokenizer,
                training_state=self._state(),
                tensors={**self.optimizer.tensors(), "rng": torch.get_rng_state()},
            )
            write_metrics(self.places.metrics, self.rows)
        self.world.wait()

    def _identity(self) -> dict[str, Any]:
        """What must be alike for a run to be the continuation of another."""
        return {
            "model": self.model.config.to_dict(),
            "train": asdict(self.config),
            "budget": asdict(self.budget),
            "tokenizer_sha256": self.dataset.tokenizer.sha256,
            "dataset_sha256": self.dataset.manifest["sha256"],
            "precision": self.precision.name,
        }

    def _state(self) -> dict[str, Any]:
        return {
            "identity": self._identity(),
            "step": self.step,
            "seconds": self.seconds,
            "evaluations": self.evaluations,
            "evaluated": self.evaluated,
            "fruitless": self.fruitless,
            "best": self.best,
            "rows": self.rows,
            "samples": self.samples,
            "loader": self.loader.state_dict(),
            "window": self.window.state_dict(),
        }

    def resume(self) -> None:
        """Go on from the last saved step.

        Raises:
            CheckpointError: nothing saved, or saved by a run with other settings.
        """
        from itera_lite.export.hf import load_model

        state, tensors = load_training_state(self.places.last)
        mine = self._identity()
        for part, value in state["identity"].items():
            if value != mine[part]:
                raise CheckpointError(
                    f"'{self.places.last}' was trained with {part}={value}; this run has "
                    f"{mine[part]}. Resume with the settings of the first run, or start "
                    "without --resume"
                )
        saved = load_model(self.places.last).state_dict()
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                value.copy_(saved[name])
        torch.set_rng_state(tensors.pop("rng"))
        self.optimizer.load_tensors(tensors)
        for key in ("step", "seconds", "evaluations", "evaluated", "fruitless", "best"):
            setattr(self, key, state[key])
        self.rows, self.samples = state["rows"], state["samples"]
        self.loader.load_state_dict(state["loader"])
        self.window.load_state_dict(state["window"])

    def _new_window(self) -> Window:
        config = self.model.config
        return Window(config.n_layers if config.n_experts else 0, config.n_experts)
