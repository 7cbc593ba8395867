"""The report's sections in their order: each a function of the context that returns Markdown."""

from __future__ import annotations

from collections.abc import Callable

from itera_lite.report.context import Context
from itera_lite.report.sections.advice import recommendations
from itera_lite.report.sections.appendix import appendix
from itera_lite.report.sections.costs import efficiency, memory, resources
from itera_lite.report.sections.models import overview, parameters, training
from itera_lite.report.sections.outlook import compression, path
from itera_lite.report.sections.quality import comparison, quality
from itera_lite.report.sections.summary import summary

SECTIONS: tuple[Callable[[Context], str], ...] = (
    summary,
    overview,
    training,
    parameters,
    efficiency,
    memory,
    resources,
    quality,
    comparison,
    compression,
    path,
    recommendations,
    appendix,
)

# What there is to say where only the compression ladder was climbed.
LADDER_SECTIONS = (summary, compression, path, appendix)

__all__ = ["LADDER_SECTIONS", "SECTIONS"]
