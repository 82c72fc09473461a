"""What a running program shows of itself when it is asked with a nonce, and what that has to be bound to. None is checked.

A coordinator is asked on its client API, a model server on its REST port (`tacit-serve --attest_connections`), each for
evidence that is bound to the connection; who cannot bind it to that binds its key and the nonce.
"""

from dataclasses import dataclass

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tacit.client.address import COORDINATOR_PORT, parse_address
from tacit.client.bound.channel import BoundChannel
from tacit.client.coordinator import CoordinatorClient
from tacit.errors import PeerError, WrongTeeError
from tacit.evidence import Binding, Role
from tacit.evidence.verify.binding import CHANNEL_BINDING, CHANNEL_LABEL, CHANNEL_SIZE
from tacit.pki.keys import CERTIFICATE_ERRORS
from tacit.wire.evidence import EVIDENCE_PATH, ServerEvidence
from tacit.wire.rest import JSON_ERRORS


@dataclass(frozen=True, slots=True)
class Shown:
    """Evidence, and what it is bound to if it is whose it should be; `role` in the binding says whose that is."""

    evidence: bytes
    binding: Binding


def fetch_shown(target: str, *, nonce: bytes, timeout: float = 30.0) -> Shown:
    """The evidence of the coordinator or model server at `target` (`host:port`), for this nonce of 32 bytes.

    Raises:
        WrongTeeError: it shows none.
        ConnectError: nobody answers, or neither kind of program.
    """
    address = parse_address(target, default_port=COORDINATOR_PORT)
    with BoundChannel(address, timeout=timeout) as channel:
        try:
            shown = CoordinatorClient.from_channel(channel).shown_quote(nonce, binding=CHANNEL_BINDING)
        except PeerError as exc:
            server = _ask_server(channel, nonce)
            if server is None:
                raise PeerError(
                    f"{address} is neither a coordinator's client API nor the REST port of a model server that was started "
                    f"with --attest_connections ({exc})"
                ) from exc
            return server
        if not shown.quote.evidence:
            raise WrongTeeError(f"the coordinator at {address} shows no evidence: it runs unattested")
        bound = shown.binding == CHANNEL_BINDING and shown.exporter is not None
        exported = shown.exporter(CHANNEL_LABEL, CHANNEL_SIZE) if bound and shown.exporter else b""
        key = _root(address, shown.quote.chain_pem)
        return Shown(shown.quote.evidence, Binding(Role.COORDINATOR, key, nonce, exported))


def _ask_server(channel: BoundChannel, nonce: bytes) -> Shown | None:
    answer = channel.call("GET", EVIDENCE_PATH, query=[("nonce", nonce.hex())])
    if answer.status != 200 or answer.certificate is None or answer.exporter is None:
        return None
    try:
        shown = msgspec.json.decode(answer.body, type=ServerEvidence)
    except JSON_ERRORS:
        return None
    exported = answer.exporter(CHANNEL_LABEL, CHANNEL_SIZE)
    return Shown(shown.evidence, Binding(Role.MARBLE, answer.certificate, nonce, exported))


def _root(address: object, chain_pem: bytes) -> bytes:
    try:
        return x509.load_pem_x509_certificates(chain_pem)[-1].public_bytes(Encoding.DER)
    except CERTIFICATE_ERRORS as exc:
        raise PeerError(f"the certificates of {address} cannot be read: {exc}") from exc
