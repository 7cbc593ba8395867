"""The runtimes that models are measured in: one protocol, and an adapter for each.

`Torch` holds one of our PyTorch models and `Transformers` loads a checkpoint folder; `Engine` (our
C++ engine) and `Llama` (llama.cpp) load a GGUF file. Libraries are imported only where they are
used, for the memory of processes that hold one runtime is measured.
"""

from __future__ import annotations

import argparse
import ctypes
import inspect
import itertools
import math
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from itera_lite.errors import IteraError, MissingExtra

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from itera_lite import _engine
    from itera_lite.data.tokenizer import Tokenizer

# Names in the results. The engine is called by the package's name beside other programs, and
# by its own beside our PyTorch models.
LLAMA_TOP_K = 40  # llama.cpp's own default; top-p alone would take longer than a small model
OURS, ENGINE, LLAMA, TRANSFORMERS = "itera-lite", "engine", "llama.cpp", "transformers"


@dataclass(frozen=True)
class Document:
    """A text, and its ids with ``<|endoftext|>`` in front."""

    text: bytes
    ids: list[int]


@dataclass(frozen=True)
class Pass:
    """One pass of decoding: the tokens, the seconds, and those inside the library alone."""

    ids: list[int]
    seconds: float
    inside: float


class Runtime(Protocol):
    """A model that a runtime has loaded. `decode` picks the most probable token each time; only
    `Engine` can be given sampling options."""

    @property
    def batches(self) -> bool:
        """Whether it reads several texts at once."""
        ...

    def read(self, ids: Tensor) -> Tensor:
        """Forget everything and read (B, L) tokens; returns the last position's logits (B, V)."""
        ...

    def step(self, ids: Tensor) -> Tensor:
        """Read one token a row on, (B,); returns logits (B, V), valid until the next call."""
        ...

    def decode(self, prompt: Sequence[int], tokens: int) -> Pass:
        """Decode ``tokens`` in the runtime's fastest loop, from the end of the prompt.

        Only decoding is timed. What is remembered of the prompt is kept for further passes, where
        the runtime can go back to it.
        """
        ...

    def score(self, documents: Sequence[Document]) -> float:
        """Compute the probabilities of all tokens of all documents; returns the seconds."""
        ...

    def close(self) -> None:
        """Give the model's memory back."""
        ...


class Torch(Runtime):
    """One of our own PyTorch models."""

    batches = True
    batch = 1  # documents that are scored at a time

    def __init__(self, model: nn.Module) -> None:
        self._model: Any = model.eval()

    def read(self, ids: Tensor) -> Tensor:
        self._state = self._model.initial_state(ids.shape[0])
        logits: Tensor = self._model.prefill(ids, self._state)
        return logits

    def step(self, ids: Tensor) -> Tensor:
        logits: Tensor = self._model.step(ids, self._state)
        return logits

    def decode(self, prompt: Sequence[int], tokens: int) -> Pass:
        import torch

        with torch.inference_mode():
            token = self.read(torch.tensor([list(prompt)])).argmax(-1)
            ids, begin = [], time.perf_counter()
            for _ in range(tokens):
                token = self.step(token).argmax(-1)
                ids.append(int(token))
            seconds = time.perf_counter() - begin
        return Pass(ids, seconds, seconds)

    def score(self, documents: Sequence[Document]) -> float:
        import torch

        ids = [torch.tensor(document.ids) for document in documents]
        padded = [
            torch.nn.utils.rnn.pad_sequence(ids[i : i + self.batch], batch_first=True)
            for i in range(0, len(ids), self.batch)
        ]
        begin = time.perf_counter()
        with torch.inference_mode():
            for rows in padded:
                self._forward(rows)
        return time.perf_counter() - begin

    def _forward(self, ids: Tensor) -> None:
        self._model(ids)

    def close(self) -> None:
        self._model = self._state = None


