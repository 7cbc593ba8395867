"""The scorers of `itera bench filter`: our models, two in contrast, KenLM, a byte n-gram.

A filter has one number a line, and its noise isn't known beforehand. So a scorer is judged by the
one statistic that separates best on other lines, on average over all settings. Of a model these are
the two that `itera score` filters by. The n-grams have more to choose from: `STATISTICS` of the
surprise of a line's symbols (words or bytes, and the end of the line).
"""

from __future__ import annotations

import importlib
import math
import os
import re
import shutil
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from itera_lite.bench.turns import Entry
from itera_lite.config import Unit
from itera_lite.engine.find import load_model, model_name
from itera_lite.engine.scorer import Scorer
from itera_lite.errors import DataError, UsageError
from itera_lite.evaluate.ngram import ByteNgram

Kind = Literal["model", "contrast", "kenlm", "ngram"]
Nats = list[NDArray[np.float64]]  # of each line: of each of its symbols
Scores = dict[str, NDArray[np.float64]]  # by statistic (N,)

KENLM_ORDER = 5
KENLM_MEMORY = "1G"  # that lmplz may use to sort
WINDOW = 3  # symbols
USUAL = "bits a byte"
SURPRISE = "surprise"
PER_SYMBOL = "nats a symbol"
DIFFERENCE = "bits a byte, difference"
_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
_LN10 = math.log(10)


def _worst_window(nats: NDArray[np.float64]) -> float:
    width = min(WINDOW, len(nats))
    sums = np.convolve(nats, np.ones(width), "valid")
    return float(sums.max()) / width


def _power_mean(power: int, of_bytes: bool, nats: NDArray[np.float64], size: int) -> float:
    return float((np.sum(nats**power) / (size if of_bytes else len(nats))) ** (1 / power))


STATISTICS: dict[str, Callable[[NDArray[np.float64], int], float]] = {
    USUAL: lambda nats, size: float(nats.sum()) / math.log(2) / size,
    PER_SYMBOL: lambda nats, size: float(nats.mean()),
    "nats in all": lambda nats, size: float(nats.sum()),
    **{
        f"{name} mean {per}": partial(_power_mean, power, per == "a byte")
        for power, name in ((2, "quadratic"), (3, "cubic"), (4, "quartic"))
        for per in ("a symbol", "a byte")
    },
    "worst symbol": lambda nats, size: float(nats.max()),
    f"worst {WINDOW} symbols in a row": lambda nats, size: _worst_window(nats),
}


class LineScorer(ABC):
    """Scores lines; the higher, the worse.

    Attributes:
        name: in the results.
        kind: what it is; ``how``: it works, in words.
        params: of a model; None: it isn't one.
        unit: that the model was trained on, where its file has it.
    """

    kind: Kind
    usual = USUAL

    def __init__(self, name: str, how: str) -> None:
        self.name, self.how = name, how
        self.params: int | None = None
        self.unit: Unit | None = None

    @abstractmethod
    def statistics(self, lines: Sequence[str]) -> Scores:
        """Every statistic of each line (N,), by name.

        Raises:
            DataError: one isn't finite.
        """

    @abstractmethod
    def read(self, lines: Sequence[str]) -> None:
        """Score the lines as fast as it can, for the time."""

    def _checked(self, found: Scores) -> Scores:
        if not all(np.isfinite(values).all() for values in found.values()):
            raise DataError(f"{self.name} gives a line a score that isn't finite")
        return found


class SymbolScorer(LineScorer):
    """A scorer that predicts a line symbol by symbol."""

    @abstractmethod
    def nats(self, lines: Sequence[str]) -> Nats:
        """The surprise of each symbol of each line, in nats."""

    def statistics(self, lines: Sequence[str]) -> Scores:
        nats, sizes = self.nats(lines), [len(line.encode("utf-8")) for line in lines]
        found = {
            name: np.array([of(each, size) for each, size in zip(nats, sizes, strict=True)])
            for name, of in STATISTICS.items()
        }
        return self._checked(found)


class ModelScorer(LineScorer):
    """A model in the native engine, on one thread, by what `itera score` filters by."""

    kind = "model"

    def __init__(self, path: Path) -> None:
        self.model = load_model(path)
        super().__init__(
            model_name(path),
            f"native engine ({self.model.isa}), one thread; a line begins after <|endoftext|>, "
            "and its end is scored",
        )
        self.params, self.unit = self.model.parameters, self.model.unit

    def statistics(self, lines: Sequence[str]) -> Scores:
        scores = self.model.score(lines)
        bits = np.array([score.bits_per_byte for score in scores])
        surprise = np.array([score.surprise for score in scores])
        return self._checked({USUAL: bits, SURPRISE: surprise})

    def read(self, lines: Sequence[str]) -> None:
        self.model.score(lines)


