"""Sections 4 to 6: compute and speed, memory, the machine's resources."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from itera_lite.report.context import Context, Row
from itera_lite.report.metrics import shared_runs, state_bytes
from itera_lite.report.results import ModelResults, get, number
from itera_lite.report.sections.engine import engine
from itera_lite.report.sections.steps import training_steps
from itera_lite.report.text import (
    MISSING,
    code,
    count,
    escape,
    fixed,
    measured,
    paragraphs,
    percent,
    quantity,
    scaled,
    significant,
    stat,
    table,
)
from itera_lite.stats.comparison import Measurement

HOW_TO_READ = (
    "A timed number is the median with [its interval] and n repeats, warm-up not counted. The "
    "interval is the 95 % one of the median, or smallest to largest below six repeats."
)


def efficiency(context: Context) -> str:
    """4. Computational efficiency."""
    rows: list[Row] = [
        ("FLOPs/token, forward", lambda m: scaled(m.flops.get("forward"), "FLOPs")),
        ("FLOPs/token, decoding", lambda m: scaled(m.flops.get("decode"), "FLOPs")),
        ("FLOPs/token, training", lambda m: scaled(m.flops.get("train"), "FLOPs")),
        ("Training, tokens/s", lambda m: count(number(m.summary, "train", "tokens_per_second"))),
        ("Training MFU", lambda m: percent(number(m.summary, "train", "mfu"))),
        (
            "Measured peak of the machine",
            lambda m: _suffix(significant(number(m.summary, "train", "peak_gflops")), "GFLOPS"),
        ),
        ("Load the model", lambda m: stat(m.benchmark.get("load_ms"), "ms")),
        ("First token", lambda m: stat(m.benchmark.get("first_token_ms"), "ms")),
    ]
    return paragraphs(
        "## 4. Computational efficiency",
        "FLOPs include the output head and the router; a multiply-add counts 2, an embedding "
        "look-up 0. MFU is model FLOPs over time, as a share of the matrix-product peak measured "
        "on this machine at the precision used.",
        _flops_context(context),
        context.model_table(rows),
        context.verdicts("flops_forward"),
        HOW_TO_READ,
        _rates(context, "decode", "Decoding"),
        _rates(context, "prefill", "Prefill"),
        context.figure("speed", "Tokens per second at batch 1; thin bars are the intervals."),
        _latency(context),
        context.figure("latency", "Time per decoded token over the context length."),
        _peers(context),
        training_steps(context),
        engine(context),
        context.gap("bench", "the speed", lambda m: m.benchmark),
    )


def memory(context: Context) -> str:
    """5. Memory."""
    contexts = sorted({c for m in context.models for c in state_bytes(m)})

    def state(length: int) -> Row:
        return (
            f"State of one sequence, context {length:,}",
            lambda m: quantity(state_bytes(m).get(length), "bytes"),
        )

    rows: list[Row] = [
        ("Weights", lambda m: quantity(number(m.benchmark, "memory", "weights_bytes"), "bytes")),
        *map(state, contexts),
        ("Peak resident", lambda m: stat(get(m.benchmark, "memory", "peak_rss_bytes"), "bytes")),
        (
            "… of it before the model: Python and PyTorch",
            lambda m: stat(get(m.benchmark, "memory", "import_rss_bytes"), "bytes"),
        ),
    ]
    longest = [f"state_{contexts[-1]}"] if contexts else []
    numbers = context.model_table(rows)
    explained = (
        "1 MB is 1,000,000 bytes. The state is what decoding keeps of the text read so far. Peak "
        "resident memory is of a fresh process that loads the model and decodes."
    )
    return paragraphs(
        "## 5. Memory",
        explained if numbers else "",
        numbers,
        context.verdicts("weights_bytes", *longest, "peak_rss"),
        context.figure("memory", "Weights, decoding state, peak resident memory."),
        context.gap("bench", "the memory", lambda m: m.benchmark.get("memory")),
    )


def resources(context: Context) -> str:
    """6. System resources."""
    rows: list[Row] = [
        ("CPU use, mean", lambda m: _cpu(m, "mean_percent")),
        ("CPU use, maximum", lambda m: _cpu(m, "max_percent")),
        ("Energy per token", _energy),
        ("Energy found by", _method),
        ("CPU time per token", _cpu_time),
    ]
    return paragraphs(
        "## 6. System resources",
        "100 % is one core." if context.model_table(rows) else "",
        context.model_table(rows),
        context.verdicts("energy", "cpu_seconds"),
        context.gap("bench", "CPU use and energy", lambda m: m.benchmark.get("energy")),
    )


def _flops_context(context: Context) -> str:
    lengths = {number(m.benchmark, "flops_per_token", "context") for m in context.models} - {None}
    if len(lengths) != 1:
        return ""
    return (
        f"They are for a context of {count(lengths.pop())} tokens: forward and training are the "
        "mean over its positions, decoding is at its end."
    )


def _suffix(text: str, unit: str) -> str:
    return text if text == MISSING else f"{text} {unit}"


def _rates(context: Context, kind: str, title: str) -> str:
    runs = [shared_runs(m, kind) for m in context.models]
    keys = sorted({key for run in runs for key in run})
    if not keys:
        return ""
    rows = [
        [
            f"batch {batch}, context {length:,}",
            *(_rate(run.get((batch, length))) for run in runs),
        ]
        for batch, length in keys
    ]
    names = [code(m.name) for m in context.models]
    return f"{title}, tokens/s (higher is better):\n\n{table(['', *names], rows)}"


def _rate(row: dict[str, Any] | None) -> str:
    return measured(
        Measurement.read(get(row, "tokens_per_second")), "tokens/s", unit_shown=False
    )  # fmt: skip


def _latency(context: Context) -> str:
    runs = [shared_runs(m, "decode") for m in context.models]
    keys = sorted({key for run in runs for key in run if key[0] == 1})
    rows = []
    for batch, length in keys:
        latencies = [get(run.get((batch, length)), "latency_ms") for run in runs]
        cells = [
            MISSING
            if number(ms, "p50") is None
            else f"{significant(number(ms, 'p50'))} / {significant(number(ms, 'p99'))}"
            for ms in latencies
        ]
        rows.append([f"context {length:,}", *cells])
    if not rows or all(cell == MISSING for row in rows for cell in row[1:]):
        return ""
    names = [code(m.name) for m in context.models]
    return (
        "Latency of one decoded token at batch 1, ms, median / 99th percentile (lower is better):"
        f"\n\n{table(['', *names], rows)}"
    )


def _peers(context: Context) -> str:
    """What other runtimes reach, where the benchmark tried them, and why it didn't try others."""
    rows, remarks = [], dict[str, None]()
    for model in context.models:
        for peer, record in _entries(model.benchmark.get("peers")):
            if note := get(record, "note"):
                remarks[f"{escape(peer)}: {escape(str(note))}"] = None
            entries = get(record, "decode")
            for entry in entries if isinstance(entries, list) else []:
                batch, length = number(entry, "batch"), number(entry, "context")
                rate = Measurement.read(get(entry, "tokens_per_second"))
                if rate is None or batch is None or length is None:
                    continue
                where = f"batch {count(batch)}, context {count(length)}"
                own = shared_runs(model, "decode").get((int(batch), int(length)))
                rows.append(
                    [code(model.name), escape(peer), where,
                     measured(rate, "tokens/s", unit_shown=False), _rate(own)]
                )  # fmt: skip
        for peer, reason in _entries(model.benchmark.get("peers_left_out")):
            remarks[f"{escape(peer)}: not measured, {escape(str(reason))}"] = None
    parts = ["\n".join(f"- {remark}" for remark in remarks)] if remarks else []
    if rows:
        headers = ["weights of", "runtime", "decoding", "tokens/s", "our PyTorch model, tokens/s"]
        parts.insert(0, table(headers, rows, "lllrr"))
    if not parts:
        return ""
    title = "Other runtimes with the same weights in float32, in turns with ours:"
    return "\n\n".join([title, *parts])


def _entries(value: Any) -> Iterable[tuple[str, Any]]:
    return value.items() if isinstance(value, dict) else ()


def _cpu(model: ModelResults, key: str) -> str:
    return _suffix(fixed(number(model.benchmark, "cpu", key), 1), "%")


def _energy(model: ModelResults) -> str:
    text = stat(get(model.benchmark, "energy", "joules_per_token"), "J")
    estimated = get(model.benchmark, "energy", "method") == "estimated"
    return f"{text} (estimated)" if estimated and text != MISSING else text


def _method(model: ModelResults) -> str:
    method = get(model.benchmark, "energy", "method")
    watts = number(model.benchmark, "energy", "watts")
    if method == "estimated" and watts is not None:
        return f"estimated: CPU time × {significant(watts)} W"
    return escape(str(method).upper() if method in ("rapl", "nvml") else method or MISSING)


def _cpu_time(model: ModelResults) -> str:
    seconds = Measurement.read(get(model.benchmark, "energy", "cpu_seconds_per_token"))
    if seconds is None:
        return MISSING
    scale = 1e3
    return measured(
        Measurement(
            seconds.value * scale, seconds.low * scale, seconds.high * scale, seconds.repeats
        ),
        "ms",
    )
