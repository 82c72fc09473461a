"""A port: connections are accepted, counted, told apart by what they speak, looked after, and drained at the end."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from tacit.edge.calls import Multiplexer
from tacit.edge.http import text_answer
from tacit.edge.http1 import Http1
from tacit.edge.http2 import PREFACE
from tacit.edge.listener import (
    FAREWELL,
    LINGER,
    UNIX,
    GrpcMethods,
    HttpHandler,
    HttpRefusal,
    Listener,
    SocketFile,
    bind,
    until,
)
from tacit.edge.service import Budget, Limits, Peer, Service

if TYPE_CHECKING:
    from tacit.pki.tls import ServerContext, TlsPeer

_LOG = logging.getLogger("tacit.edge")


class Speaker(Protocol):
    """A connection whose protocol is known."""

    def receive(self, data: bytes | memoryview) -> None:
        """Bytes from the client; a view is valid during this call."""

    def pause(self) -> None:
        """The socket takes nothing more for now."""

    def resume(self) -> None:
        """The socket takes more."""

    def lost(self) -> None:
        """The connection is gone."""

    def part(self) -> None:
        """Tell the client to go elsewhere; what it sent before it heard that is still taken."""

    def leave(self) -> None:
        """Take no further request, and close after those that run."""

    def cancel(self) -> None:
        """Take from every request the time that it would still need."""

    def is_busy(self) -> bool:
        """Whether a request runs, or an answer is still on its way out."""

    def look(self, now: float) -> None:
        """End what takes too long."""


def _address_of(transport: asyncio.Transport) -> str:
    """HOST:PORT of the other end, as Go writes it; empty where there is none."""
    match transport.get_extra_info("peername"):
        case (str(host), int(port), *_):
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return ""


class _Connection(asyncio.Protocol):
    """One socket. Under TLS the client's ALPN says what it speaks, elsewhere its first bytes."""

    def __init__(self, port: "Port") -> None:
        self._port = port
        self._first = b""
        self._began = 0.0
        self.transport: asyncio.Transport | None = None
        self.speaker: Speaker | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client without TLS."""
        self.accepted(cast("asyncio.Transport", transport))
        if self.transport is not None and not self._port.service.speaks_http1():
            peer = Peer(address=_address_of(self.transport))
            self._speak(Multiplexer(self.transport, self._port.service, peer))

    def accepted(self, transport: asyncio.Transport) -> None:
        """A client has come, and is counted."""
        self._began = self._port.loop.time()
        if self._port.admit(self):
            self.transport = transport
        else:
            transport.abort()

    def secured(self, peer: "TlsPeer") -> None:
        """A client with TLS has shaken hands."""
        transport = self.transport
        if transport is None:
            return
        who = Peer(peer.certificate(), peer.export, _address_of(transport))
        if peer.protocol() == "h2":
            self._speak(Multiplexer(transport, self._port.service, who))
        elif self._port.service.speaks_http1():
            self._speak(Http1(transport, self._port.service, who))
        else:
            transport.close()

    def data_received(self, data: bytes | memoryview) -> None:
        """Bytes of the client; a view is valid during this call."""
        if self.speaker is not None:
            self.speaker.receive(data)
            return
        transport = self.transport
        self._first += data
        if transport is None or (len(self._first) < len(PREFACE) and PREFACE.startswith(self._first)):
            return
        kind = Multiplexer if self._first.startswith(PREFACE) else Http1
        speaker = kind(transport, self._port.service, Peer(address=_address_of(transport)))
        first, self._first = self._first, b""
        self._speak(speaker)
        speaker.receive(first)

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        if self.speaker is not None:
            self.speaker.pause()

    def resume_writing(self) -> None:
        if self.speaker is not None:
            self.speaker.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        self._port.connections.discard(self)
        self.transport = None
        if self.speaker is not None:
            self.speaker.lost()

    def look(self, now: float) -> None:
        """End it if it takes too long."""
        if self.speaker is not None:
            self.speaker.look(now)
        elif self.transport is not None and now - self._began > self._port.patience:
            self.transport.abort()

    def part(self) -> None:
        """Close as the protocol wants it, once the client heard of it."""
        if self.speaker is not None:
            self.speaker.part()
        else:
            self.leave()

    def leave(self) -> None:
        """Close as the protocol wants it."""
        if self.speaker is not None:
            self.speaker.leave()
        elif self.transport is not None:
            self.transport.close()

    def _speak(self, speaker: Speaker) -> None:
        self.speaker = speaker
        if self._port.closing:
            speaker.leave()


class Port:
    """A listener of our own. Nothing runs while nobody is connected."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.loop = asyncio.get_running_loop()
        self.connections: set[_Connection] = set()
        self.closing = False
        self.port = 0
        self.patience = service.limits.request_time  # seconds until something that can be understood has come
        self._timer: asyncio.TimerHandle | None = None
        self._server: asyncio.Server | None = None
        self._socket: SocketFile | None = None  # which Python leaves until 3.13

    async def open(self, host: str, port: int, tls: "ServerContext | None") -> None:
        """Listen. Raises: PortInUseError, InputError."""
        sock = bind(host, port)
        connect: Callable[[], asyncio.BaseProtocol] = partial(_Connection, self)
        if tls is not None:
            connect = self._behind(tls)
            self.patience = self.service.limits.handshake_time
        if host.startswith(UNIX):
            self._server = await self.loop.create_unix_server(connect, sock=sock)
            self._socket = SocketFile(Path(host.removeprefix(UNIX)))
        else:
            self._server = await self.loop.create_server(connect, sock=sock)
            self.port = sock.getsockname()[1]

    def _behind(self, tls: "ServerContext") -> Callable[[], asyncio.BaseProtocol]:
        """What makes a connection behind TLS, whose libraries a port in the clear does without."""
        from tacit.edge.tls import Buffers, Tls

        buffers = Buffers()
        return lambda: Tls(tls, _Connection(self), buffers)

    def admit(self, connection: _Connection) -> bool:
        """Whether there is room for one more; there is none at the end, when one may still have been on its way."""
        if self.closing or len(self.connections) >= self.service.limits.connections:
            return False
        self.connections.add(connection)
        if self._timer is None:
            self._timer = self.loop.call_later(self.service.limits.look_every(), self._look)
        return True

    async def close(self, grace: float) -> None:
        """Stop accepting, let what runs finish for `grace` seconds, and end."""
        self.closing = True
        if self._server is not None:
            self._server.close()
        if self._socket is not None:
            self._socket.remove()
        for connection in list(self.connections):
            connection.part()
        farewell = min(FAREWELL, grace)
        await until(lambda: not self._busy(), farewell)
        for connection in list(self.connections):
            connection.leave()
        await until(lambda: not self._busy(), grace - farewell)
        for connection in list(self.connections):
            if connection.speaker is not None:
                connection.speaker.cancel()
        await until(lambda: not self.connections, LINGER)
        for connection in list(self.connections):
            if connection.transport is not None:
                connection.transport.abort()
        if self._timer is not None:
            self._timer.cancel()
        await asyncio.sleep(0)

    def _busy(self) -> bool:
        return any(one.speaker is not None and one.speaker.is_busy() for one in list(self.connections))

    def _look(self) -> None:
        self._timer = None
        now = self.loop.time()
        for connection in list(self.connections):
            try:
                connection.look(now)
            except Exception:
                _LOG.exception("a connection could not be looked after")
        if self.connections and not self.closing:
            self._timer = self.loop.call_later(self.service.limits.look_every(), self._look)


