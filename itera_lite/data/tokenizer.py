"""A byte-level BPE tokenizer, trained on the set; decoding returns exactly the bytes encoded.

The files are Hugging Face's own (`tokenizer.json`, `tokenizer_config.json`),
and the pre-tokenizer is GPT-2's, which llama.cpp knows by that name. In a
tokenizer trained here, ids 0-255 are the bytes, 256 is ``<|endoftext|>`` and
the merges follow. ``<|endoftext|>`` is never produced by encoding: text that
holds these 13 characters is text.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from itera_lite.config import Unit
from itera_lite.data.units import unit_of
from itera_lite.errors import DataError, TextTooSmall, UsageError
from itera_lite.files import is_file, is_folder, read_object, write_json, write_text

EOT = "<|endoftext|>"
CONFIG = "tokenizer_config.json"
_UNIT = "itera_unit"  # its key for `Tokenizer.unit`
MIN_VOCAB, MAX_VOCAB = 256, 65_536
TRAINING_SAMPLE_BYTES = 64_000_000

_PIECE_CHARS = 16_384  # long texts are encoded in pieces of about this many characters
_LEARN_BYTES = 1_020  # longest pre-token in training: a multiple of the 1-4 bytes of a character
_GROUP_CHARS = 2_000_000  # texts are encoded this many characters at a time, which bounds memory
# Here a GPT-2 pre-token always ends, so cutting here changes no token.
_BORDER = re.compile(r"(?<=[^\s\x1c-\x1f\u180e\u200b\ufeff])(?=\n| [A-Za-z])")
_LONG_SPACE = re.compile(rf"\s{{{_LEARN_BYTES // 4}}}")
_NOT_UTF8 = re.compile("([\udc80-\udcff]+)")
# What a BPE model may do besides applying its merges; a GGUF file can't hold any of it.
_BPE_EXTRAS = ("dropout", "ignore_merges", "continuing_subword_prefix", "end_of_word_suffix")


def _byte_characters() -> list[str]:
    """GPT-2's printable character for each of the 256 bytes."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]


_BYTE_TO_CHARACTER = _byte_characters()
_CHARACTER_TO_BYTE = {character: byte for byte, character in enumerate(_BYTE_TO_CHARACTER)}


