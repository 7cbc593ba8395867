"""Trainings, one or several in turns: from their settings to scored checkpoints and summaries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import msgspec

from itera_lite import __version__
from itera_lite.checkpoint.folder import load_checkpoint
from itera_lite.config import (
    DEFAULT_VOCABULARY,
    REFERENCE_VOCABULARY,
    Family,
    ModelConfig,
    TrainConfig,
    Unit,
    preset,
)
from itera_lite.data.prepare import Dataset, prepare, prepare_general
from itera_lite.data.tokenizer import Tokenizer
from itera_lite.errors import CheckpointError, ConfigError, UsageError
from itera_lite.evaluate.bits import FINAL_BYTES, first_bytes, score_documents
from itera_lite.evaluate.score import Score
from itera_lite.machine.peak import torch_threads
from itera_lite.model import LanguageModel
from itera_lite.model.cost import cost
from itera_lite.records import Continuation, DistillationRecord, Summary
from itera_lite.torchrun import restarts
from itera_lite.train.compute import Compute
from itera_lite.train.continuation import Beginning, after, in_words
from itera_lite.train.distributed import World
from itera_lite.train.events import remove_events
from itera_lite.train.loop import Trainer
from itera_lite.train.memory import MemoryNeed, check_memory, estimate
from itera_lite.train.objective import Objective
from itera_lite.train.precision import Precision
from itera_lite.train.recipe import (
    CONTINUED_RATE,
    DEFAULT_MINUTES,
    Budget,
    budget_of,
    fit_to,
    gentle,
    train_config,
)
from itera_lite.train.run_files import RunFiles
from itera_lite.train.summary import AnyCompression, summary_of_finished, training_summary
from itera_lite.train.turns import train_in_turns


@dataclass(frozen=True)
class TrainingRequest:
    """What `itera train` is asked for: models of one size, in turns, on one text.

    What isn't given (None, or a ``precision`` of ``auto``) is taken from the run that is resumed,
    if there is one; all but ``workers`` and ``shard``.

    Attributes:
        data: the set, as the user named it.
        files: of each model's run, by family.
        unit: what of the text becomes a document; None: as in `prepare`.
        config: a preset, by default tiny; ``params``: a number of parameters instead;
            ``pattern``: layers of the Itera model.
        epochs, minutes, tokens: the budget; at most one is given.
        vocab_size: of a tokenizer that is made from the text; ``tokenizer``: use this one instead.
        beginning: the checkpoint to go on from, whose shape and ``tokenizer`` the model has; None:
            random weights.
        overrides: fields of `TrainConfig`; None where the recipe decides.
        shard: whether several processes hold a part of the model each; None: its size decides.
        events: write the log for TensorBoard too.
    """

    data: str
    files: dict[Family, RunFiles]
    unit: Unit | None
    config: str | None
    params: float | None
    pattern: str | None
    epochs: float | None
    minutes: float | None
    tokens: str | None
    vocab_size: int | None
    tokenizer: Tokenizer | None
    beginning: Beginning | None
    overrides: dict[str, Any]
    seed: int | None
    resume: bool
    overwrite: bool
    patience: int | None
    evaluations: int | None
    precision: Precision
    workers: int | None
    shard: bool | None
    events: bool
    quiet: bool

    def shape(self, family: Family, vocab_size: int) -> ModelConfig:
        """The model of a family.

        Raises:
            ConfigError: there is none of this size or pattern.
        """
        if self.beginning is not None:
            return self.beginning.shape
        pattern = self.pattern if family == "itera" else None
        if self.params is not None:
            return fit_to(family, self.params, vocab_size, pattern)
        shape = preset(family, self.config or "tiny", vocab_size)
        return shape if pattern is None else shape.replace(pattern=pattern)

    def resumed_shape(self, family: Family, saved: dict[str, Any] | None) -> ModelConfig | None:
        """The model of a run that is resumed; None where another one may be asked for.

        Args:
            saved: settings of the run (`RunFiles.saved_settings`).

        Raises:
            CheckpointError: they have no model that can be built.
        """
        given = (self.beginning, self.config, self.params, self.pattern)
        if saved is None or any(each is not None for each in given):
            return None
        if saved["model"].get("family") != family:
            return None
        try:
            return ModelConfig(**saved["model"])
        except (TypeError, ConfigError) as error:
            raise self.files[family].unusable_state(error) from None

    def check_shapes(self, saved: dict[Family, dict[str, Any]]) -> None:
        """Find, before the text is prepared, what can't be built or trained.

        Args:
            saved: settings of the runs that are resumed.

        Raises:
            ConfigError: a model or a training recipe that isn't possible.
            UsageError: a sequence is longer than a model reads.
        """
        size = self.vocab_size or DEFAULT_VOCABULARY
        if self.tokenizer is not None:
            size = self.tokenizer.vocab_size
        for family in self.files:
            shape = self.resumed_shape(family, saved.get(family)) or self.shape(family, size)
            config = train_config(shape, Budget("seconds", 60 * DEFAULT_MINUTES), self.overrides)
            if config.seq_len > shape.max_seq_len:
                raise UsageError(
                    f"--seq-len {config.seq_len}: this model reads at most {shape.max_seq_len} "
                    "tokens"
                )

    def dataset(self, quiet: bool) -> Dataset:
        """The prepared set."""
        if self.tokenizer is not None:
            return prepare(self.data, tokenizer=self.tokenizer, unit=self.unit, quiet=quiet)
        if self.vocab_size is None and list(self.files) == ["gpt2"]:
            return prepare_general(self.data, REFERENCE_VOCABULARY, quiet=quiet, unit=self.unit)
        size = self.vocab_size or DEFAULT_VOCABULARY
        return prepare(self.data, vocab_size=size, unit=self.unit, quiet=quiet)

    def recipe(
        self, shape: ModelConfig, dataset: Dataset, saved: dict[str, Any] | None
    ) -> tuple[TrainConfig, Budget]:
        """The recipe and the budget of one model.

        Args:
            saved: settings of the run that is resumed (`RunFiles.saved_settings`).
        """
        overrides, seed, before = self.overrides, self.seed or 0, None
        if saved is not None:
            before = Budget(**saved["budget"])
            overrides = {
                key: saved["train"].get(key) if value is None else value
                for key, value in overrides.items()
            }
            seed = saved["train"].get("seed", 0) if self.seed is None else seed
        budget = budget_of(dataset, self.epochs, self.minutes, self.tokens, before)
        rate = 1.0 if self.beginning is None or saved is not None else CONTINUED_RATE
        return gentle(shape, budget, rate, seed, overrides), budget


def train_models(request: TrainingRequest) -> dict[str, Summary]:
    """Claim the files of all runs, prepare the text, train every model of the request.

    Returns:
        Each run's summary, by its name.

    Raises:
        IteraError: see `TrainingRequest`, `RunFiles.claimed`, `prepare` and `Trainer`.
    """
    if restarts() and not request.resume:
        raise UsageError(
            "torchrun starts the processes again where one fails (--max-restarts), and they would "
            "begin anew: add --resume, which begins where nothing is saved yet and else goes on"
        )
    with World.join() as world, ExitStack() as stack:
        stack.enter_context(torch_threads())

        def claim() -> None:
            for files in request.files.values():
                stack.enter_context(
                    files.claimed(resume=request.resume, overwrite=request.overwrite)
                )

        world.on_leader(claim)
        saved: dict[Family, dict[str, Any]] = {}
        for family, files in request.files.items() if request.resume else ():
            if files.resumable:
                saved[family] = files.saved_settings()
            elif world.is_leader:
                print(f"{files.name}: nothing is saved yet, so it begins anew")
        request, continued = _resumed(request, saved)
        request.check_shapes(saved)
        precision = request.precision
        for settings in saved.values():
            precision = settings["precision"] if precision == "auto" else precision
        if request.overrides["batch_size"] is not None:
            world.share_of(request.overrides["batch_size"])
        silent = request.quiet or not world.is_leader
        dataset, compute = world.leader_first(
            lambda: (
                request.dataset(silent),
                Compute.prepare(precision, request.workers, request.quiet, world, request.shard),
            )
        )
        compute = compute.agreed()
        world.check_same(
            text=dataset.manifest["sha256"],
            tokenizer=dataset.tokenizer.sha256,
            version=__version__,
        )
        trainings = []
        for family, files in request.files.items():
            shape = request.resumed_shape(family, saved.get(family))
            shape = shape or request.shape(family, dataset.tokenizer.vocab_size)
            config, budget = request.recipe(shape, dataset, saved.get(family))
            continuation, beginning = continued.get(family), request.beginning
            if beginning is not None and continuation is None:
                measure = partial(beginning.measure, dataset, request.data, files.results)
                continuation = world.on_leader(
                    partial(measure, config.seq_len, compute.workers),
                )
            trainings.append(
                Training(
                    *(shape, config, dataset, budget, files, compute),
                    source=request.data,
                    initial=None if beginning is None else beginning.model,
                    continuation=continuation,
                    resume=family in saved,
                    patience=request.patience,
                    evaluations=request.evaluations,
                    events=request.events or (family in saved and files.events.is_dir()),
                )
            )
        summaries = run_trainings(trainings)
        return {summary.model.name: summary for summary in summaries}


def _resumed(
    request: TrainingRequest, saved: dict[Family, dict[str, Any]]
) -> tuple[TrainingRequest, dict[Family, Continuation]]:
    """The request with the unit and the tokenizer of the runs that are resumed, where none is
    given; and what these runs had begun from, by family.

    Raises:
        CheckpointError: the request names another checkpoint to begin from, or the record of it
            in the saved state is damaged.
    """
    continued: dict[Family, Continuation] = {}
    for family, settings in saved.items():
        files, own = request.files[family], request.beginning
        if request.unit is None:
            request = replace(request, unit=settings.get("unit", "document"))
        if request.tokenizer is None and request.vocab_size is None:
            request = replace(request, tokenizer=Tokenizer.load(files.last))
        if (record := settings.get("continuation")) is not None:
            try:
                continued[family] = msgspec.convert(record, Continuation)
            except msgspec.ValidationError as error:
                raise files.unusable_state(error) from None
        before = continued[family].start if family in continued else None
        if own is not None and (before is None or before.sha256 != own.sha256):
            what = "random weights" if before is None else f"another '{before.name}'"
            raise CheckpointError(
                f"'{files.last}' began from {what}, not from '{own.folder}': leave out --init to "
                "go on with it, or train anew with --overwrite or another --name"
            )
    return request, continued


@dataclass(frozen=True)
class Training:
    """One training: the model, its text and budget, and the origin that its summary records.

    The caller has claimed the run's files (`RunFiles.claimed`).

    Attributes:
        source: how the set was named, for the summary.
        initial: a model to begin with, instead of random weights; it is changed.
        continuation: the record of the checkpoint that ``initial`` is, with its scores.
        objective: what a step minimises; the next token by default.
        resume: go on where the run of this name was stopped. One that is finished is left as it is.
        compression: gives how the model was made, for the summary, from the last score in bits per
            byte; the best checkpoint is written then.
        distillation: who taught the model, for the summary.
        final_bytes: of validation text for the last score.
        events: write the log for TensorBoard too.
    """

    shape: ModelConfig
    config: TrainConfig
    dataset: Dataset
    budget: Budget
    files: RunFiles
    compute: Compute
    source: str = field(kw_only=True)
    initial: LanguageModel | None = field(default=None, kw_only=True)
    continuation: Continuation | None = field(default=None, kw_only=True)
    objective: Objective | None = field(default=None, kw_only=True)
    resume: bool = field(default=False, kw_only=True)
    patience: int | None = field(default=None, kw_only=True)
    evaluations: int | None = field(default=None, kw_only=True)
    compression: Callable[[float], AnyCompression] | None = field(default=None, kw_only=True)
    distillation: DistillationRecord | None = field(default=None, kw_only=True)
    final_bytes: int = field(default=FINAL_BYTES, kw_only=True)
    events: bool = field(default=False, kw_only=True)

    def run(self) -> Summary:
        """Train the model alone; see `run_trainings`."""
        (summary,) = run_trainings([self])
        return summary

    def trainer(self) -> Trainer:
        """The trainer, where the run of its name was saved, or at its beginning. Writes nothing."""
        if self.compute.world.is_leader and not self.compute.quiet:
            self._announce()
        trainer = Trainer(
            *(self.shape, self.config, self.dataset, self.budget, self.files, self.compute),
            patience=self.patience,
            evaluations=self.evaluations,
            initial=self.initial,
            objective=self.objective,
            final_bytes=self.final_bytes,
            continuation=self.continuation,
            events=self.events,
        )
        if self.resume:
            trainer.resume()
        return trainer

    def summary_of_finished(self, trainer: Trainer) -> Summary | None:
        """The summary of a run that had ended before; None where it goes on."""
        finished = summary_of_finished(trainer) if self.resume else None
        if finished is not None and not trainer.quiet:
            state = trainer.state
            why = "its budget is used" if state.ended == "budget" else "it stopped early"
            print(
                f"{self.files.name} is finished ({why}, step {state.step}) and stays as it is: a "
                "larger --minutes, --epochs or --tokens goes on with it, --overwrite trains anew"
            )
        return finished

    def begin(self, trainer: Trainer) -> None:
        """Save the state of a new run, and remove what doesn't describe the model that is trained.

        From here on the run can be resumed. Before, a model that it replaces can be.
        """
        if not self.resume:
            with trainer.turn():
                trainer.save()
        if trainer.world.is_leader:
            self.files.summary.unlink(missing_ok=True)
            if self.resume:
                trainer.write_log()  # that of a killed run may end before its saved state
            else:
                remove_events(self.files.events)

    def finish(self, trainer: Trainer) -> Summary:
        """Score the best model on the validation text, in float32, and write the summary.

        Every process scores a part of the text.
        """
        model, tokenizer = load_checkpoint(self.files.best)
        world, workers = self.compute.world, self.compute.workers
        score = score_documents(
            model,
            tokenizer,
            first_bytes(self.dataset.documents("valid"), self.final_bytes),
            seq_len=self.config.seq_len,
            run=partial(world.map, workers),
        )
        return world.on_leader(partial(self._summarize, trainer, model, tokenizer, score))

    def _summarize(
        self, trainer: Trainer, model: LanguageModel, tokenizer: Tokenizer, score: Score
    ) -> Summary:
        """Write the summary of a model with this score."""
        continuation = self.continuation and after(
            *(self.continuation, model, tokenizer, self.dataset),
            *(self.config.seq_len, self.compute.workers),
        )
        summary = training_summary(
            *(trainer, model.config, score, self.source),
            continuation=continuation,
            compression=self.compression and self.compression(score.bpb),
            distillation=self.distillation,
        )
        summary.write(self.files.summary)
        return summary

    def tell(self, trainer: Trainer, summary: Summary) -> None:
        """Print what came out."""
        assert summary.valid is not None
        state, speed = trainer.state, trainer.tokens / trainer.state.seconds
        print(
            f"{self.files.name}: {summary.valid.bpb:.4f} bits per byte on the validation text "
            f"(step {state.best['step']} of {state.step}); {trainer.tokens:,} tokens in "
            f"{state.seconds:.0f} s, {speed:,.0f} tokens/s, {trainer.mfu(speed):.0%} of the "
            f"peak; checkpoint {self.files.best}"
        )
        for line in in_words(summary.continuation) if summary.continuation else ():
            print(line)

    def memory_need(self) -> MemoryNeed:
        """The memory that the training needs in each process."""
        holders = self.compute.world.size if self.compute.shards(self.shape) else 1
        return MemoryNeed.of(self.shape, self.config, holders)

    def _announce(self) -> None:
        """Print what was derived, and why."""
        config, dataset, budget = self.config, self.dataset, self.budget
        c = cost(self.shape, config.seq_len)
        seconds = budget.unit == "seconds"
        memory = estimate([self.memory_need()], self.compute.workers.count)
        amount = f"{budget.amount:.0f} s" if seconds else f"{budget.amount:,.0f} tokens"
        print(
            f"{self.files.name}: {self.shape.pattern} x {self.shape.d_model}, "
            f"{c.params_total:,} parameters ({c.params_active:,} active), "
            f"{c.flops_forward / 1e6:.2f} MFLOP/token; "
            f"{dataset.name}: {len(dataset.tokens('train')):,} tokens, "
            f"vocabulary {dataset.tokenizer.vocab_size}; budget {amount}, "
            f"{config.batch_size} x {config.seq_len} tokens a step, "
            f"{self.compute.precision.reason}, about {memory / 1e9:.1f} GB of memory"
        )
        if (size := self.compute.world.size) > 1:
            part = "a part of the model" if self.compute.shards(self.shape) else "the whole model"
            print(f"{size} processes, each with {part} and its share of every batch")
        if self.continuation is not None and not self.resume:
            start, text = self.continuation.start, self.continuation.text
            print(f"it begins with the weights of '{start.name}': {text.before:.4f} bits per byte")


def run_trainings(trainings: Sequence[Training]) -> list[Summary]:
    """Train models in turns (`train_in_turns`), then score each one's best checkpoint.

    Returns:
        Each one's summary, as it is written. A resumed run that is finished is left as it is.

    Raises:
        TrainingError: they can't fit into the memory; where it may be too little, there is a
            warning.
    """
    if trainings and (compute := trainings[0].compute).world.device == "cpu":
        needs = [each.memory_need() for each in trainings]
        check_memory(needs, compute.workers.count, compute.world.local_size)
    trainers = [training.trainer() for training in trainings]
    pairs = list(zip(trainings, trainers, strict=True))
    finished = [training.summary_of_finished(trainer) for training, trainer in pairs]
    for (training, trainer), summary in zip(pairs, finished, strict=True):
        if summary is None:
            training.begin(trainer)
    train_in_turns(
        [trainer for trainer, summary in zip(trainers, finished, strict=True) if summary is None]
    )
    for trainer in trainers:
        if trainer.events is not None:
            trainer.events.close()
    summaries = [
        summary or training.finish(trainer)
        for (training, trainer), summary in zip(pairs, finished, strict=True)
    ]
    # All are written by now: a terminal that has gone away loses the words alone.
    for (training, trainer), summary, before in zip(pairs, summaries, finished, strict=True):
        if before is None and not trainer.quiet:
            training.tell(trainer, summary)
    return summaries
