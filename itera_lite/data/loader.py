"""Batches from a token stream, in an order that a resumed training continues exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from itera_lite.errors import DataError


class TokenLoader:
    """Batches of windows of a token stream; an endless sequence of epochs.

    The stream begins and ends with ``<|endoftext|>``, so it can be read as a
    circle. An epoch starts at a random position on the circle, cuts it into
    windows of ``seq_len`` predicted tokens and takes them in a random order.
    So each token is predicted once an epoch, except for a remainder of fewer
    than ``seq_len`` tokens, which is another one in each epoch.
    A batch may span two epochs; nothing is dropped there.

    The state is one number, the windows taken so far: an epoch's order
    depends only on the seed and the epoch's number. Rank ``r`` takes its rows of
    the global batch, so 2 ranks with batches of 4 see together exactly what
    1 rank with batches of 8 sees, and a run may be resumed with other ranks.

    Args:
        tokens: the stream (1-D, integers), as `Dataset.tokens` returns it.
        batch_size: windows a batch on this rank.
        seq_len: predicted tokens a window.
        seed: decides the order.
        rank: this process, from 0.
        world_size: processes that share the global batch.

    Raises:
        DataError: the stream holds fewer windows than one global batch, or
            doesn't begin and end with the same token.
    """

    def __init__(
        self,
        tokens: NDArray[Any],
        *,
        batch_size: int,
        seq_len: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size < 1 or seq_len < 1 or not 0 <= rank < world_size:
            raise DataError(
                f"batch_size={batch_size}, seq_len={seq_len}, rank={rank}, "
                f"world_size={world_size}: expected sizes of at least 1 and a rank below world_size"
            )
        if seed < 0:
            raise DataError(f"seed={seed}: expected 0 or more")
        if len(tokens) and tokens[0] != tokens[-1]:
            raise DataError(
                f"the token stream begins with {tokens[0]} and ends with {tokens[-1]}: expected "
                "<|endoftext|> at both ends. Make it with itera_lite.data.prepare.prepare."
            )
        n_predicted = max(len(tokens) - 1, 0)
        global_batch = batch_size * world_size
        self._windows = n_predicted // seq_len
        if self._windows < global_batch:
            raise DataError(
                f"the text is too short for one batch: {n_predicted:,} tokens are "
                f"{self._windows:,} windows of {seq_len}, and a batch needs {global_batch}. "
                + _remedy(n_predicted, global_batch, world_size, seq_len)
            )
        self.batch_size = batch_size
        self.seq_len = seq_len
        self._tokens = tokens
        self._n_predicted = n_predicted
        self._seed = seed
        self._rank = rank
        self._global_batch = global_batch
        self._position = 0
        # By epoch: where it starts, and the numbers of its windows
        self._orders: dict[int, tuple[int, NDArray[Any]]] = {}

    @property
    def tokens_per_epoch(self) -> int:
        """Tokens predicted in an epoch, over all ranks."""
        return self._windows * self.seq_len

    @property
    def epoch(self) -> float:
        """Epochs done so far, with the fraction."""
        return self._position / self._windows

    def next_batch(self) -> NDArray[np.int64]:
        """The next batch of this rank, int64 (batch_size, seq_len + 1).

        Inputs are ``[:, :-1]``, targets ``[:, 1:]``.
        """
        return self.at(self.next_positions())

    def at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The tokens at ``positions``, in the same shape."""
        tokens: NDArray[np.int64] = self._tokens[positions].astype(np.int64)
        return tokens

    def next_positions(self) -> NDArray[np.int64]:
        """Positions of the next batch in the stream, int64 (batch_size, seq_len + 1)."""
        first = self._position + self._rank * self.batch_size
        starts = [self._start(window) for window in range(first, first + self.batch_size)]
        index = np.array(starts, dtype=np.int64)[:, None] + np.arange(self.seq_len + 1)
        self._position += self._global_batch
        return index % self._n_predicted

    def state_dict(self) -> dict[str, int]:
        """The state, as JSON can hold it."""
        return {
            "position": self._position,
            "seed": self._seed,
            "seq_len": self.seq_len,
            "n_tokens": len(self._tokens),
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where `state_dict` was taken.

        Raises:
            DataError: the state is of another stream, seed or ``seq_len``.
        """
        mine = self.state_dict()
        for key in ("seed", "seq_len", "n_tokens"):
            if state.get(key) != mine[key]:
                raise DataError(
                    f"the saved loader position has {key}={state.get(key)!r}, this run has "
                    f"{mine[key]}. Resume with the settings and the text of the first run, "
                    "or start anew."
                )
        position = state.get("position")
        if not isinstance(position, int) or position < 0:
            raise DataError(f"the saved loader position is {position!r}: expected 0 or more")
        self._position = position

    def _start(self, window: int) -> int:
        """Position on the circle of the window's first input."""
        epoch, number = divmod(window, self._windows)
        if epoch not in self._orders:
            for old in [kept for kept in self._orders if kept < epoch - 1]:
                del self._orders[old]
            rng = np.random.default_rng([self._seed, epoch])
            offset = int(rng.integers(self._n_predicted))
            # As `rng.permutation`, in half the memory
            order = np.arange(self._windows, dtype="u4" if self._windows < 2**32 else "i8")
            rng.shuffle(order)
            self._orders[epoch] = offset, order
        offset, order = self._orders[epoch]
        return offset + int(order[number]) * self.seq_len


def _remedy(n_predicted: int, global_batch: int, world_size: int, seq_len: int) -> str:
    batch = n_predicted // seq_len // world_size
    if batch:
        return f"Give a batch_size of {batch} or less, or more text."
    length = n_predicted // global_batch
    if length:
        return f"Give a seq_len of {length} or less, or more text."
    return "Give more text."
