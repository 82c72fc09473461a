"""The door of the client's HTTPS where every connection is judged by itself, before anything is sent on it.

`HttpsChannel` opens another connection whenever the server has ended the last one. Here each new one goes first to
whoever judges it, who asks for evidence over that connection alone and compares what it is bound to.
"""

from collections.abc import Callable
from http.client import HTTPConnection

from tacit.client.address import Address
from tacit.client.bound.socket import BoundConnection, bound_context
from tacit.client.channel import HttpsChannel, closed_on_error
from tacit.errors import PeerError
from tacit.pki import KeyPair

Admit = Callable[[HttpsChannel], None]
"""Judges one connection, over a channel that has no other. Raises if nothing may be sent on it."""


class BoundChannel(HttpsChannel):
    """Requests to one server over TLS 1.3 with an exporter, connections kept.

    Until `admit` is set, nothing vouches for the server: that is for whoever asks for its evidence first.
    """

    def __init__(self, address: Address, *, certificate: KeyPair | None = None, timeout: float = 30.0) -> None:
        """Raises: PkiError, for a client certificate that cannot be used."""
        super().__init__(address, None, timeout=timeout)
        self._base = f"https://{address}"
        self._context = bound_context(certificate=certificate)
        self.admit: Admit | None = None

    def _connect(self) -> HTTPConnection:
        return self._open(self.admit)

    def _open(self, admit: Admit | None) -> HTTPConnection:
        """A new connection, which was let in. Raises: UnreachableError, TlsError; what `admit` raises."""
        connection = super()._connect()
        if admit is None:
            return connection
        with closed_on_error(connection):
            alone = _Alone(self, connection)
            admit(alone)
            return alone.give_back()

    def _prepare(self, timeout: float) -> HTTPConnection:
        return BoundConnection(self._address.host, self._address.port, self._context, timeout=timeout)


class _Alone(HttpsChannel):
    """One connection, and no other in its place."""

    def __init__(self, whole: BoundChannel, connection: HTTPConnection) -> None:
        super().__init__(whole._address, None, timeout=whole._timeout)
        self._base = whole._base
        self._idle.append(connection)

    def _connect(self) -> HTTPConnection:
        raise PeerError(f"{self._address} ended the connection while it was being attested; try again")

    def give_back(self) -> HTTPConnection:
        """The connection. Raises: PeerError, where the server ended it meanwhile."""
        return self._reuse() or self._connect()
