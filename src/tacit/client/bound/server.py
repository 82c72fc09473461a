"""A model server attested directly, over REST, connection by connection.

1.  The connection shows a leaf that the attested coordinator's intermediate signed for a type of marble: the one that
    is expected, if one is, and in any case for the name under which the server was reached.
2.  The server's evidence for a fresh nonce is authentic, and binds that leaf, the role of a marble, the nonce and the
    exporter of this connection.
3.  It is the package that the pinned manifest names for that type.

Then it is the attested program itself that holds the other end now, and not only whoever has a key that it was given.
"""

import os
from collections.abc import Callable
from datetime import datetime

import msgspec
from cryptography import x509

from tacit.client.bound.channel import Admit
from tacit.client.bound.proof import Proof, verify_name
from tacit.client.channel import HttpsChannel
from tacit.errors import BindingError, MeasurementError, NotTrustedError, PeerError, PkiError, TlsError
from tacit.evidence import Role, Tee, TrustAnchor, verify_binding
from tacit.evidence.anchor import MAKERS
from tacit.evidence.verify.binding import CHANNEL_BINDING, CHANNEL_LABEL, CHANNEL_SIZE
from tacit.manifest import Manifest, Package, appraise, parse_manifest
from tacit.pki.leaf import verify_leaf
from tacit.wire.evidence import EVIDENCE_PATH, NONCE_SIZE, ServerEvidence
from tacit.wire.rest import JSON_ERRORS


class ServerProof:
    """What each connection to a model server has to prove, under the manifest that is pinned."""

    def __init__(self, proof: Proof, intermediate_pem: bytes, manifest: bytes | None) -> None:
        """`proof` is the coordinator's: its kind of root vouches for servers of that kind.

        Raises:
            NotTrustedError: no manifest is pinned, so nothing says what a server may be.
        """
        if manifest is None:
            raise NotTrustedError(
                f"no manifest is pinned for {proof.address}, so nothing says which program its servers are; "
                f"`tacit manifest verify FILE {proof.address}` pins it"
            )
        self._proof = proof
        self._intermediate = x509.load_pem_x509_certificate(intermediate_pem)
        self._manifest: Manifest = parse_manifest(manifest).manifest

    def judge(self, address: str, clock: Callable[[], datetime], marble_type: str | None) -> Admit:
        """What judges a connection to the server at `address`; of this type of marble, where one is named."""

        def judge(alone: HttpsChannel) -> None:
            nonce, now = os.urandom(NONCE_SIZE), clock()
            answer = alone.call("GET", EVIDENCE_PATH, query=[("nonce", nonce.hex())])
            if answer.status != 200:
                raise BindingError(
                    f"the server at {address} shows no evidence of its own ({answer.status}); it is started with "
                    "--attest_connections for that"
                )
            try:
                shown = msgspec.json.decode(answer.body, type=ServerEvidence)
            except JSON_ERRORS as exc:
                raise PeerError(f"{address} answered for its evidence with something else ({exc})") from exc
            if shown.channel != CHANNEL_BINDING or answer.exporter is None:
                raise BindingError(f"the server at {address} does not bind its evidence to this connection")
            package = self._package(address, answer.certificate, marble_type, now)  # (1)
            anchor = self._anchor(package)
            claims = self._proof.verify(shown.evidence, anchor, now=now)  # (2)
            claims = verify_binding(
                claims,
                role=Role.MARBLE,
                key=answer.certificate or b"",
                nonce=nonce,
                channel=answer.exporter(CHANNEL_LABEL, CHANNEL_SIZE),
            )
            appraise(claims, package)  # (3)

        return judge

    def _package(self, address: str, certificate: bytes | None, marble_type: str | None, now: datetime) -> Package:
        try:
            leaf = verify_leaf(certificate or b"", issuer=self._intermediate, now=now)
        except PkiError as exc:
            raise TlsError(
                f"the server at {address} shows no certificate of the attested coordinator's: {exc}"
            ) from exc
        # Any server of the manifest has evidence that fits. That it is the one that was meant, its certificate says.
        verify_name(x509.load_der_x509_certificate(certificate or b""), address, variable="EDG_MARBLE_DNS_NAMES")
        if marble_type is not None and leaf.marble_type != marble_type:
            raise TlsError(
                f"the server at {address} is a marble of the type {leaf.marble_type[:60]!r}, expected {marble_type!r}"
            )
        marble = self._manifest.marbles.get(leaf.marble_type)
        package = None if marble is None else self._manifest.packages.get(marble.package)
        if package is None:
            raise MeasurementError(f"the manifest names no package for the type {leaf.marble_type[:60]!r} of {address}")
        return package

    def _anchor(self, package: Package) -> TrustAnchor:
        """Of the package's kind: a maker's, or the simulated one that was pinned with the coordinator."""
        tee, pinned = Tee(package.tee or Tee.SGX), self._proof.expectation.anchor
        if pinned is not None and pinned.tee is tee:
            return pinned
        if tee in MAKERS:
            return MAKERS[tee]
        raise NotTrustedError(f"the server's package is for TEE {tee}, and no root for that was pinned")
