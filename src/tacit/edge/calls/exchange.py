"""Requests on HTTP/2 streams: a unary call, a streaming call, and plain HTTP; each with its body, handler and end."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from typing import Any, Protocol

from tacit.edge.calls import messages
from tacit.edge.calls.prompt import Handle, begin
from tacit.edge.http import BODILESS, answer, fields_of
from tacit.edge.http2 import Connection, Request, encode_block
from tacit.edge.listener import GrpcCall, GrpcHandler, GrpcStreaming, HttpRequest, HttpResponse
from tacit.edge.pieces import Pieces
from tacit.edge.service import Peer, Service
from tacit.errors import RequestError, Status

_SMALL = 16 << 10  # bytes of a message that is joined with its prefix rather than sent after it
_UNSENT = 256 << 10  # bytes of messages that a client has not taken, before the handler waits for it
_LOG = logging.getLogger("tacit.edge")


class Line(Protocol):
    """What an exchange needs of its connection."""

    connection: Connection
    service: Service
    peer: Peer
    loop: asyncio.AbstractEventLoop
    paused: bool

    def flush(self) -> None:
        """Send what can be sent."""

    def finish(self, exchange: "Exchange") -> None:
        """Its handler is done: send, and forget it once its answer is on its way."""


class Exchange:
    """One request and whoever answers it. The subclasses say what its body is, and how it is refused."""

    patient = False  # whether the body may take any time

    def __init__(self, line: Line, stream: int, request: Request) -> None:
        self._line, self.stream, self._request = line, stream, request
        self._task: Handle | None = None  # while it may be cancelled
        self._timer: asyncio.TimerHandle | None = None
        self.whole = False  # whether the body has come to its end
        self.done = False  # whether nothing more is done for it
        self.got = 0  # bytes of body that came; they are counted until the handler is done

    def data(self, piece: bytes | memoryview, ended: bool) -> None:
        """Take a piece of the body."""
        if self.done:
            return
        size = len(piece)
        if size:
            if not self._line.service.budget.take(size):
                self.refuse(Status.RESOURCE_EXHAUSTED, self._line.service.full())
                return
            self.got += size
            self._add(piece)
        if ended and not self.done:
            self.whole = True
            self._end()

    def refuse(self, status: Status, text: str) -> None:
        """Answer with an error, whatever the handler is doing."""
        raise NotImplementedError

    def drop(self) -> None:
        """Nobody waits for the answer any more."""
        self._finish()

    def resume(self) -> None:
        """Something was sent: whoever waits for that may go on."""

    def leave(self) -> None:
        """The server ends. What has come whole, or has begun to come, is still answered; nothing else is waited for."""

    def _add(self, piece: bytes | memoryview) -> None:
        raise NotImplementedError

    def _end(self) -> None:
        raise NotImplementedError

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._task = self._line.loop.create_task(work)

    def _finish(self) -> None:
        if self.done:
            return
        self.done = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        self._line.service.budget.give_back(self.got)
        self._line.finish(self)


class _GrpcExchange(Exchange):
    """What both kinds of calls have in common."""

    def __init__(self, line: Line, stream: int, request: Request) -> None:
        super().__init__(line, stream, request)
        limits = line.service.limits
        self._reader = messages.MessageReader(line.service.max_message, limits.size_flag, packed=limits.inflated > 0)
        self._begun = False  # whether the answer's head was sent
        self._deadline: float | None = None
        timeout = request.headers.get("grpc-timeout")
        if timeout is not None:
            seconds = messages.parse_timeout(timeout)
            self._deadline = line.loop.time() + seconds
            self._timer = line.loop.call_at(self._deadline, self._expire)

    def refuse(self, status: Status, text: str) -> None:
        """Answer with an error, whatever the handler is doing."""
        if self.done:
            return
        connection = self._line.connection
        if self._begun:
            connection.send(self.stream, b"", messages.refusal_trailers(status, text))
        else:
            connection.respond_only(self.stream, messages.refusal_only(status, text))
        self._finish()

    def _expire(self) -> None:
        self.refuse(Status.DEADLINE_EXCEEDED, "the deadline has passed")

    def _read(self, piece: bytes | memoryview) -> list[bytes]:
        """The messages that end in this piece; none after a refusal."""
        try:
            return self._reader.feed(piece)
        except RequestError as exc:
            self.refuse(exc.status, str(exc))
            return []

    def _unpacked(self, message: bytes) -> bytes:
        """The message, inflated if it came compressed; what it holds then counts as if it had come so. Raises: RequestError."""
        if not isinstance(message, messages.Packed):
            return message
        most, limits = self._line.service.max_message, self._line.service.limits
        limit, flag = (most, limits.size_flag) if 0 <= most < limits.inflated else (limits.inflated, "")
        whole = messages.unpack(message, self._request.headers.get("grpc-encoding", ""), limit=limit, flag=flag)
        if not self._line.service.budget.take(len(whole)):
            raise RequestError(Status.RESOURCE_EXHAUSTED, self._line.service.full())
        self.got += len(whole)
        return whole

    def _call(self) -> GrpcCall:
        left = None if self._deadline is None else max(0.0, self._deadline - self._line.loop.time())
        request, peer = self._request, self._line.peer
        return GrpcCall(request.path, request.metadata, peer.certificate, left, peer.exporter, peer.address)

    def _fail(self, exc: BaseException) -> None:
        """Tell the caller how the handler failed."""
        self._task = None
        if isinstance(exc, RequestError):
            self.refuse(exc.status, str(exc))
        elif isinstance(exc, Exception):
            # The caller learns nothing about our inside; our log has it.
            _LOG.error("a handler failed", exc_info=exc, extra={"method": self._request.path})
            self.refuse(Status.INTERNAL, "internal error")
        else:
            self.refuse(Status.UNAVAILABLE, "the server ends")
            raise exc


class UnaryCall(_GrpcExchange):
    """One message in, one out."""

    def __init__(self, line: Line, stream: int, request: Request, handler: GrpcHandler) -> None:
        super().__init__(line, stream, request)
        self._handler = handler
        self._message: bytes | None = None

    def _add(self, piece: bytes | memoryview) -> None:
        for message in self._read(piece):
            if self._message is not None:
                self.refuse(Status.INTERNAL, "a unary call has one message, and two came")
                return
            self._message = message
        if self._reader.missing:
            self._line.connection.expect(self.stream, self._reader.missing)

    def _end(self) -> None:
        message = self._message
        if not self._reader.is_between():
            self.refuse(Status.INTERNAL, "the message ends before its length")
        elif message is None:
            self.refuse(Status.INTERNAL, "the call has no message")
        else:
            self._message = None
            if isinstance(message, messages.Packed):
                self._inflate(message)
            else:
                self._task = begin(self._line.loop, self._answer(message))

    def _inflate(self, message: messages.Packed) -> None:
        """Go on with what a compressed message holds."""
        try:
            whole = self._unpacked(message)
        except RequestError as exc:
            self.refuse(exc.status, str(exc))
            return
        self._task = begin(self._line.loop, self._answer(whole))

    async def _answer(self, message: bytes) -> None:
        try:
            answered = await self._handler(message, self._call())
        except BaseException as exc:
            self._fail(exc)
            return
        self._task = None
        if self.done:
            return
        connection = self._line.connection
        if len(answered) <= _SMALL:
            connection.respond(self.stream, messages.HEAD, messages.prefix(answered) + answered, messages.TRAILERS)
        else:
            connection.respond(self.stream, messages.HEAD, messages.prefix(answered), None)
            connection.send(self.stream, answered, messages.TRAILERS)
        self._finish()


class StreamingCall(_GrpcExchange):
    """Any number of messages in and out."""

    patient = True

    def __init__(self, line: Line, stream: int, request: Request, method: GrpcStreaming) -> None:
        super().__init__(line, stream, request)
        self._method = method
        self._messages: deque[bytes] = deque()
        self._ahead = 0  # bytes that the client may send beyond its window, for a large message
        self._waiting: asyncio.Future[None] | None = None
        self._leaving = False
        self._start(self._run())

    def _add(self, piece: bytes | memoryview) -> None:
        self._messages.extend(self._read(piece))
        if self._reader.missing:
            self._ahead += self._line.connection.expect(self.stream, self._reader.missing)
        self.resume()

    def _end(self) -> None:
        self.resume()

    def resume(self) -> None:
        """A message came, or was sent, or no other comes."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def leave(self) -> None:
        """The server ends: a client that may send a message at any time is waited for no longer."""
        self._leaving = True
        self.resume()

    async def _wait(self) -> None:
        self._waiting = self._line.loop.create_future()
        try:
            await self._waiting
        finally:
            self._waiting = None

    async def _incoming(self) -> AsyncIterator[bytes]:
        """The client's messages. What was taken makes room for as much again.

        Raises:
            RequestError: The client stopped within a message, or sent one that cannot be inflated; or the server ends,
                which no handler may take for the client's own end.
        """
        while True:
            while not self._messages:
                if self.whole:
                    if not self._reader.is_between():
                        raise RequestError(Status.INTERNAL, "the message ends before its length")
                    return
                if self._leaving and self._reader.is_between():
                    raise RequestError(Status.UNAVAILABLE, "the server ends")
                await self._wait()
            message = self._messages.popleft()
            size = len(message) + messages.PREFIX
            paid = min(size, self._ahead)
            self._ahead -= paid
            self._line.connection.allow(self.stream, size - paid)
            self._line.service.budget.give_back(size)
            self.got -= size
            self._line.flush()
            whole = self._unpacked(message)
            yield whole
            if whole is not message:  # whoever asks for the next one is done with it
                self._line.service.budget.give_back(len(whole))
                self.got -= len(whole)

    async def _run(self) -> None:
        try:
            await self._answer()
        except BaseException as exc:
            self._fail(exc)

    async def _answer(self) -> None:
        connection = self._line.connection
        async with aclosing(self._method.handler(self._incoming(), self._call())) as answers:
            async for message in answers:
                self._send(message)
                self._line.flush()
                while self._line.paused or connection.unsent(self.stream) > _UNSENT:
                    await self._wait()
        self._task = None
        if self.done:
            return
        if not self._begun:
            connection.respond(self.stream, messages.HEAD, b"", messages.TRAILERS)
        else:
            connection.send(self.stream, b"", messages.TRAILERS)
        self._finish()

    def _send(self, message: bytes) -> None:
        connection, head = self._line.connection, messages.prefix(message)
        if len(message) <= _SMALL:
            head += message
        if self._begun:
            connection.send(self.stream, head)
        else:
            self._begun = True
            connection.respond(self.stream, messages.HEAD, head, None)
        if len(message) > _SMALL:
            connection.send(self.stream, message)


