"""One stream, and the line of streams that wait to send: flow control towards the client."""

from collections import deque
from collections.abc import Callable

from tacit.edge.http2.frames import (
    CONTINUATION,
    DATA,
    DEFAULT_MAX_FRAME,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    MAX_WINDOW,
    ConnectionFault,
    ErrorCode,
    StreamFault,
    encode_frame,
    encode_header,
)


class Stream:
    """A request and its answer. `ended_in` and `ended_out` are the two halves of RFC 9113's states."""

    __slots__ = (
        "begun",
        "credit",
        "ended_in",
        "ended_out",
        "expected",
        "id",
        "received",
        "send_window",
        "trailers",
        "unsent",
        "waiting",
        "waits",
        "window",
    )

    def __init__(self, stream_id: int, *, window: int, send_window: int, expected: int | None) -> None:
        self.id = stream_id
        self.ended_in = self.ended_out = False
        self.window = window  # bytes that the client may still send
        self.credit = 0  # bytes that were used up and not yet given back to it
        self.expected = expected  # bytes of body that content-length promised
        self.received = 0  # bytes of body that came
        self.send_window = send_window  # bytes that we may still send
        # Bytes, never views of them: up to Python 3.11.7, a view in a cycle of garbage crashes its collector.
        self.unsent: deque[bytes] = deque()
        self.begun = 0  # bytes of the first of them that are on their way
        self.waiting = 0  # bytes in there that are not
        self.trailers: bytes | None = None  # the block after the last byte; empty: the end, without trailers
        self.waits = False  # whether it stands in line


class Outgoing:
    """Everything that is to be sent, in order: frames first, then what flow control lets go of the bodies in turn."""

    def __init__(self, ended: Callable[[Stream], None]) -> None:
        """`ended` hears of each stream whose last frame is on its way."""
        self.window = self.initial_window = DEFAULT_WINDOW
        self.max_frame = DEFAULT_MAX_FRAME
        self._ended = ended
        self._frames: list[bytes] = []
        self._line: deque[Stream] = deque()

    def put(self, frame: bytes) -> None:
        """Send a frame as it is."""
        self._frames.append(frame)

    def has_some(self) -> bool:
        """Whether `take` would give anything."""
        return bool(self._frames) or (bool(self._line) and self.window > 0)

    @property
    def backlog(self) -> int:
        """Pieces of frames that wait."""
        return len(self._frames)

    def put_headers(self, stream: int, block: bytes, *, end: bool) -> None:
        """Send a header block, in as many frames as it needs."""
        kind, flags = HEADERS, END_STREAM if end else 0
        while len(block) > self.max_frame:
            self._frames.append(encode_frame(kind, flags, stream, block[: self.max_frame]))
            kind, flags, block = CONTINUATION, 0, block[self.max_frame :]
        self._frames.append(encode_frame(kind, flags | END_HEADERS, stream, block))

    def put_small(self, stream: Stream, block: bytes, body: bytes, trailers: bytes) -> bool:
        """Send a whole answer at once, if flow control and the size of frames allow; whether they did."""
        size, number = len(body), stream.id
        room = min(self.max_frame, stream.send_window, self.window)
        if stream.unsent or not 0 < size <= room or max(len(block), len(trailers)) > DEFAULT_MAX_FRAME:
            return False
        stream.send_window -= size
        self.window -= size
        parts = (
            encode_header(len(block), HEADERS, END_HEADERS, number),
            block,
            encode_header(size, DATA, 0, number),
            body,
            encode_header(len(trailers), HEADERS, END_STREAM | END_HEADERS, number),
            trailers,
        )
        self._frames.append(b"".join(parts))
        stream.ended_out = True
        self._ended(stream)
        return True

    def put_body(self, stream: Stream, data: bytes, trailers: bytes | None) -> None:
        """Send bytes as flow control allows, and end the stream after them unless `trailers` is None."""
        size = len(data)
        stream.trailers = trailers
        room = min(self.max_frame, stream.send_window, self.window)
        if not stream.unsent and (not size or size <= room):
            self._put_data(stream, data)
        elif size:
            stream.unsent.append(data)
            stream.waiting += size
            self._queue(stream)

    def take(self, limit: int) -> bytes:
        """What can be sent now: all frames, and bodies up to `limit` bytes or a frame more."""
        out = self._frames
        while self._line and self.window > 0 and limit > 0:
            stream = self._line.popleft()
            stream.waits = False
            if not stream.unsent:  # it was reset
                continue
            first = stream.unsent[0]
            left = len(first) - stream.begun
            size = min(left, self.max_frame, self.window, stream.send_window)
            if size <= 0:
                continue
            limit -= size
            stream.waiting -= size
            piece = first[stream.begun : stream.begun + size]
            stream.begun += size
            if size == left:
                stream.unsent.popleft()
                stream.begun = 0
            self._put_data(stream, piece)
            self._queue(stream)
        self._frames = []
        return b"".join(out)

    def widen(self, increment: int) -> None:
        """The client takes more on all streams together. Raises: ConnectionFault."""
        self.window += increment
        if self.window > MAX_WINDOW:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window is larger than 2^31-1")

    def widen_stream(self, stream: Stream, increment: int) -> None:
        """The client takes more on a stream. Raises: StreamFault."""
        stream.send_window += increment
        if stream.send_window > MAX_WINDOW:
            raise StreamFault(stream.id, ErrorCode.FLOW_CONTROL_ERROR, "a stream's window is larger than 2^31-1")
        self._queue(stream)

    def _queue(self, stream: Stream) -> None:
        if stream.unsent and stream.send_window > 0 and not stream.waits:
            stream.waits = True
            self._line.append(stream)

    def _put_data(self, stream: Stream, data: bytes) -> None:
        """One DATA frame, which flow control allows, and the end of the stream where nothing follows."""
        size = len(data)
        stream.send_window -= size
        self.window -= size
        ends = stream.trailers is not None and not stream.unsent
        bare = ends and not stream.trailers
        if size or bare:
            self._frames.append(encode_header(size, DATA, END_STREAM if bare else 0, stream.id))
            if size:
                self._frames.append(data)
        if ends:
            if stream.trailers:
                self.put_headers(stream.id, stream.trailers, end=True)
            stream.ended_out = True
            self._ended(stream)
