"""What is asked of the kernel, or of a library OS in its place: pseudo files, folders that are requests, devices.

Pseudo files have rules that buffering hides: each write(2) is a request of its own, and what an opening made is read to
its end. So nothing is buffered, written twice or sized by stat here. Errors stay the system's own (OSError); whoever asks
knows what they mean.
"""

import errno
import fcntl
import os
import socket
import struct
from pathlib import Path
from typing import Protocol

_PIECE = 1 << 16  # bytes
_HOST = 2  # VMADDR_CID_HOST of linux/vm_sockets.h
_SECONDS = 60.0  # that a quote may take; a busy quoting service needs several
_LENGTH = struct.Struct(">I")


class Kernel(Protocol):
    """The few calls that making evidence needs. Each raises OSError."""

    def exists(self, path: Path) -> bool:
        """Whether something is there. What may not be looked at counts as there."""

    def read(self, path: Path, *, limit: int) -> bytes:
        """All that one opening gives; EFBIG if that is more than `limit` bytes."""

    def write(self, path: Path, content: bytes) -> int:
        """Exactly one write; how many bytes of it were taken."""

    def make_folder(self, path: Path) -> None:
        """A new folder."""

    def remove_folder(self, path: Path) -> None:
        """Remove an empty folder."""

    def control(self, path: Path, number: int, argument: bytearray) -> None:
        """One ioctl of a device; it reads and writes `argument` in place."""

    def ask_host(self, port: int, message: bytes, *, limit: int) -> bytes:
        """Send the host one message over vsock, and take its answer; lengths of 4 bytes, big endian, stand before both."""


class Linux:
    """The kernel that this process runs on, or Gramine in its place."""

    def exists(self, path: Path) -> bool:
        """See `Kernel`."""
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True
        return True

    def read(self, path: Path, *, limit: int) -> bytes:
        """See `Kernel`."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            content = b""
            while piece := os.read(descriptor, _PIECE):
                content += piece
                if len(content) > limit:
                    raise OSError(errno.EFBIG, f"more than {limit} bytes", str(path))
            return content
        finally:
            os.close(descriptor)

    def write(self, path: Path, content: bytes) -> int:
        """See `Kernel`."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            return os.write(descriptor, content)
        finally:
            os.close(descriptor)

    def make_folder(self, path: Path) -> None:
        """See `Kernel`."""
        path.mkdir(mode=0o700)

    def remove_folder(self, path: Path) -> None:
        """See `Kernel`."""
        path.rmdir()

    def control(self, path: Path, number: int, argument: bytearray) -> None:
        """See `Kernel`."""
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, number, argument, True)
        finally:
            os.close(descriptor)

    def ask_host(self, port: int, message: bytes, *, limit: int) -> bytes:
        """See `Kernel`."""
        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as host:
            host.settimeout(_SECONDS)
            host.connect((_HOST, port))
            host.sendall(_LENGTH.pack(len(message)) + message)
            (length,) = _LENGTH.unpack(_receive(host, _LENGTH.size))
            if length > limit:
                raise OSError(errno.EMSGSIZE, f"an answer of {length} bytes, of which {limit} are taken")
            return _receive(host, length)


LINUX = Linux()


def _receive(sender: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size:
        piece = sender.recv(size - len(content))
        if not piece:
            raise OSError(errno.ECONNRESET, f"the answer ends after {len(content)} of {size} bytes")
        content += piece
    return content
