"""Baselines: what compressors and an n-gram model reach on the same text.

A language model that doesn't beat these has learnt nothing worth its size. Each is given the same
training text as the model, as far as it can use it, and scored on the same held-out text in bits
per byte. PPMd and zpaq, the strong ones among the compressors, are measured where they are
installed: the package pyppmd and the program zpaq.
"""

from __future__ import annotations

import bz2
import hashlib
import lzma
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import msgspec

from itera_lite.errors import DataError
from itera_lite.evaluate.documents import sample_documents
from itera_lite.evaluate.ngram import ByteNgram
from itera_lite.files import write_json
from itera_lite.records import Baseline

NGRAM_ORDER = 10
MAX_TRAIN_BYTES = 2**24
PPMD_ORDER = 16  # 12 needs 0.6 % more bits on TinyStories
PPMD_MEMORY = 2**29
VERSION = 2  # of the cached numbers: raise it when a method changes

_SEPARATOR = b"\xff"  # never part of UTF-8; marks the end of a document, for one byte each
_XZ_FILTER = {"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 2**26}

_GROWTH = "when the held-out text is appended to the training text"
HOW = {
    "xz": f"growth of the xz file (preset 9, 64 MiB dictionary) {_GROWTH}",
    "ppmd": f"growth of the PPMd file (variant H, order {PPMD_ORDER}, 512 MiB) {_GROWTH}",
    "zpaq": f"growth of the zpaq archive (-m5) {_GROWTH}",
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
    """Bits per byte of compressors and a Kneser-Ney byte model on held-out documents.

    All are complete codes for the documents, borders included. 16 MB of training text take
    about half a minute and 1 GB of memory; zpaq, two minutes more.

    Args:
        train: training documents (UTF-8). Above ``max_train_bytes`` a random choice of
            them (fixed seed) is used.
        held_out: documents to code.
        max_train_bytes: training text to use at most.
        order: length of the longest n-gram.
        cache: a folder that keeps the results by the text's hash; None keeps nothing.

    Returns:
        By name: ``xz``, ``bz2``, ``kneser_ney``, and ``ppmd`` and ``zpaq`` where they are
        installed.

    Raises:
        DataError: where either text is empty, or zpaq fails.
    """
    if not any(train) or not any(held_out):
        raise DataError("baselines need text: expected at least one document in each split")
    train = sample_documents(train, max_train_bytes)
    sizes = _compressors()
    kept = _cache_file(cache, train, held_out, order, [*sizes])
    known = None if kept is None else _known(kept)
    if known is not None:
        return known
    n_bytes, n_train = sum(map(len, held_out)), sum(map(len, train))
    before = _join(train)
    both = before + _join(held_out)
    with ThreadPoolExecutor(2) as pool:  # the compressors leave Python's lock free
        files: dict[str, list[Future[int]]] = {
            name: [pool.submit(size, text) for text in (both, before)]
            for name, size in sizes.items()
        }
        ngram = ByteNgram(train, order).bits_per_byte(held_out)
        grown = {name: after.result() - alone.result() for name, (after, alone) in files.items()}
    alone_bz2 = len(bz2.compress(_join(held_out), 9))
    result = {
        **{name: Baseline(8 * more / n_bytes, n_train, HOW[name]) for name, more in grown.items()},
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
    return result if result.keys() <= HOW.keys() else None


def _join(documents: Sequence[bytes]) -> bytes:
    return b"".join(document + _SEPARATOR for document in documents)


def _compressors() -> dict[str, Callable[[bytes], int]]:
    """Those that are here: each gives the bytes of the compressed text."""
    found: dict[str, Callable[[bytes], int]] = {"xz": _xz_size}
    if find_spec("pyppmd"):
        found["ppmd"] = _ppmd_size
    if shutil.which("zpaq"):
        found["zpaq"] = _zpaq_size
    return found


def _ppmd_size(text: bytes) -> int:
    import pyppmd

    encoder = pyppmd.Ppmd7Encoder(PPMD_ORDER, PPMD_MEMORY)
    return len(encoder.encode(text)) + len(encoder.flush())


def _zpaq_size(text: bytes) -> int:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "text").write_bytes(text)
        command = ["zpaq", "add", "archive.zpaq", "text", "-m5", "-t1"]
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
        if done.returncode:
            message = (done.stderr or done.stdout).decode(errors="replace").strip()
            raise DataError(f"`{' '.join(command)}` failed with {done.returncode}: {message}")
        return (Path(folder) / "archive.zpaq").stat().st_size


def _xz_size(text: bytes) -> int:
    compressor = lzma.LZMACompressor(lzma.FORMAT_XZ, filters=[_XZ_FILTER])
    return len(compressor.compress(text)) + len(compressor.flush())


def _cache_file(
    folder: str | Path | None,
    train: Sequence[bytes],
    held_out: Sequence[bytes],
    order: int,
    compressors: Sequence[str],
) -> Path | None:
    if folder is None:
        return None
    digest = hashlib.sha256(f"{VERSION} {order} {' '.join(compressors)}".encode())
    add: Callable[[bytes], None] = digest.update
    for documents in (train, held_out):
        for document in documents:
            add(len(document).to_bytes(8, "little") + document)
        add(b"|")
    return Path(folder) / f"baselines-{digest.hexdigest()[:24]}.json"
