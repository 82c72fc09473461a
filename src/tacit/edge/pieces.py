"""A body that comes in pieces, put together once."""

_SMALL = 4096  # bytes; smaller pieces are put together at once, so that each costs no more than it holds


class Pieces:
    """Keeps pieces as they come, and joins them with one copy."""

    __slots__ = ("_parts", "_tail", "size")

    def __init__(self) -> None:
        self._parts: list[bytes | bytearray | memoryview] = []
        self._tail = bytearray()
        self.size = 0

    def add(self, piece: bytes | memoryview) -> None:
        """Keep a piece. What it was cut from is kept alive only where it is not much larger."""
        size = len(piece)
        self.size += size
        if size < _SMALL:
            self._tail += piece
            return
        if self._tail:
            self._parts.append(self._tail)
            self._tail = bytearray()
        if isinstance(piece, memoryview) and size * 4 < len(memoryview(piece.obj)):
            piece = bytes(piece)
        self._parts.append(piece)

    def take(self) -> bytes:
        """All of it; nothing is kept any more."""
        whole = b"".join((*self._parts, self._tail))
        self.drop()
        return whole

    def drop(self) -> None:
        """Forget it all."""
        self._parts.clear()
        self._tail = bytearray()
        self.size = 0
