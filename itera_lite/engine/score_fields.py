"""What `itera score` adds to a text: the results' names, and their values, in every format."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property

from itera_lite.data.lines import Line
from itera_lite.engine.scorer import Scored
from itera_lite.errors import UsageError

RESULTS = ("line", "bytes", "tokens", "nats", "bits_per_byte", "perplexity")
CONTRAST = ("bad_bits_per_byte", "difference")  # with two models
SURPRISE = ("surprise",)  # where the texts are scored by it
WHOLE = RESULTS[:3]  # those that are whole numbers


@dataclass(frozen=True)
class Fields:
    """What is written of a text.

    Attributes:
        text_field: field, or column, that holds the text; a line of plain text gets one.
        text: write the text.
        scores: write the results.
        prefix: stands before the results' names.
        contrast: whether two models score.
        surprise: whether a text's surprise is its score.

    Raises:
        UsageError: a result would have the name of the text's field, or nothing would be written.
    """

    text_field: str = "text"
    text: bool = True
    scores: bool = True
    prefix: str = ""
    contrast: bool = False
    surprise: bool = False

    def __post_init__(self) -> None:
        if self.text_field in self.names:
            raise UsageError(
                f"--text-field {self.text_field}: a result is written to a field of that name. "
                "Give the results other names with --prefix, such as --prefix score_"
            )
        if not self.scores and not self.text:
            raise UsageError(
                "--no-scores writes the texts as they stand, and --no-text leaves them out: give "
                "one of them"
            )

    @cached_property
    def names(self) -> list[str]:
        """Names of the results that are written, which no field of the input may have."""
        if not self.scores:
            return []
        names = RESULTS + (CONTRAST if self.contrast else ())
        names += SURPRISE if self.surprise else ()
        return [self.prefix + name for name in names]

    def values(self, number: int, scored: Scored) -> list[int | float | None]:
        """The results of a text, in the order of `names`; None where there is no number.

        Args:
            number: of its line, or row, in the input.
            scored: what the models give it.
        """
        if not self.scores:
            return []
        good = scored.good
        perplexity = good.perplexity
        values: list[int | float | None] = [
            *(number, good.bytes, good.tokens, good.nats),
            good.bits_per_byte if good.bytes else None,
            perplexity if math.isfinite(perplexity) else None,
        ]
        if scored.bad is not None:
            values += [scored.bad.bits_per_byte if scored.bad.bytes else None, scored.score]
        if self.surprise:
            values.append(scored.score)
        return values

    def as_line(self, line: Line, scored: Scored, *, is_text: bool) -> bytes:
        """A line of the output: the fields of the input's line, then the results.

        Args:
            line: of the input.
            scored: what the models give its text.
            is_text: the input is plain text, which stays so where no results are written.
        """
        values = self.values(line.number, scored)
        if not values:
            whole = line.text if is_text else f"{{{line.fields}}}"
            return f"{whole}\n".encode()
        results = ", ".join(
            [
                f"{name}: null" if value is None else f"{name}: {value!r}"
                for name, value in zip(self._quoted_names, values, strict=True)
            ]
        )
        between = ", " if line.fields else ""
        return f"{{{line.fields}{between}{results}}}\n".encode()

    @cached_property
    def _quoted_names(self) -> list[str]:
        return [json.dumps(name, ensure_ascii=False) for name in self.names]