class Transformers(Torch):
    """A checkpoint folder in `transformers`: float32, with its own cache.

    Args:
        folder: checkpoint, as ours.
        device: a PyTorch device.
        attention: ``eager`` or ``sdpa``.
    """

    def __init__(self, folder: Path, device: str = "cpu", attention: str = "eager") -> None:
        super().__init__(load_transformers(folder, attention).to(device))
        self._folder = folder

    def read(self, ids: Tensor) -> Tensor:
        return self._run(ids, None)

    def step(self, ids: Tensor) -> Tensor:
        return self._run(ids[:, None], self._state)

    def _run(self, ids: Tensor, state: Any) -> Tensor:
        out = self._model(input_ids=ids, past_key_values=state, use_cache=True, logits_to_keep=1)
        self._state = out.past_key_values
        logits: Tensor = out.logits[:, -1]
        return logits

    def _forward(self, ids: Tensor) -> None:
        self._model(input_ids=ids, use_cache=False)

    def write(self, tokens: int, seed: int) -> int:
        """Sample a text with the settings in the checkpoint's generation_config.json; returns its
        length in bytes."""
        import torch

        self._model.generation_config.eos_token_id = None  # write on after the end of a document
        torch.manual_seed(seed)
        with torch.inference_mode():
            ids = self._model.generate(
                torch.tensor([[self._tokenizer.eot_id]]),
                max_new_tokens=tokens,
                do_sample=True,
                use_cache=True,
            )
        return len(self._tokenizer.decode_bytes(ids[0].tolist()))

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        from itera_lite.data.tokenizer import Tokenizer

        return Tokenizer.load(self._folder)


class Engine(Runtime):
    """The native engine on a GGUF file.

    Args:
        path: the file.
        context: tokens that a text may have; 0: the context length in the file.
        sampling: temperature, top_k and top_p of `decode`; None chooses the most probable token.
        threads: of `score`; everything else has one.
    """

    batches = False

    def __init__(
        self,
        path: Path,
        context: int = 0,
        *,
        sampling: Mapping[str, Any] | None = None,
        threads: int = 1,
    ) -> None:
        from itera_lite import _engine
        from itera_lite.engine import Model

        self.model = _engine.Model.load(str(path), context)
        self._texts, self._finish = Model(self.model, path), _engine.finish
        self._threads = threads
        self._prompt: Sequence[int] = ()
        self._options: dict[str, Any] = {
            **(sampling or {"temperature": 0.0, "top_k": 0, "top_p": 1.0}),
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "repetition_window": 0,
            "seed": 0,
            "logit_bias": {},
            "stop": [],
            "log_probabilities": False,
            "ignore_end": True,
        }

    def read(self, ids: Tensor) -> Tensor:
        self._state = self.model.state()
        return _tensor(self.model.read(self._state, _only_row(ids), False))

    def step(self, ids: Tensor) -> Tensor:
        """A call from Python for each token, which `decode` does without."""
        return _tensor(self.model.read(self._state, ids.tolist(), False))

    def decode(self, prompt: Sequence[int], tokens: int) -> Pass:
        if prompt != self._prompt:
            self._before_last = self.model.state()
            if len(prompt) > 1:
                self.model.read(self._before_last, list(prompt[:-1]), False)
            self._prompt = prompt
        stream = self.model.stream(
            self._before_last, [prompt[-1]], max_tokens=tokens + 1, **self._options
        )
        stream.next()  # the prompt's last token, and the choice of the first one after it
        begin = time.perf_counter()
        self._finish([stream])
        seconds = time.perf_counter() - begin
        return Pass(stream.tokens[1:], seconds, seconds)

    def score(self, documents: Sequence[Document]) -> float:
        """Texts in, log-probabilities out: the tokenizer and the softmax are in the time."""
        texts = [document.text for document in documents]
        begin = time.perf_counter()
        self._texts.score(texts, threads=self._threads, log_probabilities=True)
        return time.perf_counter() - begin

    def write(self, tokens: int, seed: int) -> int:
        """Sample a text with the sampling defaults in the file; returns its length in bytes."""
        text = self._texts.generate("", max_tokens=tokens, seed=seed, ignore_end=True).text
        return len(text.encode("utf-8"))

    def close(self) -> None:
        del self.model, self._texts


