"""Baselines: what compressors and an n-gram model reach on the same text.

A language model that doesn't beat these has learnt nothing worth its size. Each is given the same
training text as the model, as far as it can use it, and scored on the same held-out text in bits
per byte.
"""

from __future__ import annotations

import bz2
import hashlib
import lzma
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from itera_lite.errors import DataError
from itera_lite.evaluate.documents import sample_documents
from itera_lite.evaluate.ngram import ByteNgram
from itera_lite.files import write_json
from itera_lite.records import Baseline

NGRAM_ORDER = 10
MAX_TRAIN_BYTES = 2**24
VERSION = 1  # of the cached numbers: raise it when a method changes

_SEPARATOR = b"\xff"  # never part of UTF-8; marks the end of a document, for one byte each
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
) -> dict[str, Baseline]:
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
        By name: ``xz``, ``bz2`` and ``kneser_ney``.

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
    alone_bz2 = len(bz2.compress(_join(held_out), 9))
    result = {
        "xz": Baseline(8 * xz / n_bytes, n_train, HOW["xz"]),
        "bz2": Baseline(8 * alone_bz2 / n_bytes, 0, HOW["bz2"]),
        "kneser_ney": Baseline(ngram, n_train, HOW["kneser_ney"], order),
    }
    if kept is not None:
        try:
            write_json(kept, msgspec.to_builtins(result))
        except OSError as error:
            print(
                f"note: the baselines aren't kept for the next time: '{kept}' can't be written "
                f"({error.strerror or error})",
                file=sys.stderr,
            )
    return result


def _known(path: Path) -> dict[str, Baseline] | None:
    """What was kept, unless it is missing, can't be read or is damaged."""
    try:
        result = msgspec.json.decode(path.read_bytes(), type=dict[str, Baseline])
    except (OSError, ValueError, RecursionError):
        return None
    return result if result.keys() == HOW.keys() else None


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
