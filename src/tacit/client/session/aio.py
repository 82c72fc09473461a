"""A channel of `grpc.aio` to a session's servers, which goes on under their new chain as `dropin.AttestedChannel` does."""

import asyncio
from collections.abc import Generator
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import grpc

from tacit.client.address import GRPC_PORT, parse_address
from tacit.client.connect import AttestedCoordinator
from tacit.client.inference import Credential
from tacit.client.inference.grpc import secure, way_of
from tacit.client.session.current import Current
from tacit.client.session.dropin import OPTIONS, refused_by_server
from tacit.client.session.renewal import Renewal


class AttestedAioChannel(grpc.aio.Channel):  # type: ignore[misc]  # grpcio has no types
    """A channel to one server, for stubs of any service. A unary call that meets a new chain is made again on it.

    Unary calls ask for the coordinator's attestation in a thread. A stream has to begin at once: where the attestation
    has grown too old (`max_age`, twice), the loop waits for the new one. gRPC's connections are of the loop that made
    them, so each loop gets its own.
    """

    def __init__(self, renewal: Renewal, address: str, *, credential: Credential | None = None) -> None:
        self._renewal = renewal
        self._open = partial(_open_channel, address, credential)
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, Current[Any]] = WeakKeyDictionary()
        self._closed = False

    @property
    def _inner(self) -> Current[Any]:
        """The channels of the loop that runs."""
        loop = asyncio.get_running_loop()
        found = self._loops.get(loop)
        if found is None:
            found = self._loops[loop] = Current(self._renewal, self._open)
            if self._closed:
                found.finish()
        return found

    def unary_unary(self, *words: Any, **named: Any) -> Any:
        """As gRPC's."""

        def call(*request: Any, **options: Any) -> _Call:
            return _Call(self._renewal, self._inner, (words, named), (request, options))

        return call

    def unary_stream(self, *words: Any, **named: Any) -> Any:
        """As gRPC's."""
        return partial(self._stream, "unary_stream", words, named)

    def stream_unary(self, *words: Any, **named: Any) -> Any:
        """As gRPC's."""
        return partial(self._stream, "stream_unary", words, named)

    def stream_stream(self, *words: Any, **named: Any) -> Any:
        """As gRPC's."""
        return partial(self._stream, "stream_stream", words, named)

    def _stream(self, kind: str, words: Any, named: Any, *request: Any, **options: Any) -> Any:
        return getattr(self._inner.now()[1], kind)(*words, **named)(*request, **options)

    def get_state(self, try_to_connect: bool = False) -> Any:
        """As gRPC's, of the connection to the servers' present chain."""
        return self._inner.now()[1].get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: Any) -> None:
        """As gRPC's, likewise."""
        await self._inner.now()[1].wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """As gRPC's, likewise."""
        await self._inner.now()[1].channel_ready()

    async def close(self, grace: float | None = None) -> None:
        """End the connections; those of a loop that has ended ended with it."""
        self._closed = True
        running = asyncio.get_running_loop()
        for loop, inners in list(self._loops.items()):
            for inner in inners.finish():
                if loop is running:
                    await inner.close(grace)

    async def __aenter__(self) -> "AttestedAioChannel":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class _Call:
    """A unary call that runs: awaited for its answer, and asked what gRPC's own is asked."""

    def __init__(
        self, renewal: Renewal, inner: Current[Any], method: tuple[Any, Any], request: tuple[Any, Any]
    ) -> None:
        self._renewal, self._inner, self._method, self._request = renewal, inner, method, request
        self._made: Any = None
        self._work = asyncio.ensure_future(self._run())
        # Whoever asks for the code alone need not ask for the error too.
        self._work.add_done_callback(lambda work: work.cancelled() or work.exception())

    async def _run(self) -> Any:
        # gRPC's channels are made in the loop that uses them, so only the attestation goes into a thread.
        used = await asyncio.to_thread(self._renewal.current)
        try:
            return await self._start(used)
        except grpc.RpcError as exc:
            if not refused_by_server(exc):
                raise
            again = await asyncio.to_thread(self._renewal.after_refusal, used)
            if again.intermediate_pem == used.intermediate_pem:
                raise
        return await self._start(again)

    def _start(self, used: AttestedCoordinator) -> Any:
        (words, named), (request, options) = self._method, self._request
        self._made = self._inner.of(used).unary_unary(*words, **named)(*request, **options)
        return self._made

    def __await__(self) -> Generator[Any, None, Any]:
        return self._work.__await__()

    def cancel(self) -> bool:
        """As gRPC's."""
        return self._work.cancel()

    def cancelled(self) -> bool:
        """As gRPC's."""
        return self._work.cancelled()

    def done(self) -> bool:
        """As gRPC's."""
        return self._work.done()

    def add_done_callback(self, callback: Any) -> None:
        """As gRPC's."""
        self._work.add_done_callback(lambda _: callback(self))

    async def code(self) -> Any:
        """As gRPC's, of the call that was made last."""
        made = await self._ended()
        return grpc.StatusCode.CANCELLED if made is None else await made.code()

    async def details(self) -> Any:
        """As gRPC's, likewise."""
        made = await self._ended()
        return "cancelled before it was made" if made is None else await made.details()

    async def initial_metadata(self) -> Any:
        """As gRPC's, likewise."""
        made = await self._ended()
        return grpc.aio.Metadata() if made is None else await made.initial_metadata()

    async def trailing_metadata(self) -> Any:
        """As gRPC's, likewise."""
        made = await self._ended()
        return grpc.aio.Metadata() if made is None else await made.trailing_metadata()

    async def _ended(self) -> Any:
        """GRPC's call that was made last; None where this one was cancelled before. Raises: TacitError."""
        await asyncio.wait([self._work])
        if self._made is None and not self._work.cancelled():
            self._work.result()  # what kept it from being made
        return self._made


def _open_channel(address: str, credential: Credential | None, chain_pem: bytes) -> Any:
    way, named = way_of(parse_address(address, default_port=GRPC_PORT))
    return grpc.aio.secure_channel(way, secure(chain_pem, credential), options=[*OPTIONS, *named])
