"""gRPC for the data port, by grpcio: another implementation, to fall back on.

grpcio sees no client certificate that it does not verify, and has no TLS exporter: what is served here is key-bound.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import grpc
import grpc.aio
from cryptography.hazmat.primitives.serialization import Encoding

from tacit.edge.listener import GrpcCall, GrpcHandler, GrpcMethods, GrpcStreaming, Listener, bind, cut
from tacit.errors import PkiError, PortInUseError, RequestError
from tacit.pki.keys import Credentials, parse_certificates, parse_key_pair

_LOG = logging.getLogger("tacit.edge")
_STATUS = {code.value[0]: code for code in grpc.StatusCode}


class _Router(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no types
    """Finds the handler of a path; messages stay bytes."""

    def __init__(self, handlers: GrpcMethods) -> None:
        self._methods = {
            path: grpc.stream_stream_rpc_method_handler(_adapt_stream(path, method))
            if isinstance(method, GrpcStreaming)
            else grpc.unary_unary_rpc_method_handler(_adapt(path, method))
            for path, method in handlers.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._methods.get(handler_call_details.method)


def _adapt(path: str, handler: GrpcHandler) -> Callable[[bytes, Any], Awaitable[bytes]]:
    async def call(message: bytes, context: Any) -> bytes:
        try:
            return await handler(message, _call(path, context))
        except Exception as exc:
            code, text = _refusal(path, exc)
        return await context.abort(code, text)  # type: ignore[no-any-return]  # it raises

    return call


def _adapt_stream(path: str, method: GrpcStreaming) -> Callable[[AsyncIterator[bytes], Any], AsyncIterator[bytes]]:
    async def call(messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        try:
            async for answer in method.handler(messages, _call(path, context)):
                yield answer
            return
        except Exception as exc:
            code, text = _refusal(path, exc)
        await context.abort(code, text)

    return call


def _call(path: str, context: Any) -> GrpcCall:
    metadata = {name: value for name, value in context.invocation_metadata() or () if isinstance(value, str)}
    return GrpcCall(path, metadata, _certificate(context), context.time_remaining())


def _refusal(path: str, exc: Exception) -> tuple[grpc.StatusCode, str]:
    if isinstance(exc, RequestError):
        return _STATUS[int(exc.status)], cut(str(exc))
    # The caller learns nothing about our inside; our log has it.
    _LOG.error("a handler failed", exc_info=exc, extra={"method": path})
    return grpc.StatusCode.INTERNAL, "internal error"


def _certificate(context: Any) -> bytes | None:
    """The client's certificate as DER; grpcio gives it as PEM."""
    shown = context.auth_context().get("x509_pem_cert", ())
    if not shown:
        return None
    try:
        return parse_certificates(bytes(shown[0]))[0].public_bytes(Encoding.DER)
    except PkiError:
        return None


class _DataListener:
    def __init__(self, server: grpc.aio.Server, port: int) -> None:
        self._server = server
        self.port = port

    async def close(self, grace: float) -> None:
        await self._server.stop(grace)


async def serve_grpc_data(
    handlers: GrpcMethods,
    *,
    host: str,
    port: int,
    credentials: Credentials | None,
    client_roots: bytes | None,
    max_message: int,
) -> Listener:
    """Serve `handlers`; plaintext without `credentials`, and mutual TLS with `client_roots` (PEM).

    `max_message` is bytes, for both directions; -1 is no limit. Other methods get UNIMPLEMENTED, a handler's
    RequestError goes to the caller, any other exception becomes INTERNAL without its text.

    Raises:
        PortInUseError: Somebody else holds the port.
        InputError: There is no such address on this machine, or the port needs more rights.
        PkiError: The credentials cannot be read or do not belong together.
    """
    # grpcio says nothing but "failed to bind"; a socket of our own says why, and gives the port back before its turn.
    probe = bind(host, port)
    probe.close()
    server = grpc.aio.server(
        options=(
            ("grpc.max_receive_message_length", max_message),
            ("grpc.max_send_message_length", max_message),
            ("grpc.so_reuseport", 0),
            # Only messages as they are: a kilobyte of gzip makes a megabyte in memory, before any code of ours sees it.
            ("grpc.compression_enabled_algorithms_bitset", 1),
            # Frames of a megabyte: a tensor of an image fits into one, instead of 37 of the default size.
            ("grpc.http2.max_frame_size", 1 << 20),
        )
    )
    server.add_generic_rpc_handlers((_Router(handlers),))
    # An empty host means every address of the machine, of both families.
    address = f"[{host}]:{port}" if ":" in host else f"{host or '[::]'}:{port}"
    try:
        if credentials is None:
            bound = server.add_insecure_port(address)
        else:
            bound = server.add_secure_port(address, _server_credentials(credentials, client_roots))
    except RuntimeError as exc:
        raise PortInUseError(f"cannot listen on {host or '*'}:{port}: the port was taken while it was opened") from exc
    await server.start()
    return _DataListener(server, bound)


def _server_credentials(credentials: Credentials, client_roots: bytes | None) -> grpc.ServerCredentials:
    """Credentials that grpcio asks for at each handshake; one answer that cannot be used leaves the last good one."""
    if client_roots is not None:
        parse_certificates(client_roots)
    return grpc.dynamic_ssl_server_credentials(
        _configure(credentials, client_roots),
        partial(_renew, credentials, client_roots),
        require_client_authentication=client_roots is not None,
    )


def _configure(credentials: Credentials, client_roots: bytes | None) -> Any:
    """What grpcio takes for one certificate. Raises: PkiError, and whatever `credentials` does."""
    chain, key = credentials()
    parse_key_pair(chain, key)
    return grpc.ssl_server_certificate_configuration([(key, chain)], root_certificates=client_roots)


def _renew(credentials: Credentials, client_roots: bytes | None) -> Any:
    """The newest certificate, or None where that cannot be used: grpcio then goes on with what it has."""
    try:
        return _configure(credentials, client_roots)
    except Exception:
        _LOG.warning("new credentials cannot be used; the previous certificate stays in use", exc_info=True)
        return None
