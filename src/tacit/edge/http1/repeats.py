"""Requests whose head is the one before, byte for byte: what it means is known, so nothing has to be parsed.

A client that asks again and again sends the same head with another body. Where a parser stands between two requests, the
same bytes mean the same each time; so a request is compared, if it comes whole.
"""

import msgspec

from tacit.edge.listener import HttpRequest

_LONGEST = 4096  # bytes of a head that is kept, for each connection
_LARGEST = 64 << 10  # bytes of a request; a larger one never comes at once
_END = b"\r\n\r\n"
# Headers by which more is exchanged than a head and a body.
_APART = frozenset(("expect", "transfer-encoding", "upgrade"))


class Repeats:
    """The last head of one connection, and its request without a body."""

    __slots__ = ("_head", "_request", "_size")

    def __init__(self) -> None:
        self._size = -1  # of the whole request
        self._head = b""
        self._request: HttpRequest | None = None

    def find(self, data: bytes | memoryview) -> HttpRequest | None:
        """The request that these bytes are, whole and with the head of the last one; None for anything else."""
        if len(data) != self._size or self._request is None:
            return None
        whole = bytes(data)
        if not whole.startswith(self._head):
            return None
        return msgspec.structs.replace(self._request, body=whole[len(self._head) :])

    def remember(self, data: bytes | memoryview, request: HttpRequest) -> None:
        """Keep the head of a request that these bytes were, all of them and nothing else."""
        self._size, self._request = -1, None
        if len(data) > _LARGEST or not _APART.isdisjoint(request.headers):
            return
        head, gap, body = bytes(data).partition(_END)
        if gap and len(head) <= _LONGEST and body == request.body:
            self._size, self._head = len(data), head + gap
            self._request = msgspec.structs.replace(request, body=b"")
