"""TCP ports of this machine for programs that are about to start, kept from others who choose in the same way.

Between choosing a port and listening on it lies the start of a program, about a second. Two stages that begin together
would choose the same port, and one program would not start. So each chosen port is reserved for as long as its stage
stands: by the name of a socket in the abstract namespace, which ends with its process and leaves no file.
"""

import contextlib
import errno
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from tacit.errors import ConnectError

USUAL_PORTS = (4433, 2001, 8500, 8501)
_TRIES = 50  # ports that the system proposes before we give up


@dataclass(frozen=True, slots=True)
class Ports:
    """TCP ports on this machine: the coordinator's two and the server's two."""

    client: int
    mesh: int
    grpc: int
    rest: int

    @classmethod
    @contextlib.contextmanager
    def reserved(cls, *, avoid: Collection[int] = ()) -> Iterator[Self]:
        """The usual ports, or others where somebody has them or they are to be avoided. Raises: ConnectError."""
        with reserved_ports(USUAL_PORTS, avoid=avoid) as chosen:
            yield cls(*chosen)

    @property
    def unusual(self) -> Mapping[int, int]:
        """The ports that had to be chosen, by the usual port in whose place they stand."""
        chosen = (self.client, self.mesh, self.grpc, self.rest)
        return {usual: port for usual, port in zip(USUAL_PORTS, chosen, strict=True) if usual != port}


@contextlib.contextmanager
def reserved_ports(preferred: Sequence[int], *, avoid: Collection[int] = ()) -> Iterator[tuple[int, ...]]:
    """These ports, or another one in the place of each that somebody has or that is to be avoided.

    They are free to listen on, and nobody else is given them until the block is left.
    Raises: ConnectError when there is none.
    """
    with contextlib.ExitStack() as reservations:
        with contextlib.ExitStack() as probes:  # all are held until the last is chosen, so none is chosen twice
            chosen = tuple(_choose(reservations, probes, port, avoid) for port in preferred)
        yield chosen


def _choose(
    reservations: contextlib.ExitStack, probes: contextlib.ExitStack, preferred: int, avoid: Collection[int]
) -> int:
    for port in (preferred, *[0] * _TRIES):
        # The usual one is reserved before it is tried: even a short trial would disturb whoever is about to listen.
        if port in avoid or (port and not _reserve(reservations, port)):
            continue
        found = _try(probes, port)
        if found is None or found in avoid:
            continue
        if found == port or _reserve(reservations, found):
            return found
    raise ConnectError("no free port on this machine; end a program that listens on one")


def _reserve(reservations: contextlib.ExitStack, port: int) -> bool:
    """Take the name that stands for this port in this network namespace, if nobody has it."""
    name = reservations.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    try:
        name.bind(f"\0tacit-port-{port}")
    except OSError:
        return False
    return True


def _try(probes: contextlib.ExitStack, port: int) -> int | None:
    """The port, or one that the system proposes for 0, where it is free for whatever `localhost` means."""
    try:
        found = _bind(probes, socket.AF_INET, "127.0.0.1", port)
    except OSError:
        return None
    try:
        _bind(probes, socket.AF_INET6, "::1", found)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            return None
    return found


def _bind(probes: contextlib.ExitStack, family: socket.AddressFamily, address: str, port: int) -> int:
    probe = probes.enter_context(socket.socket(family, socket.SOCK_STREAM))
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    probe.bind((address, port))
    return int(probe.getsockname()[1])
