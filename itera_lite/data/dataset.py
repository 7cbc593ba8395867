"""A prepared set: memory-mapped token streams and their manifest."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from itera_lite.data.tokenizer import Tokenizer
from itera_lite.errors import DataError

FORMAT = 1  # raise it when the same text would give other shards or another split
_DECODED = 1_000_000  # tokens decoded at a time, which bounds memory
# What reading a damaged file of the cache may raise.
DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, DataError)


@dataclass(frozen=True)
class Dataset:
    """A prepared set.

    Attributes:
        path: its folder in the cache.
        manifest: name, source, sha256 of the text, tokenizer_sha256, vocab_size,
            notes, and for each split documents, bytes, tokens and sha256.
            ``tokens`` counts what is predicted: every token of the documents
            and the ``<|endoftext|>`` after each; ``bytes`` is the text alone.
    """

    path: Path
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.manifest["name"])

    @property
    def splits(self) -> list[str]:
        return list(self.manifest["splits"])

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self.path)

    def tokens(self, split: str) -> NDArray[Any]:
        """The split's stream, memory-mapped, read-only: one more than ``tokens`` in the manifest.

        It begins with ``<|endoftext|>``, and each document is followed by one.
        """
        entry = self._entry(split)
        return np.memmap(self.path / entry["file"], dtype=self.manifest["dtype"], mode="r")

    def n_bytes(self, split: str) -> int:
        """Bytes of the split's documents: what bits per byte divides by."""
        return int(self._entry(split)["bytes"])

    def n_tokens(self, split: str) -> int:
        """Tokens predicted in the split, each document's ``<|endoftext|>`` included."""
        return int(self._entry(split)["tokens"])

    def documents(self, split: str, wanted: Container[int] | None = None) -> Iterator[bytes]:
        """The split's documents, decoded from the tokens: the exact bytes that went in.

        Args:
            split: a split of the set.
            wanted: numbers of the documents to decode, from 0; by default all.
        """
        tokens = self.tokens(split)
        ends = np.flatnonzero(tokens == self.tokenizer.eot_id)
        for number, (start, end) in enumerate(pairwise(ends.tolist())):
            if wanted is None or number in wanted:
                parts = range(start + 1, end, _DECODED)  # a document may be the whole text
                yield b"".join(
                    self.tokenizer.decode_bytes(tokens[at : min(at + _DECODED, end)].tolist())
                    for at in parts
                )

    def summary(self) -> dict[str, Any]:
        """The set in the few numbers that a result carries."""
        train, valid = self._entry("train"), self._entry("valid")
        return {
            "name": self.name,
            "sha256": self.manifest["sha256"],
            "tokenizer_sha256": self.manifest["tokenizer_sha256"],
            "vocab_size": self.manifest["vocab_size"],
            "train_bytes": train["bytes"],
            "train_tokens": train["tokens"],
            "valid_bytes": valid["bytes"],
            "valid_tokens": valid["tokens"],
            "bytes_per_token": train["bytes"] / train["tokens"],
        }

    def _entry(self, split: str) -> dict[str, Any]:
        entries: dict[str, dict[str, Any]] = self.manifest["splits"]
        if split not in entries:
            raise DataError(f"{self.name} has no split '{split}'. Its splits: {', '.join(entries)}")
        return entries[split]


def open_dataset(place: Path) -> Dataset | None:
    """The set in a folder; None where there is none or it is damaged."""
    try:
        manifest = json.loads((place / "manifest.json").read_text(encoding="utf-8"))
        width = np.dtype(manifest["dtype"]).itemsize
        whole = manifest["format"] == FORMAT and all(
            (place / entry["file"]).stat().st_size == (entry["tokens"] + 1) * width
            for entry in manifest["splits"].values()
        )
        dataset = Dataset(place, manifest)
        if whole and dataset.tokenizer.sha256 == manifest["tokenizer_sha256"]:
            ends = [dataset.tokens(split)[[0, -1]].tolist() for split in dataset.splits]
            train, valid = manifest["splits"]["train"], manifest["splits"]["valid"]
            if train and valid and all(end == [dataset.tokenizer.eot_id] * 2 for end in ends):
                return dataset
    except DAMAGED:
        pass
    return None
