"""Has the kernel refuse what Gramine 1.9 refuses, to this process and to all that it starts or becomes.

A seccomp filter over the numbers of x86-64, the only machine that Gramine runs on; anywhere else nothing is refused.
What a filter cannot see (renaming a folder, files of /proc that are not there) is not refused.

Source: what was missing when programs were run under Gramine's library OS; seccomp(2), bpf(4).
"""

import ctypes
import errno
import platform
import struct

MISSING = {
    "signalfd": 282, "signalfd4": 289, "timerfd_create": 283, "timerfd_settime": 286, "inotify_init": 253,
    "inotify_init1": 294, "memfd_create": 319, "pidfd_open": 434, "io_uring_setup": 425, "getrusage": 98, "prctl": 157,
    "utime": 132, "utimes": 235, "futimesat": 261, "utimensat": 280, "link": 86, "linkat": 265, "symlink": 88,
    "symlinkat": 266,
}  # fmt: skip
"""ENOSYS."""
FORK, VFORK, CLONE, CLONE3 = 57, 58, 56, 435
_CLONE_VM = 0x100  # a thread shares memory; a process does not, and a manifest that disallows those has none
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2
_X86_64 = 0xC000003E
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data


def _program() -> bytes:
    def step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("=HBBI", code, yes, no, value)

    def refuse(number: int, error: int) -> bytes:
        return step(_EQUAL, number, 0, 1) + step(_RETURN, _ERRNO | error)

    steps = step(_LOAD, _ARCHITECTURE) + step(_EQUAL, _X86_64, 1, 0) + step(_RETURN, _ALLOW) + step(_LOAD, _NUMBER)
    steps += b"".join(
        refuse(number, errno.ENOSYS) for number in (*MISSING.values(), CLONE3)
    )  # libc falls back to CLONE
    steps += b"".join(refuse(number, errno.EACCES) for number in (FORK, VFORK))
    steps += step(_EQUAL, CLONE, 0, 3) + step(_LOAD, _FIRST_ARGUMENT)
    steps += step(_ANY_BIT, _CLONE_VM, 1, 0) + step(_RETURN, _ERRNO | errno.EACCES)
    return steps + step(_RETURN, _ALLOW)


def refuse_calls() -> None:
    """From here on, for good. Raises: OSError, where the kernel has no seccomp."""
    if platform.machine() != "x86_64":
        return
    steps = _program()
    buffer = ctypes.create_string_buffer(steps)
    program = struct.pack("@HxxxxxxP", len(steps) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    calls = ((_PR_SET_NO_NEW_PRIVS, 1, None), (_PR_SET_SECCOMP, _MODE_FILTER, program))
    for option, value, pointer in calls:
        if libc.prctl(option, ctypes.c_ulong(value), pointer, ctypes.c_ulong(0), ctypes.c_ulong(0)):
            raise OSError(ctypes.get_errno(), "the kernel takes no filter")