class PlainRequest(Exchange):
    """A request that is not gRPC."""

    def __init__(self, line: Line, stream: int, request: Request) -> None:
        super().__init__(line, stream, request)
        self._body = Pieces()
        length = request.length or 0
        if length > line.service.max_body >= 0:
            self._too_large()
        else:
            line.connection.expect(stream, length)

    def refuse(self, status: Status, text: str) -> None:
        """Answer with an error, whatever the handler is doing."""
        code = {Status.RESOURCE_EXHAUSTED: 503, Status.UNAVAILABLE: 503, Status.DEADLINE_EXCEEDED: 408}.get(status, 500)
        self.respond(self._line.service.refuse(code, text))

    def respond(self, response: HttpResponse) -> None:
        """Answer, and be done."""
        if self.done:
            return
        headers, date = tuple(response.headers.items()), self._line.service.date.now()
        fields = fields_of(response.status, headers, length=len(response.body), date=date)
        fields.pop("connection", None)
        block = encode_block([(":status", str(response.status)), *fields.items()])
        if self._request.method == "HEAD" or response.status in BODILESS or not response.body:
            self._line.connection.respond_only(self.stream, block)
        else:
            self._line.connection.respond(self.stream, block, response.body, b"")
        self._finish()

    def _too_large(self) -> None:
        self._body.drop()
        self.respond(self._line.service.refuse(413, self._line.service.too_large()))

    def _add(self, piece: bytes | memoryview) -> None:
        self._body.add(piece)
        if self._body.size > self._line.service.max_body >= 0:
            self._too_large()
        elif self._request.length is None:
            self._line.connection.allow(self.stream, len(piece))

    def _end(self) -> None:
        self._task = begin(self._line.loop, self._answer(self._body.take()))

    async def _answer(self, body: bytes) -> None:
        path, _, query = self._request.path.partition("?")
        handler, peer = self._line.service.http, self._line.peer
        if handler is None:  # such a request is never opened
            return
        request = HttpRequest(
            self._request.method, path, query, self._request.headers, body, peer.certificate, peer.exporter
        )
        try:
            response = await answer(handler, request, self._line.service.refuse)
        except asyncio.CancelledError:
            self._task = None
            self.respond(self._line.service.refuse(503, "the server ends"))
            raise
        self._task = None
        self.respond(response)


def open_exchange(line: Line, stream: int, request: Request) -> Exchange | None:
    """Whoever answers this request; None where it was refused at once."""
    methods = line.service.grpc
    kind = request.headers.get("content-type", "")
    if line.service.http is None and not (kind.startswith("application/grpc") and request.method == "POST"):
        block = encode_block([(":status", "415"), ("content-length", "0")])
        line.connection.respond_only(stream, block)
        return None
    if methods is None or not kind.startswith("application/grpc") or request.method != "POST":
        return PlainRequest(line, stream, request)
    method = methods.get(request.path)
    try:
        if method is None:
            raise RequestError(Status.UNIMPLEMENTED, f"unknown method {request.path}")
        if isinstance(method, GrpcStreaming):
            return StreamingCall(line, stream, request, method)
        return UnaryCall(line, stream, request, method)
    except RequestError as exc:
        line.connection.respond_only(stream, messages.refusal_only(exc.status, str(exc)))
        return None
