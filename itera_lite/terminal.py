"""Tables of text for a terminal."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text


def table(header: Sequence[str], rows: Iterable[Sequence[str]], align: str = "") -> str:
    """Columns two spaces apart, as wide as their widest cell; nothing is wrapped or coloured.

    Args:
        header: Column titles, which may be empty.
        rows: Cells, as many as titles.
        align: ``l`` or ``r`` a column; the first ``l`` and the others ``r`` by default.
    """
    grid = Table(box=None, pad_edge=False)
    for title, side in zip(header, align or "l" + "r" * (len(header) - 1), strict=True):
        grid.add_column(Text(title), justify="left" if side == "l" else "right", no_wrap=True)
    for row in rows:
        grid.add_row(*map(Text, row))
    out = io.StringIO()
    Console(file=out, width=10_000, color_system=None).print(grid)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())
