"""Units: what each kind cuts, exact bytes, the split by document, and who carries the unit."""

import json
import time
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itera_lite.config import Unit
from itera_lite.data import units as units_module
from itera_lite.data.corpus import load_documents
from itera_lite.data.prepare import prepare
from itera_lite.data.tokenizer import Tokenizer
from itera_lite.data.units import UNITS, mixed, split_units
from itera_lite.errors import DataError, UsageError
from itera_lite.records import DatasetDescription

V = 270


def units(text: str, unit: Unit) -> list[str]:
    return [part.decode() for part in split_units([text.encode()], unit)]


def test_paragraphs_and_lines_keep_their_bytes() -> None:
    text = "\n\nOne\r\n  two \r\n \t\r\n\n  Three\tfour  \n\n\n"
    assert units(text, "document") == [text]
    assert units(text, "paragraph") == ["One\r\n  two", "  Three\tfour"]
    assert units(text, "line") == ["One", "  two ", "  Three\tfour  "]


@pytest.mark.parametrize(
    "text",
    [
        "The cat sat.|The dog ran!|Did it?|Yes...|“No.”|(So it is.)|End",
        '"Hello!" said Tom.|"I am glad." |"Me too."',
        "He met Mr. Smith and Dr. J. K. Jones in the U.S. Senate.|They spoke.",
        "Mom and I.|They ran at 5 p.m.|Then came No. 5 of vol. 2.|Ten men came.",
        "It cost 3.50 in v1.2.3 at a.b.example, e.g. here, etc. and so on.|Good.",
        "Wait ... and see .|A word , tokenised .|Next",
        "A line\nbreak. ends\nnothing.|But\nthis does.",
        "One. . . !|Two.",
        "他来了。|他说：“好！”|我笑了。",
        "Über den Wolken.|Ärger!|Élan vital.",
    ],
)
def test_sentences(text: str) -> None:
    """The borders are at the bars; what stands around one of them is white space."""
    expected = [part.strip() for part in text.split("|")]
    joined = text.replace("|", "" if "。" in text else "  ")
    assert units(joined, "sentence") == expected
    # A blank line ends a sentence without a mark.
    assert units(f"Title\n\n{joined}\n \nlast", "sentence") == ["Title", *expected, "last"]


PIECES = st.sampled_from([*"aB1.!?…。\"'”()\n\r\t ,;é\u00a0", "\udcff", "\n\n", " Mr. ", "I. "])


@given(st.lists(PIECES, max_size=40).map("".join), st.sampled_from(UNITS))
def test_only_white_space_is_lost(text: str, unit: Unit) -> None:
    document = text.encode("utf-8", "surrogateescape")
    place = 0
    for part in split_units([document], unit):
        assert unit == "document" or part.decode("utf-8", "surrogateescape").strip()
        found = document.index(part, place)
        assert not document[place:found].decode("utf-8", "surrogateescape").strip()
        place = found + len(part)
    assert not document[place:].decode("utf-8", "surrogateescape").strip()


@pytest.mark.parametrize("text", [". ", "!", '."', " ", "\n", "A.", "x. Y", "Mr. ", "。"])
def test_time_grows_with_the_text(text: str) -> None:
    """A quadratic rule would take minutes here."""
    begin = time.process_time()
    for unit in UNITS:
        list(split_units([text.encode() * 100_000], unit))
    assert time.process_time() - begin < 10


def write_stories(folder: Path, number: int = 100) -> Path:
    """Stories of two paragraphs: two sentences that all have, one of its own."""
    file = folder / "stories.txt"
    texts = [f"The cat sat. It was story {i}!\n\nThe end." for i in range(number)]
    texts += texts[:10]  # copies
    file.write_text("\n<|endoftext|>\n".join(texts))
    return file


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ITERA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_units_follow_the_split_and_copies_of_documents(cache: Path, tmp_path: Path) -> None:
    """Copies are dropped and the split is made by document; a repeated sentence stays."""
    file = write_stories(tmp_path)
    corpus = load_documents(str(file))
    dataset = prepare(str(file), vocab_size=V, unit="sentence", quiet=True)
    for split, documents in corpus.splits.items():
        found = list(dataset.documents(split))
        assert sorted(found) == sorted(split_units(documents, "sentence"))
        assert found.count(b"The cat sat.") == len(documents) == len(found) / 3
    own = [{t for t in dataset.documents(s) if b"story" in t} for s in dataset.splits]
    assert len(own[0] | own[1]) == 100 and not own[0] & own[1]


