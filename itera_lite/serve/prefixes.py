"""A bounded cache of the model's states after the beginnings of texts, so that none is read twice.

A key is the tokens that the state has read. The state of a text of another continuation, of a chat
that has grown by a message, or of the same prompt asked again, begins with one of them.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence

from itera_lite.engine import State

ITEM_BYTES = array("i").itemsize


class PrefixCache:
    """States by the tokens that they have read; the least recently used go first.

    Used by one thread.

    Args:
        most_bytes: of all states together; 0 keeps nothing.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._states: OrderedDict[bytes, tuple[State, int]] = OrderedDict()  # and its bytes
        self._lengths: dict[int, int] = {}  # tokens -> how many keys are as long
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._states)

    def longest(self, ids: Sequence[int]) -> tuple[int, State | None]:
        """The state after the longest known beginning of these tokens, or after all of them.

        Returns:
            How many tokens it has read, and the state; 0 and None where no beginning is known.
            The state stays in the cache: fork it before anything is read after it.
        """
        key = array("i", ids).tobytes()
        for length in sorted(self._lengths, reverse=True):
            if length <= len(ids):
                begin = key[: length * ITEM_BYTES]
                if begin in self._states:
                    self._states.move_to_end(begin)
                    return length, self._states[begin][0]
        return 0, None

    def put(self, ids: Sequence[int], state: State) -> None:
        """Keep the state after these tokens; nobody else may read on with it."""
        key = array("i", ids).tobytes()
        if key in self._states:
            self._states.move_to_end(key)
            return
        size = state.bytes + len(key)
        if size > self.most_bytes:
            return
        while self.bytes + size > self.most_bytes:
            self._drop_oldest()
        self._states[key] = state, size
        self._lengths[len(ids)] = self._lengths.get(len(ids), 0) + 1
        self.bytes += size

    def _drop_oldest(self) -> None:
        key, (_, size) = self._states.popitem(last=False)
        length = len(key) // ITEM_BYTES
        self._lengths[length] -= 1
        if not self._lengths[length]:
            del self._lengths[length]
        self.bytes -= size
