"""Options that several verbs share."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

# --threads is the name of an earlier version.
WorkerCount = Annotated[int | None, Parameter(name=("--workers", "--threads"))]
