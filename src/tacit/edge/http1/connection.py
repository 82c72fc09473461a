"""One HTTP/1.1 connection of a server, parsed by httptools (llhttp).

Requests are answered one after the other, in their order. While one waits to be handled nothing more is read, so a
client that sends many at once fills no memory. What two parsers could read differently is refused with 400, and the
connection ends with it.
"""

import asyncio
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus

import httptools

from tacit.edge.calls.prompt import Handle, begin
from tacit.edge.http import BODILESS, HEADS_KEPT, Fields, answer, fields_of, split_target
from tacit.edge.http1.repeats import Repeats
from tacit.edge.listener import HttpRequest, HttpResponse, unsent_bytes
from tacit.edge.pieces import Pieces
from tacit.edge.service import Peer, Service

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_SHORT = 64  # bytes of a header's name that is remembered
_PARTING = 0.05  # seconds for what lies in the socket already


class _RefusedError(Exception):
    """Stops the parser; says what the client is told."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(slots=True)
class _Order:
    """A request that can be answered; or an answer that was decided without asking anybody."""

    request: HttpRequest | None
    refusal: HttpResponse | None
    bodiless: bool  # HEAD
    keep: bool  # whether the connection outlives it
    old: bool  # HTTP/1.0
    held: int  # bytes that the budget counts for it


class Http1:
    """The asyncio side of one connection, and the parser's callbacks."""

    def __init__(self, transport: asyncio.Transport, service: Service, peer: Peer) -> None:
        self._transport, self._service, self._peer = transport, service, peer
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._repeats = Repeats()
        self._repeating = False  # whether the parser reads a head that it read before, without its Upgrade
        self._orders: deque[_Order] = deque()
        self._task: Handle | None = None
        self._ends = self._leaving = self._reading_paused = False
        self._head = 0  # bytes of the current head that the parser has told us
        self._arrived = 0  # bytes that came without the parser telling anything of use
        self._in_head, self._between = True, True
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body = Pieces()
        self._held = 0
        self._discarded = 0
        self._too_large = False
        self._progress = 0
        now = self._loop.time()
        self._waits, self._first = now, True
        self._room = asyncio.Event()  # whether the socket takes more
        self._room.set()
        self._unsent, self._unsent_since = 0, now
        self._parting: asyncio.TimerHandle | None = None

    # ---- what the socket says

    def receive(self, data: bytes | memoryview) -> None:
        """Bytes from the client; a view is valid during this call."""
        if self._ends:
            return
        if self._between:
            self._waits = self._loop.time()
        at_rest = self._between and self._task is None
        if not (at_rest and self._repeats_itself(data)):
            self._parse(data, at_rest=at_rest)
        if self._orders and self._task is None:
            self._task = begin(self._loop, self._answer())

    def _repeats_itself(self, data: bytes | memoryview) -> bool:
        """Whether these bytes are a whole request with the head of the last one, which is to be answered now."""
        request = self._repeats.find(data)
        if request is None or not self._service.budget.take(len(request.body)):
            return False
        bodiless = request.method == "HEAD"
        self._orders.append(_Order(request, None, bodiless, keep=True, old=False, held=len(request.body)))
        return True

    def _parse(self, data: bytes | memoryview, *, at_rest: bool) -> None:
        self._between = False
        self._arrived += len(data)
        try:
            self._feed(data)
            # A header that never ends reaches no callback, so what arrives is counted as well. The callbacks set the
            # count back, so that it holds only what came since the last head or body ended.
            if self._in_head and self._arrived > self._service.limits.head:
                raise self._head_too_large()
        except _RefusedError as exc:
            self._refuse(exc.status, str(exc))
        except httptools.HttpParserError as exc:
            self._refuse(*_told(exc))
        if at_rest and len(self._orders) == 1:
            order = self._orders[0]
            if order.request is not None and order.keep and not order.old:
                self._repeats.remember(data, order.request)

    def pause(self) -> None:
        """The socket takes nothing more for now."""
        self._room.clear()

    def resume(self) -> None:
        """The socket takes more."""
        self._room.set()

    def lost(self) -> None:
        """The connection is gone."""
        if self._task is not None:
            self._task.cancel()
        self._forget()
        self._service.budget.give_back(self._held)
        self._held = 0
        self._ends = self._between = True

    # ---- what the listener says

    def part(self) -> None:
        """Answer what has come, each last answer with the word that the connection ends; who is silent is left at once.

        A request may lie in the socket unread, or have come half: closing now would reset it without an answer.
        """
        self._leaving = True
        if self._task is None and self._between:
            self._parting = self._loop.call_later(_PARTING, self._part_from_silent)

    def _part_from_silent(self) -> None:
        self._parting = None
        if self._task is None and self._between:
            self._transport.close()

    def leave(self) -> None:
        """Take no further request, and close after those that run."""
        self._leaving = True
        if self._task is None:
            self._transport.close()

    def cancel(self) -> None:
        """Take from every request the time that it would still need."""
        if self._task is not None:
            self._task.cancel()
        self._transport.close()

    def is_busy(self) -> bool:
        """Whether a request runs, or an answer is still on its way out."""
        comes = self._parting is not None or not self._between
        return comes or self._task is not None or unsent_bytes(self._transport) > 0

    def look(self, now: float) -> None:
        """End what takes too long."""
        limits, unsent = self._service.limits, unsent_bytes(self._transport)
        if unsent != self._unsent:
            self._unsent, self._unsent_since = unsent, now
        if unsent:
            if now - self._unsent_since > limits.send_time:
                self._transport.abort()
        elif self._task is None:
            idle = self._between and not self._first
            if now - self._waits > (limits.keep_alive if idle else limits.request_time):
                self._transport.close() if idle else self._transport.abort()

    # ---- the parser

    def _feed(self, data: bytes | memoryview) -> None:
        """Let the parser read; where it stops for another protocol, go on in this one."""
        rest = memoryview(data)
        while (stop := self._read(rest)) is not None:
            # No other protocol is spoken here, and a client that offers one goes on in HTTP/1.1 until it hears 101
            # (RFC 9110, section 7.8). The parser takes the body for the other protocol's bytes, so another one reads
            # on from there.
            rest = rest[stop:]
            self._begin_again()

    def _read(self, data: memoryview) -> int | None:
        """Where in these bytes the parser stops for another protocol; None where it does not."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as exc:
            return int(exc.args[0])
        return None

    def _begin_again(self) -> None:
        """A parser that has read the same head without its Upgrade, and judges what says where the body ends itself."""
        before = self._parser
        persists = b"keep-alive" if before.should_keep_alive() else b"close"
        lines = [
            before.get_method() + b" / HTTP/" + before.get_http_version().encode("ascii"),
            b"connection: " + persists,
            *(
                name.encode("ascii") + b": " + self._headers[name].encode("latin-1")
                for name in ("content-length", "transfer-encoding")
                if name in self._headers
            ),
        ]
        self._parser, self._repeating = httptools.HttpRequestParser(self), True
        self._parser.feed_data(b"\r\n".join(lines) + b"\r\n\r\n")

    # ---- what the parser says

    def on_message_begin(self) -> None:
        """A request begins."""
        if self._repeating:
            return
        self._head, self._in_head, self._between = 0, True, False
        self._url, self._headers = b"", {}
        self._too_large = False
        self._progress = self._discarded = 0

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        if self._repeating:
            return
        self._count(len(url))
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        if self._repeating:
            return
        self._count(len(name) + len(value))
        key = _known_name(name) if len(name) <= _SHORT else _name(name)
        text = value.decode("latin-1")
        if key in self._headers:
            if key == "host":
                raise _RefusedError(400, "the request has two Host headers")
            text = self._headers[key] + ("; " if key == "cookie" else ", ") + text
        self._headers[key] = text

    def on_headers_complete(self) -> None:
        """The body follows."""
        if self._repeating:
            self._repeating = False
            return
        self._in_head, self._arrived = False, 0
        if self._parser.get_method() == b"CONNECT":
            raise _RefusedError(400, "this is no proxy")
        version, coding = self._parser.get_http_version(), self._headers.get("transfer-encoding", "chunked")
        if version not in ("1.0", "1.1"):
            raise _RefusedError(
                400 if version == "0.9" else 505, "the request line names neither HTTP/1.1 nor HTTP/1.0"
            )
        if coding.strip().lower() != "chunked":
            raise _RefusedError(400, f"Transfer-Encoding {coding[:32]} is not read; chunked is")
        if version == "1.1" and "host" not in self._headers:
            raise _RefusedError(400, "the request has no Host header")
        declared = self._headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > self._service.max_body:
            self._too_large = True
        if self._headers.get("expect", "").lower() == "100-continue":
            if self._too_large:
                raise self._body_too_large()
            if self._task is None and not self._orders and self._parser.get_http_version() != "1.0":
                self._transport.write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        size = len(body)
        self._progress += size
        if self._progress >= self._service.limits.progress:
            self._progress, self._waits = 0, self._loop.time()
        if not self._too_large and self._body.size + size > self._service.max_body:
            self._too_large = True
            self._body.drop()
        if self._too_large:
            self._discarded += size
            if self._discarded > self._service.limits.discard:
                raise self._body_too_large()
        elif self._service.budget.take(size):
            self._held += size
            self._body.add(body)
        else:
            raise _RefusedError(503, self._service.full())

    def on_message_complete(self) -> None:
        """The request is whole."""
        if self._parser.should_upgrade():
            return  # its head is; `_feed` hears of it next
        self._head, self._arrived, self._in_head, self._between = 0, 0, True, True
        method = self._parser.get_method().decode("ascii")
        keep = self._parser.should_keep_alive() and not self._too_large
        request, refusal = None, None
        if self._too_large:
            refusal = self._too_large_answer()
        else:
            path, query, host = split_target(self._url.decode("latin-1"))
            if "@" in host:
                raise _RefusedError(400, "the target names a user")
            if host:
                self._headers["host"] = host  # the target's, whatever the header says
            request = HttpRequest(
                method, path, query, self._headers, self._body.take(), self._peer.certificate, self._peer.exporter
            )
        old = self._parser.get_http_version() == "1.0"
        behind = self._task is not None or bool(self._orders)
        self._orders.append(_Order(request, refusal, method == "HEAD", keep, old, self._held))
        self._held = 0
        if behind and not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()

    # ---- answers

    async def _answer(self) -> None:
        """Answer what has come, one after the other."""
        while self._orders:
            await self._room.wait()  # a client that asks for much and reads nothing gets one answer ahead
            order = self._orders.popleft()
            try:
                await self._answer_one(order)
            finally:
                self._service.budget.give_back(order.held)
        self._task = None
        self._waits, self._first = self._loop.time(), False
        if self._reading_paused and not self._transport.is_closing():
            self._reading_paused = False
            self._transport.resume_reading()

    async def _answer_one(self, order: _Order) -> None:
        response = order.refusal
        handler = self._service.http
        if response is None and order.request is not None and handler is not None:
            response = await answer(handler, order.request, self._service.refuse)
        if response is None or self._transport.is_closing():
            return
        keep = order.keep and (not self._leaving or bool(self._orders))
        self._write(response, bodiless=order.bodiless, keep=keep, old=order.old)
        if not keep:
            self._ends = True
            self._forget()
            self._transport.close()

    def _forget(self) -> None:
        """Nothing that waits is answered any more."""
        for order in self._orders:
            self._service.budget.give_back(order.held)
        self._orders.clear()

    def _write(self, response: HttpResponse, *, bodiless: bool, keep: bool, old: bool) -> None:
        persists = "close" if not keep else "keep-alive" if old else ""
        fields = tuple(response.headers.items())
        encoded = _head(response.status, fields, len(response.body), self._service.date.now(), persists)
        if bodiless or response.status in BODILESS:
            self._transport.write(encoded)
        elif len(response.body) < self._service.limits.head:
            self._transport.write(encoded + response.body)
        else:
            self._transport.write(encoded)
            self._transport.write(response.body)

    def _refuse(self, status: int, text: str) -> None:
        """Answer what is no request, after those that were, and end the connection."""
        self._ends = True
        self._service.budget.give_back(self._held)
        self._held = 0
        self._body.drop()
        refusal = self._service.refuse(status, text)
        self._orders.append(_Order(None, refusal, bodiless=False, keep=False, old=False, held=0))

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > self._service.limits.head:
            raise self._head_too_large()

    def _head_too_large(self) -> _RefusedError:
        return _RefusedError(431, f"request line and headers are larger than {self._service.limits.head} bytes")

    def _body_too_large(self) -> _RefusedError:
        return _RefusedError(413, self._service.too_large())

    def _too_large_answer(self) -> HttpResponse:
        return self._service.refuse(413, self._service.too_large())


def _told(exc: httptools.HttpParserError) -> tuple[int, str]:
    """What the client is told of an error of the parser.

    A function of its own, because a frame that keeps the cause is in a cycle with it, and with it a view of what came:
    Python up to 3.11.7 crashes on such a view when it collects garbage.
    """
    cause = exc.__context__
    if isinstance(cause, _RefusedError):
        return cause.status, str(cause)
    return 400, "this is no HTTP request"


def _name(name: bytes) -> str:
    return name.decode("latin-1").lower()


_known_name = lru_cache(maxsize=256)(_name)  # clients send the same few


@lru_cache(maxsize=HEADS_KEPT)  # the same for a second
def _head(status: int, headers: Fields, length: int, date: str, persists: str) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    fields = fields_of(status, headers, length=length, date=date)
    if persists:
        fields["connection"] = persists
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} {phrase}\r\n{lines}\r\n".encode("latin-1")
