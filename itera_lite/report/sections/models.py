"""Sections 1 to 3: what the models are, how their training went, what their size is."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from itera_lite.config import ModelConfig
from itera_lite.records import Params, TrainingRun
from itera_lite.report.context import Context, Row
from itera_lite.report.metrics import Pair, budget_words, budgets
from itera_lite.report.results import ModelResults
from itera_lite.report.text import (
    MISSING,
    bullets,
    code,
    count,
    duration,
    escape,
    fixed,
    paragraphs,
    percent,
    scaled,
    significant,
)

FAMILIES = {
    "itera": "Hybrid: Mamba-2 layers (`m`) and attention without positions (`a`); SwiGLU, as a "
    "mixture of experts where it has experts; tied embeddings. A Hugging Face `GraniteMoeHybrid`.",
    "transformer": "Transformer: attention with rotary positions, SwiGLU, RMSNorm, tied "
    "embeddings. A Hugging Face `Llama`.",
}

# What a fair pair of runs shares: in words, and where it stands in a summary.
SETTINGS = {
    "text": "dataset.sha256",
    "tokenizer": "dataset.tokenizer_sha256",
    "batch": "training.batch_size",
    "sequence length": "training.seq_len",
    "precision": "training.precision",
    "threads": "training.threads",
    "seed": "model.seed",
    "learning rate of the matrices": "training.lr_matrix",
    "learning rate of the rest": "training.lr_other",
    "weight decay": "training.weight_decay",
}


def overview(context: Context) -> str:
    """1. Model overview."""

    def config(name: str, read: Callable[[ModelConfig], str]) -> Row:
        def cell(model: ModelResults) -> str:
            shape = model.model and model.model.config
            return MISSING if shape is None else read(shape)

        return name, cell

    rows: list[Row] = [
        ("Family", lambda m: _plain(m.family)),
        config("Layers", lambda c: count(c.n_layers)),
        config("Pattern", lambda c: code(c.pattern)),
        config("Vocabulary", lambda c: count(c.vocab_size)),
        config("d_model", lambda c: str(c.d_model)),
        config("head_dim", lambda c: str(c.head_dim)),
        config("n_kv_heads", lambda c: str(c.n_kv_heads)),
        config("d_ff", lambda c: count(c.d_ff or None)),
        config("Experts a layer", lambda c: count(c.n_experts or None)),
        config("Experts a token", lambda c: count(c.top_k if c.n_experts else None)),
        config("d_expert", lambda c: count(c.d_expert if c.n_experts else None)),
        config("d_state", lambda c: count(c.d_state if "m" in c.pattern else None)),
        ("Trained on", lambda m: _plain(m.dataset and m.dataset.name)),
    ]
    return paragraphs(
        "## 1. Model overview",
        bullets(FAMILIES[f] for f in FAMILIES if any(m.family == f for m in context.models)),
        context.model_table(rows),
        context.gap("train", "the configuration", lambda m: m.summary),
    )


def training(context: Context) -> str:
    """2. Training results."""

    def train(name: str, read: Callable[[TrainingRun], str]) -> Row:
        return name, lambda m: MISSING if m.training is None else read(m.training)

    rows: list[Row] = [
        train("Steps", lambda t: count(t.steps)),
        train("Tokens", lambda t: count(t.tokens)),
        train("Epochs", lambda t: fixed(t.epochs, 2)),
        train("Training time", lambda t: duration(t.seconds)),
        train("Time with evaluations", lambda t: duration(60 * t.minutes_wall)),
        train("Training speed, tokens/s", lambda t: count(t.tokens_per_second)),
        train("Batch, sequences", lambda t: count(t.batch_size)),
        train("Sequence, tokens", lambda t: count(t.seq_len)),
        train("Precision", lambda t: _plain(t.precision)),
        train("Threads", lambda t: count(t.threads)),
        ("Seed", lambda m: _plain(m.summary and m.summary.model.seed)),
        train("Ended by", lambda t: _plain(t.stopped)),
        (
            "Held-out bits/byte, kept checkpoint",
            lambda m: fixed(m.summary.valid.bpb if m.summary and m.summary.valid else None),
        ),
        ("Best evaluation in training", _best),
        ("Training FLOPs", lambda m: scaled(m.last("flops"), "FLOPs")),
    ]
    return paragraphs(
        "## 2. Training results",
        context.model_table(rows),
        *[_fairness(pair) for pair in context.pairs],
        context.figure("training_curves", "Bits per byte over training tokens and over time."),
        context.gap("train", "the training run", lambda m: m.summary),
        context.gap("train", "the training curve", lambda m: m.metrics),
        *[_experts(m) for m in context.models],
        context.figure("experts", "How evenly the experts are used."),
    )


def parameters(context: Context) -> str:
    """3. Parameter count."""

    def params(name: str, read: Callable[[Params], str]) -> Row:
        return name, lambda m: MISSING if m.params is None else read(m.params)

    rows: list[Row] = [
        params("Total", lambda p: count(p.total)),
        params("Embedding (also the output head)", lambda p: count(p.embedding)),
        params("Without the embedding", lambda p: count(p.non_embedding)),
        params("Active per token", lambda p: count(p.active)),
        params("Embedding, share of the total", lambda p: percent(_share(p.embedding, p))),
        params("Active, share of the total", lambda p: percent(_share(p.active, p))),
    ]
    return paragraphs(
        "## 3. Parameter count",
        "Counts are exact. *Active* counts the experts that one token uses.",
        context.model_table(rows),
        context.verdicts("params_total", "params_active"),
        context.gap("train", "the parameters", lambda m: m.params),
    )


def embedding_share(model: ModelResults) -> float | None:
    """Share of the parameters that the embedding holds."""
    return model.params and _share(model.params.embedding, model.params)


def _share(part: int | None, params: Params) -> float | None:
    return None if part is None else part / params.total


def _plain(value: Any) -> str:
    return MISSING if value is None or value == "" else escape(value)


def _best(model: ModelResults) -> str:
    best = model.summary and model.summary.best
    if not best or best.bpb is None:
        return MISSING
    return f"{fixed(best.bpb)} bits/byte, step {count(best.step)}"


def _fairness(pair: Pair) -> str:
    """What was equal, and which model reached the other's final quality how much earlier."""
    a, b = pair.ours, pair.other
    words = budget_words(a, b)
    if not words:
        return ""
    sides = ", ".join(
        f"{code(m.name)} {duration(m.training.seconds)} and {count(m.training.tokens)} tokens"
        for m in (a, b)
        if m.training
    )
    limit = "" if any(budgets(a, b)) else " Their quality compares only where the cheaper run won."
    parts = [f"The two runs had {words}: {sides}.{limit}", _settings(a, b), _head_start(a, b)]
    return " ".join(filter(None, parts))


