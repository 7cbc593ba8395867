"""The model in the box behind the server: in this process, and as a program of its own."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from itera_lite.engine import Model
from itera_lite.engine.find import BOX
from itera_lite.serve.app import Server, Settings

ROOT = Path(__file__).parents[2]
NAME = "box"
LIMIT = 300.0  # seconds after which a test gives up: far more than a busy machine takes


@pytest.fixture(scope="session")
def box() -> Path:
    """The file of the model in the box."""
    (path,) = BOX.glob("*.gguf")
    return path


@pytest.fixture(scope="session")
def model(box: Path) -> Model:
    return Model.load(box)


class Local:
    """A server in this process; its event loop runs in a thread."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> "Local":
        self._thread.start()
        self._life = self.server.running()
        self.run(self._life.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._life.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(LIMIT)

    async def ask_async(self, method: str, path: str, **options: Any) -> httpx.Response:
        transport = httpx.ASGITransport(self.server.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, **options)

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.run(self.ask_async(method, path, **options))

    def post(self, path: str, **fields: Any) -> httpx.Response:
        return self.ask("POST", path, json=fields)

    def answer(self, path: str, **fields: Any) -> Any:
        response = self.post(path, **fields)
        assert response.status_code == 200, response.text
        return response.json()

    def events(self, path: str, **fields: Any) -> list[dict[str, Any]]:
        """The events of a stream, without the last, which must be [DONE]."""
        response = self.post(path, stream=True, **fields)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"].startswith("text/event-stream")
        *events, done, empty = response.text.split("\n\n")
        assert (done, empty) == ("data: [DONE]", "")
        return [json.loads(event.removeprefix("data: ")) for event in events]

    def metric(self, name: str) -> float:
        return self.server.metrics.registry.get_sample_value(name) or 0.0


@pytest.fixture
def serve(model: Model) -> Iterator[Callable[..., Local]]:
    """Starts servers in this process, with other settings than usual."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(
            Local(Server(model, Settings(name=NAME, **settings)))
        )


@pytest.fixture(scope="session")
def local(model: Model) -> Iterator[Local]:
    """A server in this process, as it is by default."""
    with Local(Server(model, Settings(name=NAME))) as local:
        yield local


@dataclass
class Program:
    """`itera serve`, running."""

    url: str
    process: subprocess.Popen[str]
    log: Path  # its standard error

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def logged(self) -> list[dict[str, Any]]:
        lines = self.log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """An answer, for which the client waits longer than httpx does by itself."""
        return httpx.request(method, self.url + path, timeout=LIMIT, **options)

    def get(self, path: str) -> httpx.Response:
        return self.ask("GET", path)

    def post(self, path: str, **fields: Any) -> httpx.Response:
        return self.ask("POST", path, json=fields)

    def active(self) -> int:
        """Texts that are written now."""
        return int(self.get("/healthz").json()["active"])

    def metric(self, name: str) -> float:
        text = self.get("/metrics").text
        return sum(float(s.split()[-1]) for s in text.splitlines() if s.startswith(name))


Start = Callable[..., AbstractContextManager[Program]]


@pytest.fixture(scope="session")
def start(box: Path, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Starts `itera serve` with further options, on a free port."""

    @contextlib.contextmanager
    def start(*options: str) -> Iterator[Program]:
        log = tmp_path_factory.mktemp("serve") / "log"
        command = [sys.executable, "-m", "itera_lite", "serve", str(box), "--port", "0", *options]
        with log.open("w") as errors:
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
            )
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert "http://" in line, line + log.read_text()
            yield Program("http://" + line.partition("http://")[2].split()[0], process, log)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()

    return start


@pytest.fixture(scope="session")
def program(start: Start) -> Iterator[Program]:
    """`itera serve` with the model in the box, for tests that leave it as it is."""
    with start("--log-json") as program:
        yield program
