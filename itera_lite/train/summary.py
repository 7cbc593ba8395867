"""The summary of a model that was made: how, from what text, at what cost, and how good it is."""

from __future__ import annotations

from typing import Any

from itera_lite.config import ModelConfig
from itera_lite.data.prepare import Dataset
from itera_lite.errors import IteraError
from itera_lite.evaluate.score import Score
from itera_lite.machine.provenance import Provenance
from itera_lite.model.cost import cost, describe
from itera_lite.records import (
    Best,
    BudgetRecord,
    Continuation,
    DistillationRecord,
    FewerExperts,
    Flops,
    Quantization,
    Sample,
    Source,
    Summary,
    TrainingRun,
    ValidScore,
    VocabularyChange,
)
from itera_lite.train.loop import Trainer

AnyCompression = Quantization | VocabularyChange | FewerExperts


def model_summary(
    name: str,
    config: ModelConfig,
    score: Score,
    context: int,
    dataset: Dataset,
    source: str,
    seed: int,
    *,
    compression: AnyCompression | None = None,
    distillation: DistillationRecord | None = None,
    continuation: Continuation | None = None,
    load_by_others: float | None = None,
    **more: Any,
) -> Summary:
    """The summary of a model, trained or not.

    Args:
        score: on the validation text.
        context: tokens at which the FLOPs are counted.
        source: how the set was named.
        compression: what the model was made from, and how; None if it wasn't compressed.
        distillation: who taught it; None if nobody did.
        continuation: the checkpoint whose weights it began from; None for random ones.
        load_by_others: while it was trained; see `Provenance`.
        more: further fields of `Summary`.
    """
    counts = cost(config, context)
    made_from = []
    if compression is not None and compression.start is not None:
        made_from.append(Source(compression.start.name, "start"))
    if distillation is not None:
        teachers = distillation.teachers
        made_from += [Source(teacher.name, "teacher", teacher.sha256) for teacher in teachers]
    if continuation is not None:
        made_from.append(continuation.start)
    ways = {"compressed": compression, "distilled": distillation, "continued": continuation}
    made: Any = next((way for way, record in ways.items() if record is not None), "trained")
    return Summary(
        model=describe(name, config, seed=seed, made=made, made_from=made_from),
        valid=ValidScore(
            bpb=score.bpb, loss=score.loss, ppl=score.ppl, tokens=score.tokens, bytes=score.bytes
        ),
        dataset=dataset.describe(source),
        flops_per_token=Flops(forward=counts.flops_forward, train=counts.flops_train),
        flops_breakdown=counts.breakdown,
        compression=compression,
        distillation=distillation,
        continuation=continuation,
        provenance=Provenance.now(seed=seed, load_by_others=load_by_others),
        **more,
    )


def training_summary(
    trainer: Trainer, config: ModelConfig, score: Score, source: str, **more: Any
) -> Summary:
    """The summary of a run that has ended.

    Args:
        config: of the model that was saved; ``score``: on the validation text.
        source: how the set was named.
        more: further fields of `Summary`.
    """
    train, state, compute = trainer.config, trainer.state, trainer.compute
    speed = trainer.tokens / state.seconds
    return model_summary(
        *(trainer.files.name, config, score, train.seq_len, trainer.dataset, source, train.seed),
        training=TrainingRun(
            batch_size=train.batch_size,
            seq_len=train.seq_len,
            steps=state.step,
            tokens=trainer.tokens,
            epochs=trainer.loader.epoch,
            seconds=state.seconds,
            minutes_wall=state.wall / 60,
            tokens_per_second=speed,
            mfu=trainer.mfu(speed),
            peak_gflops=compute.precision.peak / 1e9,
            precision=compute.precision.name,
            precision_reason=compute.precision.reason,
            fused_operations=compute.problem is None,
            threads=trainer.workers.active,
            processes=trainer.world.size,
            lr_matrix=train.lr_matrix,
            lr_embedding=train.lr_embedding,
            lr_other=train.lr_other,
            weight_decay=train.weight_decay,
            budget=BudgetRecord(trainer.budget.unit, trainer.budget.amount),
            stopped=state.ended,
        ),
        load_by_others=state.load.by_others,
        best=Best(**state.best),
        expert_load=state.expert_load,
        samples=[Sample(**sample) for sample in state.samples],
        **more,
    )


def summary_of_finished(trainer: Trainer) -> Summary | None:
    """The summary of a resumed run that has ended already; None where the run goes on, or where
    its summary or its best model is missing."""
    state, files = trainer.state, trainer.files
    if state.ended is None or not files.best.is_dir():
        return None
    try:
        summary = Summary.read(files.summary)
    except IteraError:
        return None
    same = summary.training is not None and summary.training.steps == state.step
    return summary if same else None
