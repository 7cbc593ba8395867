"""The texts of `itera bench filter`: held-out lines, the same with noise, and other sources' lines.

A line is a unit of the text (`itera_lite.data.units`). Every setting is pairs: a clean line and a
bad one that was made from it or, of another source, that has about its length, so that no score
separates the two by their length alone.
"""

from __future__ import annotations

import random
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from itera_lite.config import Unit
from itera_lite.data import hub
from itera_lite.data.corpus import Corpus, load_documents
from itera_lite.data.units import split_units
from itera_lite.errors import DataError

LEAST_WORDS = 4
MOST_CHARACTERS = 4_000
LEAST_LINES = 20
MOST_LENGTH_RATIO = 1.25  # of a line of another source to its partner, or the other way round
NAMED_SOURCES = ("gutenberg-children", "wikitext-2")
DOCUMENTATION = "python-documentation"  # of the language, which is on every machine
_TRIES = 20
_SPACE = re.compile(r"(\s+)")
_VOWELS = dict(zip("aeiouAEIOU", "áéíóúÁÉÍÓÚ", strict=True))
_TYPOGRAPHIC = {"'": "’", '"': "“"}

Words = Callable[[random.Random], str]  # draws a word of the text, by its frequency


@dataclass(frozen=True)
class Setting:
    """Bad lines of one kind, each with its clean partner.

    Attributes:
        label: what is bad about them.
        clean: (N,) numbers of the clean lines.
        bad: (N,) their partners.
    """

    name: str
    label: str
    clean: Sequence[int]
    bad: Sequence[str]


def draws_of(documents: Iterable[bytes]) -> Words:
    """Draws words of the documents, by how often they occur.

    Raises:
        DataError: there is no word.
    """
    counts: Counter[str] = Counter()
    for document in documents:
        counts.update(document.decode("utf-8", "replace").split())
    if not counts:
        raise DataError("there is no word in the training text to make noise with")
    words, sums = list(counts), list(accumulate(counts.values()))
    return lambda rng: rng.choices(words, cum_weights=sums)[0]


def swapped(line: str, rng: random.Random, words: Words) -> str:
    parts = _SPACE.split(line)
    a, b = rng.sample(_places(parts), 2)
    parts[a], parts[b] = parts[b], parts[a]
    return "".join(parts)


def one_letter(line: str, rng: random.Random, words: Words) -> str:
    places = [i for i, character in enumerate(line) if character.isalpha()]
    if not places:
        return line
    at = rng.choice(places)
    new = rng.choice("abcdefghijklmnopqrstuvwxyz")
    return line[:at] + (new.upper() if line[at].isupper() else new) + line[at + 1 :]


def one_word(line: str, rng: random.Random, words: Words) -> str:
    parts = _SPACE.split(line)
    parts[rng.choice(_places(parts))] = words(rng)
    return "".join(parts)


def shuffled(line: str, rng: random.Random, words: Words) -> str:
    parts = _SPACE.split(line)
    places = _places(parts)
    for place, word in zip(
        places, rng.sample([parts[i] for i in places], len(places)), strict=True
    ):
        parts[place] = word
    return "".join(parts)


def misread(line: str, rng: random.Random, words: Words) -> str:
    """The line in UTF-8, read as Windows-1252: its characters beyond ASCII, and its quotes and
    apostrophes as a word processor writes them; where it has none, one vowel with an accent."""
    line = "".join(_TYPOGRAPHIC.get(character, character) for character in line)
    if line.isascii():
        places = [i for i, character in enumerate(line) if character in _VOWELS]
        if not places:
            return line
        at = rng.choice(places)
        line = line[:at] + _VOWELS[line[at]] + line[at + 1 :]
    # Five bytes have no character there; programs show them as the control characters of Latin-1.
    return "".join(
        bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in line.encode("utf-8")
    )


def repeated(line: str, rng: random.Random, words: Words) -> str:
    parts = _SPACE.split(line)
    places = _places(parts)
    length = min(rng.randint(2, 5), len(places))
    first = rng.randrange(len(places) - length + 1)
    span = "".join(parts[places[first] : places[first + length - 1] + 1])
    end = places[first + length - 1] + 1
    return "".join(parts[:end]) + f" {span} {span}" + "".join(parts[end:])


NOISES: dict[str, tuple[str, Callable[[str, random.Random, Words], str]]] = {
    "swapped": ("two words swapped", swapped),
    "letter": ("one letter changed", one_letter),
    "word": ("one word replaced by another of the text, by frequency", one_word),
    "shuffled": ("all words shuffled", shuffled),
    "misread": ("UTF-8 read as Windows-1252", misread),
    "repeated": ("two to five of its words three times", repeated),
}


