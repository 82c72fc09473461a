"""Memory that this process and a worker both see. It has no name and lies on no disk."""

import fcntl
import mmap
import os
from typing import Self

from tacit.errors import WorkerError

_LEAST = 1 << 20  # bytes
_KEPT = 32 << 20  # bytes of a large request or answer that stay taken for the next one
MAX_SHARED = 1 << 40  # bytes; far above any answer, far below what overflows


class SharedMemory:
    """Grows as it is needed, and never shrinks: whoever reads beyond its end would die of it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._map: mmap.mmap | None = None

    @classmethod
    def create(cls) -> Self:
        """New memory, sealed against shrinking, and against further seals, by either side."""
        descriptor = os.memfd_create("tacit", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
        return cls(descriptor)

    def room(self, size: int) -> memoryview:
        """`size` bytes to write to, taken if they are not there yet. Raises: OSError."""
        if self._map is None or len(self._map) < size:
            wanted = max(_LEAST, 1 << max(0, size - 1).bit_length())
            if os.fstat(self.descriptor).st_size < wanted:
                os.ftruncate(self.descriptor, wanted)
        return self.view(size)

    def view(self, size: int) -> memoryview:
        """The first `size` bytes. Raises: WorkerError, there are not so many."""
        if self._map is None or len(self._map) < size:
            there = os.fstat(self.descriptor).st_size
            if not 0 <= size <= min(there, MAX_SHARED):
                raise WorkerError(f"{size} bytes of shared memory were promised, and {there} are there")
            # The map before stays as long as somebody still looks at it.
            self._map = mmap.mmap(self.descriptor, there) if there else None
        return memoryview(self._map)[:size] if self._map is not None else memoryview(b"")

    def trim(self) -> None:
        """Give back what only a large message needed."""
        if self._map is not None and len(self._map) > _KEPT:
            self._map.madvise(mmap.MADV_REMOVE, _KEPT, len(self._map) - _KEPT)

    def close(self) -> None:
        """Forget it; it is gone once nobody looks at it any more."""
        self._map = None
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