class Tokenizer:
    """A byte-level BPE tokenizer. Make one with `train` or `load`.

    Attributes:
        vocab_size: number of ids, ``<|endoftext|>`` included.
        eot_id: id of ``<|endoftext|>``, which ends every document.
        sha256: hash of what decides the ids (vocabulary, merges, pre-tokenizer).
            Tokenizers with equal hashes give equal ids.
        token_bytes: the bytes of each id; those of ``<|endoftext|>`` are empty.
        unit: what of a text stands between two ``<|endoftext|>`` of the tokens that the model of
            this tokenizer was trained on (`itera_lite.data.units`); None where it isn't known.
            No id depends on it, nor the hash.
    """

    def __init__(
        self, backend: tokenizers.Tokenizer, *, origin: str = "tokenizer", unit: Unit | None = None
    ) -> None:
        state = json.loads(backend.to_str())
        model = state["model"]
        added = {token["content"]: token for token in state["added_tokens"]}
        if not _is_byte_level(state) or set(added) != {EOT} or not added[EOT]["special"]:
            raise DataError(
                f"{origin}: expected a byte-level BPE tokenizer (GPT-2 pre-tokenizer, no "
                f"normalizer, no prefix space, no dropout) with {EOT} as its only added token. "
                "Make one with Tokenizer.train."
            )
        vocab: dict[str, int] = {**model["vocab"], EOT: added[EOT]["id"]}
        if sorted(vocab.values()) != list(range(len(vocab))):
            raise DataError(
                f"{origin}: expected the ids 0..{len(vocab) - 1}, each once. "
                "The file is damaged; take it again from where it came."
            )
        self.unit = unit
        self._backend = backend
        self._backend.encode_special_tokens = True
        self._backend.no_padding()
        self._backend.no_truncation()
        self.vocab_size = len(vocab)
        self.eot_id = vocab[EOT]
        self.token_bytes: list[bytes] = [b""] * self.vocab_size
        for token, index in vocab.items():
            if token != EOT:
                self.token_bytes[index] = bytes(_CHARACTER_TO_BYTE[c] for c in token)
        self._byte_ids = [vocab[character] for character in _BYTE_TO_CHARACTER]
        self._merges = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
        self.sha256 = vocabulary_sha256(vocab, self._merges)

    @classmethod
    def train(
        cls,
        documents: Iterable[bytes | str],
        vocab_size: int,
        progress: Callable[[int], object] | None = None,
    ) -> Tokenizer:
        """Train on the documents. The same documents give the same tokenizer.

        Time grows in proportion to the text, whatever it holds. Ctrl-C stops it at once.

        Args:
            documents: the text; bytes that aren't UTF-8 are skipped over.
            progress: called several times a second with the bytes that were read so far.
            vocab_size: ids wanted, ``<|endoftext|>`` included, from 257 to
                65,536. 256 means "bytes only" and gives 257: the bytes and
                ``<|endoftext|>``, so that every byte keeps an id of its own.

        Raises:
            UsageError: ``vocab_size`` is out of range.
            TextTooSmall: the text supports fewer merges; the message says how many.
        """
        check_vocab_size(vocab_size)
        merges: list[tuple[str, str]] = []
        n_bytes = 0
        if vocab_size > 257:

            def texts() -> Iterator[str]:
                nonlocal n_bytes
                for document in documents:
                    for piece in _learnable(_to_bytes(document).decode("utf-8", "ignore")):
                        n_bytes += len(piece.encode("utf-8"))
                        yield piece

            learner = tokenizers.Tokenizer(models.BPE())
            learner.pre_tokenizer = _pre_tokenizer()
            trainer = trainers.BpeTrainer(
                vocab_size=vocab_size - 1,
                min_frequency=2,
                initial_alphabet=sorted(_BYTE_TO_CHARACTER),
                show_progress=False,
            )
            report = None if progress is None else (lambda: progress(n_bytes))
            _learn(learner, trainer, texts(), report)
            merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
        vocab = {character: byte for byte, character in enumerate(_BYTE_TO_CHARACTER)}
        vocab[EOT] = 256
        for left, right in merges:
            vocab.setdefault(left + right, len(vocab))
        if len(vocab) < vocab_size:
            raise TextTooSmall(
                f"vocab_size={vocab_size}: the training text ({n_bytes:,} bytes) supports at most "
                f"{len(vocab)}, because a merge has to occur twice. Give a vocab_size of "
                f"{len(vocab)} or less, or more text."
            )
        backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
        backend.pre_tokenizer = _pre_tokenizer()
        backend.decoder = decoders.ByteLevel()
        backend.add_special_tokens([AddedToken(EOT, special=True, normalized=False)])
        return cls(backend)

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read ``tokenizer.json``, given as the file or as its folder, and the unit beside it.

        Raises:
            DataError: there is none, it isn't a tokenizer of this kind, or
                ``tokenizer_config.json`` beside it can't be read.
        """
        path = Path(path)
        file = path / "tokenizer.json" if is_folder(path) else path
        if not is_file(file):
            raise DataError(f"{path}: expected a tokenizer.json, or a folder that holds one")
        try:
            backend = tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(f"'{file}' can't be read: {error.strerror}") from None
        except Exception as error:  # the library raises bare Exception
            raise DataError(f"{file}: not a readable tokenizer.json ({error})") from error
        config = file.with_name(CONFIG)
        given = read_object(config, DataError).get(_UNIT) if is_file(config) else None
        try:
            return cls(backend, origin=str(file), unit=unit_of(given))
        except UsageError as error:
            raise DataError(f"'{config}', {_UNIT}: {error}. Update Itera-Lite") from None

    def with_unit(self, unit: Unit) -> Tokenizer:
        """The same tokenizer, for a model that is trained on another unit of text."""
        other = copy.copy(self)
        other.unit = unit
        return other

    def save(self, folder: str | Path) -> Path:
        """Write ``tokenizer.json`` and ``tokenizer_config.json``; returns the folder."""
        folder = Path(folder)
        write_text(folder / "tokenizer.json", self._backend.to_str(pretty=True) + "\n")
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": EOT,
            "eos_token": EOT,
            "pad_token": EOT,
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
        }
        if self.unit is not None:
            config[_UNIT] = self.unit
        write_json(folder / CONFIG, config)
        return folder

    def encode(self, text: str | bytes) -> list[int]:
        """Ids of the text, without ``<|endoftext|>``. Any bytes may be given."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str | bytes]) -> list[list[int]]:
        """Ids of each text, as `encode` gives them; texts are encoded in parallel."""
        result: list[list[int]] = [[] for _ in texts]
        for index, ids in self._encode_pieces(texts, repeat([])):
            result[index].extend(ids)
        return result

    def encode_stream(
        self, documents: Iterable[bytes], ends: Iterable[bool] | None = None
    ) -> Iterator[NDArray[np.uint32]]:
        """Ids of the documents, each followed by ``<|endoftext|>``, some at a time.

        The concatenation is the token stream; memory stays bounded even for
        one document of a gigabyte.

        Args:
            documents: documents, or pieces of documents that are cut at a `next_border`.
            ends: whether the document ends, for each piece; by default all do.
        """
        buffer: list[int] = []
        end = repeat([self.eot_id]) if ends is None else ([self.eot_id] * e for e in ends)
        for _, ids in self._encode_pieces(documents, end):
            buffer.extend(ids)
            if len(buffer) >= 1_000_000:
                yield np.array(buffer, dtype=np.uint32)
                buffer = []
        yield np.array(buffer, dtype=np.uint32)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes of the ids; ``<|endoftext|>`` gives none."""
        return b"".join([self.token_bytes[index] for index in ids])

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids; a character that is cut in two becomes U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def vocabulary(self) -> tuple[list[str], list[str]]:
        """Token strings by id and merges by rank ("left right"), in GPT-2's byte characters."""
        tokens = ["".join(_BYTE_TO_CHARACTER[b] for b in token) for token in self.token_bytes]
        tokens[self.eot_id] = EOT
        return tokens, [" ".join(pair) for pair in self._merges]

    def _encode_pieces(
        self, texts: Iterable[str | bytes], ends: Iterable[list[int]]
    ) -> Iterator[tuple[int, list[int]]]:
        """(index of the text, ids of its next piece), in order; after each text, its end."""
        group: list[tuple[int, str | list[int]]] = []
        size = 0
        for index, (text, end) in enumerate(zip(texts, ends, strict=False)):
            for piece in chain(self._split(text), [end]):
                group.append((index, piece))
                size += len(piece)
                if size >= _GROUP_CHARS:
                    yield from self._encode_group(group)
                    group, size = [], 0
        yield from self._encode_group(group)

    def _encode_group(
        self, group: list[tuple[int, str | list[int]]]
    ) -> Iterator[tuple[int, list[int]]]:
        strings = [piece for _, piece in group if isinstance(piece, str)]
        encoded = iter(self._backend.encode_batch_fast(strings, add_special_tokens=False))
        for index, piece in group:
            yield index, (next(encoded).ids if isinstance(piece, str) else piece)

    def _split(self, text: str | bytes) -> Iterator[str | list[int]]:
        """Pieces of valid text, and ids of the bytes between them that aren't UTF-8."""
        raw = _to_bytes(text)
        try:
            yield from _pieces(raw.decode("utf-8"))
        except UnicodeDecodeError:
            for number, part in enumerate(_NOT_UTF8.split(raw.decode("utf-8", "surrogateescape"))):
                if number % 2:
                    yield [self._byte_ids[ord(character) - 0xDC00] for character in part]
                else:
                    yield from _pieces(part)


