"""Aligns a teacher's tokens with a student's by bytes, where their tokenizers differ.

Where both tokenisations of the text have a border at the same byte, the teacher's distribution
over its next token becomes one over the student's next token: each of the teacher's tokens
gives its probability to the token with which the student's tokenizer begins the same bytes.

Exact: which positions are shared, and that a teacher's probabilities there still sum to 1. Exact
too, for pre-tokens (words) that the teacher has as one token: the student's tokenizer splits
such a word the same way in any text. Approximate: a teacher's token that stops inside a word;
the bytes after it might have made the student's tokenizer begin with a longer token. The
larger the teacher's vocabulary, the rarer that is: with 32,768 tokens against 2,048 on
TinyStories one position in 10,000. It is measured on the text, and a teacher for which it is
often so, such as one of single bytes, is refused. At positions where only the student has a
border, the teacher has no distribution, and the student learns from the text alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from itera_lite.data.tokenizer import Tokenizer
from itera_lite.errors import DataError, TokenizerMismatch

AGREEMENT = 0.95  # how often the teacher's true token must begin with the student's true one


@dataclass(frozen=True)
class Alignment:
    """Maps positions and probabilities of a teacher's tokens to a student's.

    Attributes:
        tokens: the text as the teacher tokenises it, with ``<|endoftext|>`` at both ends.
        positions: for each position of the student's stream the teacher's position that begins
            at the same byte, or -1.
        begins_with: (teacher's vocabulary,) the student's token that each begins with.
        vocab_size: the student's.
    """

    tokens: NDArray[Any]
    positions: NDArray[np.signedinteger[Any]]
    begins_with: Tensor
    vocab_size: int

    @classmethod
    def build(
        cls,
        documents: Iterable[bytes],
        stream: NDArray[Any],
        student: Tokenizer,
        teacher: Tokenizer,
    ) -> Alignment:
        """Tokenise the documents of the student's ``stream`` for the teacher, and align the two.

        Raises:
            DataError: the documents aren't those of the stream.
            TokenizerMismatch: on this text the teacher's tokens don't determine the student's
                next token.
        """
        eot = np.array([teacher.eot_id], dtype=np.uint32)
        tokens = np.concatenate([eot, *teacher.encode_stream(documents)])
        own, others = starts(stream, student), starts(tokens, teacher)
        if own[-1] != others[-1]:
            raise DataError(
                f"the student's stream ends at byte {own[-1]:,}, the teacher's at {others[-1]:,}: "
                "expected the same text. Prepare the set again"
            )
        found = np.searchsorted(others, own[:-1])
        positions: NDArray[np.signedinteger[Any]]
        positions = np.where(others[found] == own[:-1], found, -1)
        if len(tokens) < 2**31:
            positions = positions.astype(np.int32)
        begins_with = first_tokens(teacher, student)
        shared = np.flatnonzero(positions >= 0)
        guessed = begins_with.numpy()[tokens[positions[shared]].astype(np.int64)]
        agreement = float((guessed == stream[shared]).mean())
        if agreement < AGREEMENT:
            raise TokenizerMismatch(
                f"a teacher of {teacher.vocab_size:,} tokens can't teach a student of "
                f"{student.vocab_size:,} on this text: only {agreement:.0%} of its tokens begin "
                f"as the student's do, {AGREEMENT:.0%} are needed. Take a teacher whose "
                "vocabulary is larger than the student's and made for such text, or give the "
                "student the teacher's with --tokenizer"
            )
        return cls(tokens, positions, begins_with, student.vocab_size)

    def fold(self, probabilities: Tensor) -> Tensor:
        """(n, teacher's vocabulary) -> (n, student's vocabulary); each row keeps its sum."""
        folded = probabilities.new_zeros(probabilities.shape[0], self.vocab_size)
        return folded.index_add_(1, self.begins_with, probabilities)


def starts(tokens: NDArray[Any], tokenizer: Tokenizer) -> NDArray[np.int64]:
    """The byte at which each token begins; ``<|endoftext|>`` counts as one byte."""
    lengths = np.array([len(piece) or 1 for piece in tokenizer.token_bytes], dtype=np.int64)
    ends = np.cumsum(lengths[tokens])
    return np.concatenate([[0], ends[:-1]])


def first_tokens(teacher: Tokenizer, student: Tokenizer) -> Tensor:
    """(teacher's vocabulary,) the student's token with which each of the teacher's begins."""
    encoded = student.encode_batch(teacher.token_bytes)
    first = [ids[0] if ids else student.eot_id for ids in encoded]
    return torch.tensor(first, dtype=torch.int64)
