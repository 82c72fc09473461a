"""What whoever answers in a coordinator's place may say to a client or to premain. Two bytes choose call and status."""

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tacit.client.channel import Answer
from tacit.client.connect import _parse_chain, verify_intermediate, verify_manifest, verify_state_mark
from tacit.client.coordinator import CoordinatorClient
from tacit.errors import ConnectError, CoordinatorError
from tacit.evidence.verify.binding import CHANNEL_BINDING

REFUSALS = (ConnectError, CoordinatorError)
LIMIT = 8192  # bytes
_HOST = "localhost:4433"
_STATUSES = (200, 405, 401, 500)


class _Channel:
    """Gives the same answer to everything, and to v1 what v2 was refused."""

    def __init__(self, status: int, body: bytes) -> None:
        self._answers = [Answer(status, "OK", body, b"certificate"), Answer(200, "OK", body, b"certificate")]

    def url(self, path: str) -> str:
        return f"https://{_HOST}{path}"

    def call(self, method: str, path: str, **parts: object) -> Answer:
        return self._answers.pop(0)


def check(data: bytes) -> None:
    which, status, body = data[:1], data[1:2], data[2:]
    client = CoordinatorClient.__new__(CoordinatorClient)
    client._channel = _Channel(_STATUSES[ord(status or b"0") % 4], body)  # type: ignore[assignment]
    if which == b"s":
        mark = client.status().mark
        if mark is not None:
            verify_state_mark(_HOST, mark, _ROOT)
    elif which == b"m":
        found = client.manifest()
        verify_manifest(_HOST, found, _ROOT, found.fingerprint)
    elif which == b"k":
        client.secrets(["a"])
    else:
        shown = client.shown_quote(b"n", binding=CHANNEL_BINDING)
        intermediate, root = _parse_chain(_HOST, shown.quote)
        assert root.public_bytes(Encoding.DER)
        verify_intermediate(_HOST, intermediate, root)


def _root() -> x509.Certificate:
    from datetime import UTC, datetime

    from tacit.pki import issue_root

    return issue_root((), now=datetime(2026, 11, 24, tzinfo=UTC)).certificate


_ROOT = _root()