class Llama(Runtime):
    """llama.cpp on a GGUF file, through its C interface with as little Python as possible.

    Flash attention is off: for these models it is the faster setting, and the exact one.

    Args:
        path: the file.
        context: tokens that a text may have.
        batch: tokens read in one pass at most.
        threads: processor threads.

    Raises:
        MissingExtra: where llama-cpp-python isn't installed.
        IteraError: where llama.cpp can't load the file.
    """

    batches = False
    _log: Any = None  # what llama.cpp calls with its messages; it must live as long as the library

    def __init__(self, path: Path, context: int, *, batch: int = 512, threads: int = 1) -> None:
        if not installed(LLAMA):
            raise MissingExtra("llama-cpp-python", "llama", "measuring llama.cpp")
        import llama_cpp
        from numpy.ctypeslib import as_array

        if Llama._log is None:
            Llama._log = llama_cpp.llama_log_callback(lambda level, text, data: None)
            llama_cpp.llama_log_set(Llama._log, None)
        self._c: Any = llama_cpp
        self._as_array = as_array
        self._batch_size = min(batch, context)
        try:
            self._llama = llama_cpp.Llama(
                str(path),
                n_ctx=math.ceil(context / 256) * 256,
                n_batch=self._batch_size,
                n_ubatch=self._batch_size,
                n_threads=threads,
                n_threads_batch=threads,
                no_perf=True,
                verbose=False,
            )
        except ValueError as error:
            raise IteraError(
                f"llama.cpp can't load '{path}' for {context} tokens: {error}"
            ) from error
        self._context = self._llama.ctx
        self._vocab_size, self._eot_id = self._llama.n_vocab(), self._llama.token_eos()
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = llama_cpp.llama_batch_init(self._batch_size, 0, 1)
        for i in range(self._batch_size):
            self._batch.n_seq_id[i] = 1
            self._batch.seq_id[i][0] = 0
        self._length = 0
        self._prompt: Sequence[int] = ()

    def read(self, ids: Tensor) -> Tensor:
        self._clear()
        self._feed(_only_row(ids))
        return _tensor(self._logits())

    def step(self, ids: Tensor) -> Tensor:
        self._feed(ids.tolist())
        return _tensor(self._logits())

    def decode(self, prompt: Sequence[int], tokens: int) -> Pass:
        """``<|endoftext|>`` is never chosen. The seconds inside are what a program in C without a
        sampler would take."""
        if prompt != self._prompt:
            self._clear()
            self._feed(prompt)
            self._first = self._best()
            size = self._c.llama_state_seq_get_size(self._context, 0)
            self._saved = (ctypes.c_uint8 * size)()
            if self._c.llama_state_seq_get_data(self._context, self._saved, size, 0) != size:
                raise IteraError("llama.cpp can't save its state")
            self._prompt = prompt
        self._clear()
        if not self._c.llama_state_seq_set_data(self._context, self._saved, len(self._saved), 0):
            raise IteraError("llama.cpp can't restore its state")
        self._length = len(prompt)
        batch, context, decode = self._batch, self._context, self._c.llama_decode
        synchronize, clock = self._c.llama_synchronize, time.perf_counter
        batch.n_tokens, batch.logits[0] = 1, True
        token, ids, inside, begin = self._first, [], 0.0, clock()
        for _ in range(tokens):
            batch.token[0], batch.pos[0] = token, self._length
            start = clock()
            status = decode(context, batch)
            synchronize(context)
            inside += clock() - start
            if status:
                raise IteraError(f"llama_decode failed with status {status}")
            self._length += 1
            token = self._best()
            ids.append(token)
        return Pass(ids, clock() - begin, inside)

    def score(self, documents: Sequence[Document]) -> float:
        """Seconds inside llama.cpp, a document a pass: several at once took as long or longer."""
        seconds = 0.0
        for document in documents:
            self._clear()
            seconds += self._feed(document.ids, every=True)
        return seconds

    def write(self, tokens: int, seed: int) -> int:
        """Sample a text by llama.cpp's own samplers; returns its length in bytes.

        With the sampling defaults in the file, after a cut to the likeliest `LLAMA_TOP_K` where the
        file has none. The end of a document doesn't end the text.
        """
        sampler = self._sampler(seed)
        self._clear()
        self._feed([self._eot_id])
        batch, context, decode = self._batch, self._context, self._c.llama_decode
        sample, ids = self._c.llama_sampler_sample, []
        batch.n_tokens, batch.logits[0] = 1, True
        for _ in range(tokens):
            token = sample(sampler, context, -1)
            ids.append(token)
            batch.token[0], batch.pos[0] = token, self._length
            if status := decode(context, batch):
                raise IteraError(f"llama_decode failed with status {status}")
            self._length += 1
        self._c.llama_sampler_free(sampler)
        size = 64 * (tokens + 1)
        given, text = (self._c.llama_token * tokens)(*ids), ctypes.create_string_buffer(size)
        vocab = self._c.llama_model_get_vocab(self._llama.model)
        return int(self._c.llama_detokenize(vocab, given, tokens, text, size, False, False))

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits (L, V) of every position of a text of at most ``batch`` tokens; a view, until the
        next call."""
        self._clear()
        self._feed(ids, every=True)
        pointer = self._c.llama_get_logits(self._context)
        return self._as_array(pointer, (len(ids), self._vocab_size))

    def close(self) -> None:
        self._c.llama_batch_free(self._batch)
        self._llama.close()

    def _sampler(self, seed: int) -> Any:
        """llama.cpp's chain of samplers for the defaults in the file, the cheapest cut first."""
        c, given = self._c, self._llama.metadata

        def option(name: str, default: float) -> float:
            return float(given.get(f"general.sampling.{name}", default))

        chain = c.llama_sampler_chain_init(c.llama_sampler_chain_default_params())
        repeat, temperature = option("penalty_repeat", 1.0), option("temp", 1.0)
        parts = []
        if repeat != 1:
            parts.append(c.llama_sampler_init_penalties(self._llama.n_ctx(), repeat, 0.0, 0.0))
        top_k = int(option("top_k", 0)) or LLAMA_TOP_K
        parts.append(c.llama_sampler_init_top_k(top_k))
        parts.append(c.llama_sampler_init_temp(temperature))
        if (top_p := option("top_p", 1.0)) < 1:
            parts.append(c.llama_sampler_init_top_p(top_p, 1))
        if min_p := option("min_p", 0.0):
            parts.append(c.llama_sampler_init_min_p(min_p, 1))
        parts.append(c.llama_sampler_init_dist(seed))
        for part in parts:
            c.llama_sampler_chain_add(chain, part)
        return chain

    def _clear(self) -> None:
        self._c.llama_memory_clear(self._memory, True)
        self._length = 0

    def _feed(self, ids: Sequence[int], *, every: bool = False) -> float:
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
                self._batch.pos[i] = self._length + i
                self._batch.logits[i] = every or first + i == len(ids) - 1
            begin = time.perf_counter()
            status = self._c.llama_decode(self._context, self._batch)
            self._c.llama_synchronize(self._context)
            seconds += time.perf_counter() - begin
            if status:
                raise IteraError(f"llama_decode failed with status {status}")
            self._length += len(part)
        return seconds

    def _logits(self) -> NDArray[np.float32]:
        """Logits (V,) of the last token that was read; a view, until the next one."""
        pointer = self._c.llama_get_logits_ith(self._context, -1)
        return self._as_array(pointer, (self._vocab_size,))

    def _best(self) -> int:
        logits = self._logits()
        logits[self._eot_id] = -math.inf
        return int(logits.argmax())


