"""Units of text: what of a document becomes a document of the token stream.

A model judges best what it was trained on: one that is to score sentences is trained on sentences,
each between two ``<|endoftext|>``. A unit keeps its exact bytes; only white space between two units
is left out. Repeats stay. The order is mixed (`mixed`): a model in training reads one unit after
the other, and would learn to lean on the units before, which it hasn't when it scores one.

- ``document``: the text as it was given.
- ``paragraph``: what stands between blank lines.
- ``line``: what ends with a line feed; blank lines are left out.
- ``sentence``: a part of a paragraph that ends with one or more of ``. ! ? …``, closing quotes and
  brackets after them, where white space follows and then no lower-case letter, none of ``, ; : )``
  and no further mark. A single point ends nothing after an abbreviation of `ABBREVIATIONS`, an
  initial (``J. Smith``; ``I`` is a word), letters with points between (``U.S.``; but ``a.m.`` and
  ``p.m.`` may end a sentence), or, before a digit, after one of `BEFORE_NUMBERS`. The Chinese and
  Japanese marks ``。！？`` end a sentence whatever follows. A part without a letter or digit is
  joined to what follows. A single line break ends no sentence.

The rule is here, in a page, and not a library's: prepared sets are cached by their text, so the
same document must give the same units after every update of what is installed.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import get_args

from itera_lite.config import Unit
from itera_lite.errors import UsageError

UNITS: tuple[Unit, ...] = get_args(Unit)

MIXED = 2**17  # units
ABBREVIATIONS = frozenset(
    "Mr Mrs Ms Messrs Mme Mlle Dr Prof Rev Hon St Sr Jr Gen Col Lt Capt Sgt Maj Gov Sen Rep Pres "
    "Mt Ft vs viz cf approx".split()
)
BEFORE_NUMBERS = frozenset(
    "No no Nos nos Vol vol Vols vols Fig fig Figs figs Ch ch Sec sec Art art Eq eq p pp c ca "
    "Jan Feb Mar Apr Jun Jul Aug Sep Sept Oct Nov Dec".split()
)
_LONGEST_WORD = 12  # before a point, in characters: no abbreviation is longer
_CLOSING = "\"'”’»)\\]}"
_OPENING = "\"'“‘«([{"
# The look-behind lets a run of marks be tried once, not from each of its marks.
_MARK = re.compile(
    rf"(?P<wide>(?<![。！？])[。！？]+[{_CLOSING}」』）]*)\s*"
    rf"|(?P<mark>(?<![.!?…])(?P<points>[.!?…]+)[{_CLOSING}]*)\s+"
)
_CONTINUES = frozenset(",;:).!?…")
_DOTTED = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]")
_VISIBLE = re.compile(r"[^\W_]")


def unit_of(given: str | None) -> Unit | None:
    """The unit that a file or an option names; None for None.

    Raises:
        UsageError: it is none of `UNITS`.
    """
    if given is None:
        return None
    for unit in UNITS:
        if unit == given:
            return unit  # this object itself: by it msgspec finds a default, to leave it out
    raise UsageError(f"unit '{given}': expected one of {', '.join(UNITS)}")


def split_units(documents: Iterable[bytes], unit: Unit) -> Iterator[bytes]:
    """The units of the documents, in order, none of them empty or white space alone.

    Bytes that aren't UTF-8 stay as they are. Time grows in proportion to the text.
    """
    for document in documents:
        if unit == "document":
            yield document
            continue
        text = document.decode("utf-8", "surrogateescape")
        for part in _SPLIT[unit](text):
            yield part.encode("utf-8", "surrogateescape")


def mixed(units: Iterable[bytes]) -> Iterator[bytes]:
    """The units in another order, always the same one: each block of `MIXED` is shuffled.

    So neighbours are of different documents, and memory stays bounded.
    """
    rng = random.Random(0)
    rest = iter(units)
    while block := list(islice(rest, MIXED)):
        rng.shuffle(block)
        yield from block


def _lines(text: str) -> Iterator[str]:
    for line in text.split("\n"):
        if line.strip():
            yield line.removesuffix("\r")


def _paragraphs(text: str) -> Iterator[str]:
    lines: list[str] = []
    for line in (*text.split("\n"), ""):
        if line.strip():
            lines.append(line)
        elif lines:
            yield "\n".join(lines).rstrip()
            lines = []


def _sentences(text: str) -> Iterator[str]:
    for paragraph in _paragraphs(text):
        yield from _sentences_of(paragraph.strip())


def _sentences_of(paragraph: str) -> Iterator[str]:
    """The sentences of a paragraph without white space at its ends."""
    begin = checked = 0  # `checked`: up to here the part holds no letter or digit
    for found in _MARK.finditer(paragraph):
        after = found.end()
        if after == len(paragraph):
            break
        if found["points"] and not _ends(paragraph, begin, found.start(), found["points"], after):
            continue
        end = found.end("mark" if found["points"] else "wide")
        if _VISIBLE.search(paragraph, checked, end):
            yield paragraph[begin:end]
            begin = after
        checked = after
    yield paragraph[begin:]


def _ends(paragraph: str, begin: int, mark: int, points: str, after: int) -> bool:
    """Whether ``points`` at ``mark`` end a sentence, where ``after`` is the next character."""
    following = paragraph[after]
    if following.islower() or following in _CONTINUES:
        return False
    if points != ".":
        return True
    before = paragraph[max(begin, mark - _LONGEST_WORD) : mark]
    word = before.split()[-1].lstrip(_OPENING) if before and not before[-1].isspace() else ""
    initial = len(word) == 1 and word.isupper() and word != "I"
    dotted = _DOTTED.fullmatch(word) is not None and word.lower() not in ("a.m", "p.m")
    numbered = following.isdigit() and word in BEFORE_NUMBERS
    return not (initial or dotted or numbered or word in ABBREVIATIONS)


_SPLIT = {"line": _lines, "paragraph": _paragraphs, "sentence": _sentences}
