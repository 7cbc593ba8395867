"""Counts what reading text repaired or left out, and describes it to the user."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields

_EXAMPLES = 5


_SURROGATE = re.compile("[\ud800-\udfff]")


def without_surrogates(text: str) -> tuple[str, int]:
    """The text with U+FFFD for each half of a surrogate pair, and their number."""
    return _SURROGATE.subn("\ufffd", text)


def printable(name: str) -> str:
    """The name with U+FFFD for every byte that isn't UTF-8 (half a surrogate pair in Python)."""
    return without_surrogates(name)[0]


def first_few(names: list[str]) -> str:
    """The first names of a list, as a sentence lists them."""
    return ", ".join(names[:_EXAMPLES]) + (", ..." if len(names) > _EXAMPLES else "")


@dataclass
class Tally:
    """How often something was found, and where."""

    count: int = 0
    where: list[str] = field(default_factory=list)

    def add(self, where: str, count: int = 1) -> None:
        self.count += count
        where = printable(where)
        if len(self.where) <= _EXAMPLES and where not in self.where:
            self.where.append(where)

    def extend(self, others: Tally) -> None:
        """Count what another tally counted after this one."""
        self.count += others.count
        for where in others.where:
            self.add(where, 0)


@dataclass
class Repairs:
    """What was repaired or left out while reading; `notes` describes it.

    Attributes:
        invalid: sequences of bytes that aren't UTF-8, by file.
        surrogates: halves of surrogate pairs in JSON, by line.
        blank_rows: rows of tables that are empty, null or lack the column, by line.
        empty_files: files without a byte.
        no_tables: JSON files of a folder that hold something other than texts.
        assumed: what was assumed about a file, in whole sentences.
    """

    invalid: Tally = field(default_factory=Tally)
    surrogates: Tally = field(default_factory=Tally)
    blank_rows: Tally = field(default_factory=Tally)
    empty_files: int = 0
    no_tables: Tally = field(default_factory=Tally)
    assumed: list[str] = field(default_factory=list)

    def extend(self, others: Repairs) -> None:
        """Count what was repaired in files after these."""
        for field_of in fields(self):
            mine, theirs = getattr(self, field_of.name), getattr(others, field_of.name)
            if isinstance(mine, int):
                self.empty_files += theirs
            else:
                mine.extend(theirs)

    def notes(self) -> list[str]:
        notes = list(self.assumed)
        for tally, what in (
            (self.invalid, "invalid UTF-8 sequences in {} were replaced by U+FFFD"),
            (self.surrogates, "lone surrogates were replaced by U+FFFD ({})"),
            (self.blank_rows, "rows without text were left out ({})"),
            (self.no_tables, "JSON files that are no tables of texts were left out ({})"),
        ):
            if tally.count:
                notes.append(f"{tally.count:,} {what.format(first_few(tally.where))}")
        if self.empty_files:
            notes.append(f"{self.empty_files:,} empty files were left out")
        return notes
