"""One HTTP/2 connection of a server: each stream becomes a call of a handler, and ends with it.

(1) received bytes go through `http2.Connection`, which says what they mean;
(2) a gRPC request goes to the handler of its path, any other to the HTTP handler, as a task of its own;
(3) a request that its client takes back, or whose deadline passes, has its task cancelled;
(4) what is to be sent is taken from the connection as fast as the socket takes it, and no faster;
(5) now and then `look` ends what takes too long.
"""

import asyncio
from dataclasses import dataclass

from tacit.edge.calls.exchange import Exchange, open_exchange
from tacit.edge.http2 import Connection, DataReceived, ErrorCode, RequestReceived
from tacit.edge.listener import unsent_bytes
from tacit.edge.service import Peer, Service
from tacit.errors import Status

_CHUNK = 256 << 10  # bytes of bodies that are given to the socket at once
_BACKLOG = 512  # frames that wait for a client that does not read, before we stop reading from it


@dataclass(slots=True)
class _Mark:
    """How far something had come when somebody last saw it move."""

    at: float
    value: int = -1

    def stands(self, value: int, now: float) -> float:
        """Seconds since this value was first seen."""
        if value != self.value:
            self.value, self.at = value, now
        return now - self.at


class Multiplexer:
    """The asyncio side of one HTTP/2 connection."""

    def __init__(self, transport: asyncio.Transport, service: Service, peer: Peer) -> None:
        self._transport = transport
        self.service, self.peer, self.loop = service, peer, asyncio.get_running_loop()
        self.connection = Connection(service.limits.http2)
        self.paused = False  # whether the socket takes nothing more for now
        self._deaf = False  # whether we stopped reading
        self._exchanges: dict[int, Exchange] = {}
        self._bodies: dict[int, _Mark] = {}
        self._soon = False
        now = self.loop.time()
        self._heard = self._active = now
        self._asked: tuple[float, int] | None = None  # when we asked whether the client is there; pongs before that
        self._sending, self._amid = _Mark(now), _Mark(now)
        self._send()

    # ---- what the socket says

    def receive(self, data: bytes | memoryview) -> None:
        """Bytes from the client; a view is valid during this call."""
        self._heard = self.loop.time()
        for event in self.connection.receive(data):
            if isinstance(event, DataReceived):
                exchange = self._exchanges.get(event.stream)
                if exchange is not None:
                    exchange.data(event.data, event.ended)
            elif isinstance(event, RequestReceived):
                opened = open_exchange(self, event.stream, event.request)
                if opened is not None and not opened.done:
                    self._exchanges[event.stream] = opened
                    if event.ended:
                        opened.data(b"", True)
            else:
                dropped = self._exchanges.pop(event.stream, None)
                if dropped is not None:
                    dropped.drop()
        self._send()
        if self.paused and self.connection.backlog > _BACKLOG and not self._deaf:
            self._deaf = True
            self._transport.pause_reading()

    def pause(self) -> None:
        """The socket takes nothing more for now."""
        self.paused = True

    def resume(self) -> None:
        """The socket takes more."""
        self.paused = False
        self._send()
        if self._deaf and not self.paused:
            self._deaf = False
            self._transport.resume_reading()

    def lost(self) -> None:
        """The connection is gone."""
        for exchange in list(self._exchanges.values()):
            exchange.drop()
        self._exchanges.clear()

    # ---- what exchanges and the listener say

    def flush(self) -> None:
        """Send what can be sent, together with what else there is this turn."""
        if not self._soon:
            self._soon = True
            self.loop.call_soon(self._send)

    def finish(self, exchange: Exchange) -> None:
        """An exchange is done."""
        if not self.connection.is_open(exchange.stream):
            self._exchanges.pop(exchange.stream, None)
        if len(self._exchanges) <= 1:
            self._send()
        else:
            self.flush()

    def part(self) -> None:
        """Tell the client to go elsewhere, and take what is on its way until it heard that."""
        self.connection.part()
        self._send()

    def leave(self) -> None:
        """Take no further request, and close after those that run."""
        self.connection.leave()
        for exchange in list(self._exchanges.values()):
            exchange.leave()
        self._send()

    def is_busy(self) -> bool:
        """Whether a request runs or may be on its way here, or an answer is still on its way out."""
        return self.connection.parting or self.connection.streams > 0 or unsent_bytes(self._transport) > 0

    def cancel(self) -> None:
        """Take from every request the time that it would still need."""
        for exchange in list(self._exchanges.values()):
            exchange.refuse(Status.UNAVAILABLE, "the server ends")

    # ---- time

    def look(self, now: float) -> None:
        """End what takes too long, and ask after a client that has been silent."""
        limits, connection = self.service.limits, self.connection
        connection.calm()
        unsent = unsent_bytes(self._transport)
        stuck = unsent > 0 and self._sending.stands(unsent, now) > limits.send_time
        unfinished = self._amid.stands(connection.frames if connection.amid else -1, now)
        if stuck or (connection.amid and unfinished > limits.request_time):
            self._transport.abort()
            return
        self._look_at_streams(now)
        if self._exchanges:
            self._active = now
        elif now - self._active > limits.idle_time:
            # Who did not answer until this second look is not waited for.
            connection.leave() if connection.parting else connection.part()
        if now - self._heard <= limits.ping_after:
            self._asked = None
        elif self._asked is None:
            self._asked = now, connection.pongs
            connection.ping()
        elif now - self._asked[0] > limits.ping_time:
            self._transport.abort()
            return
        self._send()

    def _look_at_streams(self, now: float) -> None:
        limits, connection = self.service.limits, self.connection
        self._bodies = {stream: mark for stream, mark in self._bodies.items() if stream in self._exchanges}
        for stream, exchange in list(self._exchanges.items()):
            if exchange.done and not connection.is_open(stream):
                del self._exchanges[stream]
                continue
            mark = self._bodies.setdefault(stream, _Mark(now))
            if not exchange.whole and not exchange.patient and not exchange.done:
                late = mark.stands(exchange.got // limits.progress, now) > limits.request_time
            else:
                unsent = connection.unsent(stream)
                late = unsent > 0 and mark.stands(-2 - unsent, now) > limits.send_time
            if late:
                connection.reset(stream, ErrorCode.CANCEL)
                del self._exchanges[stream]
                exchange.drop()

    # ---- sending

    def _send(self) -> None:
        self._soon = False
        connection, transport = self.connection, self._transport
        while not self.paused and connection.has_some():
            sent = connection.take(_CHUNK)
            if not sent:
                break
            transport.write(sent)
        if not self.paused:
            for exchange in self._exchanges.values():
                if exchange.patient:
                    exchange.resume()
        if (connection.closed or (connection.leaving and not connection.streams)) and not connection.has_some():
            transport.close()
