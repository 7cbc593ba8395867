"""Decodes the texts of all requests together: one thread that steps the engine's batch.

The event loop gives it texts (`Scheduler.submit`) and gets their pieces in a `Mailbox`, many
tokens at a time: a turn lasts some milliseconds, and only its end wakes the loop. Texts beyond
`GROUP` take turns in groups, so that the states of a group stay in the processor's caches. A long
prompt is read in parts between the turns; the state after it is kept (`prefixes`), so that what
begins alike isn't read again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from itera_lite._engine import Stream
from itera_lite.engine import Model, State, TokenScore
from itera_lite.errors import UsageError
from itera_lite.serve.metrics import Metrics
from itera_lite.serve.prefixes import PrefixCache
from itera_lite.serve.protocol import RequestError

GROUP = 32  # texts that are stepped together
TURN = 0.005  # seconds of a turn where there is one group; its end flushes what was written
SHARED_TURN = 0.01  # seconds of a turn where there are several groups
PART = 64  # tokens of a prompt read at a time
LEAST_CACHED = 16  # tokens: a shorter beginning is read as fast as its state is found
LONGEST_RETRY = 60  # seconds

_log = logging.getLogger("itera.serve")


class Entry(NamedTuple):
    """A token with its log-probability, and the likeliest tokens in its place."""

    token: int
    log_probability: float | None
    top: Sequence[tuple[int, float]]


@dataclass(eq=False)
class Text:
    """A text that a request asks for, and how far it is.

    Attributes:
        ids: of the prompt, the token that begins every document in front where there is one.
        options: of `Model.start`, but for ``max_tokens``.
        max_tokens: 0 or more.
        index: of the text in its request.
        top: how many of the likeliest tokens are wanted; None: no log-probabilities.
        score: whether the log-probabilities of the prompt are wanted, too.
        scores: these log-probabilities, once the prompt is read.
    """

    ids: list[int]
    options: dict[str, Any]
    max_tokens: int
    index: int
    top: int | None
    mailbox: Mailbox
    score: bool = False
    scores: list[TokenScore] = field(default_factory=list)
    stream: Stream | None = None
    written: int = 0  # bytes that were flushed
    listed: int = 0  # tokens whose log-probabilities were flushed
    listed_bytes: int = 0  # of these tokens
    cancelled: bool = False
    submitted: float = 0.0
    begun: bool = False  # whether its first piece was delivered

    @property
    def penalised(self) -> bool:
        """Whether the next token depends on the prompt by more than the model's state."""
        return self.options.get("repetition_penalty") != 1.0


class Piece(NamedTuple):
    """What a text has grown by.

    Attributes:
        data: bytes, whole characters; bytes that are no UTF-8 may be among them.
        entries: tokens that are complete, where log-probabilities were asked for. The token that
            ended the document is the last one.
        finish: empty while the text goes on, else ``stop``, ``length`` or ``failed``.
        tokens: of the whole text; known at its end.
        error: why it failed.
    """

    text: Text
    data: bytes
    entries: list[Entry]
    finish: str
    tokens: int = 0
    error: str = ""


class Mailbox:
    """The pieces of a request's texts, on the side of the event loop."""

    def __init__(self) -> None:
        self._pieces: list[Piece] = []
        self._ready = asyncio.Event()
        self.closed = ""  # why nothing more is taken

    def put(self, piece: Piece) -> None:
        self._pieces.append(piece)
        self._ready.set()

    def close(self, reason: str) -> None:
        """Wake who waits: there is nothing more to wait for."""
        self.closed = self.closed or reason
        self._ready.set()

    async def take(self) -> list[Piece]:
        """All pieces since the last call; waits for one. Empty where the box was closed."""
        await self._ready.wait()
        if self.closed:
            return []
        self._ready.clear()
        pieces, self._pieces = self._pieces, []
        return pieces


