"""Sections 4 to 6: compute and speed, memory, the machine's resources."""

from __future__ import annotations

from collections.abc import Callable

from itera_lite.records import Benchmark, StepLatency, Summary
from itera_lite.report.context import Context, Row
from itera_lite.report.metrics import latencies, speeds, state_bytes
from itera_lite.report.sections.engine import engine
from itera_lite.report.sections.steps import training_steps
from itera_lite.report.text import (
    MISSING,
    bullets,
    code,
    count,
    escape,
    fixed,
    measured,
    paragraphs,
    percent,
    quantity,
    rate,
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
        ("FLOPs/token, forward", lambda m: scaled(m.flops and m.flops.forward, "FLOPs")),
        ("FLOPs/token, decoding", lambda m: scaled(m.flops and m.flops.decode, "FLOPs")),
        ("FLOPs/token, training", lambda m: scaled(m.flops and m.flops.train, "FLOPs")),
        ("Training, tokens/s", lambda m: count(m.training and m.training.tokens_per_second)),
        ("Training MFU", lambda m: percent(m.training and m.training.mfu)),
        (
            "Measured peak of the machine",
            lambda m: f"{significant(m.training.peak_gflops)} GFLOPS" if m.training else MISSING,
        ),
        ("Other programs used meanwhile, training", lambda m: _load(m.summary)),
        ("Other programs used meanwhile, benchmark", lambda m: _load(m.benchmark)),
        _measured("Rounds measured again, for other programs", _repeated),
        _measured("Load the model", lambda b: stat(b.load_ms, "ms")),
        _measured("First token", lambda b: stat(b.first_token_ms, "ms")),
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
        _rates(context, "Decoding", "decode"),
        _rates(context, "Prefill", "prefill"),
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

    numbers = context.model_table(
        [
            _measured("Weights", lambda b: quantity(b.memory.weights_bytes, "bytes")),
            *map(state, contexts),
            _measured("Peak resident", lambda b: stat(b.memory.peak_rss_bytes, "bytes")),
            _measured(
                "… of it before the model: Python and PyTorch",
                lambda b: stat(b.memory.import_rss_bytes, "bytes"),
            ),
        ]
    )
    longest = [f"state_{contexts[-1]}"] if contexts else []
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
        context.gap("bench", "the memory", lambda m: m.benchmark),
    )


def resources(context: Context) -> str:
    """6. System resources."""
    numbers = context.model_table(
        [
            _measured("CPU use, mean", lambda b: f"{fixed(b.cpu.mean_percent, 1)} %"),
            _measured("CPU use, maximum", lambda b: f"{fixed(b.cpu.max_percent, 1)} %"),
            _measured("Energy per token", _energy),
            _measured("Energy found by", _method),
            _measured("CPU time per token", _cpu_time),
        ]
    )
    return paragraphs(
        "## 6. System resources",
        "100 % is one core." if numbers else "",
        numbers,
        context.verdicts("energy", "cpu_seconds"),
        context.gap("bench", "CPU use and energy", lambda m: m.benchmark),
    )


def _load(record: Summary | Benchmark | None) -> str:
    load = record and record.provenance.load
    return f"{load.by_others:.2f} cores" if load else MISSING


def _repeated(benchmark: Benchmark) -> str:
    known = benchmark.provenance.load is not None
    return count(benchmark.repeated_rounds) if known else MISSING


def _measured(name: str, read: Callable[[Benchmark], str]) -> Row:
    """A row of the benchmark's numbers."""
    return name, lambda m: MISSING if m.benchmark is None else read(m.benchmark)


def _flops_context(context: Context) -> str:
    lengths = {m.flops.context for m in context.models if m.flops and m.flops.context}
    if len(lengths) != 1:
        return ""
    return (
        f"They are for a context of {count(lengths.pop())} tokens: forward and training are the "
        "mean over its positions, decoding is at its end."
    )


def _rates(context: Context, title: str, kind: str) -> str:
    found = [speeds(m, kind) for m in context.models]
    rows = [
        [f"batch {cell[0]}, context {cell[1]:,}", *(rate(speed.get(cell)) for speed in found)]
        for cell in sorted({cell for speed in found for cell in speed})
    ]
    names = [code(m.name) for m in context.models]
    return f"{title}, tokens/s (higher is better):\n\n{table(['', *names], rows)}" if rows else ""


def _latency(context: Context) -> str:
    found = [latencies(m) for m in context.models]

    def cell(latency: StepLatency | None) -> str:
        return f"{significant(latency.p50)} / {significant(latency.p99)}" if latency else MISSING

    rows = [
        [f"context {length:,}", *(cell(latency.get(length)) for latency in found)]
        for length in sorted({length for latency in found for length in latency})
    ]
    if not rows:
        return ""
    names = [code(m.name) for m in context.models]
    return (
        "Latency of one decoded token at batch 1, ms, median / 99th percentile (lower is better):"
        f"\n\n{table(['', *names], rows)}"
    )


def _peers(context: Context) -> str:
    """What other runtimes reach, where the benchmark tried them, and why it didn't try others."""
    rows, remarks = [], []
    for model in context.models:
        if model.benchmark is None:
            continue
        for name, peer in model.benchmark.peers.items():
            if peer.note:
                remarks.append(f"{escape(name)}: {escape(peer.note)}")
            for row in peer.decode:
                where = f"batch {count(row.batch)}, context {count(row.context)}"
                own = speeds(model, "decode").get((row.batch, row.context))
                rows.append(
                    [code(model.name), escape(name), where, rate(row.tokens_per_second),
                     rate(own)]
                )  # fmt: skip
        for name, reason in model.benchmark.peers_left_out.items():
            remarks.append(f"{escape(name)}: not measured, {escape(reason)}")
    if not rows and not remarks:
        return ""
    headers = ["weights of", "runtime", "decoding", "tokens/s", "our PyTorch model, tokens/s"]
    return paragraphs(
        "Other runtimes with the same weights in float32, in turns with ours:",
        table(headers, rows, "lllrr") if rows else "",
        bullets(dict.fromkeys(remarks)),
    )


def _energy(benchmark: Benchmark) -> str:
    text = stat(benchmark.energy.joules_per_token, "J")
    return f"{text} (estimated)" if benchmark.energy.method == "estimated" else text


def _method(benchmark: Benchmark) -> str:
    energy = benchmark.energy
    if energy.method == "estimated" and energy.watts is not None:
        return f"estimated: CPU time × {significant(energy.watts)} W"
    return escape(energy.method.upper() if energy.method in ("rapl", "nvml") else energy.method)


def _cpu_time(benchmark: Benchmark) -> str:
    seconds = Measurement.of_samples(benchmark.energy.cpu_seconds_per_token.samples)
    return measured(seconds.scaled(1e3), "ms")
