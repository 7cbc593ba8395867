"""Sections 1 to 3: what the models are, how their training went, what their size is."""

from __future__ import annotations

from typing import Any

from itera_lite.report.context import Context, Row
from itera_lite.report.metrics import Pair, budget_words, budgets
from itera_lite.report.results import ModelResults, get, number
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

KINDS = {
    "itera": "Hybrid: Mamba-2 layers (`m`) and attention without positions (`a`); SwiGLU, as a "
    "mixture of experts where it has experts; tied embeddings. A Hugging Face `GraniteMoeHybrid`.",
    "transformer": "Transformer: attention with rotary positions, SwiGLU, RMSNorm, tied "
    "embeddings. A Hugging Face `Llama`.",
}

# What a fair pair of runs shares.
SETTINGS = (
    ("text", ("dataset", "sha256")),
    ("tokenizer", ("dataset", "tokenizer_sha256")),
    ("batch", ("train", "batch_size")),
    ("sequence length", ("train", "seq_len")),
    ("precision", ("train", "precision")),
    ("threads", ("train", "threads")),
    ("seed", ("train", "seed")),
    ("learning rate of the matrices", ("train", "lr_matrix")),
    ("learning rate of the rest", ("train", "lr_other")),
    ("weight decay", ("train", "weight_decay")),
)


def overview(context: Context) -> str:
    """1. Model overview."""

    def config(key: str) -> Row:
        return key, lambda m: _plain(get(m.summary, "config", key))

    families = [f for f in KINDS if any(m.family == f for m in context.models)]
    rows: list[Row] = [
        ("Family", lambda m: _plain(m.family)),
        ("Layers", lambda m: _plain(len(get(m.summary, "config", "pattern") or "") or None)),
        ("Pattern", lambda m: _code(get(m.summary, "config", "pattern"))),
        ("Vocabulary", lambda m: count(number(m.summary, "config", "vocab_size"))),
        config("d_model"),
        config("head_dim"),
        config("n_kv_heads"),
        ("d_ff", lambda m: _above_zero(m, "d_ff")),
        ("Experts a layer", lambda m: _above_zero(m, "n_experts")),
        ("Experts a token", lambda m: _if_experts(m, "top_k")),
        ("d_expert", lambda m: _if_experts(m, "d_expert")),
        ("d_state", lambda m: _if_mamba(m, "d_state")),
        ("Trained on", lambda m: _plain(get(m.summary, "dataset", "name"))),
    ]
    return paragraphs(
        "## 1. Model overview",
        bullets(KINDS[family] for family in families),
        context.model_table(rows),
        context.gap("train", "the configuration", lambda m: m.summary.get("config")),
    )


def training(context: Context) -> str:
    """2. Training results."""

    def train(name: str, key: str, write: Any) -> Row:
        return name, lambda m: write(get(m.summary, "train", key))

    rows: list[Row] = [
        train("Steps", "steps", count),
        train("Tokens", "tokens", count),
        train("Epochs", "epochs", lambda v: fixed(v, 2)),
        train("Training time", "seconds", duration),
        train("Time with evaluations", "minutes_wall", _minutes),
        train("Training speed, tokens/s", "tokens_per_second", count),
        train("Batch, sequences", "batch_size", count),
        train("Sequence, tokens", "seq_len", count),
        train("Precision", "precision", _plain),
        train("Threads", "threads", count),
        train("Seed", "seed", _plain),
        train("Ended by", "stopped", _plain),
        ("Held-out bits/byte, kept checkpoint", lambda m: fixed(number(m.summary, "valid", "bpb"))),
        ("Best evaluation in training", _best),
        ("Training FLOPs", lambda m: scaled(_last(m, "flops"), "FLOPs")),
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

    def params(name: str, key: str) -> Row:
        return name, lambda m: count(number(m.params, key))

    rows: list[Row] = [
        params("Total", "total"),
        params("Embedding (also the output head)", "embedding"),
        params("Without the embedding", "non_embedding"),
        params("Active per token", "active"),
        ("Embedding, share of the total", lambda m: percent(embedding_share(m))),
        ("Active, share of the total", lambda m: percent(_share(m, "active"))),
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
    return _share(model, "embedding")


def _share(model: ModelResults, key: str) -> float | None:
    part, total = number(model.params, key), number(model.params, "total")
    return part / total if part is not None and total else None


def _plain(value: Any) -> str:
    return MISSING if value is None or value == "" else escape(value)


def _code(value: Any) -> str:
    return code(value) if value else MISSING


def _minutes(value: Any) -> str:
    return duration(value * 60) if isinstance(value, int | float) else MISSING


def _above_zero(model: ModelResults, key: str) -> str:
    return count(number(model.summary, "config", key) or None)


def _if_experts(model: ModelResults, key: str) -> str:
    return _above_zero(model, key) if number(model.summary, "config", "n_experts") else MISSING


def _if_mamba(model: ModelResults, key: str) -> str:
    pattern = get(model.summary, "config", "pattern") or ""
    return _above_zero(model, key) if "m" in pattern else MISSING


def _best(model: ModelResults) -> str:
    bpb, step = number(model.summary, "best", "bpb"), number(model.summary, "best", "step")
    return MISSING if bpb is None else f"{fixed(bpb)} bits/byte, step {count(step)}"


def _last(model: ModelResults, column: str) -> float | None:
    values = [v for v in model.metrics.get(column, ()) if v is not None]
    return values[-1] if values else None


def _fairness(pair: Pair) -> str:
    """What was equal, and who reached the other's final quality how much earlier."""
    a, b = pair.itera, pair.transformer
    words = budget_words(a, b)
    if not words:
        return ""
    sides = ", ".join(
        f"{code(m.name)} {duration(number(m.summary, 'train', 'seconds'))} and "
        f"{count(number(m.summary, 'train', 'tokens'))} tokens"
        for m in (a, b)
    )
    limit = "" if any(budgets(a, b)) else " Their quality compares only where the cheaper run won."
    parts = [f"The two runs had {words}: {sides}.{limit}", _settings(a, b), _head_start(a, b)]
    return " ".join(filter(None, parts))


def _settings(a: ModelResults, b: ModelResults) -> str:
    """Which settings of the two runs were the same, and which were not."""
    same: list[str] = []
    different: list[str] = []
    for label, path in SETTINGS:
        values = [get(m.summary, *path) for m in (a, b)]
        if None not in values:
            (same if values[0] == values[1] else different).append(label)
    parts = []
    if same:
        parts.append(f"The same in both: {', '.join(same)}.")
    if different:
        parts.append(f"Different: {', '.join(different)}.")
    return " ".join(parts)


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
    busiest, entropy = _last(model, "expert_load_max"), _last(model, "expert_entropy")
    if busiest is None:
        return ""
    even = "" if entropy is None else f"; normalised entropy {fixed(entropy, 3)} (1 is even)"
    return (
        f"Experts of {code(model.name)} at the end: the busiest one of a layer has "
        f"{significant(busiest)} times its even share of the tokens, mean over layers{even}."
    )
