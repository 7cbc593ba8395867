"""Splits documents into training and validation, with no document on both sides.

All documents are in memory here. `itera_lite.data.places` does the same for text of any size; the
tests hold the two equal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from itera_lite.errors import DataError

VALID_SHARE = 0.05
BORDERS = (b"\n\n", b"\n", b" ")  # where one document is cut, the best first
LONG_ENOUGH = 1_000  # bytes of a document that is cut even between two characters
NO_VALIDATION_FILES = "no validation files were given: about 5 % of train are used"
ONE_DOCUMENT = (
    "the set is one document: it was cut at the border nearest to 90 %, the first part is for "
    "training, the last for validation"
)


def divide(
    given: dict[str | None, list[bytes]], origin: str
) -> tuple[dict[str, list[bytes]], list[str]]:
    """Documents by split, with 'train' and 'valid' in any case; and notes for the user.

    Args:
        given: documents by split; None: those without a split.
        origin: what the user wrote to name the set, for the messages.

    Raises:
        DataError: there is too little text.
    """
    if not any(given.values()):
        raise DataError(no_text(origin))
    unsplit = given.pop(None, [])
    splits = {str(split): texts for split, texts in given.items() if texts}
    if not splits:
        train, valid, notes = split_by_hash(unsplit)
        return {"train": train, "valid": valid}, notes
    if not splits.get("train"):
        raise DataError(no_training_text(origin))
    splits, notes = without_leaks(splits)
    if not splits["train"]:
        raise DataError(all_held_out(origin))
    if "valid" not in splits:
        train, valid, hash_notes = split_by_hash(splits["train"])
        splits = {**splits, "train": train, "valid": valid}
        notes += [NO_VALIDATION_FILES, *hash_notes]
    return {split: splits[split] for split in in_order(splits)}, notes


def split_by_hash(documents: list[bytes]) -> tuple[list[bytes], list[bytes], list[str]]:
    """(train, valid, notes): about 5 % of the documents go to valid, by a hash of their text.

    A document's split depends on its own text alone, so it stays when other documents are added.
    Exact copies are dropped. Each split gets at least one document: where the hash would leave one
    empty, it gets the document whose hash is nearest to the limit. A single document is cut in two,
    90 % and 10 %.

    Raises:
        DataError: there is no text, or one document too short to cut.
    """
    distinct = list(dict.fromkeys(documents))
    notes = copies_dropped(len(documents) - len(distinct))
    if not distinct:
        raise DataError("expected documents with text, found none")
    if len(distinct) == 1:
        try:
            first, last = cut_one(distinct[0])
        except DataError as error:
            raise DataError("; ".join([str(error), *notes])) from None
        notes.append(ONE_DOCUMENT)
        return [first], [last], notes
    hashes = [_uniform_hash(document) for document in distinct]
    limit = min(max(VALID_SHARE, min(hashes)), sorted(hashes)[-2])
    train = [text for text, value in zip(distinct, hashes, strict=True) if value > limit]
    valid = [text for text, value in zip(distinct, hashes, strict=True) if value <= limit]
    n_bytes = sum(map(len, valid)), sum(map(len, distinct))
    return train, valid, notes + uneven(*n_bytes, len(valid), len(distinct))


def without_leaks(splits: dict[str, list[bytes]]) -> tuple[dict[str, list[bytes]], list[str]]:
    """The splits without those train documents that another split holds too; and notes."""
    held_out = {text for name, texts in splits.items() if name != "train" for text in texts}
    train = [text for text in splits["train"] if text not in held_out]
    return {**splits, "train": train}, leaks_dropped(len(splits["train"]) - len(train))


def cut_one(text: bytes) -> tuple[bytes, bytes]:
    """Cut one document near 90 %: at a paragraph's end, else a line's, else a word's.

    A document of 1,000 bytes and more that has none of these is cut between two characters.

    Raises:
        DataError: it is too short.
    """
    target = len(text) * 9 // 10
    for border in BORDERS:
        before = text.rfind(border, 0, target) + len(border)
        after = text.find(border, target) + len(border)
        found = [
            cut
            for cut in (before, after)
            if cut >= len(border) and text[:cut].strip() and text[cut:].strip()
        ]
        near = near_cut(found, len(text))
        if near is not None:
            return text[:near], text[near:]
    if len(text) >= LONG_ENOUGH:
        while text[target] & 0xC0 == 0x80:  # inside a character
            target -= 1
        if text[:target].strip() and text[target:].strip():
            return text[:target], text[target:]
    raise DataError(cannot_be_cut(len(text)))


def near_cut(cuts: list[int], length: int) -> int | None:
    """The place nearest to 90 % of the length among those from 70 % to 98 %."""
    near = [cut for cut in cuts if 0.7 * length <= cut <= 0.98 * length]
    return min(near, key=lambda at: abs(at - length * 9 // 10), default=None)


def in_order(splits: Iterable[str]) -> list[str]:
    """The names of splits: train, valid, test, then others by name."""
    order = {"train": 0, "valid": 1, "test": 2}
    return sorted(splits, key=lambda split: (order.get(split, 3), split))


def no_text(origin: str) -> str:
    return f"{origin}: holds no text; expected documents in UTF-8"


def no_training_text(origin: str) -> str:
    return f"{origin}: the training files hold no text"


def all_held_out(origin: str) -> str:
    return (
        f"{origin}: every training document also lies in another split; "
        "expected other text for training"
    )


def cannot_be_cut(length: int) -> str:
    return (
        f"the set is one document of {length:,} bytes that can't be cut into a part for "
        "training and one for validation. Give more text, or several documents "
        "(lines that hold only <|endoftext|> part them)."
    )


def copies_dropped(count: int) -> list[str]:
    return [f"{count:,} exact copies of other documents were dropped"] if count else []


def leaks_dropped(count: int) -> list[str]:
    if not count:
        return []
    return [f"{count:,} train documents that also lie in another split were dropped"]


def uneven(valid_bytes: int, total_bytes: int, valid: int, total: int) -> list[str]:
    """The note of a split that isn't near to 5 % of the bytes."""
    share = valid_bytes / total_bytes
    if 0.01 <= share <= 0.2:
        return []
    return [
        f"the documents are few or uneven: valid holds {share:.1%} of the bytes "
        f"({valid:,} of {total:,} documents)"
    ]


def _uniform_hash(document: bytes) -> float:
    """A uniform number in [0, 1) that follows from the text."""
    return int.from_bytes(hashlib.sha256(document).digest()[:6], "big") / 2**48
