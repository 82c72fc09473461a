"""gRPC for the mesh port, by grpclib: it runs over a TLS context of ours, so the client's certificate can be seen."""

import asyncio
import logging
import ssl
import struct
from collections.abc import Mapping
from typing import Any, cast
from weakref import WeakSet

import grpclib
import grpclib.const
import grpclib.server
from grpclib.encoding.base import CodecBase
from grpclib.protocol import H2Protocol
from h2.events import UnknownFrameReceived

from tacit.edge.listener import LINGER, GrpcCall, GrpcHandler, Listener, bind, cut, unsent_bytes, until
from tacit.errors import RequestError, Status
from tacit.pki.tls import peer_certificate

_PREFIX = 5  # bytes before a message: compressed or not, and its length
_LOG = logging.getLogger("tacit.edge")


class _BytesCodec(CodecBase):
    """Messages stay bytes: decoding them is for the handler."""

    __content_subtype__ = "proto"

    def encode(self, message: Any, message_type: Any) -> bytes:
        return bytes(message)

    def decode(self, data: bytes, message_type: Any) -> bytes:
        return data


class _Connection(H2Protocol):
    """One client. What it sends out of turn ends its connection, without a word in our log."""

    transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        super().connection_made(transport)
        # Frames of a kind that is not known are to be passed over (RFC 9113, 5.5); grpclib would end the connection.
        self.processor.processors[UnknownFrameReceived] = lambda _event: None

    def data_received(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except Exception as exc:
            _LOG.debug("a connection was ended: %s", exc)
            self.processor.close("Protocol error")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.transport = None
        super().connection_lost(exc)

    def has_to_send(self) -> bool:
        """Whether bytes wait for the other side to take them."""
        return unsent_bytes(self.transport) > 0

    def say_goodbye(self) -> None:
        """Close as the protocols want it: what waits is sent, then the other side answers."""
        if self.transport is not None:
            self.processor.close("the server ends")

    def abort(self) -> None:
        """End now, whatever the other side does."""
        if self.transport is not None:
            self.transport.abort()


class _Server(grpclib.server.Server):
    """grpclib's server, which remembers its connections so that they can be ended."""

    def __init__(self, handlers: Mapping[str, GrpcHandler], max_message: int) -> None:
        self.running = 0
        self.max_message = max_message
        self.connections: WeakSet[_Connection] = WeakSet()
        self._paths = handlers
        super().__init__([self], codec=_BytesCodec())

    def __mapping__(self) -> dict[str, grpclib.const.Handler]:
        unary = grpclib.const.Cardinality.UNARY_UNARY
        return {
            path: grpclib.const.Handler(self._adapt(path, handler), unary, bytes, bytes)
            for path, handler in self._paths.items()
        }

    def stop_accepting(self) -> None:
        """Take no further connections; those that are open go on."""
        if self._server is not None:
            self._server.close()

    def is_busy(self) -> bool:
        """Whether a call runs or an answer is still on its way out."""
        return self.running > 0 or any(connection.has_to_send() for connection in list(self.connections))

    def is_connected(self) -> bool:
        """Whether any client is still there."""
        return any(connection.transport is not None for connection in list(self.connections))

    def _protocol_factory(self) -> _Connection:
        made = super()._protocol_factory()
        connection = _Connection(made.handler, made.config, made.h2_config)
        self.connections.add(connection)
        return connection

    def _adapt(self, path: str, handler: GrpcHandler) -> Any:
        async def call(stream: Any) -> None:
            self.running += 1
            try:
                await stream.send_message(await self._answer(path, handler, stream))
            finally:
                self.running -= 1

        return call

    async def _answer(self, path: str, handler: GrpcHandler, stream: Any) -> bytes:
        message = await _receive(stream, self.max_message)
        metadata = {name: value for name, value in (stream.metadata or {}).items() if isinstance(value, str)}
        left = stream.deadline.time_remaining() if stream.deadline is not None else None
        # grpclib's own `Peer.cert` gives the parsed form alone, which is empty for a certificate that nobody verified.
        certificate = peer_certificate(stream.peer._transport)
        try:
            return await handler(message, GrpcCall(path, metadata, certificate, left))
        except RequestError as exc:
            raise _refusal(exc.status, cut(str(exc))) from exc
        except Exception as exc:
            # The caller learns nothing about our inside; our log has it.
            _LOG.exception("a handler failed", extra={"method": path})
            raise _refusal(Status.INTERNAL, "internal error") from exc


async def _receive(stream: Any, max_message: int) -> bytes:
    """The call's one message, refused by its announced length before the first byte of it is kept.

    grpclib would collect any length first: it has no limit of its own.
    """
    raw = stream._stream
    try:
        prefix = await raw.recv_data(_PREFIX)
        if len(prefix) < _PREFIX:
            raise _refusal(Status.INTERNAL, "the call has no message")
        compressed, length = struct.unpack(">BI", prefix)
        if compressed:
            raise _refusal(Status.UNIMPLEMENTED, "compressed messages are not taken; send without grpc-encoding")
        if length > max_message:
            text = f"grpc: received message larger than max ({length} vs. {max_message})"
            raise _refusal(Status.RESOURCE_EXHAUSTED, text)
        message: bytes = await raw.recv_data(length)
    except AssertionError as exc:  # grpclib's word for a stream that ended early
        raise _refusal(Status.INTERNAL, "the message ends before its length") from exc
    return message


def _refusal(status: Status, message: str) -> grpclib.GRPCError:
    return grpclib.GRPCError(grpclib.const.Status(int(status)), message)


class _MeshListener:
    def __init__(self, server: _Server, port: int) -> None:
        self._server = server
        self.port = port

    async def close(self, grace: float) -> None:
        server = self._server
        server.stop_accepting()
        await until(lambda: not server.is_busy(), grace)
        server.close()
        for connection in list(server.connections):
            connection.say_goodbye()
        await until(lambda: not server.is_connected(), LINGER)
        for connection in list(server.connections):
            connection.abort()
        await asyncio.sleep(0)


async def serve_grpc(
    handlers: Mapping[str, GrpcHandler], *, host: str, port: int, tls: ssl.SSLContext | None, max_message: int
) -> Listener:
    """Serve unary `handlers`, by path such as `/rpc.Marble/Activate`.

    Other methods get UNIMPLEMENTED; a message above `max_message` bytes gets RESOURCE_EXHAUSTED before it is read; a
    handler's RequestError goes to the caller, any other exception becomes INTERNAL without its text.

    Raises:
        PortInUseError: Somebody else holds the port.
        InputError: There is no such address on this machine, or the port needs more rights.
    """
    sock = bind(host, port)
    logging.getLogger("grpclib").setLevel(logging.CRITICAL)  # a stranger's broken connection is not worth a traceback
    server = _Server(handlers, max_message)
    await server.start(sock=sock, ssl=tls)
    return _MeshListener(server, sock.getsockname()[1])
