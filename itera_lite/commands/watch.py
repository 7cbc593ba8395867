"""The verb `watch`: the lines of a log that a model didn't expect, while the log is written."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from itera_lite.data.follow import lines_of
from itera_lite.engine.find import display_name, find_model, load_model
from itera_lite.engine.scorer import check_unit
from itera_lite.engine.watch import (
    BATCH_BYTES,
    Calibration,
    UnusualLine,
    Watcher,
    calibration_of,
    store_calibration,
    stored_calibration,
)
from itera_lite.errors import UsageError
from itera_lite.quantities import check_numbers, share_of

FALSE_ALARMS = "0.1%"
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f]")  # would act on a terminal; tabs stay
_PLAIN, _COLOURED = (">>>", "<<<"), ("\x1b[1;31m", "\x1b[0m")
_Handler = Callable[[int, FrameType | None], None] | signal.Handlers


def watch(
    file: Path = Path("-"),
    *,
    model: Path | None = None,
    calibrate: Path | None = None,
    false_alarms: str | None = None,
    jsonl: bool = False,
    threads: int = 1,
) -> Watcher:
    """Show the lines of a log that a model didn't expect.

    Each line is judged as soon as it is complete. One that is shown has in front the bits by which
    a part of it surprised the model more than it expected, and marks around such parts. A file is
    followed from its end on, also when it is renamed, made anew or truncated; standard input is
    read to its end. SIGUSR1 writes the rates to standard error, and so does the end.

    Args:
        file: File to follow; by default, or with -, standard input.
        model: A GGUF file, or the folder of a model as `itera train` writes it. By default
            checkpoints/itera_lite_tiny, else the model that comes with Itera-Lite.
        calibrate: File of normal lines, which the model wasn't trained on, to find the
            threshold with; also .gz or .zst. It is stored, and used again where this option
            isn't given.
        false_alarms: Share of normal lines that may be shown, 0.1% by default.
        jsonl: Write a JSON object a line.
        threads: Lines scored at the same time.
    """
    check_numbers(threads=threads)
    share = share_of("false_alarms", false_alarms or FALSE_ALARMS)
    if not 0 < share < 1:
        raise UsageError(
            f"--false-alarms {false_alarms}: expected a percentage above 0% and below 100%"
        )
    if false_alarms is not None and calibrate is None:
        raise UsageError("--false-alarms decides how to calibrate: give --calibrate FILE too")
    file = Path(file)
    if file.suffix in (".gz", ".zst"):
        program = "zcat" if file.suffix == ".gz" else "zstdcat"
        raise UsageError(
            f"'{file}': a compressed file isn't followed. For what it holds: {program} {file} | "
            "itera watch"
        )
    with _handled({signal.SIGUSR1: signal.SIG_IGN}):  # there are no rates to show yet
        path = find_model(model)
        loaded = load_model(path)
        check_unit(loaded.unit, {"line"})
        found: Calibration | None
        if calibrate is not None:
            found = calibration_of(loaded, calibrate, share, threads)
            store_calibration(path, found)
        else:
            found = stored_calibration(path)
        if found is None:
            raise UsageError(
                f"no calibration is stored for {display_name(path)}: give normal lines that it "
                "wasn't trained on, as --calibrate yesterday.log"
            )
        _note(
            f"threshold: {found.threshold:.3f} bits more than expected, for false alarms of at "
            f"most {found.false_alarms * 100:.6g} % of lines like the {found.lines:,} of "
            f"{found.file}"
        )
        watcher = Watcher(loaded, found.threshold, found.dates, threads)
        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        source = None if str(file) == "-" else file
        with _signals(watcher, path):
            for lines in lines_of(source, BATCH_BYTES * threads, _note):
                for line in watcher.judge(lines):
                    print(json.dumps(asdict(line)) if jsonl else shown(line, colour))
                sys.stdout.flush()
    return watcher


def shown(line: UnusualLine, colour: bool) -> str:
    """A line for people: its excess in bits, and the text with its marks.

    Args:
        colour: mark with the colours of a terminal.
    """
    text = line.text.encode()
    parts, at = [], 0
    for mark in line.marks:
        before, after = _COLOURED if colour and mark.begin < mark.end else _PLAIN
        parts.append(_harmless(text[at : mark.begin]))
        parts.append(before + _harmless(text[mark.begin : mark.end]) + after)
        at = mark.end
    parts.append(_harmless(text[at:]))
    if line.cut:
        parts.append(" [cut]")
    return f"{line.excess:5.1f}  {''.join(parts)}"


def rates(watcher: Watcher, model: Path) -> str:
    """What was seen and shown, and how fast."""
    seconds = max(watcher.seconds, 1e-9)
    share = watcher.unusual / watcher.lines if watcher.lines else 0.0
    return (
        f"[{watcher.lines:,} lines, {watcher.bytes:,} bytes in {seconds:.1f} s: "
        f"{watcher.lines / seconds:,.0f} lines/s; {watcher.unusual:,} shown ({share:.3%}); busy "
        f"{min(watcher.busy_seconds / seconds, 1):.1%} of the time; model: {display_name(model)}]"
    )


def _harmless(text: bytes) -> str:
    """The text, with control characters written as escapes."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text.decode("utf-8", "replace"))


def _note(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a service."""

    exit_code = 128 + signal.SIGTERM


@contextmanager
def _signals(watcher: Watcher, model: Path) -> Iterator[None]:
    """Write the rates at the end, however it comes, and for SIGUSR1."""

    def show(number: int, frame: FrameType | None) -> None:
        with suppress(OSError):  # not with `print`, which may be interrupted in its midst
            os.write(2, f"{rates(watcher, model)}\n".encode(errors="replace"))

    def stop(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    try:
        with _handled({signal.SIGUSR1: show, signal.SIGTERM: stop}):
            yield
    finally:
        _note(rates(watcher, model))


@contextmanager
def _handled(handlers: Mapping[signal.Signals, _Handler]) -> Iterator[None]:
    """Have signals handled in this way inside."""
    before = {}
    with suppress(ValueError):  # not in the main thread, where signals don't arrive
        for number, handler in handlers.items():
            before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
