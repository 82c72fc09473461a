"""gRPC's drop-ins for clients that others wrote: they speak TLS to the attested coordinator's servers, and to nobody else.

`credentials` and `AttestedChannel` are for stubs of any service (`aio` has the channel for asyncio, `adapters` Triton's
client and TensorFlow Serving's stubs, `http` what httpx takes). All are key-bound: a server shows a certificate that the
attested coordinator signed for a marble which it attested before. Nothing is asked of the system's certificates, of a
proxy, or of the environment.

When servers show another chain the coordinator is attested anew; if it is still what was expected, the request that met
the new chain is sent again: nothing of it had left, for the handshake was refused.
"""

from functools import partial
from typing import Any

import grpc

from tacit.client.address import GRPC_PORT, parse_address
from tacit.client.connect import AttestedCoordinator
from tacit.client.inference.grpc import secure, way_of
from tacit.client.session.current import Current, refused_certificate
from tacit.client.session.renewal import Renewal

OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
)


def refused_by_server(exc: grpc.RpcError) -> bool:
    """Whether a call failed because its server's certificate is not of the chain that it was made for."""
    return exc.code() is grpc.StatusCode.UNAVAILABLE and refused_certificate(RuntimeError(exc.details()))


def credentials(used: AttestedCoordinator) -> grpc.ChannelCredentials:
    """For a channel that others make (`tritonclient.grpc.InferenceServerClient(..., ssl=True, creds=...)`).

    A channel is bound to the chain of its credentials: after the coordinator's rotation it takes a new one.
    """
    return secure(used.intermediate_pem, None)


class AttestedChannel(grpc.Channel):  # type: ignore[misc]  # grpcio has no types
    """A channel to one server, for stubs of any service. A unary call that meets a new chain is made again on it."""

    def __init__(self, renewal: Renewal, address: str) -> None:
        self._inner = Current(renewal, partial(_open_channel, address))

    def unary_unary(self, *words: Any, **named: Any) -> Any:
        """As gRPC's."""
        return _Call(self._inner, "unary_unary", words, named)

    def unary_stream(self, *words: Any, **named: Any) -> Any:
        """As gRPC's."""
        return _Call(self._inner, "unary_stream", words, named)

    def stream_unary(self, *words: Any, **named: Any) -> Any:
        """As gRPC's."""
        return _Call(self._inner, "stream_unary", words, named)

    def stream_stream(self, *words: Any, **named: Any) -> Any:
        """As gRPC's."""
        return _Call(self._inner, "stream_stream", words, named)

    def subscribe(self, callback: Any, try_to_connect: bool | None = False) -> None:
        """As gRPC's, of the connection to the servers' present chain."""
        self._inner.now()[1].subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Any) -> None:
        """As gRPC's."""
        for inner in self._inner.all():
            inner.unsubscribe(callback)

    def close(self) -> None:
        """End the connections."""
        for inner in self._inner.finish():
            inner.close()

    def __enter__(self) -> "AttestedChannel":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Call:
    """A method of whichever channel there is when it is called."""

    def __init__(self, inner: Current[Any], kind: str, words: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._inner, self._kind, self._words, self._named = inner, kind, words, named

    def __call__(self, *request: Any, **options: Any) -> Any:
        return self._again("__call__", request, options)

    def with_call(self, *request: Any, **options: Any) -> Any:
        """As gRPC's."""
        return self._again("with_call", request, options)

    def future(self, *request: Any, **options: Any) -> Any:
        """As gRPC's; one that meets a new chain fails, and the next call goes on."""
        return self._method(self._inner.now()[1]).future(*request, **options)

    def _method(self, channel: Any) -> Any:
        return getattr(channel, self._kind)(*self._words, **self._named)

    def _again(self, name: str, request: tuple[Any, ...], options: dict[str, Any]) -> Any:
        used, channel = self._inner.now()
        try:
            return getattr(self._method(channel), name)(*request, **options)
        except grpc.RpcError as exc:
            # A stream of requests has been read from, and cannot be sent again.
            can = self._kind.startswith("unary") and refused_by_server(exc)
            again = self._inner.renewed(used) if can else None
            if again is None:
                raise
        return getattr(self._method(again), name)(*request, **options)


def _open_channel(address: str, chain_pem: bytes) -> Any:
    way, named = way_of(parse_address(address, default_port=GRPC_PORT))
    return grpc.secure_channel(way, secure(chain_pem, None), options=[*OPTIONS, *named])
