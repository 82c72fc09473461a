"""Frames of HTTP/2 as a client would write them, right ones and wrong ones, and what a server said in return."""

import struct
from dataclasses import dataclass

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 1
END_HEADERS = 4
PADDED = 8

HEAD = (
    (":method", "POST"),
    (":scheme", "https"),
    (":path", "/rpc.Test/Call"),
    (":authority", "localhost"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
)


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


def block(*fields: tuple[str, str]) -> bytes:
    """A header block that no table has to know."""
    return hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*field) for field in fields], huffman=False)


def headers(stream: int, *fields: tuple[str, str], end: bool = False) -> bytes:
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, block(*(fields or HEAD)))


def settings(*pairs: tuple[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", name, value) for name, value in pairs))


def message(body: bytes) -> bytes:
    return b"\0" + len(body).to_bytes(4, "big") + body


def call(stream: int, body: bytes = b"x") -> bytes:
    """A whole unary call."""
    return headers(stream) + frame(DATA, END_STREAM, stream, message(body))


@dataclass
class Frame:
    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def number(self) -> int:
        """The error code of RST_STREAM and GOAWAY."""
        return int.from_bytes(self.payload[4:8] if self.kind == GOAWAY else self.payload[:4], "big")


def parse(data: bytes) -> list[Frame]:
    """The whole frames in `data`."""
    found = []
    while len(data) >= 9 and len(data) >= 9 + int.from_bytes(data[:3], "big"):
        size = int.from_bytes(data[:3], "big")
        found.append(Frame(data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + size]))
        data = data[9 + size :]
    return found


def goaway(data: bytes) -> int | None:
    """The error code with which the connection ended."""
    return next((each.number for each in parse(data) if each.kind == GOAWAY), None)


def resets(data: bytes) -> dict[int, int]:
    """The error codes of the streams that were reset."""
    return {each.stream: each.number for each in parse(data) if each.kind == RST_STREAM}
