"""The socket between this process and a worker: whole messages, and the memory that comes with the first."""

import socket
from collections.abc import Sequence

from tacit.errors import WorkerError
from tacit.serving.loading.messages import MAX_MESSAGE

_LENGTH = 4  # bytes before each message, big endian


class Line:
    """One end of it."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def fileno(self) -> int:
        """The descriptor, for whoever waits for its end."""
        return self._end.fileno()

    def limit(self, seconds: float | None) -> None:
        """How long each wait for the other side may take; None for as long as it takes."""
        self._end.settimeout(seconds)

    def send(self, message: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send a message, and descriptors with it. Raises: OSError."""
        head = len(message).to_bytes(_LENGTH, "big")
        if descriptors:
            socket.send_fds(self._end, [head], list(descriptors))
            self._end.sendall(message)
        else:
            self._end.sendall(head + message)

    def receive(self) -> bytearray | None:
        """The next message; None where the other side has gone. Raises: OSError, WorkerError."""
        return self._rest(self._take(_LENGTH))

    def receive_with(self, count: int) -> tuple[bytearray | None, list[int]]:
        """The next message and the `count` descriptors that came with it. Raises: OSError, WorkerError."""
        head, descriptors, _, _ = socket.recv_fds(self._end, _LENGTH, count)
        if len(head) < _LENGTH or len(descriptors) != count:
            return None, descriptors
        return self._rest(head), descriptors

    def close(self) -> None:
        """Whoever still waits on either side is told at once."""
        try:
            self._end.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it has gone already
        finally:
            self._end.close()

    def _rest(self, head: bytes | bytearray | None) -> bytearray | None:
        if head is None:
            return None
        size = int.from_bytes(head, "big")
        if size > MAX_MESSAGE:
            raise WorkerError(f"a worker's message has {size} bytes, and {MAX_MESSAGE} are the most")
        return self._take(size)

    def _take(self, size: int) -> bytearray | None:
        raw = bytearray(size)
        view, got = memoryview(raw), 0
        while got < size:
            count = self._end.recv_into(view[got:])
            if not count:
                return None
            got += count
        return raw
