"""HTTP/1.1 on asyncio, by uvicorn and httptools, with the client's certificate in every request."""

import asyncio
import logging
import ssl
import time
from email.utils import formatdate
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from tacit.edge.listener import HttpHandler, HttpRequest, HttpResponse, bind
from tacit.pki.tls import peer_certificate

_HEAD_LIMIT = 64 << 10  # bytes of request line and headers
_REQUEST_TIME = (
    60.0  # seconds from the first byte of a request to its last; a slow sender must not hold a connection for ever
)
_KEEP_ALIVE = 75  # seconds that an idle connection is kept
_HANDSHAKE_TIME = 15.0  # seconds
_MAX_CONNECTIONS = 1000
_LOG = logging.getLogger("tacit.edge")


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol; adds the peer's certificate, a limit on headers, and a limit on the time of a request."""

    _timer: asyncio.TimerHandle | None = None
    _head = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # uvicorn copies this into the scope of each request of the connection.
        self.app_state = {"peer_certificate": peer_certificate(transport)}
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._timer is None:
            self._arm()
        super().data_received(data)

    def on_message_begin(self) -> None:
        self._head = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_message_complete(self) -> None:
        self._disarm()
        super().on_message_complete()

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > _HEAD_LIMIT:
            self.transport.abort()

    def _arm(self) -> None:
        self._timer = self.loop.call_later(_REQUEST_TIME, self._too_slow)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if self.cycle is None or self.cycle.more_body:
            self.transport.abort()


class _HttpListener:
    def __init__(self, server: asyncio.Server, state: ServerState) -> None:
        self._server, self._state = server, state
        self.port: int = server.sockets[0].getsockname()[1]

    async def close(self, grace: float) -> None:
        self._server.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        deadline = asyncio.get_running_loop().time() + grace
        while (self._state.connections or self._state.tasks) and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.01)
        for task in list(self._state.tasks):
            task.cancel()
        for connection in list(self._state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await asyncio.sleep(0)


async def serve_http(
    handler: HttpHandler, *, host: str, port: int, tls: ssl.SSLContext | None, max_body: int
) -> _HttpListener:
    """Serve `handler` on `host` and `port`; a body above `max_body` bytes is answered with 413.

    Raises: PortInUseError, InputError.
    """
    sock = bind(host, port)
    config = uvicorn.Config(
        _Application(handler, max_body),
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        ws="none",
        timeout_keep_alive=_KEEP_ALIVE,
        limit_concurrency=_MAX_CONNECTIONS,
    )
    config.load()
    logging.getLogger("uvicorn.error").setLevel(
        logging.CRITICAL
    )  # what a stranger sends is not worth a line of our log
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: _Protocol(config=config, server_state=state, app_state={}),
        sock=sock,
        ssl=tls,
        ssl_handshake_timeout=None if tls is None else _HANDSHAKE_TIME,
    )
    return _HttpListener(server, state)


class _Application:
    """The ASGI application that a handler becomes."""

    def __init__(self, handler: HttpHandler, max_body: int) -> None:
        self._handler, self._max_body = handler, max_body

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        response = await self._answer(scope, receive)
        headers = {
            "date": formatdate(time.time(), usegmt=True),  # noqa: TID251 -- HTTP wants the clock, and nothing depends on it
            "content-length": str(len(response.body)),
            **{name.lower(): value for name, value in response.headers.items()},
        }
        encoded = [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": response.status, "headers": encoded})
        await send({"type": "http.response.body", "body": response.body if scope["method"] != "HEAD" else b""})

    async def _answer(self, scope: Any, receive: Any) -> HttpResponse:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        body = await self._read(headers, receive)
        if body is None:
            return HttpResponse(
                413, f"the body is larger than {self._max_body} bytes\n".encode(), {"connection": "close"}
            )
        request = HttpRequest(
            scope["method"],
            scope["raw_path"].decode("latin-1"),
            scope["query_string"].decode("latin-1"),
            headers,
            body,
            scope["state"].get("peer_certificate"),
        )
        try:
            return await self._handler(request)
        except Exception:
            # The caller learns nothing about our inside; our log has it.
            _LOG.exception("a handler failed")
            return HttpResponse(500, b"internal error\n", {"content-type": "text/plain; charset=utf-8"})

    async def _read(self, headers: dict[str, str], receive: Any) -> bytes | None:
        """The body, or None when it is too large; checked before it is taken into memory."""
        declared = headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > self._max_body:
            return None
        pieces, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return b"".join(pieces)
            piece = message.get("body", b"")
            size += len(piece)
            if size > self._max_body:
                return None
            pieces.append(piece)
            if not message.get("more_body", False):
                return b"".join(pieces)