async def serve(
    *,
    host: str,
    port: int,
    tls: "ServerContext | None",
    http: HttpHandler | None = None,
    grpc: GrpcMethods | None = None,
    max_body: int = 0,
    max_message: int = 0,
    limits: Limits | None = None,
    refuse: HttpRefusal = text_answer,
) -> Listener:
    """Serve HTTP, gRPC or both on one port; what a client speaks is told by ALPN, or by its first bytes without TLS.

    Args:
        host: Empty for every address of the machine, of both families; `unix:PATH` for a unix socket.
        port: 0 takes a free one.
        tls: A context of `pki.tls.server_context`, None for plaintext.
        http: Answers requests that are not gRPC; a body above `max_body` bytes is answered with 413.
        grpc: Handlers by path; other methods get UNIMPLEMENTED, a message above `max_message` bytes (-1: no limit)
            gets RESOURCE_EXHAUSTED before it is read. A handler's RequestError goes to the caller, any other exception
            becomes INTERNAL without its text.
        max_body: Bytes.
        max_message: Bytes.
        limits: What strangers may cost.
        refuse: How requests over HTTP are refused that `http` never sees, or fails on; as text unless said otherwise.

    Raises:
        PortInUseError: Somebody else holds the port.
        InputError: There is no such address on this machine, or the port needs more rights.
    """
    limits = limits or Limits()
    budget = Budget(max(limits.bodies, max_body, max_message))
    made = Port(Service(http, grpc, max_body, max_message, limits, budget, refuse))
    await made.open(host, port, tls)
    return made


async def serve_http(
    handler: HttpHandler,
    *,
    host: str,
    port: int,
    tls: "ServerContext | None",
    max_body: int,
    limits: Limits | None = None,
    refuse: HttpRefusal = text_answer,
) -> Listener:
    """Serve `handler` by HTTP/1.1 and HTTP/2; see `serve`."""
    return await serve(host=host, port=port, tls=tls, http=handler, max_body=max_body, limits=limits, refuse=refuse)


async def serve_grpc(
    handlers: GrpcMethods,
    *,
    host: str,
    port: int,
    tls: "ServerContext | None",
    max_message: int,
    limits: Limits | None = None,
) -> Listener:
    """Serve gRPC alone; see `serve`. A connection over TLS whose ALPN is not h2 is closed after its handshake."""
    return await serve(host=host, port=port, tls=tls, grpc=handlers, max_message=max_message, limits=limits)
