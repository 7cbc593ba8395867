"""The routes of the server: requests in, answers and streams out."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import math
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from itera_lite.engine import Model
from itera_lite.errors import UsageError
from itera_lite.serve import openapi, protocol
from itera_lite.serve.guard import App, Guard, Receive, Scope, Send
from itera_lite.serve.metrics import Metrics
from itera_lite.serve.protocol import Generating, RequestError
from itera_lite.serve.scheduler import Entry, Mailbox, Piece, Scheduler, Text
from itera_lite.serve.texts import LogProbsWriter, Vocabulary, chat_tokens

BODY_SECONDS = 30.0  # that a body may take to arrive
LONG_TEXT = 1 << 14  # characters: tokenizing more would hold up the event loop
EVENT_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
GONE = 499  # nginx' status for a client that went away; nobody reads it
LATE, LEFT = "late", "left"  # why a mailbox was closed
GRACE = 5.0  # seconds
DEFAULT_COMPLETIONS = 5
BUG = "a bug in the server; its log has more"

_encode = msgspec.json.Encoder().encode
Kind = TypeVar("Kind", bound=msgspec.Struct)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Settings:
    """How a server is run.

    Attributes:
        name: of the model, in requests and answers.
        file: the model's bytes for the playground page; None: its path doesn't hold a GGUF file.
        most_streams, most_waiting: texts that are written, and that wait.
        timeout: seconds that an answer may take.
        body_bytes: of a request at most.
        cache_bytes: of the states of beginnings of texts.
        hosts, origins, key, log_json: see `Guard`.
    """

    name: str
    file: Callable[[], bytes] | None = None
    most_streams: int = 256
    most_waiting: int = 256
    timeout: float = 300.0
    body_bytes: int = 1_000_000
    cache_bytes: int = 64_000_000
    hosts: Sequence[str] = ()
    origins: Sequence[str] = ()
    key: bytes | None = None
    log_json: bool = False


class Server:
    """A model, and all that answers for it.

    Attributes:
        app: the ASGI application.
        scheduler: the engine's thread; runs from the application's start to its end.
        failure: why it couldn't be started.
    """

    scheduler: Scheduler
    failure: Exception | None = None

    def __init__(self, model: Model, settings: Settings) -> None:
        self.model, self.settings = model, settings
        self.metrics = Metrics()
        self.vocabulary = Vocabulary(model)
        self.created = int(time.time())
        self._completer = model.completer()
        # Scores, and completions of words: each one after the other, beside the engine's thread.
        self._scorer, self._typist = ThreadPoolExecutor(1, "score"), ThreadPoolExecutor(1, "words")
        self._working = 0
        self._page: bytes | None = None
        self.app = self._build()

    def _build(self) -> App:
        routes = [
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/models", self.models),
            Route("/v1/models/{model}", self.one_model),
            Route("/tokenize", self.tokenize, methods=["POST"]),
            Route("/detokenize", self.detokenize, methods=["POST"]),
            Route("/tokenizer_info", self.tokenizer_info),
            Route("/score", self.score, methods=["POST"]),
            Route("/complete", self.complete, methods=["POST"]),
            Route("/healthz", self.health),
            Route("/metrics", self.metrics_text),
            Route("/openapi.json", self.openapi),
            Route("/", self.playground),
        ]
        inner = Starlette(
            routes=routes,
            exception_handlers={
                RequestError: _refusal,
                HTTPException: _http_refusal,
                Exception: _bug,
            },
            lifespan=self.running,
        )
        inner.router.redirect_slashes = False
        app: App = Guard(
            inner,
            routes=[one.path for one in openapi.OPERATIONS],
            hosts=self.settings.hosts,
            origins=self.settings.origins,
            key=self.settings.key,
            metrics=self.metrics,
            log_json=self.settings.log_json,
        )
        if self.settings.origins:
            app = CORSMiddleware(
                app,
                allow_origins=self.settings.origins,
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
            )
        return app

    @contextlib.asynccontextmanager
    async def running(self, _: Starlette | None = None) -> AsyncIterator[None]:
        """The engine's thread runs inside."""
        try:
            self.scheduler = Scheduler(
                self.model,
                most_streams=self.settings.most_streams,
                most_waiting=self.settings.most_waiting,
                cache_bytes=self.settings.cache_bytes,
                metrics=self.metrics,
            )
        except Exception as error:
            self.failure = error
            raise
        try:
            yield
        finally:
            self.scheduler.close()
            for worker in (self._scorer, self._typist):
                worker.shutdown(cancel_futures=True)

    # --- Texts ---

    async def completions(self, request: Request) -> Response:
        """POST /v1/completions."""
        asked = await self._read(request, protocol.CompletionRequest)
        asked.check_stream_options()
        answer = _CompletionWriter(self, asked)
        texts = []
        for prompt in asked.prompts():
            ids = await self._ids(prompt)
            lead, ids = self._led(ids)
            answer.add_prompt(prompt, ids[lead:])
            room = self._room(ids, "prompt")
            most = asked.max_tokens
            if most is None:
                most = min(protocol.DEFAULT_TOKENS, room)
            texts += self._texts(answer, asked, ids, most, room, "prompt")
        return self._answer(request, asked, answer, texts)

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        asked = await self._read(request, protocol.ChatRequest)
        asked.check_stream_options()
        if None not in (asked.max_tokens, asked.max_completion_tokens):
            raise RequestError(
                "max_tokens and max_completion_tokens are two names of one number: give one",
                param="max_tokens",
            )
        answer = _ChatWriter(self, asked)
        lead, ids = self._led(await self._ids(asked.prompt()))
        answer.add_prompt(ids[lead:])
        room = self._room(ids, "messages")
        most = asked.max_completion_tokens or asked.max_tokens
        if most is None:
            most = min(protocol.DEFAULT_CHAT_TOKENS, room)
        texts = self._texts(answer, asked, ids, most, room, "messages")
        return self._answer(request, asked, answer, texts)

    def _answer(
        self, request: Request, asked: Generating, answer: _Writer, texts: list[Text]
    ) -> Response:
        run = _Run(self, request, answer.mailbox, texts)
        return _Stream(run, answer, asked) if asked.stream else _Whole(run, answer)

    async def _ids(self, prompt: str | list[int]) -> list[int]:
        """The ids of a prompt."""
        if isinstance(prompt, list):
            self.vocabulary.check(prompt, "prompt")
            return prompt
        if len(prompt) < LONG_TEXT:
            return self.vocabulary.encode(prompt)
        return await asyncio.to_thread(self.vocabulary.encode, prompt)

    def _led(self, ids: list[int]) -> tuple[int, list[int]]:
        """The ids with the token that begins every document in front, after how many were added."""
        bos = self.model.bos_id
        if bos is None or ids[:1] == [bos]:
            return 0, ids
        return 1, [bos, *ids]

    def _room(self, ids: list[int], param: str) -> int:
        """How many tokens may follow; 0: the prompt may only be scored."""
        if not ids:
            raise RequestError(
                "the prompt is empty, and nothing begins a document of this model: expected text",
                param=param,
            )
        if len(ids) > self.model.context:
            raise RequestError(
                f"the prompt has {len(ids):,} tokens: there is room for "
                f"{self.model.context:,}. Shorten it",
                param=param,
                code="context_length_exceeded",
            )
        return self.model.context - len(ids) + 1  # the last one isn't read

    def _texts(
        self,
        answer: _Writer,
        asked: Generating,
        ids: list[int],
        max_tokens: int,
        room: int,
        param: str,
    ) -> list[Text]:
        """The texts that are asked for after one prompt."""
        if max_tokens > room:
            raise RequestError(
                f"the prompt has {len(ids):,} tokens and max_tokens is {max_tokens:,}: there is "
                f"room for {self.model.context:,}. Shorten the prompt or lower max_tokens",
                param=param,
                code="context_length_exceeded",
            )
        self.vocabulary.check(map(int, asked.logit_bias or ()), "logit_bias")
        options = asked.options()
        if options["repetition_penalty"] is None:
            advice = self.model.sampling_defaults  # a penalty that is given has another window
            options |= {key: advice[key] for key in ("repetition_penalty", "repetition_window")}
        texts = []
        for sample in range(asked.n or 1):
            index = answer.add_text()
            if index >= protocol.MOST_CHOICES:
                raise RequestError(
                    f"the request asks for more than {protocol.MOST_CHOICES} texts: send fewer "
                    "prompts, or lower n",
                    param="n" if (asked.n or 1) > 1 else param,
                )
            texts.append(
                Text(
                    ids=ids,
                    options=options | {"seed": asked.seed_of(sample)},
                    max_tokens=max_tokens,
                    index=index,
                    top=answer.top,
                    mailbox=answer.mailbox,
                    score=answer.scores_prompts,
                )
            )
        return texts

    # --- Models and tokens ---

    async def models(self, _: Request) -> Response:
        """GET /v1/models."""
        return _json(protocol.ModelList("list", [self._card()]))

    async def one_model(self, request: Request) -> Response:
        """GET /v1/models/{model}."""
        self._check_model(request.path_params["model"])
        return _json(self._card())

    def _card(self) -> protocol.ModelCard:
        name, context = self.settings.name, self.model.context
        return protocol.ModelCard(name, "model", self.created, "itera-lite", context)

    async def tokenize(self, request: Request) -> Response:
        """POST /tokenize."""
        asked = await self._read(request, protocol.TokenizeRequest)
        ids = await self._ids(asked.prompt)
        if asked.add_special_tokens is not False:
            ids = self._led(ids)[1]
        return _json(protocol.Tokens(ids, len(ids), self.model.context))

    async def detokenize(self, request: Request) -> Response:
        """POST /detokenize."""
        asked = await self._read(request, protocol.DetokenizeRequest)
        self.vocabulary.check(asked.tokens, "tokens")
        return _json(protocol.Detokenized(self.vocabulary.decode(asked.tokens)))

    async def tokenizer_info(self, _: Request) -> Response:
        """GET /tokenizer_info."""
        eot = self.model.eot_id
        return _json(
            protocol.TokenizerInfo(
                tokenizer_class="byte-level BPE",
                vocab_size=self.model.vocab_size,
                model_max_length=self.model.context,
                eos_token=self.vocabulary.names[eot],
                eos_token_id=eot,
                bos_token=self.vocabulary.bos_name,
                bos_token_id=self.model.bos_id,
                pad_token=self.vocabulary.names[eot],
                chat_template=protocol.CHAT_TEMPLATE,
            )
        )

    # --- Scores and completions of words ---

    async def score(self, request: Request) -> Response:
        """POST /score."""
        asked = await self._read(request, protocol.ScoreRequest)
        given = [asked.text] if isinstance(asked.text, str) else asked.text
        scores = await self._work(
            request, self._scorer, [partial(self._score, text) for text in given]
        )
        return _json(protocol.ScoreAnswer(self.settings.name, scores))

    def _score(self, text: str) -> protocol.Scored:
        """The score of one text; the scorer's thread calls it."""
        (found,) = self.model.score(text, log_probabilities=True)
        ids = [*self.model.tokenize(text), self.model.eot_id]
        values: list[float | None] = [None] * (len(ids) - len(found.log_probabilities))
        values += found.log_probabilities  # the first one isn't scored where nothing predicts it
        return protocol.Scored(
            bytes=found.bytes,
            tokens=found.tokens,
            nats=found.nats,
            bits_per_byte=found.bits_per_byte if found.bytes else None,
            surprises=[
                protocol.TokenSurprise(
                    token, self.vocabulary.names[token], None if p is None else -p / math.log(2)
                )
                for token, p in zip(ids, values, strict=True)
            ],
        )

    async def complete(self, request: Request) -> Response:
        """POST /complete."""
        asked = await self._read(request, protocol.CompleteRequest)

        def work() -> list[protocol.Candidate]:
            k, lines = asked.k or DEFAULT_COMPLETIONS, bool(asked.lines)
            found = self._completer.complete(asked.prefix, k, lines=lines)
            return [protocol.Candidate(one.text, one.probability) for one in found]

        (candidates,) = await self._work(request, self._typist, [work])
        return _json(protocol.CompleteAnswer(self.settings.name, candidates))

    async def _work(
        self, request: Request, worker: ThreadPoolExecutor, tasks: Sequence[Callable[[], Result]]
    ) -> list[Result]:
        """What the tasks give, which a worker does one after the other.

        Raises:
            RequestError: there is no room, it took too long, or the input can't be used.
        """
        self.scheduler.check_room(1)
        if self._working > self.settings.most_waiting:
            raise self.scheduler.busy()
        self._working += 1
        mailbox, loop = Mailbox(), asyncio.get_running_loop()
        closed = asyncio.create_task(mailbox.take())
        try:
            async with _watched(self, request, mailbox):
                found = []
                for task in tasks:
                    done = loop.run_in_executor(worker, task)
                    either: set[asyncio.Future[Any]] = {done, closed}
                    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                    if mailbox.closed:
                        done.cancel()
                        self._check_open(mailbox)
                    found.append(await done)
                return found
        except UsageError as error:
            raise RequestError(str(error)) from None
        finally:
            closed.cancel()
            self._working -= 1

    def _check_open(self, mailbox: Mailbox) -> None:
        """Raise a `RequestError` where the client went away, or waited too long."""
        if mailbox.closed == LATE:
            self.metrics.timeouts.inc()
            raise RequestError(
                f"the answer took longer than {self.settings.timeout:g} s: ask for less, or give "
                "the server a longer --timeout",
                504,
                code="timeout",
            )
        if mailbox.closed:
            self.metrics.disconnects.inc()
            raise RequestError("the client went away", GONE)

    # --- About the server ---

    async def health(self, _: Request) -> Response:
        """GET /healthz."""
        stopping = self.scheduler.stopping
        busy = self.scheduler.in_flight
        active = min(busy, self.settings.most_streams)
        state = protocol.Health(
            "stopping" if stopping else "ok", self.settings.name, active, busy - active
        )
        return _json(state, 503 if stopping else 200)

    async def metrics_text(self, _: Request) -> Response:
        """GET /metrics."""
        return Response(self.metrics.text(), headers={"content-type": CONTENT_TYPE_LATEST})

    async def openapi(self, _: Request) -> Response:
        """GET /openapi.json."""
        return Response(_encode(openapi.document()), media_type="application/json")

    async def playground(self, _: Request) -> Response:
        """GET /: the page that runs the model in the browser."""
        if self._page is None:
            self._page = await asyncio.to_thread(self._make_page)
        return Response(self._page, media_type="text/html")

    def _make_page(self) -> bytes:
        from itera_lite.playground import page  # only who asks for it waits for it

        model = self.settings.file() if self.settings.file else None
        return page(model, f"{self.settings.name}.gguf")

    # --- Requests ---

    async def _read(self, request: Request, kind: type[Kind]) -> Kind:
        """The body of a request, decoded and checked."""
        asked = protocol.decode(await self._body(request), kind)
        self._check_model(getattr(asked, "model", None))
        return asked

    async def _body(self, request: Request) -> bytes:
        """The bytes of a body; not more than are allowed are ever held."""
        most = self.settings.body_bytes
        length = request.headers.get("content-length", "0")
        parts, size = [], 0
        try:
            if length.isdecimal() and int(length[:20]) > most:
                raise _too_long(most)
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await request.receive()
                    if message["type"] == "http.disconnect":
                        raise RequestError("the client went away", GONE)
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > most:
                        raise _too_long(most)
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            raise RequestError(
                f"the body didn't come within {BODY_SECONDS:g} s",
                408,
                headers={"connection": "close"},
            ) from None

    def _check_model(self, name: str | None) -> None:
        if name is not None and name != self.settings.name:
            raise RequestError(
                f"the model isn't here: this server has '{self.settings.name}'. Name it, or leave "
                "the field out",
                404,
                param="model",
                code="model_not_found",
            )


