"""What gRPC puts on HTTP/2: messages with a length before them, deadlines as text, a status in the trailers.

Bytes and values alone. Source: the gRPC project's PROTOCOL-HTTP2.md.
"""

import re
import struct
from functools import cache
from urllib.parse import quote_from_bytes

from tacit.edge.http2 import encode_block
from tacit.edge.listener import cut
from tacit.edge.pieces import Pieces, inflate
from tacit.edge.service import named
from tacit.errors import RequestError, Status

PREFIX = 5  # bytes before a message: compressed or not, and its length
_PREFIX = struct.Struct(">BI")
_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_SECONDS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
# Everything that is printable ASCII stands for itself, the percent sign excepted.
_PLAIN = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")

_COMPRESSED = "compressed messages are not taken; send without grpc-encoding"

HEAD = encode_block([(":status", "200"), ("content-type", "application/grpc")])
TRAILERS = encode_block([("grpc-status", "0")])


def prefix(message: bytes) -> bytes:
    """What stands before a message."""
    return _PREFIX.pack(0, len(message))


def refusal_fields(status: int, text: str) -> list[tuple[str, str]]:
    """The trailers of a call that was refused. The text is cut where a client would refuse the list for its size."""
    message = quote_from_bytes(cut(text).encode(), safe=_PLAIN)
    fields = [("grpc-status", str(int(status))), ("grpc-message", message)]
    if status == Status.UNIMPLEMENTED:
        fields.append(("grpc-accept-encoding", "identity"))
    return fields


@cache
def _no_text(status: int) -> bytes:
    return encode_block([("grpc-status", str(status))])


def refusal_trailers(status: int, text: str) -> bytes:
    """The block of trailers after messages that were sent."""
    return encode_block(refusal_fields(status, text)) if text else _no_text(int(status))


def refusal_only(status: int, text: str) -> bytes:
    """The one block of an answer without messages."""
    head = [(":status", "200"), ("content-type", "application/grpc")]
    return encode_block(head + refusal_fields(status, text))


def parse_timeout(text: str) -> float:
    """Seconds. Raises: RequestError."""
    found = _TIMEOUT.fullmatch(text)
    if found is None:
        raise RequestError(
            Status.INVALID_ARGUMENT, "grpc-timeout is no time; expected digits and one of H, M, S, m, u, n"
        )
    return int(found[1]) * _SECONDS[found[2]]


class Packed(bytes):
    """A message as it came: compressed."""

    __slots__ = ()


def unpack(message: Packed, encoding: str, *, limit: int, flag: str = "") -> bytes:
    """A compressed message, inflated to at most `limit` bytes; `flag` moves that, and is named where it is too few.

    Raises:
        RequestError: it is larger, or not in the `grpc-encoding` that the call names, or in one that is not read.
    """
    if encoding in ("", "identity"):
        raise RequestError(Status.INTERNAL, "a message is compressed, and grpc-encoding does not say how")
    if encoding not in ("gzip", "deflate"):
        raise RequestError(Status.UNIMPLEMENTED, f"grpc-encoding {encoding[:32]} is not read; gzip and deflate are")
    text = f"grpc: received message larger than max ({limit} bytes, once inflated){named(flag)}; send it uncompressed"
    beyond = RequestError(Status.RESOURCE_EXHAUSTED, text)
    return inflate(message, encoding, limit=limit, beyond=beyond, said="grpc-encoding")


class MessageReader:
    """Puts messages together from the pieces in which their bytes come.

    A message is judged by its announced length, before a byte of it is kept.
    """

    def __init__(self, max_message: int, flag: str = "", *, packed: bool = False) -> None:
        """Take messages of up to `max_message` bytes; -1 is no limit. `flag` moves that, and the refusal of a larger one names it.

        With `packed`, compressed ones are taken too, and come as `Packed`.
        """
        self._max = max_message
        self._flag = flag
        self._takes_packed = packed
        self._kind: type[bytes] = bytes  # of the begun message
        self._head = bytearray()
        self._pieces: Pieces | None = None  # nearly always a message comes whole
        self.missing = 0  # bytes of the begun message that are still to come

    def feed(self, data: bytes | memoryview) -> list[bytes]:
        """The messages that end in `data`.

        Raises:
            RequestError: A message is too large, or compressed where that is not taken.
        """
        size = len(data)
        if size >= PREFIX and not self._head and not self.missing:
            compressed, length = _PREFIX.unpack_from(data)
            if length + PREFIX == size:  # nearly always
                self._judge(compressed, length)
                return [self._kind(data[PREFIX:])]
        done: list[bytes] = []
        view = memoryview(data)
        while view:
            if not self.missing:
                view = self._begin(view)
                if len(self._head) < PREFIX:
                    break
            else:
                piece, view = view[: self.missing], view[self.missing :]
                self.missing -= len(piece)
                self._pieces = self._pieces or Pieces()
                self._pieces.add(piece)
            if not self.missing:
                self._head.clear()
                done.append(self._kind(self._pieces.take() if self._pieces else b""))
        return done

    def is_between(self) -> bool:
        """Whether no message has been begun."""
        return not self._head

    def _begin(self, view: memoryview) -> memoryview:
        """Read what there is of a prefix; what follows it."""
        lacking = PREFIX - len(self._head)
        self._head += view[:lacking]
        if len(self._head) == PREFIX:
            compressed, self.missing = _PREFIX.unpack(self._head)
            self._judge(compressed, self.missing)
        return view[lacking:]

    def _judge(self, compressed: int, length: int) -> None:
        self._kind = Packed if compressed else bytes
        if compressed and not self._takes_packed:
            raise RequestError(Status.UNIMPLEMENTED, _COMPRESSED)
        if 0 <= self._max < length:
            text = f"grpc: received message larger than max ({length} vs. {self._max}){named(self._flag)}"
            raise RequestError(Status.RESOURCE_EXHAUSTED, text)
