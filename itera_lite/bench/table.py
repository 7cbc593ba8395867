"""What the benchmarks print: their records' medians, ratios and targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from itera_lite.bench.runtimes import OURS
from itera_lite.records import (
    Benchmark,
    BrowserDecoding,
    Decode,
    DecodeSpeed,
    Keystrokes,
    ModelDecoding,
    ModelDescription,
    PrefillSpeed,
    Scaling,
    ScalingRow,
    Scoring,
    Serving,
    SpeedRatio,
    TrainingSpeed,
)
from itera_lite.stats.samples import Stat
from itera_lite.stats.targets import Target
from itera_lite.terminal import table

Cells = Sequence[PrefillSpeed | DecodeSpeed]
MISSING = "-"


def print_speed(records: Sequence[Benchmark]) -> None:
    """Prints the medians of benchmarks: a column a model, then its peers beside it."""
    repeats, machine = records[0].load_ms.repeats, records[0].provenance.machine
    threads = _threads(machine.threads or 1) if machine else ""
    print(f"\nMedians of {repeats} repeats, {threads}; the files hold the spread")
    print(table(["", *(one.model.name for one in records)], _rows(records)))
    kinds = list(dict.fromkeys(kind for one in records for kind in one.peers))
    if kinds:
        print("\nTokens/s with the same weights in float32")
        print(table(["", "our PyTorch", *kinds], _peer_rows(records, kinds)))


def print_decoding(record: Decode) -> None:
    """Prints what was measured of one model, and its targets."""
    print_decoded(record.decoding)
    _targets(record.targets)


def print_decoded(record: ModelDecoding) -> None:
    """Prints one model's decoding."""
    _title(record.model, f"decoding one text after {record.context} tokens, one thread")
    for kind, row in record.types.items():
        for runtime, speed in row.runtimes.items():
            share = row.roofline.share
            tail = f", {share:.0%} of the roofline" if runtime == OURS and share else ""
            _speed(f"{kind:5} {runtime:24}", speed.tokens_per_second, tail)
    for runtime, speed in record.torch.items():
        _speed(f"fp32  {runtime:24}", speed.tokens_per_second)
    _ratios(record.ratios)
    if growth := record.growth:
        for runtime, grown in growth.runtimes.items():
            print(
                f"  {growth.type:5} {runtime:24} context {growth.context:,}: {grown.ratio:.2f}× "
                f"the time, {grown.added_microseconds:,.0f} µs more a token"
            )
    for kind, row in record.types.items():
        if row.profile_microseconds:
            parts = (f"{part} {us:.1f}" for part, us in row.profile_microseconds.items())
            print(f"  {kind:5} µs a token: {', '.join(parts)}")


def print_scoring(record: Scoring) -> None:
    """Prints what was measured of one model, and its targets."""
    _title(record.model, f"scoring {record.documents} documents, {record.tokens:,} tokens")
    for row in record.runtimes:
        who = f"{row.runtime}, {_threads(row.threads)}"
        _speed(f"{row.type:5} {who:24}", row.tokens_per_second, f", {row.note}" if row.note else "")
    _ratios(record.ratios)
    _targets(record.targets)


def print_keystrokes(record: Keystrokes) -> None:
    """Prints what each completer saved."""
    text = f"{record.characters:,} characters of {record.source}, {record.split} split"
    _title(record.model, f"typing {text}, {record.offered} offers at a time")
    rows = []
    for who, one in record.completers.items():
        counts = [f"{one.keystrokes:,}", f"{one.saved:.1%}", f"{one.words_taken:,}"]
        rows.append([f"  {who}", *counts, f"{one.median_ms:.3f}", f"{one.p99_ms:.3f}"])
    titles = ["  Offers by", "keystrokes", "saved", f"of {record.words:,} words taken"]
    print(table([*titles, "ms a keystroke, median", "p99"], rows))


def print_browser(record: BrowserDecoding) -> None:
    """Prints what was measured in a browser, and its target."""
    browser = record.provenance.versions["chromium"]
    print(f"\n{record.file}: {record.parameters:,} parameters; Chromium {browser}, one thread")
    for runtime, speed in record.runtimes.items():
        _speed(f"{runtime:24}", speed.tokens_per_second)
    _ratios(record.ratios)
    print(
        f"  engine: {record.wasm_bytes:,} bytes, {record.engine_ms.median:.0f} ms to compile and "
        f"check; model: {record.model_ms.median:.0f} ms to load"
    )
    _targets(record.targets)


def print_training(record: TrainingSpeed) -> None:
    """Prints what was measured of one model."""
    _title(record.model, f"batch {record.batch_size} x {record.seq_len}, whole training steps")
    width = max(map(len, record.runtimes))
    for label, row in record.runtimes.items():
        tail = f", {row.share_of_peak:.0%} of {row.peak_gflops:,.0f} GFLOP/s"
        _speed(f"{label:{width}} {row.precision}", row.tokens_per_second, tail)
    for label, ratio in record.speedup_of_first.items():
        first = next(iter(record.runtimes))
        print(f"  {first}: {ratio:.2f} times as fast as {label}")
    _targets(record.targets)


