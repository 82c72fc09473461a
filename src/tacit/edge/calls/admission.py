"""Who gets in: handlers around handlers, which look at the client's certificate before anything is read.

A *turnstile* lets each client have so many requests at once, and so many in a second; clients without a certificate are
one client together.
"""

import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from hashlib import sha256

from tacit.edge.http import error_answer
from tacit.edge.listener import (
    GrpcCall,
    GrpcHandler,
    GrpcMethods,
    GrpcStreaming,
    HttpHandler,
    HttpRequest,
    HttpResponse,
)
from tacit.errors import RequestError, Status

_CLIENTS = 4096  # whose last second is remembered
_TOO_MUCH = 429


def fingerprint(certificate: bytes) -> bytes:
    """What a certificate (DER) is called by: its SHA-256."""
    return sha256(certificate).digest()


@dataclass(slots=True)
class _Client:
    running: int = 0
    left: float = 0.0  # requests that may come at once
    at: float = 0.0


class Turnstile:
    """Counts the requests of each client."""

    def __init__(self, *, at_once: int, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`at_once` requests of one client, and `rate` in a second; 0 is no limit."""
        self._at_once, self._rate, self._clock = at_once, rate, clock
        self._burst = max(1.0, rate)
        self._clients: OrderedDict[bytes, _Client] = OrderedDict()

    def around_grpc(self, methods: GrpcMethods) -> GrpcMethods:
        """The same methods behind the turnstile."""
        if not self._at_once and not self._rate:
            return methods
        return {path: self._around(method) for path, method in methods.items()}

    def _around(self, method: GrpcHandler | GrpcStreaming) -> GrpcHandler | GrpcStreaming:
        if isinstance(method, GrpcStreaming):
            return GrpcStreaming(self._around_stream(method))

        async def call(message: bytes, call: GrpcCall) -> bytes:
            client = self._enter(call.peer_certificate)
            try:
                return await method(message, call)
            finally:
                client.running -= 1

        return call

    def _around_stream(
        self, method: GrpcStreaming
    ) -> Callable[[AsyncIterator[bytes], GrpcCall], AsyncGenerator[bytes, None]]:
        async def stream(messages: AsyncIterator[bytes], call: GrpcCall) -> AsyncGenerator[bytes, None]:
            client = self._enter(call.peer_certificate)
            first = True

            async def counted() -> AsyncIterator[bytes]:
                nonlocal first
                async for message in messages:
                    if not first:  # the first one came with the call
                        self._pay(client)
                    first = False
                    yield message

            try:
                async for answer in method.handler(counted(), call):
                    yield answer
            finally:
                client.running -= 1

        return stream

    def around_http(self, handler: HttpHandler) -> HttpHandler:
        """The same handler behind the turnstile."""
        if not self._at_once and not self._rate:
            return handler

        async def handle(request: HttpRequest) -> HttpResponse:
            try:
                client = self._enter(request.peer_certificate)
            except RequestError as exc:
                return refusal(exc)
            try:
                return await handler(request)
            finally:
                client.running -= 1

        return handle

    def _enter(self, certificate: bytes | None) -> _Client:
        """Count one more request of a client. Raises: RequestError RESOURCE_EXHAUSTED."""
        client = self._find(fingerprint(certificate) if certificate is not None else b"")
        if self._at_once and client.running >= self._at_once:
            raise RequestError(
                Status.RESOURCE_EXHAUSTED,
                f"this client has {client.running} requests running, the most that --max_client_requests allows",
            )
        self._pay(client)
        client.running += 1
        return client

    def _pay(self, client: _Client) -> None:
        if not self._rate:
            return
        now = self._clock()
        client.left = min(self._burst, client.left + (now - client.at) * self._rate)
        client.at = now
        if client.left < 1:
            raise RequestError(
                Status.RESOURCE_EXHAUSTED,
                f"this client sends more than the {self._rate:g} requests a second of --max_client_rate",
            )
        client.left -= 1

    def _find(self, name: bytes) -> _Client:
        client = self._clients.get(name)
        if client is None:
            client = self._clients[name] = _Client(left=self._burst, at=self._clock())
            while len(self._clients) > _CLIENTS:
                self._clients.popitem(last=False)  # who has not asked for longest
        self._clients.move_to_end(name)
        return client


def refusal(exc: RequestError) -> HttpResponse:
    """A refusal as the REST interfaces of models spell it."""
    return error_answer(_TOO_MUCH, str(exc))
