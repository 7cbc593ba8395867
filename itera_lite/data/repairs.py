"""Counts of what reading put right or left out, and the notes that say it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_EXAMPLES = 5


def shown(name: str) -> str:
    """A file name as text: its bytes that aren't UTF-8 become U+FFFD."""
    return re.sub("[\ud800-\udfff]", "\ufffd", name)


def some(names: list[str]) -> str:
    """The first of the names, as a list in a sentence."""
    return ", ".join(names[:_EXAMPLES]) + (", ..." if len(names) > _EXAMPLES else "")


@dataclass
class Tally:
    """How often something was found, and where."""

    count: int = 0
    places: list[str] = field(default_factory=list)

    def add(self, place: str, count: int = 1) -> None:
        self.count += count
        place = shown(place)
        if len(self.places) <= _EXAMPLES and place not in self.places:
            self.places.append(place)


@dataclass
class Repairs:
    """What was put right or left out while reading; `notes` says it, once.

    Attributes:
        invalid: sequences of bytes that aren't UTF-8, by file.
        surrogates: halves of surrogate pairs in JSON, by line.
        blank_rows: rows of tables that are empty, null or lack the column, by line.
        empty_files: files without a byte.
        no_tables: JSON files of a folder that hold something other than texts.
        assumed: what was taken for granted, in whole sentences.
    """

    invalid: Tally = field(default_factory=Tally)
    surrogates: Tally = field(default_factory=Tally)
    blank_rows: Tally = field(default_factory=Tally)
    empty_files: int = 0
    no_tables: Tally = field(default_factory=Tally)
    assumed: list[str] = field(default_factory=list)

    def notes(self) -> list[str]:
        notes = list(self.assumed)
        for tally, what in (
            (self.invalid, "invalid UTF-8 sequences in {} were replaced by U+FFFD"),
            (self.surrogates, "lone surrogates were replaced by U+FFFD ({})"),
            (self.blank_rows, "rows without text were left out ({})"),
            (self.no_tables, "JSON files that are no tables of texts were left out ({})"),
        ):
            if tally.count:
                notes.append(f"{tally.count:,} {what.format(some(tally.places))}")
        if self.empty_files:
            notes.append(f"{self.empty_files:,} empty files were left out")
        return notes