def load_transformers(folder: str | Path, attention: str = "eager") -> nn.Module:
    """A checkpoint folder as the `transformers` model of its kind, float32, on the CPU.

    Args:
        folder: checkpoint, as ours.
        attention: ``eager`` or ``sdpa``.

    Raises:
        MissingExtra: where the package isn't installed.
    """
    if not installed(TRANSFORMERS):
        raise MissingExtra("transformers", "peers", "measuring peers")
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()  # it advises CUDA kernels, at each load
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
        model: nn.Module = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation=attention, local_files_only=True
        )
    return model


def installed(runtime: str) -> bool:
    """Whether the package of a runtime is installed."""
    package = {LLAMA: "llama_cpp"}.get(runtime, runtime)
    return find_spec(package) is not None


def missing(device: str = "cpu") -> dict[str, str]:
    """Runtimes that can't be measured here beside our PyTorch models -> the reason.

    Args:
        device: what our models run on.
    """
    found = {}
    if not installed(TRANSFORMERS):
        found[TRANSFORMERS] = "it isn't installed: pip install 'itera-lite[peers]'"
    if not installed(LLAMA):
        found[LLAMA] = "llama-cpp-python isn't installed: pip install 'itera-lite[llama]'"
    if device != "cpu":
        for kind in (LLAMA, ENGINE):
            found[kind] = f"it runs on the CPU here, and the models on {device}"
    return found


def versions(runtimes: Iterable[str]) -> dict[str, str]:
    """Versions of the packages of other runtimes; of llama.cpp also the processor's features that
    its build uses. Runtimes that aren't installed are left out."""
    found = dict[str, str]()
    if TRANSFORMERS in runtimes and installed(TRANSFORMERS):
        found["transformers"] = metadata.version("transformers")
    if LLAMA in runtimes and installed(LLAMA):
        import llama_cpp

        features = llama_cpp.llama_print_system_info().decode().strip(" |")
        found |= {"llama-cpp-python": llama_cpp.__version__, "llama.cpp": features}
    return found


def prompt_text() -> str:
    """Real text that is on every machine: the source of Python's ``argparse``."""
    return inspect.getsource(argparse)


def prompt_ids(model: _engine.Model, length: int) -> list[int]:
    """``<|endoftext|>`` and `prompt_text`, again and again where it is too short."""
    text = model.encode(prompt_text().encode())
    return [model.eot, *itertools.islice(itertools.cycle(text), length - 1)]


def _tensor(logits: NDArray[np.float32]) -> Tensor:
    import torch

    return torch.from_numpy(logits)[None]


def _only_row(ids: Tensor) -> list[int]:
    if len(ids) != 1:
        raise ValueError(f"{len(ids)} texts at once: expected one")
    row: list[int] = ids[0].tolist()
    return row
