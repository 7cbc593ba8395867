"""Measures the server under load: what `itera bench serve` does.

Clients ask over loopback, one request after the other, each for a stream. They are this process's,
on bare sockets, so that they take as little of the processor as they can. The bare engine does the
same work in this process: the same prompts, as many texts at a time, a new one where one ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from itera_lite.bench import runtimes
from itera_lite.bench.runtimes import LLAMA, OURS
from itera_lite.engine import Model
from itera_lite.engine.find import BOX, find_model
from itera_lite.errors import IteraError, UsageError
from itera_lite.machine.load import LoadMeter
from itera_lite.machine.provenance import Provenance
from itera_lite.records import ServerLoad, Serving
from itera_lite.stats.comparison import Measurement
from itera_lite.stats.load import Load
from itera_lite.stats.samples import Stat
from itera_lite.stats.targets import Target, ratio

TOGETHER = 16  # texts at a time, where the server is compared with the bare engine
ROUND_SECONDS = 3.0
PEER_SECONDS = 0.1  # each client asks once, which takes that server seconds
PROMPTS = 64
START_SECONDS = 300.0  # that a server may take to start
ANSWER_SECONDS = 120.0
PEER = f"{LLAMA}, server of llama-cpp-python"
PEER_NOTE = "serves one request at a time"
RATIO = Target("engine", f"Server against bare engine, {TOGETHER} streams", "at least", 0.5)
LOST = Target("lost", "Requests lost or texts changed", "at most", 0, unit="requests")
WORDS = (
    ("One day", "Once upon a time", "In a small town", "Last summer"),
    ("a little girl", "a brave dog", "an old man", "the red bird"),
    ("went to the park", "found a shiny stone", "wanted to bake a cake", "lost a warm hat"),
)


def model_file(given: Path | None) -> Path:
    """The GGUF file that is served; by default the one that comes with this package.

    Raises:
        UsageError: it is a folder, which the other server can't load.
        CheckpointError: there is no model.
    """
    path = find_model(given or next(BOX.glob("*.gguf*"), None))
    if path.is_dir():
        raise UsageError(
            f"'{path}' is a folder: name a GGUF file, as `itera export` writes it, so that both "
            "servers load the same"
        )
    return path


def prompts() -> list[str]:
    """Beginnings of stories, all different."""
    return [f"{when}, {who} {what}" for when in WORDS[0] for who in WORDS[1] for what in WORDS[2]]


@dataclass
class Answer:
    """What a client got; the times are seconds since its request."""

    text: str
    tokens: int
    first: float
    whole: bool  # all of it came


@dataclass
class Answers:
    """What all clients got in a time."""

    streams: int
    seconds: float = 0.0
    tokens: int = 0
    requests: int = 0
    lost: int = 0
    different: int = 0
    first: list[float] = field(default_factory=list)

    @property
    def speed(self) -> float:
        return self.tokens / self.seconds


class Client(asyncio.Protocol):
    """A connection that asks for one stream after the other."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._tail = b""
        self._first = 0.0
        self._done: asyncio.Future[bool] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._parts.append(data)
        if not self._first and b"data: " in data:
            self._first = time.perf_counter()
        self._tail = (self._tail + data)[-5:]
        if self._tail == b"0\r\n\r\n":  # the last chunk of the answer
            self._end(True)

    def connection_lost(self, error: Exception | None) -> None:
        self._end(False)

    def _end(self, whole: bool) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(whole)

    async def ask(self, body: bytes) -> Answer:
        """Send a request, and wait for the end of its stream."""
        self._parts, self._tail, self._first = [], b"", 0.0
        self._done = asyncio.get_running_loop().create_future()
        begin = time.perf_counter()
        head = (
            b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        self.transport.write(head + body)
        try:
            whole = await asyncio.wait_for(self._done, ANSWER_SECONDS)
        except TimeoutError:
            whole = False
        return read_answer(b"".join(self._parts), self._first - begin, whole)


def read_answer(data: bytes, first: float, whole: bool) -> Answer:
    """The answer in the bytes of a response with server-sent events."""
    head, _, rest = data.partition(b"\r\n\r\n")
    text, tokens, counted, ended = [], 0, 0, False
    for line in _unchunked(rest).splitlines():
        if not line.startswith(b"data: "):
            continue
        if line == b"data: [DONE]":
            ended = True
            continue
        event = msgspec.json.decode(line[6:])
        for choice in event.get("choices", ()):
            text.append(choice["text"])
            counted += bool(choice["text"])
        tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
    good = whole and ended and head.startswith(b"HTTP/1.1 200")
    return Answer("".join(text), tokens or counted, first, good)


def _unchunked(data: bytes) -> bytes:
    """The body of a response with chunks."""
    parts, at = [], 0
    while (end := data.find(b"\r\n", at)) >= 0:
        try:
            size = int(data[at:end], 16)
        except ValueError:
            break
        parts.append(data[end + 2 : end + 2 + size])
        at = end + 4 + size
    return b"".join(parts)


def request_body(prompt: str, max_tokens: int, **more: Any) -> bytes:
    """A greedy completion as a stream."""
    asked = {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "stream": True}
    return msgspec.json.encode(asked | more)


async def load_server(
    port: int,
    bodies: Mapping[str, bytes],
    expected: Mapping[str, str],
    *,
    streams: int,
    seconds: float,
) -> Answers:
    """Have clients ask until the time is up, each once at least, and wait for what was asked.

    Args:
        bodies: prompt -> request.
        expected: prompt -> text; empty where texts aren't compared.
    """
    loop, found = asyncio.get_running_loop(), Answers(streams)
    begin = time.perf_counter()
    order = list(bodies)

    async def client(number: int) -> None:
        choose = random.Random(number)
        connection: Client | None = None
        begun = False
        while not begun or time.perf_counter() - begin < seconds:
            begun = True
            prompt = choose.choice(order)
            if connection is None or connection.transport.is_closing():
                _, connection = await loop.create_connection(Client, "127.0.0.1", port)
            answer = await connection.ask(bodies[prompt])
            if not answer.whole:
                found.lost += 1
                connection.transport.close()
                continue
            found.requests += 1
            found.tokens += answer.tokens
            found.first.append(answer.first)
            found.different += bool(expected) and answer.text != expected[prompt]
        if connection is not None:
            connection.transport.close()

    await asyncio.gather(*map(client, range(streams)))
    found.seconds = time.perf_counter() - begin
    return found


def engine_speed(
    model: Model, texts: Sequence[str], max_tokens: int, streams: int, seconds: float
) -> float:
    """Tokens/s of the bare engine: ``streams`` texts at a time, a new one where one ends."""
    batch, choose = model.batch(), random.Random(0)

    def start() -> Any:
        return model.start(choose.choice(texts), temperature=0, max_tokens=max_tokens)

    begin, tokens = time.perf_counter(), 0
    running = [start() for _ in range(streams)]
    while time.perf_counter() - begin < seconds:
        batch.step(running)
        for place, stream in enumerate(running):
            if stream.done:
                tokens += len(stream.tokens)
                running[place] = start()
    tokens += sum(len(stream.tokens) for stream in running)
    return tokens / (time.perf_counter() - begin)


@contextlib.contextmanager
def our_server(path: Path, streams: int) -> Iterator[int]:
    """`itera serve` with a file, in a process of its own; gives its port."""
    options = ["--port", "0", "--max-streams", str(streams)]
    command = [sys.executable, "-m", "itera_lite", "serve", str(path), *options]
    with _process(command) as (process, log):
        assert process.stdout is not None
        line = process.stdout.readline()  # the one that it prints when it is ready
        if "http://" not in line:
            raise IteraError(f"the server didn't start: {log()}")
        yield int(line.partition("http://")[2].split()[0].rpartition(":")[2])


@contextlib.contextmanager
def llama_server(path: Path, context: int) -> Iterator[int]:
    """The server of llama-cpp-python with the same file, one thread as ours; gives its port."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = {"model": path, "host": "127.0.0.1", "port": port, "n_ctx": context, "n_threads": 1}
    options |= {"n_threads_batch": 1, "interrupt_requests": False, "verbose": False}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    with _process([sys.executable, "-m", "llama_cpp.server", *words]) as (process, log):
        end = time.perf_counter() + START_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None or time.perf_counter() > end:
                raise IteraError(f"llama-cpp-python's server didn't start: {log()}")
            time.sleep(0.1)
        yield port


@contextlib.contextmanager
def _process(command: Sequence[str]) -> Iterator[tuple[subprocess.Popen[str], Any]]:
    """A server's process, ended at the end; and what it wrote to standard error."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=_environment()
        )

        def log() -> str:
            errors.seek(0)
            return errors.read()[-2000:].strip()

        try:
            yield process, log
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()