def _settings(a: ModelResults, b: ModelResults) -> str:
    """Which settings of the two runs were the same, and which were not."""
    labels: dict[bool, list[str]] = {True: [], False: []}
    for label, field in SETTINGS.items():
        read = attrgetter(field)
        if a.summary and b.summary and a.dataset and b.dataset:
            labels[read(a.summary) == read(b.summary)].append(label)
    words = {True: "The same in both", False: "Different"}
    return " ".join(f"{words[k]}: {', '.join(found)}." for k, found in labels.items() if found)


def _head_start(a: ModelResults, b: ModelResults) -> str:
    curves = {m.name: m.series("seconds", "valid_bpb") for m in (a, b)}
    if not all(len(y) > 1 for _, y in curves.values()):
        return ""
    first, second = sorted((a, b), key=lambda m: curves[m.name][1][-1])
    target, needed = curves[second.name][1][-1], curves[second.name][0][-1]
    reached = next((x for x, y in zip(*curves[first.name], strict=True) if y <= target), None)
    if not reached or reached >= needed:
        return ""
    return (
        f"{code(first.name)} passed the final {fixed(target)} bits per byte of "
        f"{code(second.name)} after {duration(reached)} instead of {duration(needed)} "
        "(on its own schedule, read at its evaluations)."
    )


def _experts(model: ModelResults) -> str:
    busiest, entropy = model.last("expert_load_max"), model.last("expert_entropy")
    if busiest is None:
        return ""
    even = "" if entropy is None else f"; normalised entropy {fixed(entropy, 3)} (1 is even)"
    return (
        f"Experts of {code(model.name)} at the end: the busiest one of a layer has "
        f"{significant(busiest)} times its even share of the tokens, mean over layers{even}."
    )