def _too_long(most: int) -> RequestError:
    return RequestError(
        f"the body is longer than {most:,} bytes: send less, or give the server a larger "
        "--max-body",
        413,
    )


def _json(answer: msgspec.Struct, status: int = 200) -> Response:
    return Response(_encode(answer), status, media_type="application/json")


async def _refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return Response(error.body(), error.status, error.headers, media_type="application/json")


async def _http_refusal(request: Request, error: Exception) -> Response:
    """Starlette's own: an unknown path, or a method that a path hasn't."""
    assert isinstance(error, HTTPException)
    known = ", ".join(one.path for one in openapi.OPERATIONS)
    text = f"no such path: this server has {known}"
    if error.status_code == 405:
        text = "the path doesn't take this method"
    headers = dict(error.headers or {})
    return await _refusal(request, RequestError(text, error.status_code, headers=headers))


async def _bug(request: Request, _: Exception) -> Response:
    """What a client gets of a bug; the guard logs it."""
    return await _refusal(request, RequestError(BUG, 500))


@contextlib.asynccontextmanager
async def _watched(server: Server, request: Request, mailbox: Mailbox) -> AsyncIterator[None]:
    """Close the mailbox when the client goes away, or when its time is up."""

    async def wait_until_gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        mailbox.close(LEFT)

    watcher = asyncio.create_task(wait_until_gone())
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    timers = [loop.call_later(server.settings.timeout, mailbox.close, LATE)]
    # While a client reads nothing, the task waits to send and doesn't look into the mailbox.
    timers.append(loop.call_later(server.settings.timeout + GRACE, task.cancel))
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
        watcher.cancel()


