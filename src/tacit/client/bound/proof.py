"""What one connection to a coordinator has to prove, the first time and each time after.

Channel-bound: its evidence names the root certificate, the role, a fresh nonce and the exporter of this connection, and
the certificate of this connection is that root. Key-bound: all but the exporter.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tacit.client.address import COORDINATOR_PORT, parse_address
from tacit.client.answers import ShownQuote
from tacit.client.bound.channel import Admit
from tacit.client.channel import HttpsChannel
from tacit.client.coordinator import CoordinatorClient
from tacit.client.trust import UNATTESTED, Expectation
from tacit.errors import BindingError, EvidenceFormatError, TlsError, WrongTeeError
from tacit.evidence import Claims, Role, TrustAnchor, verify_binding, verify_evidence
from tacit.evidence.verify.binding import CHANNEL_BINDING, CHANNEL_LABEL, CHANNEL_SIZE
from tacit.manifest import Appraisal, Unattested, appraise

_NONCE_SIZE = 32  # bytes


def is_bound(expectation: Expectation) -> bool:
    """Whether evidence has to be bound to the connection: always, but for what cannot and was said to be that."""
    return expectation.tee != UNATTESTED and not expectation.key_bound


@dataclass(frozen=True, slots=True)
class Proof:
    """What is asked of each connection to `address`: the program that is expected, under this root certificate (DER).

    `platform` is the simulated platform's folder, by default this user's.
    """

    address: str
    expectation: Expectation
    root_der: bytes
    platform: Path | None = None

    def attest(self, shown: ShownQuote, *, now: datetime, nonce: bytes) -> tuple[Claims | None, Appraisal | Unattested]:
        """Steps 2 to 5 of `tacit.client.connect`, for what one connection showed for `nonce`.

        Raises:
            EvidenceError: the evidence is not authentic, old, another role's, or of another connection.
            AppraisalError: another program or TEE than expected.
            TlsError: the connection has another certificate than the evidence names.
        """
        claims, appraisal = self._attest(shown, now=now, nonce=nonce)
        if shown.certificate != self.root_der:  # (4)
            raise TlsError(
                f"the TLS server at {self.address} shows another certificate than the attested root: something stands "
                "between; connect to the coordinator itself, without a TLS-terminating proxy"
            )
        return claims, appraisal

    def admit(self, clock: Callable[[], datetime]) -> Admit:
        """Who judges each further connection: by fresh evidence that is bound to it."""

        def judge(alone: HttpsChannel) -> None:
            nonce = os.urandom(_NONCE_SIZE)
            shown = CoordinatorClient.from_channel(alone).shown_quote(nonce, binding=CHANNEL_BINDING)
            self.attest(shown, now=clock(), nonce=nonce)

        return judge

    def open_by_root(self, *, timeout: float) -> CoordinatorClient:
        """Calls to whoever shows the attested root certificate, and has its key."""
        root_pem = x509.load_der_x509_certificate(self.root_der).public_bytes(Encoding.PEM)
        return CoordinatorClient(self.address, roots_pem=root_pem, timeout=timeout)

    def _attest(
        self, shown: ShownQuote, *, now: datetime, nonce: bytes
    ) -> tuple[Claims | None, Appraisal | Unattested]:
        address, expectation, quote = self.address, self.expectation, shown.quote
        if expectation.tee == UNATTESTED:
            return None, Unattested(f"{address} is trusted as {UNATTESTED}: its evidence was not asked for")
        if not shown.newer:
            raise EvidenceFormatError(
                f"the coordinator at {address} has only the API v1, which knows no nonce: old evidence could be replayed"
            )
        if not quote.evidence:
            raise WrongTeeError(
                f"the coordinator at {address} shows no evidence (it runs unattested), expected TEE {expectation.tee}; "
                f"a coordinator without evidence must be asked for by name: `tacit trust {address} --tee {UNATTESTED}`"
            )
        if expectation.package is None or expectation.anchor is None:
            raise WrongTeeError(
                f"nothing says what program to expect at {address}; run `tacit trust {address} --tee ...` again"
            )
        channel = self._channel(shown)
        claims = self.verify(quote.evidence, expectation.anchor, now=now)  # (2)
        claims = verify_binding(  # (3)
            claims, role=self._role(claims), key=self.root_der, nonce=nonce, channel=channel
        )
        return claims, appraise(claims, expectation.package)  # (5)

    def _role(self, claims: Claims) -> Role | None:
        """None where MarbleRun's own coordinator was named, which knows no roles and leaves the second half zero.

        It is no marble's evidence all the same: a marble there binds its certificate alone, and never a nonce.
        """
        return None if self.expectation.key_bound and not any(claims.report_data[32:]) else Role.COORDINATOR

    def _channel(self, shown: ShownQuote) -> bytes:
        """The exporter of this connection, where evidence has to be bound to it. Raises: BindingError."""
        if not is_bound(self.expectation):
            return b""
        if shown.binding != CHANNEL_BINDING or shown.exporter is None:
            raise BindingError(
                f"the coordinator at {self.address} does not bind its evidence to this connection, so anybody with its "
                "TLS key could stand in between. If it is MarbleRun's own, which cannot, say so: "
                f"`tacit trust {self.address} --tee ... --key-bound`"
            )
        return shown.exporter(CHANNEL_LABEL, CHANNEL_SIZE)

    def verify(self, evidence: bytes, anchor: TrustAnchor, *, now: datetime) -> Claims:
        """What authentic evidence says, with collateral of the simulated platform, or from where the expectation says.

        Raises: EvidenceError.
        """
        from tacit.client.bound.collateral import load_simulated, open_source

        if anchor.tee.is_simulated:
            return verify_evidence(evidence, load_simulated(evidence, self.platform), anchor, now=now)
        return open_source(self.expectation.collateral).verify(evidence, anchor, now=now)


def verify_name(certificate: x509.Certificate, address: str, *, variable: str = "EDG_COORDINATOR_DNS_NAMES") -> None:
    """The certificate names the host of this address. Raises: TlsError.

    Evidence has said already whose connection it is; a name that does not fit tells of a mistake in its settings.
    """
    host = parse_address(address, default_port=COORDINATOR_PORT).host
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    try:
        fits = ip_address(host) in names.get_values_for_type(x509.IPAddress)
    except ValueError:
        shown = [name.lower() for name in names.get_values_for_type(x509.DNSName)]
        fits = host in shown or f"*.{host.partition('.')[2]}" in shown
    if not fits:
        raise TlsError(
            f"the certificate of {address} does not name it; connect by a name that it has, "
            f"or start it with {variable}={host}"
        )