def vocabulary_sha256(vocab: Mapping[str, int], merges: Sequence[Sequence[str]]) -> str:
    """The hash of what decides the ids: see `Tokenizer.sha256`.

    Args:
        vocab: id of each token, in GPT-2's byte characters; ``<|endoftext|>`` as it is.
        merges: (left, right) by rank.
    """
    canonical = {"vocab": vocab, "merges": merges, "pre_tokenizer": "gpt-2", "eot": EOT}
    text = json.dumps(canonical, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _is_byte_level(state: dict[str, Any]) -> bool:
    """Whether a tokenizer works as those trained here: GPT-2's pre-tokens, then merges alone."""
    model, cut = state["model"], state["pre_tokenizer"] or {}
    vocab = model.get("vocab")
    return (
        model["type"] == "BPE"
        and isinstance(vocab, dict)
        and all(character in vocab for character in _BYTE_TO_CHARACTER)
        and all(set(token) <= _CHARACTER_TO_BYTE.keys() for token in vocab if token != EOT)
        and not any(model.get(field) for field in _BPE_EXTRAS)
        and cut.get("type") == "ByteLevel"
        and not cut["add_prefix_space"]
        and cut.get("use_regex", True)
        and state["normalizer"] is None
    )


def check_vocab_size(vocab_size: int) -> None:
    """Check a number of ids.

    Raises:
        UsageError: it is out of range, or no whole number.
    """
    if not isinstance(vocab_size, int) or not MIN_VOCAB <= vocab_size <= MAX_VOCAB:
        raise UsageError(
            f"vocab_size={vocab_size}: expected {MIN_VOCAB} (bytes only) to {MAX_VOCAB:,}"
        )


def _learn(
    learner: tokenizers.Tokenizer,
    trainer: trainers.BpeTrainer,
    texts: Iterator[str],
    waiting: Callable[[], object] | None,
) -> None:
    """Train in a thread, because the library holds up Python's signals while it computes.

    Raises:
        KeyboardInterrupt: after Ctrl-C. The thread ends when it asks for more text; what it
            computes after the last text can't be stopped, and ends with the process.
    """
    stop, all_read, done = threading.Event(), threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def stoppable() -> Iterator[str]:
        for text in texts:
            if stop.is_set():
                raise InterruptedError
            yield text
        all_read.set()

    def work() -> None:
        try:
            learner.train_from_iterator(stoppable(), trainer=trainer)
        except BaseException as error:
            failures.append(error)
        finally:
            done.set()

    threading.Thread(target=work, name="train-tokenizer", daemon=True).start()
    try:
        while not done.wait(0.1):
            if waiting is not None:
                waiting()
    except BaseException:
        stop.set()
        while not (all_read.is_set() or done.wait(0.01)):
            pass
        raise
    if failures:
        raise failures[0]


def _learnable(text: str) -> Iterator[str]:
    """The text in pieces without a pre-token of more than `_LEARN_BYTES` bytes.

    The trainer's time grows with the square of a pre-token's length, so the longer ones are cut.
    Text without such pre-tokens is learned from as it is.
    """
    for piece in _pieces(text):
        if not _may_hold_long(piece):
            yield piece
            continue
        start = 0
        for token, (begin, end) in _pre_tokenizer().pre_tokenize_str(piece):
            if len(token) > _LEARN_BYTES:  # of a character a byte
                for cut in range(begin, end, _LEARN_BYTES // 4):
                    if cut > start:
                        yield piece[start:cut]
                        start = cut
        yield piece[start:]


def _may_hold_long(piece: str) -> bool:
    """Whether a pre-token may exceed `_LEARN_BYTES`; cheap, and true too often.

    A pre-token is white space only, or holds none after its first character.
    """
    longest = max(map(len, piece.replace("\n", " ").split(" ")))
    return longest >= _LEARN_BYTES // 4 - 1 or _LONG_SPACE.search(piece) is not None


def _pre_tokenizer() -> pre_tokenizers.ByteLevel:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _to_bytes(text: str | bytes) -> bytes:
    if isinstance(text, bytes):
        return text
    try:
        return text.encode("utf-8", "surrogateescape")  # as the operating system gives arguments
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def _pieces(text: str) -> Iterator[str]:
    """The text in pieces whose tokens together are those of the whole text."""
    start = 0
    while len(text) - start > _PIECE_CHARS:
        border = next_border(text, start + _PIECE_CHARS)
        if border is None:
            break
        yield text[start:border]
        start = border
    if start < len(text):
        yield text[start:]


def next_border(text: str, start: int) -> int | None:
    """The first place from ``start`` on where a text can be cut without changing its tokens.

    Whatever follows the text, the tokens of the two parts are those of the whole. None: there is
    no such place.
    """
    border = _BORDER.search(text, start)
    return None if border is None else border.start()


def training_sample(
    documents: Sequence[bytes], limit: int = TRAINING_SAMPLE_BYTES
) -> tuple[Iterator[bytes], int]:
    """An even sample of the documents for `Tokenizer.train`, and its size in bytes.

    All of them up to ``limit`` bytes; beyond it, pieces evenly spread over
    the whole, so that the size is about ``limit``.
    """
    total = sum(map(len, documents))
    if total <= limit:
        return iter(documents), total
    spans = sample_spans(map(len, documents), total, limit)
    return (documents[n][start : start + size] for n, start, size in spans), limit


def sample_spans(
    lengths: Iterable[int], total: int, limit: int = TRAINING_SAMPLE_BYTES
) -> Iterator[tuple[int, int, int]]:
    """What `training_sample` takes of more than ``limit`` bytes: (document, start, size).

    Args:
        lengths: bytes of each document.
        total: bytes of all.
    """
    piece = 65_536
    credit = 0.0
    for number, length in enumerate(lengths):
        for start in range(0, length, piece):
            size = min(piece, length - start)
            credit += size * limit / total
            if credit >= size:
                credit -= size
                yield number, start, size
