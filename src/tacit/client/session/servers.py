"""REST to one model server that is attested itself, under the coordinator as it is attested now.

Before each request the coordinator is asked for, so a session whose coordinator is refused sends nothing more. A kept
connection is used only while manifest and intermediate are those under which it was judged; where a server shows another
chain, the coordinator is attested anew, as for every other client of a session.
"""

from collections.abc import Callable
from datetime import datetime
from http.client import HTTPConnection
from weakref import WeakKeyDictionary

from tacit.client.address import REST_PORT, parse_address
from tacit.client.bound.channel import BoundChannel
from tacit.client.bound.server import ServerProof
from tacit.client.connect import AttestedCoordinator
from tacit.client.session.renewal import Renewal
from tacit.errors import NotTrustedError, TlsError

Clock = Callable[[], datetime]


class ServerChannel(BoundChannel):
    """HTTP to the server at `address`. Several threads may use it."""

    def __init__(
        self, renewal: Renewal, address: str, *, clock: Clock, timeout: float, marble_type: str | None = None
    ) -> None:
        """Raises: NotTrustedError, where no manifest is pinned; TacitError, where the coordinator is refused."""
        super().__init__(parse_address(address, default_port=REST_PORT), timeout=timeout)
        self._renewal, self._at, self._clock, self._marble_type = renewal, address, clock, marble_type
        self._judged: WeakKeyDictionary[HTTPConnection, tuple[bytes, bytes]] = WeakKeyDictionary()
        _proof(renewal.current())

    def _reuse(self) -> HTTPConnection | None:
        """Asked first for every request. Raises: TacitError, where the coordinator is refused."""
        basis = _basis(self._renewal.current())
        while (found := super()._reuse()) is not None:
            if self._judged.get(found) == basis:
                return found
            found.close()
        return None

    def _connect(self) -> HTTPConnection:
        used = self._renewal.current()
        try:
            return self._connect_under(used)
        except TlsError:
            again = self._renewal.after_refusal(used)
            if again.intermediate_pem == used.intermediate_pem:
                raise
        return self._connect_under(again)

    def _connect_under(self, used: AttestedCoordinator) -> HTTPConnection:
        made = self._open(_proof(used).judge(self._at, self._clock, self._marble_type))
        self._judged[made] = _basis(used)
        return made


def _basis(used: AttestedCoordinator) -> tuple[bytes, bytes]:
    """What a server is judged by."""
    return used.intermediate_pem, b"" if used.manifest is None else used.manifest.raw


def _proof(used: AttestedCoordinator) -> ServerProof:
    """Raises: NotTrustedError."""
    if used.proof is None or used.claims is None or used.manifest is None:
        raise NotTrustedError(
            f"the servers of {used.host} cannot be attested themselves: its evidence and a pinned manifest are needed"
        )
    return ServerProof(used.proof, used.intermediate_pem, used.manifest.raw)
