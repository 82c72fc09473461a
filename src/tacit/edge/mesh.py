"""gRPC for the mesh port, by grpclib: it runs over a TLS context of ours, so the client's certificate can be seen."""

import asyncio
import logging
import ssl
from collections.abc import Mapping
from typing import Any

import grpclib
import grpclib.const
import grpclib.server
from grpclib.encoding.base import CodecBase

from tacit.edge.listener import GrpcCall, GrpcHandler, bind, cut
from tacit.errors import RequestError, Status
from tacit.pki.tls import peer_certificate

_LOG = logging.getLogger("tacit.edge")


class _BytesCodec(CodecBase):
    """Messages stay bytes: decoding them is for the handler."""

    __content_subtype__ = "proto"

    def __init__(self, max_message: int) -> None:
        self._max_message = max_message

    def encode(self, message: Any, message_type: Any) -> bytes:
        return bytes(message)

    def decode(self, data: bytes, message_type: Any) -> bytes:
        if len(data) > self._max_message:
            raise grpclib.GRPCError(
                grpclib.const.Status.RESOURCE_EXHAUSTED,
                f"received message larger than max ({len(data)} vs. {self._max_message})",
            )
        return data


class _Service:
    """Handlers by path, in grpclib's form."""

    def __init__(self, handlers: Mapping[str, GrpcHandler]) -> None:
        self._handlers = handlers

    def __mapping__(self) -> dict[str, grpclib.const.Handler]:
        unary = grpclib.const.Cardinality.UNARY_UNARY
        return {
            path: grpclib.const.Handler(_adapt(path, handler), unary, bytes, bytes)
            for path, handler in self._handlers.items()
        }


def _adapt(path: str, handler: GrpcHandler) -> Any:
    async def call(stream: "grpclib.server.Stream[bytes, bytes]") -> None:
        message = await stream.recv_message()
        if message is None:
            raise grpclib.GRPCError(grpclib.const.Status.INTERNAL, "the call has no message")
        metadata = {name: value for name, value in (stream.metadata or {}).items() if isinstance(value, str)}
        left = stream.deadline.time_remaining() if stream.deadline is not None else None
        certificate = peer_certificate(stream._stream.connection._transport)
        try:
            answer = await handler(message, GrpcCall(path, metadata, certificate, left))
        except RequestError as exc:
            raise grpclib.GRPCError(grpclib.const.Status(int(exc.status)), cut(str(exc))) from exc
        except grpclib.GRPCError:
            raise
        except Exception as exc:
            _LOG.exception("a handler failed")
            raise grpclib.GRPCError(grpclib.const.Status(int(Status.INTERNAL)), "internal error") from exc
        await stream.send_message(answer)

    return call


class _MeshListener:
    def __init__(self, server: grpclib.server.Server, port: int) -> None:
        self._server = server
        self.port = port

    async def close(self, grace: float) -> None:
        self._server.close()
        try:
            async with asyncio.timeout(grace):
                await self._server.wait_closed()
        except TimeoutError:
            return


async def serve_grpc(
    handlers: Mapping[str, GrpcHandler], *, host: str, port: int, tls: ssl.SSLContext | None, max_message: int
) -> _MeshListener:
    """Serve unary `handlers`, by path such as `/rpc.Marble/Activate`. Raises: PortInUseError, InputError."""
    sock = bind(host, port)
    logging.getLogger("grpclib").setLevel(logging.CRITICAL)  # a stranger's broken connection is not worth a traceback
    server = grpclib.server.Server([_Service(handlers)], codec=_BytesCodec(max_message))  # type: ignore[list-item]
    await server.start(sock=sock, ssl=tls)
    return _MeshListener(server, sock.getsockname()[1])