def print_scaling(record: Scaling) -> None:
    """Prints how training scaled: a table for one batch, one for a batch a process."""
    _title(record.model, f"{record.cores} cores, {record.precision}, {record.seq_len} tokens a row")
    for kind, rows in (("one batch", record.strong), ("a batch a process", record.weak)):
        print(f"\n{kind}")
        print(table(*scaling_rows(rows)))


def scaling_rows(rows: Sequence[ScalingRow]) -> tuple[list[str], list[list[str]]]:
    """The header, and a row a number of processes and workers, divided by the first row's speed."""
    first = rows[0].tokens_per_second.median
    cells = [
        [
            f"{row.processes} x {row.workers}",
            f"{row.batch_size}",
            f"{row.tokens_per_second.median:,.0f}",
            f"{row.tokens_per_second.spread:,.0f}",
            f"{row.tokens_per_second.median / first:.2f}",
            f"{row.communication_share.median:.0%}",
            f"{row.bytes_per_step / 1e6:.1f}",
        ]
        for row in rows
    ]
    header = ["processes x workers", "rows", "tokens/s", "spread", "times one"]
    return [*header, "communication", "MB a step"], cells


def print_serving(record: Serving) -> None:
    """Prints what was measured of the server, and its targets."""
    print(f"\n{record.name}: {record.params:,} parameters; greedy streams over loopback")
    rows = [["bare engine", f"{record.engine_streams}", "", f"{record.engine.median:,.0f}"]]
    rows[0] += 4 * [""]
    for load in record.loads:
        different = MISSING if load.different is None else f"{load.different:,}"
        rows.append(
            [
                load.runtime + (f" ({load.note})" if load.note else ""),
                f"{load.streams}",
                f"{load.seconds:.0f}",
                f"{load.tokens_per_second.median:,.0f}",
                f"{load.requests:,}",
                f"{load.lost:,}",
                different,
                f"{load.first_token_ms_p50:,.1f} / {load.first_token_ms_p99:,.1f}",
            ]
        )
    header = ["", "streams", "s", "tokens/s", "answers", "lost", "changed", "first token ms p50/99"]
    print(table(header, rows))
    _targets(record.targets)


def _threads(n: int) -> str:
    return f"{n} thread{'s' if n > 1 else ''}"


def _title(model: ModelDescription, what: str) -> None:
    print(f"\n{model.name}: {model.params.total:,} parameters; {what}")


def _speed(label: str, speed: Stat, tail: str = "") -> None:
    print(f"  {label} {speed.median:10,.0f} tokens/s (spread {speed.spread:,.0f}){tail}")


def _ratios(ratios: Sequence[SpeedRatio]) -> None:
    for row in ratios:
        against = f"{row.peer} ({row.peer_type})"
        print(f"  {row.type:5} against {against:24} {row.ratio:7.1f}×   {row.verdict}")


def _targets(targets: Sequence[Target]) -> None:
    if targets:
        cells = (target.cells for target in targets)
        print(table(["  Target", "found", "wanted", "verdict"], cells, "lrll"))


def _rows(records: Sequence[Benchmark]) -> Iterator[list[str]]:
    yield ["parameters", *(f"{r.model.params.total:,}" for r in records)]
    yield ["FLOPs/token, forward", *(f"{r.flops_per_token.forward:,.0f}" for r in records)]
    for part in ("prefill", "decode"):
        for cell in getattr(records[0], part):
            label = f"{part} tokens/s, {_where(cell)}"
            yield [label, *(_speed_in(getattr(r, part), cell) for r in records)]
    yield ["time to load, ms", *(f"{r.load_ms.median:.0f}" for r in records)]
    yield ["time to first token, ms", *(f"{r.first_token_ms.median:.1f}" for r in records)]
    peaks = [r.memory.peak_rss_bytes.median for r in records]
    yield ["peak resident memory, MB", *(f"{peak / 1e6:.0f}" for peak in peaks)]
    joules = [r.energy.joules_per_token.median for r in records]
    how = records[0].energy.method
    yield [f"energy per token, mJ ({how})", *(f"{1e3 * one:.3g}" for one in joules)]


def _peer_rows(records: Sequence[Benchmark], kinds: Sequence[str]) -> Iterator[list[str]]:
    """A line for each model and each cell that a peer was measured in."""
    for record in records:
        for part in ("prefill", "decode"):
            for cell in getattr(record, part):
                peers = [record.peers.get(kind) for kind in kinds]
                speeds = [_speed_in(getattr(peer, part, ()), cell) for peer in peers]
                if any(speed != MISSING for speed in speeds):
                    ours = _speed_in(getattr(record, part), cell)
                    yield [f"{record.model.name}, {part}, {_where(cell)}", ours, *speeds]


def _where(cell: PrefillSpeed | DecodeSpeed) -> str:
    return f"batch {cell.batch}, context {cell.context:,}"


def _speed_in(cells: Cells, cell: PrefillSpeed | DecodeSpeed) -> str:
    """Tokens a second in the same cell; not everybody is measured in all of them."""
    for one in cells:
        if (one.batch, one.context) == (cell.batch, cell.context):
            return f"{one.tokens_per_second.median:,.0f}"
    return MISSING
