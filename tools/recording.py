"""Records a terminal session as an SVG that plays in a page: docs/images/terminal.svg.

    python -m tools.recording        or: make recording

The commands run for real, in a terminal of this script, and what they print is shown when it came.
Only the time that typing takes is acted, and a wait is cut to a second. Of a line that was written
several times, such as a progress bar, the last form is shown; colours are left out.
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "docs/images/terminal.svg"
COMMANDS = (
    'itera generate "Once upon a time" --seed 2 --max-tokens 49',
    "printf 'The dog ran to the park.\\nPark dog the to ran the.\\n' > lines.txt",
    "itera score lines.txt --no-text",
    "itera export model.gguf --format c",
)
COLUMNS = 96
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]")
_KEY, _WAIT = 0.03, 1.0  # seconds a typed letter, and at most between two pieces of output
_HEIGHT, _WIDTH = 20, 8.4  # pixels a line and a letter

Lines = list[tuple[float, str]]  # when each line appears, in seconds


def run(command: str, folder: Path) -> Lines:
    """The lines that a command prints in a terminal, each with the time of its last change.

    Raises:
        CalledProcessError: the command failed.
    """
    controller, terminal = pty.openpty()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {"COLUMNS": str(COLUMNS), "TERM": "xterm", "PATH": path}
    process = subprocess.Popen(
        ["sh", "-c", command],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        cwd=folder,
        env={**os.environ, **environment},
    )
    os.close(terminal)
    pieces, clock, last = [], 0.0, time.monotonic()
    while True:
        try:
            piece = os.read(controller, 4096)
        except OSError:  # on Linux, at the end of a terminal
            break
        if not piece:
            break
        now = time.monotonic()
        clock, last = clock + min(now - last, _WAIT), now
        pieces.append((clock, piece))
    os.close(controller)
    if process.wait():
        printed = b"".join(piece for _, piece in pieces)
        raise subprocess.CalledProcessError(process.returncode, command, printed)
    return as_lines(pieces)


def as_lines(pieces: list[tuple[float, bytes]]) -> Lines:
    """What pieces of output look like, as lines of at most `COLUMNS` letters."""
    written = b"".join(piece for _, piece in pieces)
    times = [when for when, piece in pieces for _ in piece]
    end, lines = 0, []
    for line in written.removesuffix(b"\n").split(b"\n") if written else []:
        end += len(line) + 1
        text = _ESCAPE.sub("", line.decode("utf-8", "replace"))
        last = text.rstrip("\r").rpartition("\r")[2]
        for at in range(0, max(1, len(last)), COLUMNS):
            lines.append((times[min(end, len(times)) - 1], last[at : at + COLUMNS]))
    return lines


def svg(session: list[tuple[str, Lines]]) -> str:
    """The session as a picture whose lines appear one after another."""
    rows: list[str] = []
    now = 0.5
    for command, lines in session:
        letters = len(command) + 2
        rows.append(
            f'<text y="{len(rows) * _HEIGHT}" class="typed" style="animation-delay:{now:.2f}s">'
            f'<tspan class="prompt">$ </tspan>{escape(command)}</text>'
        )
        now += letters * _KEY
        for when, line in lines:
            delay = f"animation-delay:{now + when:.2f}s"
            rows.append(f'<text y="{len(rows) * _HEIGHT}" style="{delay}">{escape(line)}</text>')
        now += (lines[-1][0] if lines else 0) + _WAIT
    width, height = int(COLUMNS * _WIDTH) + 32, len(rows) * _HEIGHT + 32
    label = "; ".join(command for command, _ in session)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
            f'aria-label="{escape(label, {chr(34): "&quot;"})}">',
            "<style>",
            "text { font: 14px ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace; "
            "fill: #d8dee9; white-space: pre; animation: appear 0s both }",
            ".prompt { fill: #8fbc8f }",
            ".typed { font-weight: bold }",
            "@keyframes appear { from { opacity: 0 } to { opacity: 1 } }",
            "@media (prefers-reduced-motion: reduce) { text { animation: none } }",
            "</style>",
            '<rect width="100%" height="100%" rx="8" fill="#1f2430"/>',
            '<g transform="translate(16 30)">',
            *rows,
            "</g>",
            "</svg>",
            "",
        ]
    )


def record(commands: tuple[str, ...] = COMMANDS) -> str:
    """Run the commands one after another and draw them."""
    (boxed,) = ROOT.glob("itera_lite/models/*.gguf")
    with tempfile.TemporaryDirectory(prefix="itera-") as name:
        folder = Path(name)
        (folder / "model.gguf").write_bytes(boxed.read_bytes())
        return svg([(command, run(command, folder)) for command in commands])


if __name__ == "__main__":
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(record(), encoding="utf-8")
    print(f"{OUTPUT.relative_to(ROOT)}: {len(COMMANDS)} commands")
