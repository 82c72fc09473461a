"""What does a client say in HTTP/2, and what may it?

In: the bytes of one connection. Out: events for whoever answers, and the bytes to send. No socket, no clock and no task
stands here, so each rule of RFC 9113 and each limit against the known attacks is tried with bytes alone.
"""

from tacit.edge.http2.connection import Connection, DataReceived, Event, RequestReceived, StreamEnded
from tacit.edge.http2.frames import PREFACE, ErrorCode
from tacit.edge.http2.headers import Request, encode_block
from tacit.edge.http2.rules import Rules

__all__ = [
    "PREFACE",
    "Connection",
    "DataReceived",
    "ErrorCode",
    "Event",
    "Request",
    "RequestReceived",
    "Rules",
    "StreamEnded",
    "encode_block",
]
