"""HTTP/1.1 on asyncio, by uvicorn and httptools, with the client's certificate in every request."""

import asyncio
import logging
import ssl
from email.utils import formatdate
from typing import Any

import httptools  # noqa: F401 -- uvicorn finds it by its name; said here, it is measured with the program
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from tacit.edge.listener import LINGER, HttpHandler, HttpRequest, HttpResponse, Listener, bind, unsent_bytes, until
from tacit.pki.tls import peer_certificate

_HEAD_LIMIT = 64 << 10  # bytes of request line and headers
_REQUEST_TIME = 60.0  # seconds for the head of a request, and for each further megabyte of its body
_PROGRESS = 1 << 20  # bytes of body that buy another _REQUEST_TIME; slower than this is holding a connection for ever
_KEEP_ALIVE = 75  # seconds that an idle connection is kept
_HANDSHAKE_TIME = 15.0  # seconds
_MAX_CONNECTIONS = 1000
_DISCARD = 64 << 20  # bytes of a refused body that are still taken, so that its sender gets to read the refusal
_LOG = logging.getLogger("tacit.edge")


class _HeadTooLargeError(Exception):
    """Stops the parser."""


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol; adds the peer's certificate, a limit on headers, and a limit on the time of a request."""

    _timer: asyncio.TimerHandle | None = None
    _head = 0  # bytes of the current head that the parser has told us
    _arrived = 0  # bytes of the current head that came without the parser telling anything of use
    _in_head = True
    _progress = 0  # bytes of body since the timer was set
    _unsent = 0  # bytes that waited to be sent when the idle timer last looked

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn's own
        super().connection_made(transport)
        # uvicorn copies this into the scope of each request of the connection.
        self.app_state = {"peer_certificate": peer_certificate(transport)}
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._timer is None and self._in_head:
            self._arm()
        self._arrived += len(data)
        super().data_received(data)
        # A header that never ends reaches no callback, so what arrives is counted as well. The callbacks set the count
        # back, so that it holds only what came since the last head or body ended.
        if self._in_head and self._arrived > _HEAD_LIMIT and not self.transport.is_closing():
            self.send_400_response("request line and headers are too large")

    def on_message_begin(self) -> None:
        self._head, self._in_head = 0, True
        self._arm()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._arrived = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._progress += len(body)
        if self._progress >= _PROGRESS:
            self._arm()
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._disarm()
        self._head, self._arrived, self._in_head = 0, 0, True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        if max(self._head, self._arrived) > _HEAD_LIMIT and self._in_head:
            text = f"request line and headers are larger than {_HEAD_LIMIT} bytes\n".encode()
            self.transport.write(
                b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain; charset=utf-8\r\n"
                b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(text), text)
            )
            self.transport.close()
        else:
            super().send_400_response(msg)

    def timeout_keep_alive_handler(self) -> None:
        # uvicorn would wait for ever for somebody who does not read the answer.
        unsent = unsent_bytes(self.transport)
        if unsent and unsent != self._unsent:
            self._unsent = unsent
            self.timeout_keep_alive_task = self.loop.call_later(_KEEP_ALIVE, self.timeout_keep_alive_handler)
        elif unsent:
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def is_busy(self) -> bool:
        """Whether an answer is still on its way out."""
        return unsent_bytes(self.transport) > 0

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > _HEAD_LIMIT:
            raise _HeadTooLargeError

    def _arm(self) -> None:
        self._disarm()
        self._progress = 0
        self._timer = self.loop.call_later(_REQUEST_TIME, self.transport.abort)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _HttpListener:
    def __init__(self, server: asyncio.Server, state: ServerState) -> None:
        self._server, self._state = server, state
        self.port: int = server.sockets[0].getsockname()[1]

    async def close(self, grace: float) -> None:
        self._server.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        await until(lambda: not self._busy(), grace)
        for task in list(self._state.tasks):
            task.cancel()
        await until(lambda: not self._state.connections, LINGER)
        for connection in list(self._state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await asyncio.sleep(0)

    def _busy(self) -> bool:
        sending = any(isinstance(one, _Protocol) and one.is_busy() for one in list(self._state.connections))
        return bool(self._state.tasks) or sending


async def serve_http(
    handler: HttpHandler, *, host: str, port: int, tls: ssl.SSLContext | None, max_body: int
) -> Listener:
    """Serve `handler` on `host` and `port`; a body above `max_body` bytes is answered with 413 and never collected.

    An exception of the handler becomes 500 without its text. A request that breaks off before its end is not handled.

    Raises:
        PortInUseError: Somebody else holds the port.
        InputError: There is no such address on this machine, or the port needs more rights.
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
    # What a stranger sends is not worth a line of our log.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: _Protocol(config=config, server_state=state, app_state={}),
        sock=sock,
        ssl=tls,
        ssl_handshake_timeout=None if tls is None else _HANDSHAKE_TIME,
    )
    return _HttpListener(server, state)


class _BrokenOffError(Exception):
    """The client went before its request was whole."""


class _Application:
    """The ASGI application that a handler becomes."""

    def __init__(self, handler: HttpHandler, max_body: int) -> None:
        self._handler, self._max_body = handler, max_body

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            response = await self._answer(scope, receive)
        except _BrokenOffError:
            return
        headers = {
            "date": formatdate(usegmt=True),
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
            text = f"the body is larger than {self._max_body} bytes\n".encode()
            return HttpResponse(413, text, {"content-type": "text/plain; charset=utf-8", "connection": "close"})
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
            _LOG.exception("a handler failed", extra={"path": request.path})
            return HttpResponse(500, b"internal error\n", {"content-type": "text/plain; charset=utf-8"})

    async def _read(self, headers: dict[str, str], receive: Any) -> bytes | None:
        """The body, or None when it is too large; what is beyond the limit is never kept.

        Raises:
            _BrokenOffError: The client went before the end: half a body is nothing to act on.
        """
        declared = headers.get("content-length", "0")
        too_large = declared.isdigit() and int(declared) > self._max_body
        if too_large and headers.get("expect", "").lower() == "100-continue":
            return None
        pieces: list[bytes] = []
        size = 0
        more = True
        while more and size <= self._max_body + _DISCARD:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _BrokenOffError
            piece = message.get("body", b"")
            more = message.get("more_body", False)
            size += len(piece)
            too_large = too_large or size > self._max_body
            if too_large:
                pieces.clear()
            else:
                pieces.append(piece)
        return None if too_large else b"".join(pieces)
