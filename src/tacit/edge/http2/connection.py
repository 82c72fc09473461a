"""A server's end of an HTTP/2 connection: received bytes become events, answers become bytes to send.

`receive` never raises: what breaks the rules ends its stream (RST_STREAM) or the connection (GOAWAY, then `closed`).
Whatever a client makes us keep is bounded by `Rules`: one header block, the frames of its open streams as far as their
windows go, and what was answered and not yet taken. Source: RFC 9113; RFC 7540 for the priorities that are passed over.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tacit.edge.http2 import frames
from tacit.edge.http2.frames import ConnectionFault, ErrorCode, FrameReader, StreamFault
from tacit.edge.http2.headers import HeaderDecoder, MalformedError, Request
from tacit.edge.http2.rules import Rules
from tacit.edge.http2.stream import Outgoing, Stream

_MAX_STREAMS, _INITIAL_WINDOW, _MAX_FRAME, _ENABLE_PUSH, _MAX_HEADER_LIST = 0x3, 0x4, 0x5, 0x2, 0x6
_ANY_STREAM = 0x7FFFFFFF  # in a GOAWAY: nothing that was sent is refused yet
_PARTING = b"leaving\0"  # in a PING: its answer says that the GOAWAY before it was heard
_REMEMBERED = 256  # streams that ended, and how: frames that were under way are told from frames that break a rule


@dataclass(slots=True)
class RequestReceived:
    """A new request; `ended` when no body follows."""

    stream: int
    request: Request
    ended: bool


@dataclass(slots=True)
class DataReceived:
    """A piece of a body; `ended` when it was the last one. `data` is valid until the next call of `receive`."""

    stream: int
    data: bytes | memoryview
    ended: bool


@dataclass(slots=True)
class StreamEnded:
    """A request is over before its answer: the client took it back, or broke a rule."""

    stream: int
    code: int


Event = RequestReceived | DataReceived | StreamEnded


@dataclass(slots=True)
class _Block:
    """A header block, which may not be whole yet."""

    stream: int
    flags: int
    self_dependent: bool
    data: bytes
    frames: int = 1


class Connection:
    """The protocol of one connection. `closed` says that nothing is received any more: send what is left, and close."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._reader = FrameReader(max_data=rules.max_frame, max_small=rules.max_headers)
        self._decoder = HeaderDecoder(rules.max_headers)
        self._out = Outgoing(self._answered)
        self._streams: dict[int, Stream] = {}
        self._over: dict[int, bool] = {}  # the last streams that ended; True where we reset them
        self._events: list[Event] = []
        self._preface = bytearray()
        self._started = False  # whether the client's first SETTINGS came
        self._block: _Block | None = None
        self._last = 0  # the newest stream
        self._window = rules.connection_window
        self._credit = 0
        self._resets = self._idle = 0
        self.closed = False
        self.leaving = False  # whether no new request is taken, because one end said GOAWAY
        self.parting = False  # whether the client was told that this will be so, and has not heard it yet
        self.pongs = self.frames = 0  # answers to our pings; frames that came
        self._by_kind: dict[int, Callable[[int, int, bytes], None]] = {
            frames.HEADERS: self._on_headers,
            frames.PRIORITY: self._on_priority,
            frames.RST_STREAM: self._on_reset,
            frames.SETTINGS: self._on_settings,
            frames.PUSH_PROMISE: self._on_push,
            frames.PING: self._on_ping,
            frames.GOAWAY: self._on_goaway,
            frames.WINDOW_UPDATE: self._on_window_update,
            frames.CONTINUATION: self._on_continuation,
        }
        self._out.put(
            frames.encode_settings(
                {
                    _MAX_STREAMS: rules.max_streams,
                    _INITIAL_WINDOW: rules.window,
                    _MAX_FRAME: rules.max_frame,
                    _MAX_HEADER_LIST: rules.max_headers,
                }
            )
            + frames.encode_window_update(0, rules.connection_window - frames.DEFAULT_WINDOW)
        )

    # ---- what is received

    def receive(self, data: bytes | memoryview) -> list[Event]:
        """What these bytes mean. Nothing after a connection was closed."""
        events: list[Event] = []
        self._events = events
        if self.closed:
            return events
        try:
            if len(self._preface) < len(frames.PREFACE):
                data = self._after_preface(data)
            for kind, flags, stream, payload, charge in self._reader.feed(data):
                self._on_frame(kind, flags, stream, payload, charge)
        except ConnectionFault as fault:
            self._fail(fault)
        self._events = []  # the views in what was told are not kept: see Stream.unsent
        return events

    def _after_preface(self, data: bytes | memoryview) -> bytes | memoryview:
        missing = len(frames.PREFACE) - len(self._preface)
        self._preface += data[:missing]
        if not frames.PREFACE.startswith(self._preface):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the connection does not begin as HTTP/2 does")
        return data[missing:]

    def _on_frame(self, kind: int, flags: int, stream: int, payload: bytes | memoryview, charge: int) -> None:
        self.frames += 1
        block = self._block
        if block is not None and (kind != frames.CONTINUATION or stream != block.stream):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "another frame stands inside a header block")
        if not self._started and (kind != frames.SETTINGS or flags & frames.ACK):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        try:
            if kind == frames.DATA:
                self._on_data(flags, stream, payload, charge)
                return
            handle = self._by_kind.get(kind)
            if handle is None or not isinstance(payload, bytes):  # of a kind that is not known
                self._annoy()
            else:
                frames.check_length(kind, stream, payload)
                handle(flags, stream, payload)
        except StreamFault as fault:
            if fault.stream > self._last:  # a stream that does not exist cannot be reset
                raise ConnectionFault(fault.code, str(fault)) from fault
            self._annoy_by_reset()
            self._drop(fault.stream, fault.code)

    def _on_data(self, flags: int, stream_id: int, data: bytes | memoryview, charge: int) -> None:
        ended = bool(flags & frames.END_STREAM)
        if charge:
            self._charge(charge)
        elif not len(data) and not ended:
            self._annoy()
        stream = self._streams.get(stream_id)
        if stream is None or stream.ended_in:
            self._on_late_data(stream_id, known=stream is not None, begins=bool(charge) or ended)
            return
        if charge > stream.window:
            raise StreamFault(stream_id, ErrorCode.FLOW_CONTROL_ERROR, "more bytes than the stream's window")
        stream.window -= charge
        if charge and self._reader.overhead:
            self.allow(stream_id, self._reader.overhead)
        stream.received += len(data)
        if stream.expected is not None and (
            stream.received > stream.expected or (ended and stream.received < stream.expected)
        ):
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, "the body is not as long as content-length says")
        if len(data):
            self._idle = 0
        if ended:
            self._end_in(stream)
        if ended or len(data):
            self._events.append(DataReceived(stream_id, data, ended))

    def _charge(self, size: int) -> None:
        """Count bytes against the connection's window, and give them back in large steps: streams hold clients back."""
        if size > self._window:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more bytes than the connection's window")
        self._window -= size
        self._credit += size
        if self._credit >= self._rules.connection_window // 2:
            self._out.put(frames.encode_window_update(0, self._credit))
            self._window += self._credit
            self._credit = 0

    def _on_late_data(self, stream_id: int, *, known: bool, begins: bool) -> None:
        if not known and (stream_id == 0 or stream_id > self._last or stream_id % 2 == 0):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"DATA for stream {stream_id}, which was never opened")
        if self._over.get(stream_id) or not begins:
            return  # it was under way when we reset the stream
        raise StreamFault(stream_id, ErrorCode.STREAM_CLOSED, "DATA after the end of the stream")

    # ---- header blocks

    def _on_headers(self, flags: int, stream: int, payload: bytes) -> None:
        if stream % 2 == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"HEADERS on stream {stream}, which is no client's")
        begin, end, self_dependent = 0, len(payload), False
        if flags & frames.PADDED:
            if not payload or payload[0] >= len(payload):
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the padding is larger than its frame")
            begin, end = 1, len(payload) - payload[0]
        if flags & frames.WITH_PRIORITY:
            if end - begin < 5:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "HEADERS end inside their priority")
            self_dependent = int.from_bytes(payload[begin : begin + 4], "big") & 0x7FFFFFFF == stream
            begin += 5
        block = _Block(stream, flags, self_dependent, payload[begin:end])
        if flags & frames.END_HEADERS:
            self._end_block(block)
        else:
            self._block = block

    def _on_continuation(self, flags: int, _stream: int, payload: bytes) -> None:
        block = self._block
        if block is None:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of nothing")
        block.frames += 1
        block.data += payload
        if block.frames > self._rules.max_continuations or len(block.data) > self._rules.max_headers:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "the header block is too large")
        if flags & frames.END_HEADERS:
            self._block = None
            self._end_block(block)

    def _end_block(self, block: _Block) -> None:
        stream = self._streams.get(block.stream)
        try:
            if stream is not None:
                self._on_trailers(stream, block)
            elif block.stream > self._last:
                self._on_request(block)
            else:
                self._on_late_headers(block)
        except MalformedError as exc:
            raise StreamFault(block.stream, ErrorCode.PROTOCOL_ERROR, str(exc)) from exc

    def _on_request(self, block: _Block) -> None:
        self._last = block.stream
        # Read in any case: a block that is left out would change the meaning of the next one.
        request = self._decoder.request(block.data)
        if block.self_dependent:
            raise StreamFault(block.stream, ErrorCode.PROTOCOL_ERROR, "a stream depends on itself")
        if self.leaving or len(self._streams) >= self._rules.max_streams:
            raise StreamFault(block.stream, ErrorCode.REFUSED_STREAM, "too many requests at once")
        ended = bool(block.flags & frames.END_STREAM)
        if ended and request.length:
            raise StreamFault(
                block.stream, ErrorCode.PROTOCOL_ERROR, "content-length promises a body, and none follows"
            )
        stream = Stream(
            block.stream,
            window=self._rules.window,
            send_window=self._out.initial_window,
            expected=request.length,
        )
        stream.ended_in = ended
        self._streams[block.stream] = stream
        self._events.append(RequestReceived(block.stream, request, ended))

    def _on_trailers(self, stream: Stream, block: _Block) -> None:
        if stream.ended_in:
            self._decoder.skip(block.data)
            raise StreamFault(stream.id, ErrorCode.STREAM_CLOSED, "HEADERS after the end of the stream")
        self._decoder.trailers(block.data)
        if not block.flags & frames.END_STREAM:
            raise StreamFault(stream.id, ErrorCode.PROTOCOL_ERROR, "trailers do not end the stream")
        if stream.expected is not None and stream.received != stream.expected:
            raise StreamFault(stream.id, ErrorCode.PROTOCOL_ERROR, "the body is not as long as content-length says")
        self._end_in(stream)
        self._events.append(DataReceived(stream.id, b"", True))

    def _on_late_headers(self, block: _Block) -> None:
        self._decoder.skip(block.data)
        ours = self._over.get(block.stream)
        if ours is None:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"stream {block.stream} is older than {self._last}")
        if not ours:
            raise ConnectionFault(ErrorCode.STREAM_CLOSED, "HEADERS after the end of the stream")

    # ---- the other frames

    def _on_priority(self, _flags: int, stream: int, payload: bytes) -> None:
        if stream == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        if int.from_bytes(payload[:4], "big") & 0x7FFFFFFF == stream:
            raise StreamFault(stream, ErrorCode.PROTOCOL_ERROR, "a stream depends on itself")
        self._annoy()

    def _on_reset(self, _flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id == 0 or stream_id > self._last:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "RST_STREAM of a stream that was never opened")
        stream = self._streams.get(stream_id)
        if stream is None:
            self._annoy()
            return
        self._annoy_by_reset()
        self._forget(stream, ours=False)
        self._events.append(StreamEnded(stream_id, int.from_bytes(payload, "big")))

    def _on_settings(self, flags: int, stream: int, payload: bytes) -> None:
        if stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if len(payload) % 6 or (flags & frames.ACK and payload):
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a size that none have")
        self._started = True
        self._annoy()
        if flags & frames.ACK:
            return
        for at in range(0, len(payload), 6):
            self._set(int.from_bytes(payload[at : at + 2], "big"), int.from_bytes(payload[at + 2 : at + 6], "big"))
        self._out.put(frames.encode_frame(frames.SETTINGS, frames.ACK, 0))

    def _set(self, name: int, value: int) -> None:
        if name == _INITIAL_WINDOW:
            if value > frames.MAX_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "an initial window larger than 2^31-1")
            change, self._out.initial_window = value - self._out.initial_window, value
            for stream in self._streams.values():
                try:
                    self._out.widen_stream(stream, change)
                except StreamFault as exc:
                    raise ConnectionFault(exc.code, str(exc)) from exc
        elif name == _MAX_FRAME:
            if not frames.DEFAULT_MAX_FRAME <= value <= frames.LARGEST_FRAME:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"a largest frame of {value} bytes")
            self._out.max_frame = value
        elif name == _ENABLE_PUSH and value > 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"ENABLE_PUSH is {value}")

    def _on_push(self, _flags: int, _stream: int, _payload: bytes) -> None:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a client cannot push")

    def _on_ping(self, flags: int, stream: int, payload: bytes) -> None:
        if stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        self._annoy()
        if flags & frames.ACK:
            self.pongs += 1
            if self.parting and payload == _PARTING:
                self.leave()
        else:
            self._out.put(frames.encode_frame(frames.PING, frames.ACK, 0, payload))

    def _on_goaway(self, _flags: int, stream: int, payload: bytes) -> None:
        if stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY is too short")
        self._annoy()
        self.leaving = True
        self.parting = False

    def _on_window_update(self, _flags: int, stream_id: int, payload: bytes) -> None:
        self._annoy()
        increment = int.from_bytes(payload, "big") & 0x7FFFFFFF
        if stream_id == 0:
            if not increment:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by nothing")
            self._out.widen(increment)
            return
        if stream_id > self._last:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of a stream that was never opened")
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        if not increment:
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by nothing")
        self._out.widen_stream(stream, increment)

    # ---- what is sent

    def respond(self, stream_id: int, block: bytes, body: bytes, trailers: bytes | None) -> None:
        """Begin an answer. It goes on with `send` where `trailers` is None, and ends with them elsewhere."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.ended_out:
            return
        if trailers and self._out.put_small(stream, block, body, trailers):
            return
        self._out.put_headers(stream_id, block, end=False)
        self._out.put_body(stream, body, trailers)

    def respond_only(self, stream_id: int, block: bytes) -> None:
        """An answer that is nothing but a header block."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.ended_out:
            return
        self._out.put_headers(stream_id, block, end=True)
        stream.ended_out = True
        self._answered(stream)

    def send(self, stream_id: int, body: bytes, trailers: bytes | None = None) -> None:
        """Go on with an answer; end it where there are `trailers` (empty: an end without any)."""
        stream = self._streams.get(stream_id)
        if stream is not None and not stream.ended_out:
            self._out.put_body(stream, body, trailers)

    def reset(self, stream_id: int, code: ErrorCode) -> None:
        """End a stream at once; what is under way on it is passed over."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._forget(stream, ours=True)
            self._out.put(frames.encode_reset(stream_id, code))

    def allow(self, stream_id: int, size: int) -> None:
        """So many bytes of a stream were used up: the client may send as many more."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.ended_in:
            return
        stream.credit += size
        if stream.credit >= self._rules.window // 2:
            self._grant(stream, stream.credit)
            stream.credit = 0

    def expect(self, stream_id: int, size: int) -> int:
        """So many bytes are still to come and have their place: let the client send them without a pause.

        Gives by how many bytes the stream's window grew for that.
        """
        stream = self._streams.get(stream_id)
        if stream is None or stream.ended_in or size <= stream.window:
            return 0
        more = min(size, frames.MAX_WINDOW) - stream.window
        self._grant(stream, more)
        return more

    def ping(self) -> None:
        """Ask whether the client is still there; `pongs` counts the answers."""
        self._out.put(frames.encode_frame(frames.PING, 0, 0, b"alive?\0\0"))

    def part(self) -> None:
        """Tell the client to go elsewhere; what is on its way here is still taken. Its answer, or `leave`, ends that.

        RFC 9113 6.8: a GOAWAY that names the newest stream at once would take from the client what it just sent.
        """
        if not (self.parting or self.leaving or self.closed):
            self.parting = True
            self._out.put(frames.encode_goaway(_ANY_STREAM, ErrorCode.NO_ERROR))
            self._out.put(frames.encode_frame(frames.PING, 0, 0, _PARTING))

    def leave(self) -> None:
        """Take no further request; those that run are answered."""
        if not self.leaving and not self.closed:
            self._out.put(frames.encode_goaway(self._last, ErrorCode.NO_ERROR))
        self.leaving = True
        self.parting = False

    def calm(self) -> None:
        """Some time has passed: what a client did until now is no flood."""
        self._resets = self._idle = 0

    def has_some(self) -> bool:
        """Whether there is anything to send now."""
        return self._out.has_some()

    def take(self, limit: int) -> bytes:
        """Bytes to send now: everything but bodies, and about `limit` bytes of those."""
        return self._out.take(limit)

    def unsent(self, stream_id: int) -> int:
        """Bytes of a stream's answer that its client has not made room for."""
        stream = self._streams.get(stream_id)
        return 0 if stream is None else stream.waiting

    def is_open(self, stream_id: int) -> bool:
        """Whether somebody still waits for this stream's answer."""
        return stream_id in self._streams

    @property
    def backlog(self) -> int:
        """Frames that wait to be sent."""
        return self._out.backlog

    @property
    def amid(self) -> bool:
        """Whether the client is in the middle of something that it has to end: its first frames, or a header block."""
        return not self._started or self._block is not None or self._reader.is_amid

    @property
    def streams(self) -> int:
        """Requests that are not answered to their end."""
        return len(self._streams)

    # ---- ends

    def _grant(self, stream: Stream, size: int) -> None:
        stream.window += size
        self._out.put(frames.encode_window_update(stream.id, size))

    def _end_in(self, stream: Stream) -> None:
        stream.ended_in = True
        if stream.ended_out:
            self._forget(stream, ours=False)

    def _answered(self, stream: Stream) -> None:
        """The last frame of an answer is on its way: the stream ends, and with it whatever of the request is left."""
        self._resets = max(0, self._resets - 1)
        self._idle = 0
        self._forget(stream, ours=not stream.ended_in)
        if not stream.ended_in:
            self._out.put(frames.encode_reset(stream.id, ErrorCode.NO_ERROR))

    def _drop(self, stream_id: int, code: ErrorCode) -> None:
        """Reset a stream for what the client did on it."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._forget(stream, ours=True)
            self._events.append(StreamEnded(stream_id, code))
        else:
            self._remember(stream_id, ours=True)
        self._out.put(frames.encode_reset(stream_id, code))

    def _forget(self, stream: Stream, *, ours: bool) -> None:
        del self._streams[stream.id]
        stream.unsent.clear()
        self._remember(stream.id, ours=ours)

    def _remember(self, stream_id: int, *, ours: bool) -> None:
        self._over[stream_id] = ours
        if len(self._over) > _REMEMBERED:
            del self._over[next(iter(self._over))]

    def _annoy(self) -> None:
        self._idle += 1
        if self._idle > self._rules.max_idle_frames:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that lead to nothing")

    def _annoy_by_reset(self) -> None:
        """Take no further request of a client that takes so many back, and end the connection if that changes nothing.

        What it waits for is still answered: a busy machine is slow to look at the clock, and deadlines that pass there
        are requests taken back too.
        """
        self._resets += 1
        why = "too many requests that were taken back"
        if self._resets > 2 * self._rules.max_resets:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, why)
        if self._resets > self._rules.max_resets and not self.leaving:
            self._out.put(frames.encode_goaway(self._last, ErrorCode.ENHANCE_YOUR_CALM, why))
            self.leaving, self.parting = True, False

    def _fail(self, fault: ConnectionFault) -> None:
        self.closed = self.leaving = True
        self.parting = False
        self._out.put(frames.encode_goaway(self._last, fault.code, str(fault)))
        for stream in list(self._streams.values()):
            self._forget(stream, ours=True)
            self._events.append(StreamEnded(stream.id, fault.code))
