"""A body that comes in pieces, put together as they come; and what a compressed one holds, bounded in memory and time."""

import zlib
from io import BytesIO

from tacit.errors import RequestError, Status

_GZIP, _EITHER = 31, 47  # zlib's window bits for a header of gzip, and for one of gzip or of zlib
_PIECE = 64 << 10  # bytes that are read at once: what lies behind a member's end is copied
_MAX_MEMBERS = 10_000  # each costs time, however little it holds


class Pieces:
    """Copies each piece to its place, once: `BytesIO` gives its memory away as `bytes` without another copy."""

    __slots__ = ("_memory", "size")

    def __init__(self) -> None:
        self._memory = BytesIO()
        self.size = 0

    def add(self, piece: bytes | memoryview) -> None:
        """Append a piece; its own memory is free afterwards."""
        self.size += self._memory.write(piece)

    def take(self) -> bytes:
        """All of it; nothing is kept any more."""
        whole = self._memory.getvalue()
        self.drop()
        return whole

    def drop(self) -> None:
        """Forget it all."""
        self._memory = BytesIO()
        self.size = 0


def inflate(body: bytes, encoding: str, *, limit: int, beyond: RequestError, said: str = "Content-Encoding") -> bytes:
    """What a compressed body holds: all of its members, one behind the other.

    `beyond` is raised where that is more than `limit` bytes, before more of them are in memory. `said` is the header that
    names the encoding. Source: RFC 1952, section 2.2.

    Raises:
        RequestError: INVALID_ARGUMENT for what is not compressed, cut short, or followed by anything else.
    """
    view, read, size, parts = memoryview(body), 0, 0, list[bytes]()
    for _ in range(_MAX_MEMBERS):
        inflater = zlib.decompressobj(_GZIP if encoding == "gzip" else _EITHER)
        while not inflater.eof:
            piece = view[read : read + _PIECE]
            if not piece:
                raise RequestError(Status.INVALID_ARGUMENT, f"the {encoding} body was cut short")
            try:
                # One byte more than is allowed: a length of 0 would be no limit.
                part = inflater.decompress(piece, limit - size + 1)
            except zlib.error as exc:
                text = f"the body is not {encoding}, though {said} says so: {exc}"
                raise RequestError(Status.INVALID_ARGUMENT, text) from exc
            size += len(part)
            if size > limit:
                raise beyond
            parts.append(part)
            read += len(piece) - len(inflater.unused_data)
        if read == len(view):
            return b"".join(parts)
    raise RequestError(Status.INVALID_ARGUMENT, f"the {encoding} body has more than {_MAX_MEMBERS} members")
