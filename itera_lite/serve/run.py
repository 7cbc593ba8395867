"""Runs the server until a signal ends it: what `itera serve` does."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from itera_lite.engine import Model
from itera_lite.errors import IteraError, MissingExtra, UsageError

if TYPE_CHECKING:
    from itera_lite.serve.app import Settings

PACKAGES = {
    "starlette": "starlette",
    "uvicorn": "uvicorn",
    "prometheus_client": "prometheus-client",
}
LEAST_KEY = 16  # characters
SWITCH_SECONDS = 0.0005  # Python's own 5 ms would hold up the engine's thread at every step
BACKLOG = 1024  # connections that wait to be accepted


def check_packages() -> None:
    """Check that the packages of the extra are installed.

    Raises:
        MissingExtra: one isn't.
    """
    for module, package in PACKAGES.items():
        if find_spec(module) is None:
            raise MissingExtra(package, extra="serve", purpose="`itera serve`")


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def read_key(path: Path) -> bytes:
    """The API key in a file: its first line.

    Raises:
        UsageError: the file can't be read, or holds no usable key.
    """
    try:
        key = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise UsageError(f"--api-key-file '{path}' can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        key = ""
    if len(key) < LEAST_KEY or not key.isprintable() or " " in key:
        raise UsageError(
            f"--api-key-file '{path}': expected a line of at least {LEAST_KEY} ASCII characters "
            "without spaces, such as `openssl rand -hex 32` writes"
        )
    return key.encode("ascii")


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        IteraError: the port is in use, or the address isn't one of this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        # asyncio sets TCP_NODELAY only on sockets that have the protocol's number. Without it,
        # small pieces wait until the last one was acknowledged (40 ms).
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(BACKLOG)
        except OSError:
            listening.close()
            raise
        return listening
    except UnicodeError as error:  # of a name that can't be one
        raise UsageError(
            f"--host {host}: {error}; expected an address or a name of this machine"
        ) from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise IteraError(
                f"port {port} of {host} is in use: end the other program, or choose another with "
                "--port (0 takes a free one)"
            ) from None
        if error.errno == errno.EACCES:
            raise IteraError(
                f"port {port} may not be opened by this user: choose one from 1024 with --port"
            ) from None
        raise UsageError(
            f"--host {host}: {error.strerror or error}; expected an address or a name of this "
            "machine"
        ) from None


def run(model: Model, settings: Settings, listening: socket.socket, ready: str) -> None:
    """Answer requests until SIGINT or SIGTERM; then finish what runs. A second one ends at once.

    Args:
        listening: where connections come from; closed at the end.
        ready: printed once requests are answered.
    """
    import uvicorn

    from itera_lite.serve.app import GRACE, Server

    server = Server(model, settings)
    config = uvicorn.Config(
        server.app,
        http="h11",
        loop="asyncio",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        # A client that doesn't read what it asked for would hold up the end for ever.
        timeout_graceful_shutdown=math.ceil(settings.timeout + GRACE) + 1,
    )

    class Uvicorn(uvicorn.Server):
        """Prints a line when it is ready, and has the app refuse requests when it stops."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            log = logging.getLogger("uvicorn.error")
            log.disabled = True  # it would write the traceback of what is raised here
            try:
                await super().startup(sockets)
            except SystemExit:  # uvicorn's own exit, where the app couldn't start
                raise server.failure or IteraError("the server couldn't start") from None
            finally:
                log.disabled = False
            if not self.should_exit:
                print(ready, flush=True)

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            with _handled(self._stop):
                yield

        def _stop(self, number: int, _: FrameType | None) -> None:
            if self.should_exit:
                os._exit(128 + number)  # nothing is left to save
            if hasattr(server, "scheduler"):  # not before the app has started
                server.scheduler.stopping = True
            self.should_exit = True
            os.write(2, b"itera: stopping; what runs is finished. Once more ends at once\n")

    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        asyncio.run(Uvicorn(config).serve(sockets=[listening]))
    finally:
        sys.setswitchinterval(before)


@contextlib.contextmanager
def _handled(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """Have a function called for SIGINT and SIGTERM."""
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
