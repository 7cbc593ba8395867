"""Floors: what compressors and counting reach on the same text.

A language model that doesn't beat these has learnt nothing worth its size. Each is given
the same training text as the model, as far as it can use it, and scored on the same
held-out text in bits per byte.
"""

from __future__ import annotations

import bz2
import hashlib
import json
import lzma
import random
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from itera_lite.errors import DataError
from itera_lite.evaluate.ngram import ByteNgram
from itera_lite.files import write_json

NGRAM_ORDER = 10
MAX_TRAIN_BYTES = 2**24
VERSION = 1  # of the cached numbers: raise it when a method changes

_SEPARATOR = b"\xff"  # never part of UTF-8: the ends of documents stay known, for a byte each
_XZ_FILTER = {"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 2**26}

HOW = {
    "xz": (
        "growth of the xz file (preset 9, 64 MiB dictionary) when the held-out text is "
        "appended to the training text"
    ),
    "bz2": "the held-out text alone (bzip2 -9 sorts blocks of 900 kB, so it can't learn more)",
    "kneser_ney": (
        "byte n-gram model, interpolated modified Kneser-Ney, counted on the training text; "
        "each document starts fresh, its end is scored"
    ),
}


def baselines(
    train: Sequence[bytes],
    held_out: Sequence[bytes],
    *,
    max_train_bytes: int = MAX_TRAIN_BYTES,
    order: int = NGRAM_ORDER,
    cache: str | Path | None = None,
) -> dict[str, dict[str, Any]]:
    """Bits per byte of xz, bzip2 and a Kneser-Ney byte model on held-out documents.

    All three are complete codes for the documents, borders included. 16 MB of training
    text take about half a minute and 1 GB of memory.

    Args:
        train: training documents (UTF-8). Above ``max_train_bytes`` a random choice of
            them (fixed seed) is used.
        held_out: documents to code.
        max_train_bytes: training text to use at most.
        order: length of the longest n-gram.
        cache: a folder that keeps the results by the text's hash; None keeps nothing.

    Returns:
        Per baseline: ``bpb``, ``train_bytes`` (training text used), ``how``, and for the
        n-gram model ``order``.

    Raises:
        DataError: where either text is empty.
    """
    if not any(train) or not any(held_out):
        raise DataError("baselines need text: expected at least one document in each split")
    train = sample_documents(train, max_train_bytes)
    kept = _cache_file(cache, train, held_out, order)
    known = None if kept is None else _known(kept)
    if known is not None:
        return known
    n_bytes, n_train = sum(map(len, held_out)), sum(map(len, train))
    with ThreadPoolExecutor(2) as pool:  # xz leaves Python's lock free
        before = _join(train)
        after = pool.submit(_xz_size, before + _join(held_out))
        alone = pool.submit(_xz_size, before)
        ngram = ByteNgram(train, order).bits_per_byte(held_out)
        xz = after.result() - alone.result()
    result: dict[str, dict[str, Any]] = {
        "xz": {"bpb": 8 * xz / n_bytes, "train_bytes": n_train},
        "bz2": {"bpb": 8 * len(bz2.compress(_join(held_out), 9)) / n_bytes, "train_bytes": 0},
        "kneser_ney": {"bpb": ngram, "order": order, "train_bytes": n_train},
    }
    for name, values in result.items():
        values["how"] = HOW[name]
    if kept is not None:
        try:
            write_json(kept, result)
        except OSError as error:
            print(
                f"note: the baselines aren't kept for the next time: '{kept}' can't be written "
                f"({error.strerror or error})",
                file=sys.stderr,
            )
    return result


def _known(path: Path) -> dict[str, dict[str, Any]] | None:
    """What was kept, unless it is missing, can't be read or is damaged."""
    try:
        result = dict(json.loads(path.read_text(encoding="utf-8")))
        complete = all(isinstance(result[name]["bpb"], int | float) for name in HOW)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return result if complete else None


def sample_documents(documents: Sequence[bytes], max_bytes: int) -> list[bytes]:
    """All documents, or a random choice of them (fixed seed) of at most ``max_bytes``.

    A single document that is longer is cut.
    """
    if sum(map(len, documents)) <= max_bytes:
        return list(documents)
    chosen: list[bytes] = []
    left = max_bytes
    for document in random.Random(0).sample(documents, len(documents)):
        if len(document) <= left:
            chosen.append(document)
            left -= len(document)
    return chosen or [documents[0][:max_bytes]]


def _join(documents: Sequence[bytes]) -> bytes:
    return b"".join(document + _SEPARATOR for document in documents)


def _xz_size(text: bytes) -> int:
    compressor = lzma.LZMACompressor(lzma.FORMAT_XZ, filters=[_XZ_FILTER])
    return len(compressor.compress(text)) + len(compressor.flush())


def _cache_file(
    folder: str | Path | None, train: Sequence[bytes], held_out: Sequence[bytes], order: int
) -> Path | None:
    if folder is None:
        return None
    digest = hashlib.sha256(f"{VERSION} {order}".encode())
    add: Callable[[bytes], None] = digest.update
    for documents in (train, held_out):
        for document in documents:
            add(len(document).to_bytes(8, "little") + document)
        add(b"|")
    return Path(folder) / f"baselines-{digest.hexdigest()[:24]}.json"