def noisy(lines: Sequence[str], words: Words, seed: int) -> Iterator[Setting]:
    """A setting for each of `NOISES`; a line that it can't change is left out of it."""
    for name, (label, change) in NOISES.items():
        clean, bad = [], []
        for number, line in enumerate(lines):
            rng = random.Random(f"{seed} {name} {line}")
            changed = (change(line, rng, words) for _ in range(_TRIES))
            found = next((each for each in changed if each != line), None)
            if found is not None:
                clean.append(number)
                bad.append(found)
        yield Setting(name, label, clean, bad)


def _places(parts: Sequence[str]) -> list[int]:
    """Where the words stand among the parts of ``_SPACE.split``."""
    return [i for i in range(0, len(parts), 2) if parts[i]]


def as_line(text: bytes, unit: Unit) -> str:
    """A unit as it is scored. Line breaks inside sentences are made spaces: hard-wrapped books have
    them, and a score could separate the sources by them alone."""
    line = text.decode("utf-8", "replace")
    return " ".join(line.split()) if unit == "sentence" else line


def usable(texts: Iterable[bytes], unit: Unit) -> list[str]:
    """The distinct lines of `LEAST_WORDS` and more, and no longer than `MOST_CHARACTERS`."""
    lines = dict.fromkeys(as_line(text, unit) for text in texts)
    return [
        line
        for line in lines
        if len(line) <= MOST_CHARACTERS and len(line.split(None, LEAST_WORDS - 1)) >= LEAST_WORDS
    ]


def held_out(
    corpus: Corpus, unit: Unit, split: str, count: int, seed: int
) -> tuple[list[str], int]:
    """Lines of a split of a set in units, none of which is a training line; and how many were.

    Args:
        count: of the lines at most; a random choice.

    Raises:
        DataError: there is no such split, or it has too few lines.
    """
    if split not in corpus.splits or split == "train":
        others = [name for name in corpus.splits if name != "train"]
        raise DataError(
            f"'{corpus.name}', split '{split}': expected one that isn't trained on: "
            f"{', '.join(others)}"
        )
    lines = usable(corpus.splits[split], unit)
    known = {as_line(text, unit) for text in corpus.splits["train"]}
    unseen = [line for line in lines if line not in known]
    if len(unseen) < 2 * LEAST_LINES:
        raise DataError(
            f"'{corpus.name}', split '{split}', has {len(unseen)} different units ({unit}) of "
            f"{LEAST_WORDS} words and more that aren't in the training text: expected at least "
            f"{2 * LEAST_LINES}, half to choose with. Give more text, or another --unit"
        )
    random.Random(seed).shuffle(unseen)
    return unseen[:count], len(lines) - len(unseen)


def other_sources(names: Sequence[str] | None, data: str, unit: Unit) -> dict[str, list[str]]:
    """The lines of other sets, by their name.

    Args:
        names: sets or paths; None: `NAMED_SOURCES` where $ITERA_DATA has them, else Python's
            documentation and source.
        data: the set that the clean lines are of, which is none of them.

    Raises:
        DataError: a set that was named can't be read, or has no usable line.
    """
    if names is None:
        folder = hub.data_folder()
        named = [n for n in NAMED_SOURCES if n != data and folder and (folder / n).is_dir()]
        names = named or [name for name in (DOCUMENTATION, "python") if name != data]
    found = {}
    for name in names:
        lines = usable(split_units(_documents(name), unit), unit)
        if not lines:
            raise DataError(f"--others {name}: holds no {unit} of {LEAST_WORDS} words and more")
        found[name] = lines
    return found


def _documents(name: str) -> list[bytes]:
    if name == DOCUMENTATION:
        from pydoc_data.topics import topics

        return [text.encode("utf-8") for text in topics.values()]
    splits = load_documents(name).splits
    held = [split for split in splits if split in ("valid", "test")]
    given = held if "test" in splits else list(splits)  # a set with splits of its own is large
    return [text for split in given for text in splits[split]]


def foreign(name: str, lines: Sequence[str], others: Sequence[str], seed: int) -> Setting:
    """Lines of another source, each the nearest in length to a clean one, none twice."""
    pool = sorted(others, key=lambda line: (_size(line), line))
    sizes = list(map(_size, pool))
    clean, bad = [], []
    numbers = list(range(len(lines)))
    random.Random(seed).shuffle(numbers)
    for number in numbers:
        wanted = _size(lines[number])
        at = bisect_left(sizes, wanted)
        if at == len(sizes) or (at and wanted - sizes[at - 1] <= sizes[at] - wanted):
            at -= 1
        if at < 0:
            break
        if max(sizes[at], wanted) <= MOST_LENGTH_RATIO * min(sizes[at], wanted):
            clean.append(number)
            bad.append(pool.pop(at))
            sizes.pop(at)
    return Setting(name, f"lines of {name}", clean, bad)


def _size(line: str) -> int:
    return len(line.encode("utf-8"))
