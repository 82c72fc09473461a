"""What programs do with their memory: keep it private, and keep or give back what the allocator holds."""

import contextlib
import ctypes
import resource
import sys

_PR_SET_DUMPABLE = 4  # linux/prctl.h

# malloc.h of glibc. Its defaults hand every buffer of a request back to the system and take it anew: on images that
# cost as much again as all the rest of a call. One arena, because Python's threads take turns anyway.
_MALLOC = {-8: 1, -3: 32 << 20, -1: 128 << 20}  # M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD


def keep_memory_private() -> None:
    """No core files, and no reading of this process's memory or environment by others of the same user."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        # A libc without it, or a library OS that refuses it, has no such readers either.
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def keep_buffers() -> None:
    """Let the allocator keep the large buffers of one request for the next, where it is one that can be told."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        for option, value in _MALLOC.items():
            mallopt(option, value)


def give_back_memory() -> None:
    """Give back what was freed: reading a model takes several times its size, which `keep_buffers` is not to keep."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
