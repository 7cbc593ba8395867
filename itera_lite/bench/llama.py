"""llama.cpp on a GGUF file, through its C interface with as little Python as possible."""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from itera_lite.errors import IteraError, MissingExtra


def available() -> bool:
    """Whether llama-cpp-python is installed."""
    return find_spec("llama_cpp") is not None


class LlamaCpp:
    """One model and one context of llama.cpp.

    Flash attention is off: for these models it is the faster compute, and the exact one.

    Args:
        path: GGUF file.
        context: tokens that a text may have.
        batch: tokens read in one pass at most.
        threads: processor threads.

    Raises:
        MissingExtra: where llama-cpp-python isn't installed.
        IteraError: where llama.cpp can't load the file.
    """

    def __init__(self, path: Path, *, context: int, batch: int = 512, threads: int = 1) -> None:
        if not available():
            raise MissingExtra("llama-cpp-python", "llama", "measuring llama.cpp")
        import llama_cpp

        self._c: Any = llama_cpp
        _be_silent(llama_cpp)
        llama_cpp.llama_backend_init()
        options = llama_cpp.llama_model_default_params()
        options.n_gpu_layers = 0
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), options)
        if not self._model:
            raise IteraError(f"llama.cpp can't load '{path}'")
        self._batch_size = min(batch, context)
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = math.ceil(context / 256) * 256
        settings.n_batch = settings.n_ubatch = self._batch_size
        settings.n_threads = settings.n_threads_batch = threads
        settings.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        settings.no_perf = True
        self._context = llama_cpp.llama_init_from_model(self._model, settings)
        if not self._context:
            llama_cpp.llama_model_free(self._model)
            raise IteraError(f"llama.cpp can't make a context of {context} tokens for '{path}'")
        vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self.vocab_size = int(llama_cpp.llama_vocab_n_tokens(vocabulary))
        self.eot_id = int(llama_cpp.llama_vocab_eos(vocabulary))
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = llama_cpp.llama_batch_init(self._batch_size, 0, 1)
        for i in range(self._batch_size):
            self._batch.n_seq_id[i] = 1
            self._batch.seq_id[i][0] = 0
        self.length = 0

    def close(self) -> None:
        """Give its memory back."""
        if self._context:
            self._c.llama_batch_free(self._batch)
            self._c.llama_free(self._context)
            self._c.llama_model_free(self._model)
            self._context = self._model = None

    def clear(self) -> None:
        """Forget everything that was read."""
        self._c.llama_memory_clear(self._memory, True)
        self.length = 0

    def read(self, ids: Sequence[int], *, every: bool = False) -> float:
        """Read tokens on; returns the seconds inside llama.cpp.

        Args:
            ids: token ids.
            every: compute the logits of all positions, not only of the last one.
        """
        seconds = 0.0
        for first in range(0, len(ids), self._batch_size):
            part = ids[first : first + self._batch_size]
            self._batch.n_tokens = len(part)
            for i, token in enumerate(part):
                self._batch.token[i] = token
                self._batch.pos[i] = self.length + i
                self._batch.logits[i] = every or first + i == len(ids) - 1
            begin = time.perf_counter()
            status = self._c.llama_decode(self._context, self._batch)
            self._c.llama_synchronize(self._context)
            seconds += time.perf_counter() - begin
            if status:
                raise IteraError(f"llama_decode failed with status {status}")
            self.length += len(part)
        return seconds

    def logits(self, row: int = -1) -> NDArray[np.float32]:
        """Logits (V,) of one position of the last `read`; a view, until the next one."""
        pointer = self._c.llama_get_logits_ith(self._context, row)
        return np.ctypeslib.as_array(pointer, (self.vocab_size,))

    def save(self) -> Any:
        """What it remembers, for `restore`."""
        size = self._c.llama_state_seq_get_size(self._context, 0)
        buffer = (ctypes.c_uint8 * size)()
        if self._c.llama_state_seq_get_data(self._context, buffer, size, 0) != size:
            raise IteraError("llama.cpp can't save its state")
        return buffer, self.length

    def restore(self, saved: Any) -> None:
        """Go back to what `save` gave."""
        buffer, length = saved
        self.clear()
        if not self._c.llama_state_seq_set_data(self._context, buffer, len(buffer), 0):
            raise IteraError("llama.cpp can't restore its state")
        self.length = length

    def decode(self, token: int, tokens: int) -> tuple[list[int], float, float]:
        """Greedy decoding after ``token``; ``<|endoftext|>`` is never chosen.

        Returns:
            The ids, the seconds of the whole loop, and those inside llama.cpp: what a
            program in C without a sampler would take.
        """
        batch, context, decode = self._batch, self._context, self._c.llama_decode
        synchronize, clock = self._c.llama_synchronize, time.perf_counter
        batch.n_tokens, batch.logits[0] = 1, True
        ids, inside, begin = [], 0.0, clock()
        for _ in range(tokens):
            batch.token[0], batch.pos[0] = token, self.length
            start = clock()
            status = decode(context, batch)
            synchronize(context)
            inside += clock() - start
            if status:
                raise IteraError(f"llama_decode failed with status {status}")
            self.length += 1
            logits = self.logits()
            logits[self.eot_id] = -np.inf
            token = int(logits.argmax())
            ids.append(token)
        return ids, clock() - begin, inside


def build_info() -> dict[str, str]:
    """Version of llama-cpp-python, and what its build of llama.cpp uses of the processor."""
    import llama_cpp

    features = llama_cpp.llama_print_system_info().decode().strip(" |")
    return {"llama-cpp-python": llama_cpp.__version__, "llama.cpp": features}


def _be_silent(llama_cpp: Any) -> None:
    if not hasattr(_be_silent, "callback"):  # it must live as long as the library
        _be_silent.callback = llama_cpp.llama_log_callback(  # type: ignore[attr-defined]
            lambda level, text, data: None
        )
        llama_cpp.llama_log_set(_be_silent.callback, None)  # type: ignore[attr-defined]