def _environment() -> dict[str, str]:
    """With the same copy of this package as here."""
    package, known = str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [package, known]))}


def peer_missing() -> str:
    """Why the other server can't be measured; empty where it can."""
    names = ("llama_cpp", "fastapi", "sse_starlette", "starlette_context", "pydantic_settings")
    absent = [name for name in names if find_spec(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else ""


def measure_serving(
    path: Path,
    name: str,
    *,
    streams: int,
    seconds: float,
    rounds: int,
    max_tokens: int,
    peers: bool,
) -> Serving:
    """Measure the bare engine and the servers in turns, then ours under load.

    The arguments are the options of `itera bench serve`.
    """
    model = Model.load(path)
    texts = prompts()[:PROMPTS]
    print(f"{len(texts)} texts of a single stream", flush=True)
    expected = {
        text: model.generate(text, temperature=0, max_tokens=max_tokens).text for text in texts
    }
    ours = {t: request_body(t, max_tokens, stream_options={"include_usage": True}) for t in texts}
    theirs = {text: request_body(text, max_tokens) for text in texts}
    why_not = peer_missing() if peers else "left out"
    if peers and why_not:
        print(f"{PEER}: not measured, {why_not}")

    def load(port: int, bodies: dict[str, bytes], texts: dict[str, str], n: int, s: float) -> Any:
        return asyncio.run(load_server(port, bodies, texts, streams=n, seconds=s))

    with contextlib.ExitStack() as stack:
        port = stack.enter_context(our_server(path, max(streams, TOGETHER)))
        other = None
        if not why_not:
            other = stack.enter_context(llama_server(path, min(model.context, 4096)))
        speeds, together, peer = [], [], []
        load(port, ours, expected, TOGETHER, 1.0)  # to warm up
        meter = LoadMeter()
        for turn in range(rounds):
            print(f"round {turn + 1} of {rounds}, {TOGETHER} texts at a time", flush=True)
            speeds.append(engine_speed(model, texts, max_tokens, TOGETHER, ROUND_SECONDS))
            together.append(load(port, ours, expected, TOGETHER, ROUND_SECONDS))
            if other is not None:
                peer.append(load(other, theirs, {}, TOGETHER, PEER_SECONDS))
        print(f"{streams} clients for {seconds:g} s", flush=True)
        crowd = load(port, ours, expected, streams, seconds)
        by_others = meter.lap()
    loads = [_record(OURS, together), _record(OURS, [crowd])]
    if peer:
        loads.append(_record(PEER, peer, compared=False, note=PEER_NOTE))
    wrong = sum(one.lost + one.different for one in (*together, crowd))
    return Serving(
        name=name,
        file_bytes=path.stat().st_size,
        params=model.parameters,
        prompts=len(texts),
        max_tokens=max_tokens,
        engine_streams=TOGETHER,
        engine=Stat.of(speeds),
        loads=loads,
        targets=_targets(speeds, [one.speed for one in together], wrong, by_others.load),
        provenance=Provenance.now(
            seed=0,
            versions=runtimes.versions([LLAMA] if peer else []),
            engine_isa=model.isa,
            checkpoints={name: hashlib.sha256(path.read_bytes()).hexdigest()},
            load_by_others=by_others.by_others,
        ),
    )


def _targets(
    engine: Sequence[float], server: Sequence[float], wrong: int, load: Load | None
) -> list[Target]:
    found = ratio(Measurement.of_samples(server), Measurement.of_samples(engine))
    return [RATIO.judged(found, load=load), LOST.judged(Measurement.once(wrong))]


def _record(
    runtime: str, rounds: Sequence[Answers], *, compared: bool = True, note: str = ""
) -> ServerLoad:
    """The rounds of one server with as many clients each."""
    first = [1e3 * x for one in rounds for x in one.first] or [0.0]
    p50, p99 = np.percentile(first, [50, 99])
    return ServerLoad(
        runtime=runtime,
        streams=rounds[0].streams,
        seconds=sum(one.seconds for one in rounds),
        requests=sum(one.requests for one in rounds),
        lost=sum(one.lost for one in rounds),
        different=sum(one.different for one in rounds) if compared else None,
        tokens_per_second=Stat.of([one.speed for one in rounds]),
        first_token_ms_p50=float(p50),
        first_token_ms_p99=float(p99),
        note=note,
    )