class ContrastScorer(LineScorer):
    """The difference of two models' bits per byte, as `itera score --good --bad` has it."""

    kind = "contrast"
    usual = DIFFERENCE

    def __init__(self, good: Path, bad: Path) -> None:
        self.scorer = Scorer(good, bad=bad)
        names = [model_name(path) for path in (good, bad)]
        super().__init__(" less ".join(names), "bits per byte of the first less those of the other")
        self.unit = self.scorer.unit

    def statistics(self, lines: Sequence[str]) -> Scores:
        scores = self.scorer.score(lines)
        return self._checked({DIFFERENCE: np.array(scores, dtype=np.float64)})

    def read(self, lines: Sequence[str]) -> None:
        self.scorer.score(lines)


class NgramScorer(SymbolScorer):
    """The project's byte n-gram."""

    kind = "ngram"

    def __init__(self, documents: Sequence[bytes], order: int) -> None:
        self.model = ByteNgram(documents, order)
        super().__init__(
            f"byte {order}-gram",
            "interpolated modified Kneser-Ney over bytes, counted on the training text, in NumPy",
        )

    def nats(self, lines: Sequence[str]) -> Nats:
        encoded = [line.encode("utf-8") for line in lines]
        ends = np.cumsum([len(line) + 1 for line in encoded])
        return np.split(self.model.nats(encoded), ends[:-1])

    def read(self, lines: Sequence[str]) -> None:
        self.nats(lines)


def words_of(line: str, lower: bool) -> str:
    """A line for KenLM: words and marks, a space between two."""
    return " ".join(_WORD.findall(line.lower() if lower else line))


class KenlmScorer(SymbolScorer):
    """KenLM with its own builder's model of words."""

    kind = "kenlm"
    usual = PER_SYMBOL

    def __init__(self, model: Any, lower: bool) -> None:
        case = "in lower case" if lower else "as they are written"
        super().__init__(
            f"KenLM {KENLM_ORDER}-gram",
            f"words and marks {case}, built by lmplz with its defaults on the training text; the "
            "line's begin and end are scored",
        )
        self._model, self.lower = model, lower

    def nats(self, lines: Sequence[str]) -> Nats:
        scores = self._model.full_scores
        return [
            np.array([-_LN10 * log10 for log10, _, _ in scores(words_of(line, self.lower))])
            for line in lines
        ]

    def read(self, lines: Sequence[str]) -> None:
        score, lower = self._model.score, self.lower
        for line in lines:
            score(words_of(line, lower))

    def read_words(self, sentences: Sequence[str]) -> None:
        """Score what `words_of` gave."""
        score = self._model.score
        for sentence in sentences:
            score(sentence)


def find_lmplz(given: Path | None) -> Path | str:
    """KenLM's builder; or why KenLM can't be compared here, in words.

    Args:
        given: the program, or the folder that it lies in; None: it is looked for on PATH.

    Raises:
        UsageError: there is no such program.
    """
    if given is not None:
        path = given / "lmplz" if given.is_dir() else given
        if not (path.is_file() and os.access(path, os.X_OK)):
            raise UsageError(
                f"--lmplz '{given}': expected KenLM's program lmplz, or the folder that holds it"
            )
    else:
        on_path = shutil.which("lmplz")
        if on_path is None:
            return (
                "KenLM's builder lmplz isn't on PATH (build it from the sources of the package "
                "kenlm with cmake, and name it with --lmplz)"
            )
        path = Path(on_path)
    if find_spec("kenlm") is None:
        return "the package kenlm isn't installed (pip install 'itera-lite[filter]')"
    return path


def build_kenlm(lmplz: Path, lines: Iterable[str], folder: Path, *, lower: bool) -> KenlmScorer:
    """Build a model of the training lines, and load it.

    Args:
        lmplz: the builder; ``build_binary`` beside it makes a file that loads and scores faster.
        folder: for its files.

    Raises:
        DataError: the builder fails.
    """
    text, arpa = folder / f"words-{lower}.txt", folder / f"words-{lower}.arpa"
    with text.open("w", encoding="utf-8") as file:
        file.writelines(words_of(line, lower) + "\n" for line in lines)
    options = ["-o", str(KENLM_ORDER), "-S", KENLM_MEMORY, "-T", str(folder)]
    files = ["--text", str(text), "--arpa", str(arpa)]
    # A small text has too few rare n-grams to estimate the discounts: lmplz then needs leave.
    _run([str(lmplz), *options, *files, "--discount_fallback"])
    model, binary = arpa, lmplz.with_name("build_binary")
    if binary.is_file():
        model = arpa.with_suffix(".binary")
        _run([str(binary), str(arpa), str(model)])
    kenlm = importlib.import_module("kenlm")
    return KenlmScorer(kenlm.Model(str(model)), lower)


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except OSError as error:
        raise DataError(f"{command[0]} can't be run: {error.strerror or error}") from error
    if done.returncode:
        message = done.stderr.decode(errors="replace").strip().splitlines()[-3:]
        raise DataError(f"{command[0]} failed with {done.returncode}: {' '.join(message)}")


class Reading(Entry[float]):
    """A scorer reading lines; its samples are MB a second of this process's CPU time."""

    def __init__(self, name: str, read: Callable[[], None], n_bytes: int) -> None:
        super().__init__(name=name)
        self._read, self._bytes = read, n_bytes

    def measure(self) -> float:
        begin = time.process_time()
        self._read()
        return self._bytes / 1e6 / (time.process_time() - begin)