class _Run:
    """The texts of a request while they are written."""

    def __init__(
        self, server: Server, request: Request, mailbox: Mailbox, texts: list[Text]
    ) -> None:
        self.server, self.request, self.mailbox, self.texts = server, request, mailbox, texts
        self._left = set(texts)

    async def pieces(self) -> AsyncGenerator[list[Piece], None]:
        """The pieces as they come, some of each text at a time, until all texts have ended.

        Raises:
            RequestError: there is no room, an option can't be used, the client went away, or it
                took too long. The texts that aren't finished are cancelled.
        """
        scheduler = self.server.scheduler
        scheduler.submit(self.texts)
        try:
            async with _watched(self.server, self.request, self.mailbox):
                while self._left:
                    pieces = await self.mailbox.take()
                    self.server._check_open(self.mailbox)
                    self._left -= {piece.text for piece in pieces if piece.finish}
                    for piece in pieces:
                        if piece.finish == "failed":
                            raise RequestError(piece.error or BUG, 400 if piece.error else 500)
                    yield pieces
        finally:
            if self._left:
                scheduler.cancel(self._left)


class _Writer:
    """Makes the answer of a request from the pieces of its texts."""

    top: int | None  # likeliest tokens that are listed; None: no log-probabilities
    scores_prompts = False

    def __init__(self, server: Server, prefix: str) -> None:
        self.server, self.mailbox = server, Mailbox()
        self.id = f"{prefix}-{uuid.uuid4().hex}"
        self.created, self.model = int(time.time()), server.settings.name
        self.prompt_tokens = self.completion_tokens = 0
        self._decoders: list[codecs.IncrementalDecoder] = []

    def add_text(self) -> int:
        """Another text; its index."""
        self._decoders.append(codecs.getincrementaldecoder("utf-8")("replace"))
        return len(self._decoders) - 1

    def decode(self, piece: Piece) -> str:
        """The text of a piece; bytes that are no UTF-8 become U+FFFD."""
        self.completion_tokens += piece.tokens
        return self._decoders[piece.text.index].decode(piece.data, final=bool(piece.finish))

    @property
    def usage(self) -> protocol.Usage:
        return protocol.Usage.of(self.prompt_tokens, self.completion_tokens)

    def chunk(self, piece: Piece) -> Any:
        """A choice of a part of a stream."""
        raise NotImplementedError

    def event(self, choices: list[Any], usage: Any) -> msgspec.Struct:
        """A part of a stream."""
        raise NotImplementedError

    def whole(self, pieces: Sequence[Piece]) -> msgspec.Struct:
        """The answer that isn't a stream, from one piece a text, in order."""
        raise NotImplementedError