class _Reading:
    """A prompt that is read in parts, for one or more texts.

    Args:
        text: the first of them.
        state: after the first ``read`` tokens; nobody else reads on with it.
    """

    def __init__(self, text: Text, state: State, read: int) -> None:
        self.ids, self.texts = text.ids, [text]
        self.top = (text.top or 0) if text.score else None  # None: nothing is scored
        self.scores: list[TokenScore] = []
        self.state, self.read = state, read

    @property
    def left(self) -> int:
        """Tokens to read; the last one of the prompt isn't among them."""
        return len(self.ids) - 1 - self.read

    def read_part(self, model: Model) -> None:
        """Read `PART` tokens on, or what is left."""
        end = self.read + min(PART, self.left)
        if self.top is not None:  # the last token that is given is scored and isn't read
            found = model.token_scores(
                self.ids[self.read : end + 1], state=self.state, top=self.top
            )
            self.scores += found[1:] if self.scores else found
        elif end > self.read:
            # An empty state gets the token that begins a document by itself.
            begins = self.read == 0 and self.ids[0] == model.bos_id
            self.state.feed(self.ids[self.read + begins : end])
        self.read = end


class Scheduler:
    """The engine's thread, and what the event loop sees of it.

    Args:
        model: that writes.
        most_streams: texts that are written at the same time.
        most_waiting: texts that wait for a place.
        cache_bytes: of the states of beginnings of texts.
        metrics: that are counted.
    """

    def __init__(
        self,
        model: Model,
        *,
        most_streams: int,
        most_waiting: int,
        cache_bytes: int,
        metrics: Metrics,
    ) -> None:
        self.model, self.metrics = model, metrics
        self.most_streams, self.most_waiting = most_streams, most_waiting
        self.stopping = False  # no new requests are taken
        self.in_flight = 0  # texts that were submitted and aren't finished
        self._seconds = 1.0  # that a text takes, about
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._inbox: queue.SimpleQueue[Text | None] = queue.SimpleQueue()
        self._cancelled = threading.Event()  # some text was
        self._idle = asyncio.Event()
        self._idle.set()
        # Of the thread alone:
        self._batch = model.batch()
        self._bytes_of = [model.token_bytes(i) for i in range(model.vocab_size)]
        self._cache = PrefixCache(cache_bytes)
        self._unfinished: set[Text] = set()  # taken from the inbox
        self._waiting: deque[Text] = deque()
        self._readings: dict[int, _Reading] = {}
        self._active: deque[Text] = deque()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    # --- The side of the event loop ---

    def submit(self, texts: Sequence[Text]) -> None:
        """Take texts, whose pieces will come to their mailboxes.

        Raises:
            RequestError: the server is stopping (503), or too many texts wait (429).
        """
        self.check_room(len(texts))
        now = time.perf_counter()
        self.in_flight += len(texts)
        self._idle.clear()
        for text in texts:
            text.submitted = now
            self._inbox.put(text)

    def check_room(self, texts: int) -> None:
        """Refuse texts that there is no room for.

        Raises:
            RequestError: as `submit`.
        """
        if self.stopping:
            raise RequestError("the server is stopping: it takes no new requests", 503)
        most = self.most_streams + self.most_waiting
        if self.in_flight + texts <= most:
            return
        if texts > most:
            raise RequestError(
                f"{texts:,} texts in a request: expected at most {most:,}, the places of this "
                "server",
                param="n",
            )
        raise self.busy()

    def busy(self) -> RequestError:
        """The refusal where all places are taken, with the time after which one may be free."""
        wait = self._seconds * self.in_flight / self.most_streams
        seconds = min(max(1, math.ceil(wait)), LONGEST_RETRY)
        self.metrics.refused.inc()
        return RequestError(
            f"all places of this server are taken: try again in {seconds} s",
            429,
            code="rate_limit_exceeded",
            headers={"retry-after": str(seconds)},
        )

    def cancel(self, texts: Iterable[Text]) -> None:
        """Stop texts whose client went away or waited too long: their places are free at the next
        step."""
        for text in texts:
            text.cancelled = True
        self._cancelled.set()
        self._inbox.put(None)

    async def finish(self) -> None:
        """Wait until all texts are written, or cancelled."""
        self.stopping = True
        await self._idle.wait()

    def close(self) -> None:
        """End the thread; what it still writes is lost."""
        self.stopping = True
        self._closed = True
        self._inbox.put(None)
        self._thread.join()

    def _deliver(self, pieces: list[Piece]) -> None:
        """Put pieces into the mailboxes; called by the event loop."""
        now = time.perf_counter()
        for piece in pieces:
            text = piece.text
            if not text.begun and (piece.data or piece.finish):
                text.begun = True
                self.metrics.first_token.observe(now - text.submitted)
            if piece.finish:
                self.in_flight -= 1
                self.metrics.generated.inc(piece.tokens)
                self._seconds += 0.1 * (now - text.submitted - self._seconds)
            text.mailbox.put(piece)
        if self.in_flight == 0:
            self._idle.set()

    # --- The engine's thread ---

    def _run(self) -> None:
        while not self._closed:
            try:
                self._round()
            except Exception:  # a bug: the texts end, the server goes on
                _log.exception("the engine's thread failed")
                self._waiting.clear()
                self._active.clear()
                self._readings.clear()
                self._send([Piece(text, b"", [], "failed") for text in self._unfinished])

    def _round(self) -> None:
        """Take what came, read a part of a prompt, and step a group of texts for a turn."""
        self._receive(wait=not (self._active or self._readings or self._waiting))
        self._drop_cancelled()
        while self._waiting and len(self._active) + self._n_reading() < self.most_streams:
            self._begin(self._waiting.popleft())
        self._read_part()
        self._turn()
        self.metrics.active.set(len(self._active) + self._n_reading())
        self.metrics.waiting.set(len(self._waiting))
        self.metrics.cache_bytes.set(self._cache.bytes)

    def _n_reading(self) -> int:
        return sum(len(reading.texts) for reading in self._readings.values())

    def _receive(self, *, wait: bool) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                text = self._inbox.get(block=wait)
                wait = False
                if text is not None:
                    self._unfinished.add(text)
                    self._waiting.append(text)

    def _drop_cancelled(self) -> None:
        if not self._cancelled.is_set():
            return
        self._cancelled.clear()
        dropped = [text for text in self._unfinished if text.cancelled]
        self._waiting = deque(text for text in self._waiting if not text.cancelled)
        self._active = deque(text for text in self._active if not text.cancelled)
        for key, reading in list(self._readings.items()):
            reading.texts = [text for text in reading.texts if not text.cancelled]
            if not reading.texts:
                del self._readings[key]
        self._send(
            [
                Piece(text, b"", [], "cancelled", len(text.stream.tokens) if text.stream else 0)
                for text in dropped
            ]
        )
        for text in dropped:
            text.stream = None

    def _begin(self, text: Text) -> None:
        """Give a text its place: it starts, or its prompt is read first."""
        if text.score:
            self._readings[id(text)] = _Reading(text, self.model.state(), 0)
            return
        is_cheap = len(text.ids) <= LEAST_CACHED or text.max_tokens == 0
        if is_cheap or text.penalised or not self._cache.most_bytes:
            self._start(text, None, text.ids)
            return
        before = text.ids[:-1]
        for reading in self._readings.values():
            if reading.top is None and reading.ids[:-1] == before:
                self._count_hit(len(before))
                reading.texts.append(text)
                return
        read, state = self._cache.longest(before)
        if state is None:
            self.metrics.cache_misses.inc()
            state = self.model.state()
        else:
            self._count_hit(read)
            if read == len(before):
                self._start(text, state, text.ids[read:])
                return
            state = state.fork()
        self._readings[id(text)] = _Reading(text, state, read)

    def _count_hit(self, tokens: int) -> None:
        self.metrics.cache_hits.inc()
        self.metrics.cached_tokens.inc(tokens)

    def _read_part(self) -> None:
        """Read a part of the prompt whose turn it is."""
        if not self._readings:
            return
        key = next(iter(self._readings))
        reading = self._readings.pop(key)
        try:
            reading.read_part(self.model)
        except UsageError as error:
            self._send([Piece(text, b"", [], "failed", 0, str(error)) for text in reading.texts])
            return
        if reading.left:
            self._readings[key] = reading  # behind the others
            return
        for text in reading.texts:
            text.scores = reading.scores
            if text.penalised:  # the sampler must see the whole prompt
                self._start(text, None, text.ids)
            else:
                self._start(text, reading.state, text.ids[reading.read :])
        if len(reading.ids) > LEAST_CACHED:
            self._cache.put(reading.ids[: reading.read], reading.state)

    def _start(self, text: Text, state: State | None, ids: list[int]) -> None:
        """Have a text written after the state, which stays as it is, and these tokens."""
        self.metrics.prompt.inc(len(text.ids))
        if text.max_tokens == 0:
            self._send([Piece(text, b"", [], "length")])
            return
        try:
            text.stream = self.model.start(
                ids,
                state=state,
                max_tokens=text.max_tokens,
                log_probabilities=text.top is not None,
                top_log_probabilities=text.top or 0,
                **text.options,
            )
        except UsageError as error:
            self._send([Piece(text, b"", [], "failed", 0, str(error))])
            return
        self._active.appendleft(text)  # its first token comes with the next step

    def _turn(self) -> None:
        """Step a group until its turn ends, and flush it."""
        group = [self._active.popleft() for _ in range(min(GROUP, len(self._active)))]
        if not group:
            return
        seconds = SHARED_TURN if self._active else TURN
        if self._readings:
            seconds = 0.0  # one token, then the next part of a prompt
        streams = [text.stream for text in group if text.stream is not None]
        # Where no other group waits, the turn ends with the first text that ends, so that its
        # client gets the end at once.
        written, done = self._batch.run(streams, seconds, not self._active)
        pieces = []
        for text, data, ended in zip(group, written, done, strict=True):
            if ended:
                pieces.append(self._last_piece(text, data))
                continue
            self._active.append(text)
            if data:
                pieces.append(self._piece(text, data))
        self._send(pieces)

    def _piece(self, text: Text, data: bytes) -> Piece:
        text.written += len(data)
        entries = [] if text.top is None else self._entries(text, final=False)
        return Piece(text, data, entries, "")

    def _last_piece(self, text: Text, data: bytes) -> Piece:
        stream = text.stream
        assert stream is not None
        entries = [] if text.top is None else self._entries(text, final=True)
        tokens, reason = stream.tokens, stream.finish_reason
        if reason:
            self._keep_end(text, tokens)
        text.stream = None
        error = "" if reason else stream.error
        return Piece(text, data, entries, reason or "failed", len(tokens), error)

    def _entries(self, text: Text, *, final: bool) -> list[Entry]:
        """The log-probabilities of the tokens whose text was flushed; at the end, of all."""
        stream = text.stream
        assert stream is not None
        tokens = stream.tokens
        if text.listed == len(tokens) and not final:
            return []
        values, tops = stream.log_probabilities, stream.top_log_probabilities
        found = []
        for place in range(text.listed, len(tokens)):
            size = text.listed_bytes + len(self._bytes_of[tokens[place]])
            if not final and size > text.written:
                break
            text.listed_bytes = size
            top = tops[place] if tops else []
            found.append(Entry(tokens[place], values[place], top))
        text.listed += len(found)
        if final and (end := stream.end):
            found.append(Entry(self.model.eot_id, *end))
        return found

    def _keep_end(self, text: Text, tokens: list[int]) -> None:
        """Keep the state at the end of a text: a chat goes on from there."""
        whole = text.ids + tokens
        if len(whole) <= LEAST_CACHED or not self._cache.most_bytes:
            return
        assert text.stream is not None
        state = self.model.state_of(text.stream)
        if len(state) <= len(whole):  # more: it has read tokens behind a stop text
            self._cache.put(whole[: len(state)], state)

    def _send(self, pieces: list[Piece]) -> None:
        self._unfinished -= {piece.text for piece in pieces if piece.finish}
        if pieces:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._deliver, pieces)
