"""Frames of HTTP/2: nine bytes of header, then a payload that the header announces.

    +-----------------------------------------------+
    |                 Length (24)                   |
    +---------------+---------------+---------------+
    |   Type (8)    |   Flags (8)   |
    +-+-------------+---------------+-------------------------------+
    |R|                 Stream Identifier (31)                      |
    +=+=============================================================+
    |                   Frame Payload (0...)                      ...
    +---------------------------------------------------------------+

DATA is passed on as it arrives, without its padding, so a frame of a megabyte is never kept here; every other kind is
kept until it is whole, and may not be large. Source: RFC 9113, sections 4 and 6.
"""

import struct
from collections.abc import Iterator
from enum import IntEnum

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_SIZE = 9  # bytes
DEFAULT_WINDOW = 65_535  # bytes, of every flow-control window before SETTINGS say otherwise
DEFAULT_MAX_FRAME = 16_384  # bytes
MAX_WINDOW = 2**31 - 1  # bytes
LARGEST_FRAME = 2**24 - 1  # bytes

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20

_HEADER = struct.Struct(">BHBBI")
_FIXED = {PRIORITY: 5, RST_STREAM: 4, PING: 8, WINDOW_UPDATE: 4}

Frame = tuple[int, int, int, "bytes | memoryview", int]
"""Kind, flags, stream, payload, and the bytes that count against flow control (DATA alone; 0 for a later piece)."""


class ErrorCode(IntEnum):
    """Why a stream or a connection ends (RFC 9113, section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class ConnectionFault(Exception):  # noqa: N818 -- the words of RFC 9113: an error of the connection, one of a stream
    """The other end broke a rule so that nothing after it can be understood: the connection ends."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code


class StreamFault(Exception):  # noqa: N818
    """The other end broke a rule of one stream: that stream ends, the others go on."""

    def __init__(self, stream: int, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.stream, self.code = stream, code


def encode_frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    size = len(payload)
    return _HEADER.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def encode_header(size: int, kind: int, flags: int, stream: int) -> bytes:
    """The header of a frame whose payload follows from elsewhere."""
    return _HEADER.pack(size >> 16, size & 0xFFFF, kind, flags, stream)


def encode_settings(settings: dict[int, int]) -> bytes:
    """A SETTINGS frame."""
    payload = b"".join(struct.pack(">HI", name, value) for name, value in settings.items())
    return encode_frame(SETTINGS, 0, 0, payload)


def encode_window_update(stream: int, size: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return encode_frame(WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big"))


def encode_reset(stream: int, code: ErrorCode) -> bytes:
    """An RST_STREAM frame."""
    return encode_frame(RST_STREAM, 0, stream, int(code).to_bytes(4, "big"))


def encode_goaway(last: int, code: ErrorCode, text: str = "") -> bytes:
    """A GOAWAY frame; `text` is for whoever reads the other end's log."""
    return encode_frame(GOAWAY, 0, 0, struct.pack(">II", last, code) + text.encode())


class FrameReader:
    """Takes bytes in any pieces, gives frames. What it keeps between two calls is less than one small frame."""

    def __init__(self, *, max_data: int, max_small: int) -> None:
        """DATA may have `max_data` bytes, which SETTINGS_MAX_FRAME_SIZE announces; all other kinds `max_small`."""
        self._max_data = max_data
        self._limits = dict.fromkeys(range(HEADERS, CONTINUATION + 1), min(max_small, max_data))
        self._held = bytearray()  # a frame that is not whole
        self._need = HEADER_SIZE  # bytes that `_held` waits for
        self._kind = self._flags = self._stream = 0  # of the frame that is passed on as it comes
        self._left = 0  # bytes of it that are still to come
        self._body = 0  # how many of them are not padding
        self._charge = 0  # what it counts against flow control, until that was said once
        self.overhead = 0  # bytes of that which are padding

    def feed(self, data: bytes | memoryview) -> Iterator[Frame]:
        """The frames that `data` completes, and the pieces of DATA in it, which are views of `data`.

        Raises:
            ConnectionFault: A frame is larger than allowed, or its padding is larger than itself.
        """
        if self._held:
            self._held += data
            if len(self._held) < self._need:
                return
            data = bytes(self._held)
            self._held.clear()
        position, size, view = 0, len(data), memoryview(data)
        while position < size:
            begun = not self._left
            if begun:
                if size - position < HEADER_SIZE:
                    self._need = HEADER_SIZE
                    break
                high, low, kind, flags, stream = _HEADER.unpack_from(data, position)
                length, body = high << 16 | low, position + HEADER_SIZE
                self._check_size(kind, length)
                small = kind in self._limits
                if body + length <= size and (small or (kind == DATA and not flags & PADDED)):  # nearly always
                    position, self.overhead = body + length, 0
                    whole = view[body:position]
                    yield kind, flags, stream & 0x7FFFFFFF, bytes(whole) if small else whole, 0 if small else length
                    continue
                if small:
                    self._need = HEADER_SIZE + length
                    break
                if flags & PADDED and kind == DATA and length and body == size:
                    self._need = HEADER_SIZE + 1  # how much of it is padding has not come yet
                    break
                self._kind, self._flags, self._stream = kind, flags, stream & 0x7FFFFFFF
                position = self._open(data, body, length)
            piece = view[position : min(size, position + self._body)]
            position = self._advance(len(piece), size, position)
            if self._kind == DATA or begun:
                flags = self._flags & ~END_STREAM if self._left else self._flags
                charge, self._charge = self._charge, 0
                yield self._kind, flags, self._stream, piece, charge
        if position < size:
            self._held += view[position:]

    @property
    def is_amid(self) -> bool:
        """Whether a frame is kept that is not whole."""
        return bool(self._held)

    def _check_size(self, kind: int, length: int) -> None:
        limit = self._limits.get(kind, self._max_data)
        if length <= limit:
            return
        # A block of headers that large is within what SETTINGS allow a frame, and not within what we read.
        calm = kind in (HEADERS, CONTINUATION) and length <= self._max_data
        code = ErrorCode.ENHANCE_YOUR_CALM if calm else ErrorCode.FRAME_SIZE_ERROR
        raise ConnectionFault(code, f"a frame of kind {kind} has {length} bytes; at most {limit} are taken")

    def _open(self, data: bytes | memoryview, position: int, length: int) -> int:
        """Begin a frame that is passed on as it comes; where its body begins."""
        self._left = self._body = length
        self._charge, self.overhead = length, 0
        if self._kind != DATA:
            self._body = self._charge = 0
        elif self._flags & PADDED:
            if not length or data[position] >= length:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the padding is larger than its frame")
            self._left = length - 1
            self._body = self._left - data[position]
            self.overhead = 1 + data[position]
            position += 1
        return position

    def _advance(self, taken: int, size: int, position: int) -> int:
        """Go to the end of what has come of the open frame."""
        step = min(self._left, size - position)
        self._body -= taken
        self._left -= step
        return position + step


def check_length(kind: int, stream: int, payload: bytes) -> None:
    """Frames whose size the standard fixes have that size.

    Raises:
        StreamFault: A PRIORITY frame has another.
        ConnectionFault: Any other frame has.
    """
    if len(payload) == _FIXED.get(kind, len(payload)):
        return
    text = f"a frame of kind {kind} has {len(payload)} bytes; it has {_FIXED[kind]}"
    if kind == PRIORITY:
        raise StreamFault(stream, ErrorCode.FRAME_SIZE_ERROR, text)
    raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, text)
