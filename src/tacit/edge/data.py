"""gRPC for the data port, by grpcio: the fastest that Python has for bodies of many megabytes.

grpcio sees no client certificate that it does not verify, and has no TLS exporter: what is served here is key-bound.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

import grpc
import grpc.aio

from tacit.edge.listener import GrpcCall, GrpcHandler, bind, cut
from tacit.errors import RequestError

Credentials = Callable[[], tuple[bytes, bytes]]
"""Certificate chain and key, PEM; asked at every handshake, so that a renewed certificate reaches the next connection."""

_LOG = logging.getLogger("tacit.edge")
_STATUS = {code.value[0]: code for code in grpc.StatusCode}


class _Router(grpc.GenericRpcHandler):
    """Finds the handler of a path; messages stay bytes."""

    def __init__(self, handlers: Mapping[str, GrpcHandler]) -> None:
        self._methods = {
            path: grpc.unary_unary_rpc_method_handler(_adapt(path, handler)) for path, handler in handlers.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._methods.get(handler_call_details.method)


def _adapt(path: str, handler: GrpcHandler) -> Any:
    async def call(message: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        metadata = {name: value for name, value in context.invocation_metadata() or () if isinstance(value, str)}
        certificates = context.auth_context().get("x509_pem_cert", ())
        certificate = bytes(certificates[0]) if certificates else None
        try:
            return await handler(message, GrpcCall(path, metadata, certificate, context.time_remaining()))
        except RequestError as exc:
            code, text = _STATUS[int(exc.status)], cut(str(exc))
        except Exception:
            _LOG.exception("a handler failed")
            code, text = grpc.StatusCode.INTERNAL, "internal error"
        await context.abort(code, text)
        raise AssertionError("abort does not return")

    return call


class _DataListener:
    def __init__(self, server: grpc.aio.Server, port: int) -> None:
        self._server = server
        self.port = port

    async def close(self, grace: float) -> None:
        await self._server.stop(grace)


async def serve_grpc_data(
    handlers: Mapping[str, GrpcHandler],
    *,
    host: str,
    port: int,
    credentials: Credentials | None,
    client_roots: bytes | None,
    max_message: int,
) -> _DataListener:
    """Serve unary `handlers`; plaintext without `credentials`, and mutual TLS with `client_roots` (PEM).

    Raises: PortInUseError, InputError.
    """
    # grpcio says nothing but "failed to bind"; a socket of our own says why, and is closed again before it takes its turn.
    probe = bind(host, port)
    chosen = probe.getsockname()[1]
    probe.close()
    server = grpc.aio.server(
        options=(
            ("grpc.max_receive_message_length", max_message),
            ("grpc.max_send_message_length", max_message),
            ("grpc.so_reuseport", 0),
            # Frames of a megabyte: a tensor of an image fits into one, instead of 37 of the default size.
            ("grpc.http2.max_frame_size", 1 << 20),
        )
    )
    server.add_generic_rpc_handlers((_Router(handlers),))
    # An empty host means every address of the machine, of both families.
    address = f"[{host}]:{chosen}" if ":" in host else f"{host or '[::]'}:{chosen}"
    if credentials is None:
        bound = server.add_insecure_port(address)
    else:
        bound = server.add_secure_port(address, _server_credentials(credentials, client_roots))
    await server.start()
    await asyncio.sleep(0)
    return _DataListener(server, bound)


def _server_credentials(credentials: Credentials, client_roots: bytes | None) -> grpc.ServerCredentials:
    def configure() -> Any:
        chain, key = credentials()
        return grpc.ssl_server_certificate_configuration([(key, chain)], root_certificates=client_roots)

    return grpc.dynamic_ssl_server_credentials(
        configure(), configure, require_client_authentication=client_roots is not None
    )
