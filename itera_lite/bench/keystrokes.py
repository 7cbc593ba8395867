"""Measures how many keystrokes completions save: what `itera bench complete` does.

Held-out text is typed once with the offers of the model, and once with those of a word trigram
model of the training text. The rules, the same for both:

- Every character of the text is a keystroke. Spaces, marks and line breaks are always typed.
- Before every letter of a word, the first one included, the completions of the text up to there
  are asked for. As soon as the rest of the word is among them, it is taken with one keystroke,
  where it has at least two letters. A taken word brings no space along.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from itera_lite.data.corpus import Corpus
from itera_lite.engine import Model
from itera_lite.errors import DataError
from itera_lite.evaluate.documents import sample_documents
from itera_lite.evaluate.words import BEGIN, SYMBOL, WORD, WordTrigrams
from itera_lite.machine.load import LoadMeter
from itera_lite.machine.provenance import Provenance
from itera_lite.records import Keystrokes, ModelDescription, Params, Typing

MODEL, FLOOR = "model", "word trigrams"
MAX_TRAIN_BYTES = 2**24  # of the text that the floor counts

# The text up to the cursor, the two symbols before the word there, its letters so far
Complete = Callable[[str, tuple[str, str], str], Sequence[str]]


@dataclass
class Typist:
    """Types texts with the offers of a completer, and counts."""

    complete: Complete
    keys: int = 0
    taken: int = 0
    seconds: list[float] = field(default_factory=list)  # of each call

    def type(self, document: str) -> None:
        before = (BEGIN, BEGIN)
        self.keys += document.count(" ")
        for symbol in SYMBOL.finditer(document):
            if WORD.match(symbol[0]):
                self._type_word(document, symbol.start(), symbol[0], before)
            else:
                self.keys += 1
            before = (before[1], symbol[0])

    def _type_word(self, document: str, start: int, word: str, before: tuple[str, str]) -> None:
        for typed in range(len(word) - 1):
            begin = time.perf_counter()
            offered = self.complete(document[: start + typed], before, word[:typed])
            self.seconds.append(time.perf_counter() - begin)
            if word[typed:] in offered:
                self.keys += typed + 1
                self.taken += 1
                return
        self.keys += len(word)

    def record(self, characters: int) -> Typing:
        median, p99 = np.percentile(self.seconds, [50, 99]) if self.seconds else (0.0, 0.0)
        return Typing(
            keystrokes=self.keys,
            saved=1 - self.keys / characters,
            words_taken=self.taken,
            calls=len(self.seconds),
            median_ms=1e3 * float(median),
            p99_ms=1e3 * float(p99),
        )


def measure_keystrokes(
    name: str, model: Model, corpus: Corpus, *, split: str, offered: int, max_bytes: int
) -> Keystrokes:
    """Type held-out documents of a set with both completers, one document after the other.

    Args:
        name: of the model.
        model: it.
        corpus: the set; the floor counts its training documents, 16 MiB of them at most.
        split: of it, which is typed.
        offered: completions that are offered at a time.
        max_bytes: of the text that is typed: a random choice of documents (fixed seed).

    Raises:
        DataError: there is nothing to type, or no word to count.
    """
    train = sample_documents(corpus.splits["train"], MAX_TRAIN_BYTES)
    floor = WordTrigrams(document.decode("utf-8") for document in train)
    completer = model.completer()
    typists = {
        MODEL: Typist(
            lambda text, before, typed: [c.text for c in completer.complete(text, offered)]
        ),
        FLOOR: Typist(lambda text, before, typed: floor.complete(before, typed, offered)),
    }
    texts = sample_documents(corpus.splits[split], max_bytes)
    documents = [document.decode("utf-8", "ignore") for document in texts]  # one may be cut
    if not any(documents):
        raise DataError(
            f"--max-bytes {max_bytes} leaves no character to type: expected some kilobytes"
        )
    meter = LoadMeter()
    for document in tqdm(documents, desc="bench complete", unit="document", disable=None):
        for typist in typists.values():
            typist.type(document)
    load = meter.lap()
    characters = sum(map(len, documents))
    return Keystrokes(
        model=ModelDescription(
            name=name,
            family="transformer" if model.architecture == "llama" else "itera",
            params=Params(model.parameters),
        ),
        source=corpus.name,
        split=split,
        documents=len(documents),
        characters=characters,
        words=sum(len(WORD.findall(document)) for document in documents),
        offered=offered,
        train_bytes=sum(map(len, train)),
        completers={who: typist.record(characters) for who, typist in typists.items()},
        provenance=Provenance.now(engine_isa=model.isa, load_by_others=load.by_others),
    )
