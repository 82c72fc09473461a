"""What every edge shares: requests and answers as values, listeners, and how a port is taken."""

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from tacit.errors import ConnectError, InputError, PortInUseError

UNIX = "unix:"
BACKLOG = 512  # connections that wait to be accepted
MAX_ERROR = 1024  # bytes of an error's text on gRPC; longer header lists are refused by clients
FAREWELL = 1.0  # seconds that a client gets to hear that this end leaves
LINGER = 0.25  # seconds that connections get to say goodbye once nothing runs on them
_CUT = "...TRUNCATED"


Exporter = Callable[[bytes, int], bytes]
"""Label and length to secret bytes that only the two ends of one TLS 1.3 connection know. Raises PkiError on TLS 1.2."""


class HttpRequest(msgspec.Struct, frozen=True):
    """One HTTP request. `path` is raw (percent-encoded), header names are lower case.

    `peer_certificate` is the client's certificate (DER) if it showed one; nobody has judged it. `exporter` gives secret
    bytes of this very connection.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    peer_certificate: bytes | None
    exporter: Exporter | None = None


class HttpResponse(msgspec.Struct, frozen=True):
    """One HTTP answer."""

    status: int
    body: bytes
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)


class GrpcCall(msgspec.Struct, frozen=True):
    """What surrounds a gRPC message: the method's path, ASCII metadata, the client's certificate, seconds that are left.

    `exporter` gives secret bytes of this very connection, for binding evidence to it. `peer_address` is HOST:PORT.
    """

    method: str
    metadata: Mapping[str, str]
    peer_certificate: bytes | None
    deadline: float | None
    exporter: Exporter | None = None
    peer_address: str = ""


HttpHandler = Callable[[HttpRequest], Awaitable[HttpResponse]]
HttpRefusal = Callable[[int, str], HttpResponse]
"""Status and text of a request that no handler sees, in the words of the protocol that is served there."""
GrpcHandler = Callable[[bytes, GrpcCall], Awaitable[bytes]]
"""One message in, one out. Raises RequestError with the status that the caller is to see."""


@dataclass(frozen=True, slots=True)
class GrpcStreaming:
    """A method with any number of messages in and out: an asynchronous generator over an iterator.

    Messages are asked for one by one, and whoever reads slowly is waited for, so neither end fills our memory.
    """

    handler: Callable[[AsyncIterator[bytes], GrpcCall], AsyncGenerator[bytes, None]]


GrpcMethods = Mapping[str, GrpcHandler | GrpcStreaming]
"""Handlers by path, such as `/rpc.Marble/Activate`."""


class Listener(Protocol):
    """Something that listens on `port`, until it is closed."""

    port: int

    async def close(self, grace: float) -> None:
        """Stop accepting, let what runs finish for `grace` seconds, and end."""


def bind(host: str, port: int) -> socket.socket:
    """A TCP socket that listens on `host` and `port` (0: any free one), or a unix socket for a host of `unix:PATH`.

    Raises:
        PortInUseError: somebody else holds the port.
        InputError: there is no such address on this machine, or the port needs more rights.
    """
    if host.startswith(UNIX):
        return _bind_unix(Path(host.removeprefix(UNIX)))
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError, OverflowError) as exc:
        raise InputError(f"cannot listen on {host}:{port}: {host!r} is no address of this machine") from exc
    if not host and socket.has_dualstack_ipv6():
        found.sort(key=lambda entry: entry[0] != socket.AF_INET6)  # one socket that takes both families
    family, kind, protocol, _, address = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and not host:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # both families on one port
        sock.bind(address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as exc:
        sock.close()
        raise bind_error(host, port, exc) from exc
    return sock


def _bind_unix(path: Path) -> socket.socket:
    """A unix socket at `path`, in the place of one that is there, as gRPC's servers do: the last to start is reached."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            path.unlink(missing_ok=True)
        sock.bind(str(path))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as exc:
        sock.close()
        if exc.errno == errno.EADDRINUSE:
            raise PortInUseError(f"cannot listen on {path}: what lies there is no socket; choose another path") from exc
        raise InputError(f"cannot listen on {path}: {exc.strerror or exc}") from exc
    return sock


class SocketFile:
    """The file of a unix socket, as it is now."""

    def __init__(self, path: Path) -> None:
        self._path, self._made = path, path.lstat()

    def remove(self) -> None:
        """Take it away, unless a successor has put its own there."""
        with contextlib.suppress(OSError):
            if os.path.samestat(self._path.lstat(), self._made):
                self._path.unlink()


def bind_error(host: str, port: int, exc: OSError) -> ConnectError | InputError:
    """What a failure to take a port means for the person who asked for it."""
    where = f"{host or '*'}:{port}"
    if exc.errno == errno.EADDRINUSE:
        return PortInUseError(
            f"cannot listen on {where}: another process holds the port; end it, or choose another port"
        )
    if exc.errno in (errno.EACCES, errno.EPERM):
        return InputError(f"cannot listen on {where}: not permitted; ports below 1024 need more rights")
    return InputError(f"cannot listen on {where}: {exc.strerror or exc}")


def unsent_bytes(transport: asyncio.WriteTransport | None) -> int:
    """Bytes that wait for the other side to take them; 0 where the connection is gone."""
    try:
        return transport.get_write_buffer_size() if transport is not None else 0
    except AttributeError:  # asyncio's TLS transport has forgotten the socket below it
        return 0


async def until(done: Callable[[], bool], seconds: float) -> None:
    """Wait for `done`, but no longer than `seconds`."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds
    while not done() and clock() < deadline:  # noqa: ASYNC110 -- a buffer that runs empty tells nobody
        await asyncio.sleep(0.005)


def cut(message: str) -> str:
    """An error's text that fits into a gRPC trailer."""
    raw = message.encode()
    return message if len(raw) <= MAX_ERROR else raw[:MAX_ERROR].decode("utf-8", "ignore") + _CUT
