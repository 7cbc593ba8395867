"""A training that goes on from the weights of a checkpoint: what it begins with, and its quality on
the new text and on the earlier one, before and after."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from itera_lite.checkpoint.folder import LAST, load_checkpoint
from itera_lite.checkpoint.weights import weights_sha256
from itera_lite.config import ModelConfig, Unit
from itera_lite.data.prepare import Dataset, prepare
from itera_lite.data.tokenizer import Tokenizer
from itera_lite.errors import IteraError
from itera_lite.evaluate.bits import first_bytes, score_documents
from itera_lite.files import folder_name
from itera_lite.model import LanguageModel
from itera_lite.records import Continuation, DatasetDescription, Source, Summary, TextBefore
from itera_lite.train.recipe import CONTINUED_RATE
from itera_lite.workers import Workers

# Of each validation text, before and after. Both scores are of the same bytes, so their difference
# is far surer than either.
COMPARED_BYTES = 200_000


@dataclass(frozen=True)
class Beginning:
    """The checkpoint that a training goes on from, loaded. The training changes ``model``."""

    folder: Path
    model: LanguageModel
    tokenizer: Tokenizer
    sha256: str

    @classmethod
    def load(cls, folder: Path) -> Beginning:
        """Raises `CheckpointError` or `ConfigError` where it is no checkpoint of ours."""
        return cls(folder, *load_checkpoint(folder), weights_sha256(folder))

    @property
    def name(self) -> str:
        """Of the run that wrote the checkpoint."""
        return folder_name(self.folder).removesuffix(LAST)

    @property
    def shape(self) -> ModelConfig:
        return self.model.config

    def measure(
        self, dataset: Dataset, source: str, results: Path, seq_len: int, workers: Workers
    ) -> Continuation:
        """Score the model, before it is trained, on the new text and on the earlier one.

        Args:
            dataset: the new text, in the model's tokens; ``source``: how it was named.
            results: where the checkpoint's summary names the earlier text.
            seq_len: longest window, in tokens.
        """

        def score(text: Dataset, name: str) -> TextBefore:
            bits, n_bytes = _bits(self.model, self.tokenizer, text, seq_len, workers)
            return TextBefore(name, text.manifest["sha256"], n_bytes, bits, unit=text.unit)

        earlier, missing = None, ""
        text = self._earlier(results)
        if isinstance(text, str):
            missing = text
        elif text.sha256 == dataset.manifest["sha256"]:
            missing = "it is the same text"
        else:
            found = _find(text.source, text.sha256, self.tokenizer, text.unit)
            if isinstance(found, str):
                missing = found
            else:
                earlier = score(found, text.source)
        return Continuation(
            start=Source(self.name, "start", self.sha256),
            learning_rate_factor=CONTINUED_RATE,
            text=score(dataset, source),
            earlier=earlier,
            earlier_missing=missing,
        )

    def _earlier(self, results: Path) -> DatasetDescription | str:
        """The record of the text that the checkpoint was trained on, or why there is none."""
        path = results / f"{self.name}_summary.json"
        try:
            dataset = Summary.read(path).dataset
        except IteraError:
            return f"'{path}', where what '{self.name}' was trained on would stand, can't be read"
        if dataset is None:
            return f"'{path}' doesn't name the text that '{self.name}' was trained on"
        if dataset.tokenizer_sha256 != self.tokenizer.sha256:
            return f"'{path}' is about another model than '{self.folder}'"
        return dataset


def after(
    continuation: Continuation,
    model: LanguageModel,
    tokenizer: Tokenizer,
    dataset: Dataset,
    seq_len: int,
    workers: Workers,
) -> Continuation:
    """The record with the scores of the trained model on the same texts."""
    bits, _ = _bits(model, tokenizer, dataset, seq_len, workers)
    text, earlier = replace(continuation.text, after=bits), continuation.earlier
    missing = continuation.earlier_missing
    if earlier is not None:
        found = _find(earlier.source, earlier.sha256, tokenizer, earlier.unit)
        if isinstance(found, str):
            missing = found
        else:
            bits, _ = _bits(model, tokenizer, found, seq_len, workers)
            earlier = replace(earlier, after=bits)
    return replace(continuation, text=text, earlier=earlier, earlier_missing=missing)


def in_words(continuation: Continuation) -> list[str]:
    """Both texts, before and after, a line each."""

    def line(text: TextBefore, what: str) -> str:
        now = "not scored" if text.after is None else f"{text.after:.4f}"
        return f"{what} ({text.source}): {text.before:.4f} before, {now} after"

    lines = [f"bits per byte of '{continuation.start.name}', trained further:"]
    lines.append("  " + line(continuation.text, "on the new text"))
    if continuation.earlier is not None:
        lines.append("  " + line(continuation.earlier, "on the earlier text"))
    if continuation.earlier_missing:
        lines.append(f"  on the earlier text: not scored, for {continuation.earlier_missing}")
    return lines


def _find(source: str, sha256: str, tokenizer: Tokenizer, unit: Unit) -> Dataset | str:
    """A set in the model's tokens, or why it can't be had."""
    if source == "-":
        return "it was read from standard input"
    try:
        found = prepare(source, tokenizer=tokenizer, unit=unit, quiet=True)
    except IteraError as error:
        return f"it can't be had: {error}"
    if found.manifest["sha256"] != sha256:
        return f"'{source}' isn't the text that it was then"
    return found


def _bits(
    model: LanguageModel, tokenizer: Tokenizer, dataset: Dataset, seq_len: int, workers: Workers
) -> tuple[float, int]:
    """Bits per byte on the beginning of the validation text, and its bytes."""
    texts = first_bytes(dataset.documents("valid"), COMPARED_BYTES)
    score = score_documents(model, tokenizer, texts, seq_len=seq_len, workers=workers)
    return score.bpb, score.bytes