class _CompletionWriter(_Writer):
    """Answers of /v1/completions."""

    def __init__(self, server: Server, asked: protocol.CompletionRequest) -> None:
        super().__init__(server, "cmpl")
        self.top, self._n = asked.logprobs, asked.n or 1
        self._echo = bool(asked.echo)
        self.scores_prompts = self._echo and self.top is not None
        self._prompts: list[tuple[str | list[int], list[int]]] = []
        self._logs: dict[int, LogProbsWriter] = {}

    def add_prompt(self, prompt: str | list[int], ids: list[int]) -> None:
        """Another prompt, as it was given, and its ids without the one that was added."""
        self._prompts.append((prompt, ids))
        self.prompt_tokens += len(ids)

    def chunk(self, piece: Piece) -> protocol.Choice:
        index = piece.text.index
        text, entries, begins = self.decode(piece), piece.entries, index not in self._logs
        if begins:
            self._logs[index] = LogProbsWriter(self.server.vocabulary)
        if begins and self._echo:
            prompt, ids = self._prompts[index // self._n]
            shown = prompt if isinstance(prompt, str) else self.server.vocabulary.decode(ids)
            text = shown + text
            if scores := piece.text.scores[len(piece.text.scores) - len(ids) :]:
                entries = [Entry(s.id, s.log_probability, s.top) for s in scores] + entries
        logs = None if self.top is None else self._logs[index].write(entries)
        return protocol.Choice(index, text, logs, piece.finish or None)  # type: ignore[arg-type]

    def event(self, choices: list[Any], usage: Any) -> msgspec.Struct:
        return protocol.Completion(
            self.id, "text_completion", self.created, self.model, choices, usage
        )

    def whole(self, pieces: Sequence[Piece]) -> msgspec.Struct:
        choices = [self.chunk(piece) for piece in pieces]
        return self.event(choices, self.usage)


class _ChatWriter(_Writer):
    """Answers of /v1/chat/completions."""

    def __init__(self, server: Server, asked: protocol.ChatRequest) -> None:
        super().__init__(server, "chatcmpl")
        self.top = asked.top
        self._begun: set[int] = set()

    def add_prompt(self, ids: list[int]) -> None:
        self.prompt_tokens += len(ids)

    def _logprobs(self, piece: Piece) -> protocol.ChatLogProbs | None:
        if self.top is None:
            return None
        entries = [one for one in piece.entries if one.token != self.server.model.eot_id]
        return protocol.ChatLogProbs(chat_tokens(self.server.vocabulary, entries))

    def chunk(self, piece: Piece) -> protocol.ChatPart:
        index, text = piece.text.index, self.decode(piece)
        begins = index not in self._begun
        self._begun.add(index)
        delta = protocol.ChatDelta(
            role="assistant" if begins else UNSET, content=text if text or begins else UNSET
        )
        reason = piece.finish or None
        return protocol.ChatPart(index, delta, self._logprobs(piece), reason)  # type: ignore[arg-type]

    def event(self, choices: list[Any], usage: Any) -> msgspec.Struct:
        return protocol.ChatChunk(
            self.id, "chat.completion.chunk", self.created, self.model, choices, usage
        )

    def whole(self, pieces: Sequence[Piece]) -> msgspec.Struct:
        choices = [
            protocol.ChatChoice(
                piece.text.index,
                protocol.ChatMessage("assistant", self.decode(piece)),
                self._logprobs(piece),
                piece.finish or None,  # type: ignore[arg-type]
            )
            for piece in pieces
        ]
        return protocol.Chat(
            self.id, "chat.completion", self.created, self.model, choices, self.usage
        )


def _joined(pieces: Sequence[Piece]) -> list[Piece]:
    """One piece a text, in the order of their first ones."""
    found: dict[int, Piece] = {}
    for piece in pieces:
        before = found.get(piece.text.index)
        if before is not None:
            piece = piece._replace(
                data=before.data + piece.data, entries=before.entries + piece.entries
            )
        found[piece.text.index] = piece
    return list(found.values())


class _Whole(Response):
    """An answer that comes when all texts are written."""

    def __init__(self, run: _Run, answer: _Writer) -> None:
        self.run, self.answer = run, answer
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found: list[Piece] = []
        async with contextlib.aclosing(self.run.pieces()) as parts:
            async for pieces in parts:
                found += pieces
        whole = sorted(_joined(found), key=lambda piece: piece.text.index)
        await _json(self.answer.whole(whole))(scope, receive, send)


class _Stream(Response):
    """An answer as server-sent events: ``data: JSON``, an empty line, and at the end [DONE]."""

    def __init__(self, run: _Run, answer: _Writer, asked: Generating) -> None:
        self.run, self.answer = run, answer
        self.include_usage = asked.include_usage
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False
        answer, usage = self.answer, None if self.include_usage else UNSET
        try:
            async with contextlib.aclosing(self.run.pieces()) as parts:
                async for pieces in parts:
                    if not started:  # not before the first token: until then, an error has a status
                        start = {"type": "http.response.start", "status": 200}
                        await send(start | {"headers": list(EVENT_HEADERS)})
                        started = True
                    body = b"".join(
                        _event(answer.event([answer.chunk(piece)], usage))
                        for piece in _joined(pieces)
                    )
                    await send({"type": "http.response.body", "body": body, "more_body": True})
            end = _event(answer.event([], answer.usage)) if self.include_usage else b""
            end += b"data: [DONE]\n\n"
        except RequestError as error:
            if not started:
                raise
            end = _event(error.as_answer())
        await send({"type": "http.response.body", "body": end, "more_body": False})


def _event(data: msgspec.Struct) -> bytes:
    return b"data: " + _encode(data) + b"\n\n"