def test_neighbours_are_of_different_documents(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that reads a unit can't lean on the unit before it."""
    monkeypatch.setattr(units_module, "MIXED", 50)  # several blocks
    documents = [f"Story {i} begins.\nStory {i} ends.".encode() for i in range(100)]
    found = list(mixed(split_units(documents, "line")))
    assert found == list(mixed(split_units(documents, "line"))), "always the same order"
    assert sorted(found) == sorted(split_units(documents, "line"))
    assert all(
        i // 50 == found.index(u) // 50 for i, u in enumerate(split_units(documents, "line"))
    )
    story = [unit.split()[1] for unit in found]
    assert sum(a == b for a, b in pairwise(story)) < 10


def test_every_unit_is_a_set_of_its_own_that_is_found_again(cache: Path, tmp_path: Path) -> None:
    file = write_stories(tmp_path)
    sets = {unit: prepare(str(file), vocab_size=V, unit=unit, quiet=True) for unit in UNITS}
    assert len({dataset.path for dataset in sets.values()}) == len(UNITS)
    for unit, dataset in sets.items():
        assert dataset.manifest["unit"] == dataset.unit == dataset.tokenizer.unit == unit
        assert dataset.describe("stories").unit == unit
        assert prepare(str(file), vocab_size=V, unit=unit, quiet=True).path == dataset.path
        # What a checkpoint's tokenizer was made for is the default; asked for another, it gives it.
        kept = Tokenizer.load(dataset.tokenizer.save(tmp_path / unit))
        assert kept.unit == unit and kept.sha256 == dataset.tokenizer.sha256
        assert prepare(str(file), tokenizer=kept, quiet=True).path == dataset.path
        assert prepare(str(file), tokenizer=kept, unit="line", quiet=True).unit == "line"


def test_a_set_of_an_earlier_version_is_one_of_documents(cache: Path, tmp_path: Path) -> None:
    """Its manifest and its tokenizer's files had no unit, and it is found by the same keys."""
    file = write_stories(tmp_path)
    dataset = prepare(str(file), vocab_size=V, quiet=True)
    for name in ("manifest.json", "tokenizer_config.json"):
        path = dataset.path / name
        content = json.loads(path.read_text())
        assert content.pop("unit", None) or content.pop("itera_unit", None)
        path.write_text(json.dumps(content))
    again = prepare(str(file), vocab_size=V, quiet=True)
    assert again.path == dataset.path and "unit" not in again.manifest
    assert again.unit == again.tokenizer.unit == "document"
    assert Tokenizer.load(dataset.path).unit is None


@pytest.mark.parametrize("unit", UNITS)
def test_a_description_that_is_read_and_written_again_has_the_same_bytes(
    unit: Unit, cache: Path, tmp_path: Path
) -> None:
    """The ladder writes the summaries of a stopped run once more, and they must stay the same."""
    prepared = prepare(str(write_stories(tmp_path)), vocab_size=256, unit=unit, quiet=True)
    written = msgspec.json.encode(prepared.describe("set"))
    assert msgspec.json.encode(msgspec.json.decode(written, type=DatasetDescription)) == written
    assert (b'"unit"' in written) == (unit != "document")


def test_keys_of_documents_are_those_of_earlier_versions() -> None:
    """Computed by the version before units: the caches of users stay valid."""
    from itera_lite.data import prepare as shards

    assert shards._key("text", "stories", "00ff", 300) == "c1e391702b4254a8eb6df7de0801089b"


def test_bad_units(cache: Path, tmp_path: Path) -> None:
    file = write_stories(tmp_path)
    with pytest.raises(UsageError, match=r"'word'.*document, paragraph, line, sentence"):
        prepare(str(file), vocab_size=V, unit="word", quiet=True)  # type: ignore[arg-type]
    folder = Tokenizer.train([b"text"], 256).save(tmp_path / "tokenizer")
    config = folder / "tokenizer_config.json"
    config.write_text('{"itera_unit": "page"}')
    with pytest.raises(DataError, match=r"tokenizer_config\.json.*'page'.*sentence"):
        Tokenizer.load(folder)
