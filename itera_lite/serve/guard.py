"""What stands in front of every route: who may ask, what is logged, and no traceback to a client.

Plain ASGI: a middleware that wraps the response would hide that a client went away.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import logging
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from itera_lite.serve.metrics import Metrics
from itera_lite.serve.protocol import RequestError

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = {"/healthz"}  # answered without a key
_log = logging.getLogger("itera.serve")


class Guard:
    """Checks Host, Origin and API key; counts, logs and names every request.

    Args:
        app: what is guarded.
        routes: known paths, which the counters are kept by.
        hosts: names that Host may have, beside addresses and ``localhost``; a page of another
            name that was made to lead here (DNS rebinding) has none of them.
        origins: web pages of other servers that may ask; ``*``: all.
        key: that a client must send; None: none.
        log_json: write a line a request to standard error.
    """

    def __init__(
        self,
        app: App,
        *,
        routes: Sequence[str],
        hosts: Sequence[str],
        origins: Sequence[str],
        key: bytes | None,
        metrics: Metrics,
        log_json: bool,
    ) -> None:
        self.app, self.metrics = app, metrics
        self.routes = frozenset(routes)
        self.hosts = {"localhost", *(host.lower() for host in hosts)}
        self.origins = frozenset(origins)
        self.key, self.log_json = key, log_json

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value for name, value in scope["headers"]}
        request_id = f"req_{uuid.uuid4().hex}"
        begin, status = time.perf_counter(), 0

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        try:
            self._check(scope, headers)
            await self.app(scope, receive, send_on)
        except RequestError as error:
            await refuse(error, send_on)
        except Exception:
            _log.exception("request %s: a bug", request_id)
            if not status:
                text = f"a bug in the server; its log has the request {request_id}"
                await refuse(RequestError(text, 500), send_on)
        finally:
            path = scope["path"]
            if path.startswith("/v1/models/"):
                path = "/v1/models/{model}"
            route = path if path in self.routes else "other"
            seconds = time.perf_counter() - begin
            self.metrics.requests.labels(route, str(status)).inc()
            self.metrics.seconds.labels(route).observe(seconds)
            if self.log_json:
                line = {
                    "time": round(time.time(), 3),
                    "request": request_id,
                    "client": (scope.get("client") or [None])[0],
                    "method": scope["method"],
                    "route": route,
                    "status": status,
                    "seconds": round(seconds, 6),
                }
                print(json.dumps(line), file=sys.stderr, flush=True)

    def _check(self, scope: Scope, headers: dict[str, bytes]) -> None:
        """Refuse who may not ask.

        Raises:
            RequestError: Host or Origin isn't allowed, or the key is missing or wrong.
        """
        host = headers.get("host", b"").decode("latin-1")
        if not self._is_ours(host):
            raise RequestError(
                "the Host of the request isn't a name of this server: expected an address, "
                "localhost, or a name that --allowed-host gives",
                403,
                code="host_not_allowed",
            )
        if (origin := headers.get("origin")) is not None:
            own = (f"http://{host}", f"https://{host}")
            given = origin.decode("latin-1")
            if not ({given, "*"} & self.origins or given in own):
                raise RequestError(
                    "the page that asks belongs to another server: --cors-origin allows it",
                    403,
                    code="origin_not_allowed",
                )
        if self.key is not None and scope["path"] not in OPEN:
            scheme, _, given_key = headers.get("authorization", b"").partition(b" ")
            right = hmac.compare_digest(given_key.strip(), self.key)
            if scheme.lower() != b"bearer" or not right:
                raise RequestError(
                    "the API key is missing or wrong: expected the header "
                    "'Authorization: Bearer KEY'",
                    401,
                    code="invalid_api_key",
                    headers={"www-authenticate": "Bearer"},
                )

    def _is_ours(self, host: str) -> bool:
        """Whether a Host may be asked for: an address can't be rebound, a name can."""
        name = host.rpartition("]")[0][1:] if host.startswith("[") else host.partition(":")[0]
        if name.lower() in self.hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


async def refuse(error: RequestError, send: Send) -> None:
    """Send a refusal as a whole response."""
    body = error.body()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    headers += [(name.encode(), value.encode()) for name, value in error.headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
