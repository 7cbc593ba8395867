"""One training: its steps, with evaluations and saves in between, until the budget is used.

`train.turns` runs one of them, or several that take turns. With a budget in tokens a run depends on
its seed alone: stopped anywhere and resumed, it takes exactly the path of the uninterrupted one.
The state is saved before the first step too, so that a run can be resumed from its beginning on.
With a budget in seconds the schedule follows the clock.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from itera_lite.checkpoint.folder import (
    SHARDS,
    STATE,
    load_training_state,
    save_checkpoint,
    writing_checkpoint,
)
from itera_lite.checkpoint.hf import load_model
from itera_lite.checkpoint.shards import save_shards
from itera_lite.config import ModelConfig, TrainConfig
from itera_lite.data.loader import TokenLoader
from itera_lite.data.prepare import Dataset
from itera_lite.errors import CheckpointError, TrainingError
from itera_lite.evaluate.bits import (
    FINAL_BYTES,
    evaluating,
    first_bytes,
    score_documents,
    stream_bits,
)
from itera_lite.evaluate.score import Score
from itera_lite.machine.load import LoadMeter
from itera_lite.model import LanguageModel
from itera_lite.model.cost import cost
from itera_lite.model.stream import Sampler, stream
from itera_lite.records import Continuation
from itera_lite.train.compute import Compute
from itera_lite.train.distributed import World, peers
from itera_lite.train.events import Events
from itera_lite.train.log import TrainingState, Window, expert_loads, write_metrics
from itera_lite.train.objective import Objective
from itera_lite.train.optim import Optimizer
from itera_lite.train.pace import Pace
from itera_lite.train.recipe import Budget
from itera_lite.train.run_files import RunFiles
from itera_lite.train.step import BatchGradient
from itera_lite.workers import WorkerChoice, Workers

if TYPE_CHECKING:
    from itera_lite.train.sharded import ShardedGradient

EVALUATIONS = 20  # in a run, evenly over its budget
PATIENCE = 6  # evaluations without a better one, after which a run stops early
EVAL_TOKENS = 32_768  # of the validation text, the same ones in each evaluation
ROW_STEPS = 20  # steps a row of the log
DIVERGED = 1.0  # nats a token, above the loss of a guess at random
SMOOTHING = 0.95  # of the loss on the terminal: what one step keeps of those before it
# For the estimate of the time left, a little text is scored once as all will be at the end. Before
# that a token is assumed to take so many times as long there as in an evaluation: windows overlap
# by half, and it is float32.
TRIAL_BYTES, DOCUMENT_BYTES = 16_000, 4_000
FINAL_TIMES = 4.0


class Trainer:
    """Trains one model on one set: `advance`. `resume` and `save` let it go on in a later process.

    It begins from random weights, or from those of ``initial``, which it changes. Several may be
    alive in a process and take turns: what happens to one happens inside its `turn`.

    Args:
        final_bytes: of validation text that are scored at the end, for `seconds_left`.
        continuation: the record of the checkpoint that ``initial`` is; it is saved with the state.
        events: write the log for TensorBoard too.
    """

    def __init__(
        self,
        model_config: ModelConfig,
        config: TrainConfig,
        dataset: Dataset,
        budget: Budget,
        files: RunFiles,
        compute: Compute,
        patience: int | None = None,
        evaluations: int | None = None,
        initial: LanguageModel | None = None,
        objective: Objective | None = None,
        final_bytes: int = FINAL_BYTES,
        continuation: Continuation | None = None,
        events: bool = False,
    ) -> None:
        self.config, self.dataset, self.budget, self.files = config, dataset, budget, files
        self.compute, self.world = compute, compute.world
        self.quiet = compute.quiet or not self.world.is_leader
        self._scoring_given = patience, evaluations
        self._set_scoring(PATIENCE, EVALUATIONS)
        torch.manual_seed(config.seed)
        self.objective = objective or Objective()
        self.model = (initial or LanguageModel(model_config)).to(self.world.device).train()
        self.model.compute_dtype = compute.precision.dtype
        rows = self.world.share_of(config.batch_size)
        self.sharded = compute.shards(model_config)
        self.optimizer: Optimizer
        self.gradient: BatchGradient | ShardedGradient
        if self.sharded:  # imported where it is needed: that takes a good part of a second
            from itera_lite.train.sharded import ShardedGradient, ShardedOptimizer, shard

            self.model = shard(self.model, self.world)
            self.optimizer = ShardedOptimizer(self.model, config, self.world)
            self.gradient = ShardedGradient(self.model, config, self.objective, self.world)
        else:
            self.optimizer = Optimizer(self.model, config)
            self.gradient = BatchGradient(
                self.model, config, self.objective, compute.workers, self.world
            )
        self.workers = WorkerChoice(compute.workers, fixed=compute.workers_given)
        self.loader = TokenLoader(
            dataset.tokens("train"),
            batch_size=rows,
            seq_len=config.seq_len,
            seed=config.seed,
            rank=self.world.rank,
            world_size=self.world.size,
        )
        self.bytes_per_token = dataset.n_bytes("train") / len(dataset.tokens("train"))
        self.cost = cost(model_config, config.seq_len)
        self.state = TrainingState()
        self.window = self._new_window()
        self.pace = Pace()
        self.speed = 0.0  # tokens/s of the last step
        self.smooth_loss: float | None = None
        self.continuation = continuation
        self.events = Events(files.events) if events and self.world.is_leader else None
        self._final_bytes = min(final_bytes, dataset.n_bytes("valid"))
        self._score_seconds = 0.0  # of the last evaluation
        self._trial_seconds = 0.0  # of trying the score at the end, in the last evaluation
        self._final_in_scores: float | None = None  # time of the score at the end, in these
        self._wall_counted_at = time.monotonic()  # ``state.wall`` counts the time up to here
        self._load_meter = LoadMeter()  # and ``state.load`` the load by others
        self._rng = torch.get_rng_state()

    @property
    def tokens(self) -> int:
        return self.state.step * self.config.batch_size * self.config.seq_len

    @property
    def progress(self) -> float:
        """Share of the budget that is used."""
        used = self.tokens if self.budget.unit == "tokens" else self.state.seconds
        return used / self.budget.amount

    @contextmanager
    def turn(self) -> Iterator[None]:
        """A turn of this training, in a process where others have theirs.

        Inside, PyTorch's random numbers, the clock of ``state.wall`` and the load by other programs
        are this training's own.
        """
        others = torch.get_rng_state()
        torch.set_rng_state(self._rng)
        self._wall_counted_at = time.monotonic()
        self._load_meter.lap()
        try:
            yield
        finally:
            self._count_wall()
            self._rng = torch.get_rng_state()
            torch.set_rng_state(others)

    def advance(self) -> bool:
        """Make a step, and the evaluation that is due after it.

        Returns:
            Whether there was an evaluation.

        Raises:
            TrainingError: the loss or the gradient isn't finite, or the training diverges; nothing
                was saved of that.
        """
        begin, before = time.monotonic(), self.progress
        loss, seconds = self._step()
        smooth = loss if self.smooth_loss is None else self.smooth_loss
        self.smooth_loss = SMOOTHING * smooth + (1 - SMOOTHING) * loss
        self.speed = self.config.batch_size * self.config.seq_len / seconds
        self._log_row()
        stepped = time.monotonic()
        self.pace.stepped(stepped - begin, self.progress - before)
        if not self._evaluation_is_due():
            return False
        self._evaluate()
        evaluated = time.monotonic() - stepped - self._trial_seconds
        self.pace.evaluated(evaluated, self._score_seconds)
        return True

    def seconds_left(self) -> float | None:
        """Wall seconds of its own that the training needs until the score at its end is there.

        None before its first step. It may end earlier, where scores stop getting better.
        """
        share = evaluations = 0.0
        if self.state.ended is None:
            share = max(0.0, 1 - self.progress)
            step = self.pace.share_per_step
            between = max(1 / self.evaluations, ROW_STEPS * step)
            since = (self.state.step - self.state.evaluated) * step
            evaluations = max(1.0, math.ceil((share + since) / between - 1e-6))
        per_score = min(EVAL_TOKENS, len(self.dataset.tokens("valid")))
        final = self._final_in_scores
        if final is None:
            final = FINAL_TIMES * self._final_bytes / self.bytes_per_token / per_score
        return self.pace.remaining(
            share,
            evaluations,
            score_in_steps=per_score * self.progress / max(self.tokens, 1),
            final_in_scores=final,
        )

    def _evaluation_is_due(self) -> bool:
        """At the end, and evenly on the way."""
        if self.progress >= 1:
            return True
        steps = self.state.step - self.state.evaluated
        due = (self.state.evaluations + 1) / self.evaluations
        return self.progress >= due and steps >= ROW_STEPS

    def _step(self) -> tuple[float, float]:
        """One batch, one update. Returns the loss (nats) and the seconds it took."""
        begin = time.perf_counter()
        self.workers.begin()
        factor = self.config.factor(self.progress)
        positions = self.loader.next_positions()
        losses = self.gradient(self.loader.at(positions), positions, self.state.step)
        loss = losses.cross_entropy
        self._refuse_infinite("loss", loss + losses.total)
        self._refuse_infinite("norm of the gradient", losses.norm)
        self._refuse_divergence(loss)
        self.optimizer.step(self.gradient.gradients, factor, self.compute.workers, losses.norm)
        self.state.step += 1
        (seconds,) = self.world.agree(time.perf_counter() - begin)
        if self.workers.end(seconds) and not self.quiet:
            chosen = f"{self.workers.active} ({self.workers.reason})"
            with suppress(OSError, ValueError):  # the terminal has gone away
                tqdm.write(f"{self.files.name}: workers: {chosen}")  # above the bars
        self.state.seconds += seconds
        self.window.add(self.model, loss, losses.norm, seconds)
        return loss, seconds

    def _refuse_infinite(self, what: str, value: float) -> None:
        """Raise `TrainingError` for a value that isn't finite."""
        if not math.isfinite(value):
            raise self._gone_wrong(f"the {what} is {value}")

    def _refuse_divergence(self, loss: float) -> None:
        """Raise `TrainingError` where the mean loss of a row of the log is far above that of a
        guess, in which all tokens are equally probable: no training comes back from there.

        A model that has learned must not be worse than the guess by `DIVERGED` nats; one that
        hasn't yet, by as much again as the guess itself.
        """
        steps = self.window.steps + 1
        if steps < ROW_STEPS:
            return
        mean, guess = (self.window.loss + loss) / steps, math.log(self.model.config.vocab_size)
        learned = any(row.get("train_loss", math.inf) < guess for row in self.state.rows)
        if mean > guess + DIVERGED + (0 if learned else guess):
            raise self._gone_wrong(
                f"the training diverges: the mean loss of the last {steps} steps is {mean:.3f} "
                f"nats a token, and a guess at random has {guess:.3f}"
            )

    def _gone_wrong(self, what: str) -> TrainingError:
        """The error to raise before an update that would spoil the model."""
        best, config = self.state.best, self.config
        kept = (
            f"'{self.files.best}' has the model of step {best['step']} ({best['bpb']:.4f} bits "
            "per byte)"
            if best["bpb"] is not None
            else "no model was saved yet"
        )
        return TrainingError(
            f"{self.files.name}: {what} at step {self.state.step + 1}, so the "
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
        self._add_row(
            self._row()
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

    def _add_row(self, row: dict[str, Any]) -> None:
        """Add to the log, and to that for TensorBoard."""
        self.state.add(row)
        if self.events is not None:
            self.events.add(row)

    def _row(self) -> dict[str, Any]:
        """The columns of the log that say how far the run is."""
        return {
            "step": self.state.step,
            "tokens": self.tokens,
            "seconds": self.state.seconds,
            "epoch": self.loader.epoch,
            "flops": self.tokens * self.cost.flops_train,
        }

    def _new_window(self) -> Window:
        config = self.model.config
        return Window(config.n_layers if config.n_experts else 0, config.n_experts)

    def mfu(self, tokens_per_second: float) -> float:
        """Model FLOPs over the matrix-product peak of all processes.

        The peak is that of one process's workers, which was measured, for each process.
        """
        used = tokens_per_second * self.cost.flops_train
        return used / (self.compute.precision.peak * self.world.size)

    def _evaluate(self) -> None:
        """Score the validation text, write a sample, save; the best model is kept apart."""
        state = self.state
        state.evaluations = int(self.progress * self.evaluations)
        state.evaluated = state.step
        self._score()
        state.fruitless = int(self.world.agree(float(state.fruitless))[0])
        if self.progress >= 1:
            state.ended = "budget"
        elif self.patience and state.fruitless >= self.patience:
            state.ended = "early"
        self.save()

    def _score(self) -> None:
        """Score a part of the text in each process; the leading one takes the score down."""
        model = self._whole_model() if self.sharded else self.objective.deployed(self.model)
        begin = time.monotonic()
        score = score_part(
            model, self.dataset, self.config.seq_len, self.compute.workers, self.world
        )
        self._score_seconds = time.monotonic() - begin
        self.world.on_leader(partial(self._take_down, model, score), soon=True)

    def _take_down(self, model: LanguageModel, score: Score) -> None:
        """Add a score to the log, write a sample; keep the model where it is the best one."""
        state = self.state
        self._refuse_infinite("validation loss", score.loss)
        scores = {"valid_loss": score.loss, "valid_bpb": score.bpb, "valid_ppl": score.ppl}
        self._add_row(self._row() | scores)
        self._trial_seconds = 0.0
        if self._final_in_scores is None and self.progress < 1 and not self.quiet:
            begin = time.monotonic()
            per_byte = final_seconds_per_byte(
                model, self.dataset, self.config.seq_len, self.compute.workers
            )
            final = per_byte * self._final_bytes / self.world.size
            self._final_in_scores = final / max(self._score_seconds, 1e-9)
            self._trial_seconds = time.monotonic() - begin
        text = sample(model, self.dataset)
        state.samples.append({"step": state.step, **text})
        if state.add_score(score.bpb):
            save_checkpoint(self.files.best, model, self.dataset.tokenizer)

    def _whole_model(self) -> LanguageModel:
        """A copy of the sharded model with all of its weights, in every process."""
        from itera_lite.train.sharded import whole_model

        return whole_model(self.model)

    def save(self) -> None:
        """Write everything that `resume` needs, and the log so far; in a `turn`."""
        self._count_wall()
        if not self.sharded:
            self.world.on_leader(partial(self._write, self.model), soon=True)
            return
        whole = self._whole_model()
        with ExitStack() as stack:  # of the leading process
            folder = self.world.on_leader(
                lambda: stack.enter_context(self._writing(whole)), soon=True
            )
            with peers():
                save_shards(folder, self.optimizer.by_parameter())
            self.world.on_leader(partial(self._finish, stack), soon=True)

    def _count_wall(self) -> None:
        now = time.monotonic()
        self.state.wall += now - self._wall_counted_at
        self._wall_counted_at = now
        self.state.add_load(self._load_meter.lap())

    def _write(self, model: LanguageModel) -> None:
        """Write the state of the training with the whole model."""
        with ExitStack() as stack:
            stack.enter_context(self._writing(model))
            self._finish(stack)

    def _finish(self, stack: ExitStack) -> None:
        """Put what was written in the older state's place, and write the log."""
        stack.close()
        self.write_log()

    @contextmanager
    def _writing(self, model: LanguageModel) -> Iterator[Path]:
        """Write the state; its folder is complete with the end of the block."""
        if self.events is not None:
            self.events.flush()
        loads = [[round(x, 5) for x in load.tolist()] for load in expert_loads(self.model)]
        self.state.expert_load = loads or self.state.expert_load
        with writing_checkpoint(
            self.files.last,
            model,
            self.dataset.tokenizer,
            training_state={
                "identity": self._settings(),
                "scoring": {"patience": self.patience, "evaluations": self.evaluations},
                "state": self.state.to_dict(),
                "loader": self.loader.state_dict(),
                "window": self.window.state_dict(),
            },
            tensors={
                **self.optimizer.tensors(),
                **{f"load.{i}": load for i, load in enumerate(expert_loads(self.model))},
                "rng": torch.get_rng_state(),
            },
        ) as folder:
            yield folder

    def write_log(self) -> None:
        """Write the log so far as CSV."""
        write_metrics(self.files.metrics, self.state.rows)

    def _set_scoring(self, patience: int, evaluations: int) -> None:
        """Set how often the run is scored, and after how many scores it stops early, where that
        isn't given."""
        given = self._scoring_given
        self.patience = patience if given[0] is None else given[0]
        self.evaluations = evaluations if given[1] is None else given[1]

    def _settings(self) -> dict[str, Any]:
        """The settings that a resumed run must share with the saved one, and the budget."""
        start = self.continuation
        return {
            "model": self.model.config.to_dict(),
            "train": asdict(self.config),
            "budget": asdict(self.budget),
            "tokenizer_sha256": self.dataset.tokenizer.sha256,
            "dataset_sha256": self.dataset.manifest["sha256"],
            "unit": self.dataset.unit,
            "precision": self.compute.precision.name,
            "objective": self.objective.identity(),
            **({} if start is None else {"continuation": msgspec.to_builtins(start)}),
        }

    def resume(self) -> None:
        """Bring a new trainer to where the run of its name was saved.

        A run may go on with a larger budget than before; everything else has to be the same.

        Raises:
            CheckpointError: nothing saved, a damaged state, or one of a run with other settings.
        """
        folder = self.files.last
        saved, tensors = load_training_state(folder)
        settings = self.files.saved_settings()
        own = self._settings()
        if any(own[part].keys() - settings[part].keys() for part in ("model", "train")):
            raise CheckpointError(
                f"'{folder}' was saved by an older version of Itera-Lite, which trained in another "
                "way, so this one can't go on with it: train anew with --overwrite or another "
                "--name. The model itself can be used as before"
            )
        if differences := _differences(settings, own):
            raise CheckpointError(
                f"'{folder}' was trained with other settings: {'; '.join(differences)}. Resume "
                "with those of the first run (what isn't given is taken from it; --minutes, "
                "--epochs and --tokens may be larger), or train anew with --overwrite or another "
                "--name"
            )
        weights = load_model(folder).state_dict()
        try:
            rng = tensors.pop("rng")
            state = TrainingState.from_dict(saved["state"])
            if self.sharded:
                from itera_lite.train.sharded import load_weights

                load_weights(self.model, weights)
            else:
                with torch.no_grad():
                    for name, value in self.model.state_dict().items():
                        value.copy_(weights[name])
            if state.step:
                loads = [tensors.pop(f"load.{i}") for i in range(len(self.model.mixtures))]
                self.gradient.set_loads(loads)
            self._load_optimizer(folder / STATE, tensors, stored=SHARDS in saved)
            self.loader.load_state_dict(saved["loader"])
            self.window.load_state_dict(saved["window"])
            scoring = {name: int(number) for name, number in saved.get("scoring", {}).items()}
            self._set_scoring(
                max(0, scoring.get("patience", PATIENCE)),
                max(1, scoring.get("evaluations", EVALUATIONS)),
            )
            torch.Generator().set_state(rng)  # raises where it is no state
            self._rng = rng
        except (KeyError, TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
            raise self.files.unusable_state(error) from None
        self.state = state
        if self.events is not None:
            self.events.replace_after(state.step)
        # The run may be evaluated less often than before.
        state.evaluations = min(state.evaluations, int(self.progress * self.evaluations))
        before = Budget(**settings["budget"])
        if before != self.budget:
            self._extend(before)
        if not self.files.best.is_dir():
            if state.ended:
                raise CheckpointError(
                    f"the best model, '{self.files.best}', isn't there any more: go on with a "
                    "larger budget, or train anew with --overwrite"
                )
            state.best = TrainingState().best  # the next evaluation writes one

    def _load_optimizer(self, folder: Path, tensors: dict[str, Tensor], *, stored: bool) -> None:
        """Restore the optimizer, whether one process or several stored it, a part each.

        Args:
            folder: of the training state; ``tensors``: those of its one file that are left.
            stored: several processes stored a part each.

        Raises:
            CheckpointError, KeyError, ValueError: they are of another model, or damaged.
        """
        if stored:
            self.optimizer.load_shards(folder, tensors["adam.step"])
        elif not self.sharded:
            self.optimizer.load_tensors(tensors)
        else:
            with torch.random.fork_rng():
                other = Optimizer(LanguageModel(self.model.config), self.config)
            other.load_tensors(tensors)
            self.optimizer.load_by_parameter(other.by_parameter(), tensors["adam.step"])

    def _extend(self, before: Budget) -> None:
        """Give the resumed run another budget than it had ``before``.

        Raises:
            CheckpointError: the run has used that much already.
        """
        state, budget = self.state, self.budget
        if self.progress >= 1:
            raise CheckpointError(
                f"'{self.files.last}' was trained for {self.tokens:,} tokens in "
                f"{state.seconds / 60:.3g} minutes, which is {budget} already: give more, or leave "
                f"the budget out to go on with {before}"
            )
        state.ended, state.fruitless = None, 0
        state.evaluations = int(self.progress * self.evaluations)
        if not self.quiet:
            print(
                f"{self.files.name}: {before} before, now {budget}, of which "
                f"{self.progress:.0%} are used; the learning rate follows the new budget"
            )


def score_part(
    model: LanguageModel,
    dataset: Dataset,
    seq_len: int,
    workers: Workers | None = None,
    world: World | None = None,
) -> Score:
    """Score `EVAL_TOKENS` tokens of the validation text, in training's precision.

    Args:
        world: processes that score a part each; all get the score of one, bit for bit.
    """
    lengths = np.array([len(piece) for piece in dataset.tokenizer.token_bytes])
    return stream_bits(
        model,
        dataset.tokens("valid"),
        lengths,
        seq_len=seq_len,
        max_tokens=EVAL_TOKENS,
        run=partial((world or World()).map, workers or Workers()),
    )


def sample(model: LanguageModel, dataset: Dataset) -> dict[str, str]:
    """A short continuation, in float32, of the beginning of a validation text.

    Returns:
        ``prompt`` and ``text``.
    """
    first = next(dataset.documents("valid", most=DOCUMENT_BYTES)).decode("utf-8", "replace")
    prompt = " ".join(first[:400].split()[:4])
    sampler = Sampler(temperature=0.7, seed=0)
    with _in_float32(model), evaluating(model):
        pieces = stream(model, dataset.tokenizer, prompt, max_tokens=40, sampler=sampler)
        text = "".join(pieces)
    return {"prompt": prompt, "text": text}


def final_seconds_per_byte(
    model: LanguageModel, dataset: Dataset, seq_len: int, workers: Workers
) -> float:
    """Time the score at the end, in float32 and document by document, on a little text."""
    documents = dataset.documents("valid", most=DOCUMENT_BYTES)
    cut = (text.decode("utf-8", "ignore") for text in documents)
    texts = list(first_bytes((text.encode() for text in cut), TRIAL_BYTES))
    begin = time.monotonic()
    with _in_float32(model):
        score = score_documents(model, dataset.tokenizer, texts, seq_len=seq_len, workers=workers)
    return (time.monotonic() - begin) / max(score.bytes, 1)


@contextmanager
def _in_float32(model: LanguageModel) -> Iterator[None]:
    dtype, model.compute_dtype = model.compute_dtype, torch.float32
    try:
        yield
    finally:
        model.compute_dtype = dtype


_IN_WORDS = {
    "dataset_sha256": "the text",
    "tokenizer_sha256": "the tokenizer",
    "objective": "what is learned from (teachers, rounding)",
    "continuation": "the checkpoint that it began from",
    "lr_matrix": "--lr-matrix",
    "lr_embedding": "--lr-embedding",
    "lr_other": "--lr-other",
    "seq_len": "--seq-len",
}


def _differences(saved: dict[str, Any], own: dict[str, Any]) -> list[str]:
    """The settings that differ, in words: ``batch size 8, now 4``."""
    found = []
    for part, now in own.items():
        before = saved.get(part, "document" if part == "unit" else None)  # once all there was
        if part == "continuation" and before is not None:
            # As records: a field with its default value may stand in a file or not.
            before, now = (msgspec.convert(value, Continuation) for value in (before, now))
        if part == "budget" or before == now:
            continue
        if part in ("model", "train") and isinstance(before, dict):
            for key, value in now.items():
                if before.get(key) != value:
                    word = _IN_WORDS.get(key, key.replace("_", " "))
                    found.append(f"{word} {before.get(key)}, now {value}")
        elif part in ("precision", "unit"):
            found.append(f"{part} {before}, now {now}")
        else:
            found.append(f"{_IN_WORDS[part]} changed")
    return found
