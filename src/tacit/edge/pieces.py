"""A body that comes in pieces, put together as they come."""

from io import BytesIO


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
