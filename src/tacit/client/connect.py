"""Checks a coordinator before anything is told to it or believed of it.

Attesting it takes these steps, and the numbers stand over the code that does them:

1.  Fetch evidence and certificates for a fresh nonce, over a TLS 1.3 connection that nothing vouches for yet.
2.  The evidence is authentic: signed by a platform whose chain ends at the trusted root (`evidence`).
3.  It binds this root certificate, the role of a coordinator, the nonce, and the exporter of that very connection: it
    is not old, not another role's, and nobody stands in between, not even with the coordinator's TLS key.
4.  The root certificate is the one that the TLS server of that very connection showed: nobody stands between.
5.  The program is the one expected: measurement or signer, no debug, accepted TCB status (`manifest.appraise`).
6.  The intermediate, which vouches for the servers, is signed by that root.
7.  Over the same connection the coordinator says how it runs and where its state stands, signed by the root key; a mode
    other than the one expected is refused. Where that connection ends, the next one is attested before it is used.
8.  The root is the one that was seen first, and the state no older than any seen (`trust`): the log that it shows goes
    on from the one that was seen, entry by entry, by the digests of what was written since (`log`).
9.  If a manifest is pinned, the coordinator holds exactly that one, signed by the root key; if its signers are, one that
    one of them signed, and the root key.
10. Remember what was seen.

Whoever reaches a coordinator first may set its manifest, and evidence says nothing about that. So nothing secret goes to
one before `verify_pinned`, which asks that step 9 was done.

A coordinator that is trusted as `unattested` skips 2, 3 and 5, and the result says so: it carries `Unattested`.
MarbleRun's own coordinator binds evidence to its key and not to a connection. One that is expected to be that
(`Expectation.key_bound`) is asked over TLS that anybody with its key could speak, and 7 takes any TLS with the root
certificate. Nothing falls back to that.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding

from tacit.client.address import COORDINATOR_PORT, Address, parse_address
from tacit.client.answers import CoordinatorStatus, Quote, StateMark, StoredManifest
from tacit.client.bound.channel import BoundChannel
from tacit.client.bound.proof import Proof, is_bound, verify_name
from tacit.client.coordinator import CoordinatorClient, fingerprint
from tacit.client.log import verify_descent, verify_log_mark
from tacit.client.trust import UNATTESTED, Expectation, Memory, Sighting, verify_epoch, verify_root
from tacit.errors import (
    InRecoveryError,
    NotSetError,
    NotTrustedError,
    PeerError,
    PinMismatchError,
    PkiError,
    TlsError,
    WrongTeeError,
)
from tacit.evidence import Claims, Tee
from tacit.evidence.claims import PackageInfo
from tacit.evidence.verify.binding import CHANNEL_BINDING
from tacit.manifest import Appraisal, Package, Unattested
from tacit.pki import KeyPair
from tacit.pki.detached import parse_signatures, verify_detached
from tacit.pki.keys import CERTIFICATE_ERRORS
from tacit.pki.tls import unverified_client_context
from tacit.wire.log import LogPosition
from tacit.wire.rest import state_mark_message

NONCE_SIZE = 32  # bytes
MANIFEST_LABEL = "tacit manifest v1"
"""Under which a manifest's signers sign (`tacit.pki.detached`)."""
ACCEPTS_MARBLES = 3
_WAITS_FOR_MANIFEST = 2
_IN_RECOVERY = 1
_MAX_SIGNATURES = 1 << 16  # bytes


@dataclass(frozen=True, slots=True)
class AttestedCoordinator:
    """A coordinator that passed every step.

    TLS to it is verified against `root_pem`, to its servers against `intermediate_pem`.
    `claims` is None and `appraisal` an `Unattested` if it was trusted without evidence.
    `manifest` is the one in force if the client pinned it or its signers, else None; `signer` is who signed it (public key,
    DER), None where it is pinned itself.
    `epoch` and `head` are 0 and empty for a MarbleRun coordinator. `evidence` is what it showed, as it came.
    """

    host: str
    root_pem: bytes
    intermediate_pem: bytes
    claims: Claims | None
    appraisal: Appraisal | Unattested
    status: CoordinatorStatus
    manifest: StoredManifest | None
    epoch: int
    head: bytes
    evidence: bytes = b""
    proof: "Proof | None" = None
    signer: bytes | None = None

    @property
    def channel_bound(self) -> bool:
        """Whether evidence was bound to the connection itself, and not only to the coordinator's key."""
        return self.proof is not None and is_bound(self.proof.expectation)

    def open(
        self, *, clock: Callable[[], datetime], certificate: KeyPair | None = None, timeout: float = 30.0
    ) -> CoordinatorClient:
        """Calls of its client API, as the user of `certificate`; each new connection is attested before it is used.

        Key-bound, it has to show the root certificate that was attested.
        """
        if self.proof is None or not self.channel_bound:
            return CoordinatorClient(self.host, roots_pem=self.root_pem, certificate=certificate, timeout=timeout)
        channel = BoundChannel(_address(self.host), certificate=certificate, timeout=timeout)
        channel.admit = self.proof.admit(clock)
        return CoordinatorClient.from_channel(channel)

    @property
    def tee(self) -> str:
        """Kind of TEE that was proven, or `unattested`."""
        return UNATTESTED if self.claims is None else str(self.claims.tee)

    @property
    def chain_pem(self) -> bytes:
        """Intermediate, then root."""
        return self.intermediate_pem + self.root_pem


def attest_coordinator(
    host: str, trust: Memory, *, now: datetime, nonce: bytes, platform: Path | None = None, timeout: float = 30.0
) -> AttestedCoordinator:
    """The coordinator at `host`, checked against what `trust` expects of it.

    `nonce` is 32 fresh random bytes, unless a person gives another and answers for its freshness. `platform` is the
    simulated platform's folder, whose collateral is read: by default this user's. Only its collateral, which is signed:
    the root was copied when the coordinator was trusted.

    Raises:
        NotTrustedError: `host` was never told to `tacit trust`.
        EvidenceError: the evidence is not authentic, or not of this connection.
        AppraisalError: another program or TEE than expected.
        PinMismatchError: another root or manifest than pinned.
        RollbackError: an older state than one already seen, or one that does not go on from it.
        LogError: where its log stands is not signed by its root key.
        ConnectError: no answer, or TLS fails.
    """
    address = str(parse_address(host, default_port=COORDINATOR_PORT))
    expectation = trust.load_expectation(address)
    return attest_expected(address, expectation, trust, now=now, nonce=nonce, platform=platform, timeout=timeout)


def attest_expected(
    address: str,
    expectation: Expectation,
    trust: Memory,
    *,
    now: datetime,
    nonce: bytes,
    platform: Path | None = None,
    timeout: float = 30.0,
) -> AttestedCoordinator:
    """As `attest_coordinator`, for a caller that has what to expect from a better place than a file.

    Of `trust`, which knows `address` (`name:port`), only what was seen counts.
    """
    bound = is_bound(expectation)
    with _open_unproven(address, bound=bound, timeout=timeout) as (unproven, channel):
        shown = unproven.shown_quote(nonce, binding=CHANNEL_BINDING if bound else None)  # (1)
        intermediate, root = _parse_chain(address, shown.quote)
        proof = Proof(address, expectation, root.public_bytes(Encoding.DER), platform)
        claims, appraisal = proof.attest(shown, now=now, nonce=nonce)  # (2) (3) (4) (5)
        verify_intermediate(address, intermediate, root)  # (6)
        if channel is not None:
            verify_name(root, address)
            channel.admit = proof.admit(lambda: now)
        with contextlib.nullcontext(unproven) if bound else proof.open_by_root(timeout=timeout) as client:  # (7)
            status = client.status()
            sighting = _sight(address, expectation, status, root)
            forget = trust.forgetting(address)
            _verify_pinned_root(address, expectation, status, proof.root_der, forget=forget)  # (8)
            _verify_descent(address, trust.load_sighting(proof.root_der), sighting, client, forget=forget)
            manifest, signer = _verify_manifest(address, expectation, status, client, root)  # (9)
    # Nothing is stored there yet, or nothing open: started again, or recovered, it will have another root.
    if status.code in (_WAITS_FOR_MANIFEST, _IN_RECOVERY):
        trust.verify_sighting(address, sighting)
    else:
        trust.record_sighting(address, sighting)  # (10)
    return AttestedCoordinator(
        address,
        root.public_bytes(Encoding.PEM),
        intermediate.public_bytes(Encoding.PEM),
        claims,
        appraisal,
        status,
        manifest,
        sighting.epoch,
        sighting.head,
        shown.quote.evidence,
        proof,
        signer,
    )


def fetch_unverified(host: str, *, nonce: bytes = b"", timeout: float = 30.0) -> tuple[bytes, bytes, bytes]:
    """Intermediate and root certificate (PEM), and evidence, as whoever answers at `host` shows them: none is checked.

    Raises: ConnectError.
    """
    address = str(parse_address(host, default_port=COORDINATOR_PORT))
    with CoordinatorClient.from_context(address, unverified_client_context(), timeout=timeout) as unverified:
        quote = unverified.quote(nonce)
        intermediate, root = _parse_chain(address, quote)
    return intermediate.public_bytes(Encoding.PEM), root.public_bytes(Encoding.PEM), quote.evidence


def load_simulated_expectation(
    platform: Path,
    *,
    tee: Tee = Tee.SIMULATED,
    package: Package | None = None,
    manifest_fingerprint: bytes | None = None,
) -> Expectation:
    """What to expect of a coordinator on the simulated platform in `platform`: its root, copied in, and its package.

    `tee` is the kind of simulation. Without `package` it is the coordinator as installed here.

    Raises:
        PlatformError: there is no such platform, or without its keys and `package` was not given.
    """
    from tacit.evidence.fetch import load_anchor

    anchor = load_anchor(platform, tee=tee)
    if package is None:
        from tacit.evidence.issue import load_package_info

        package = package_of(load_package_info(platform, program="coordinator", tee=tee))
    return Expectation(str(tee), package, anchor, manifest_fingerprint)


def package_of(info: PackageInfo) -> Package:
    """The package that allows exactly this program."""
    if info.measurements:
        return Package(tee=str(info.tee), measurements=info.measurements, minimum_tcb=info.minimum_tcb)
    return Package(
        debug=info.debug,
        unique_id=info.unique_id,
        signer_id=info.signer_id,
        product_id=info.product_id,
        security_version=info.security_version,
        tee=str(info.tee),
    )


def verify_intermediate(address: str, intermediate: x509.Certificate, root: x509.Certificate) -> None:
    """The intermediate is a CA that the root signed. Raises: TlsError."""
    try:
        intermediate.verify_directly_issued_by(root)
        is_ca = intermediate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (InvalidSignature, x509.ExtensionNotFound, *CERTIFICATE_ERRORS) as exc:
        raise TlsError(
            f"the intermediate certificate of {address} is not signed by its root; nothing is trusted"
        ) from exc
    if not is_ca:
        raise TlsError(f"the intermediate certificate of {address} is no CA; nothing is trusted")


def verify_pinned(coordinator: AttestedCoordinator) -> None:
    """The manifest in force is the one that this client pinned: only then may a secret or an input go there.

    Raises:
        NotSetError: there is none in force. Somebody else's could be, by the time that anything arrives.
        NotTrustedError: none is pinned.
    """
    if coordinator.manifest is not None:
        return
    host = coordinator.host
    if coordinator.status.code == _WAITS_FOR_MANIFEST:
        raise NotSetError(
            f"the coordinator at {host} has no manifest yet; set one with `tacit manifest set FILE {host}`"
        )
    raise NotTrustedError(
        f"no manifest is pinned for the coordinator at {host}, so anybody may have set the one that it holds, and would "
        f"get what is sent there; `tacit manifest verify FILE {host}` compares it with yours and pins it"
    )


def verify_state_mark(address: str, mark: StateMark, root: x509.Certificate) -> None:
    """Epoch and head are signed by the root key. Raises: PeerError."""
    signed = state_mark_message(mark.epoch, mark.head)
    try:
        _public_key(root).verify(mark.signature, signed, ec.ECDSA(SHA384()))
    except InvalidSignature as exc:
        raise PeerError(f"epoch and head of {address} are not signed by its root key; nothing is trusted") from exc


def verify_manifest(address: str, manifest: StoredManifest, root: x509.Certificate, expected: bytes) -> None:
    """The manifest is the pinned one, and signed by the root key. Raises: PinMismatchError, PeerError."""
    actual = fingerprint(manifest.raw)
    if actual != expected:
        raise PinMismatchError(
            f"the coordinator at {address} holds another manifest than the pinned one (got {actual.hex()}, expected "
            f"{expected.hex()}): read it with `tacit manifest get {address}`, and if it is meant, "
            f"pin it with `tacit trust {address} --manifest ...`"
        )
    _verify_by_root(address, manifest, root)


def verify_signed_manifest(
    address: str, manifest: StoredManifest, root: x509.Certificate, expectation: Expectation
) -> bytes:
    """Which of the trusted signers (public key, DER) signed the manifest that the root key signed.

    Raises:
        PinMismatchError: none of them did, or there is no signature for this manifest.
        PeerError: the root key did not.
    """
    digest = fingerprint(manifest.raw)
    try:
        given = _load_signatures(expectation.signatures, digest)
        signer = verify_detached(MANIFEST_LABEL, manifest.raw, given, expectation.signers)
    except (PkiError, OSError) as exc:
        raise PinMismatchError(
            f"the coordinator at {address} holds a manifest for which no trusted signer stands ({digest.hex()}; {exc}): "
            f"read it with `tacit manifest get {address}`; one who may says it is meant by `tacit manifest sign`, into "
            f"{expectation.signatures}"
        ) from exc
    _verify_by_root(address, manifest, root)
    return signer


def signatures_in(folder: Path, digest: bytes) -> Path:
    """The file of signatures of the manifest with this SHA-256, in a folder with one for each."""
    return folder / f"{digest.hex()}.sig"


def _load_signatures(where: str | None, digest: bytes) -> tuple[bytes, ...]:
    """Raises: OSError, PkiError."""
    if where is None:
        return ()
    path = Path(where)
    if path.is_dir():
        path = signatures_in(path, digest)
    with path.open("rb") as file:
        return parse_signatures(file.read(_MAX_SIGNATURES))


def _verify_by_root(address: str, manifest: StoredManifest, root: x509.Certificate) -> None:
    digest = Prehashed(SHA256())
    try:
        _public_key(root).verify(manifest.signature, fingerprint(manifest.raw), ec.ECDSA(digest))
    except InvalidSignature as exc:
        raise PeerError(f"the manifest of {address} is not signed by its root key; nothing is trusted") from exc


@contextlib.contextmanager
def _open_unproven(
    address: str, *, bound: bool, timeout: float
) -> Iterator[tuple[CoordinatorClient, BoundChannel | None]]:
    """A client for which nothing vouches yet; with its channel, where that can be bound to."""
    if not bound:
        with CoordinatorClient.from_context(address, unverified_client_context(), timeout=timeout) as client:
            yield client, None
        return
    channel = BoundChannel(_address(address), timeout=timeout)
    with CoordinatorClient.from_channel(channel) as client:
        yield client, channel


def _address(host: str) -> Address:
    return parse_address(host, default_port=COORDINATOR_PORT)


def _sight(address: str, expectation: Expectation, status: CoordinatorStatus, root: x509.Certificate) -> Sighting:
    """Step 7: how it runs, and where its state stands."""
    root_der, mark = root.public_bytes(Encoding.DER), status.mark
    if mark is None:
        if expectation.tee in tuple(Tee) and Tee(expectation.tee).is_simulated:
            raise PeerError(
                f"the coordinator at {address} does not say where its state stands; it is too old or no Tacit"
            )
        return Sighting(root_der, 0, b"")
    # Evidence says which program runs, not with which flag: one started unattested gives secrets to anybody.
    if expectation.tee not in (mark.tee, UNATTESTED):
        raise WrongTeeError(
            f"the coordinator at {address} runs {mark.tee.upper()}, expected TEE {expectation.tee}; start it without "
            f"--unattested, or ask for it by name: `tacit trust {address} --tee {mark.tee}`"
        )
    verify_state_mark(address, mark, root)
    if mark.log is None:
        return Sighting(root_der, mark.epoch, mark.head)
    verify_log_mark(mark.log, root)
    return Sighting(root_der, mark.epoch, mark.head, LogPosition(mark.log.entries, bytes.fromhex(mark.log.head)))


def _verify_descent(
    address: str, seen: Sighting | None, now: Sighting, client: CoordinatorClient, *, forget: str
) -> None:
    """Step 8: what was seen is where this one comes from."""
    verify_epoch(address, seen, now, forget=forget)
    if seen is not None and seen.log is not None and now.log is not None:
        verify_descent(address, seen.log, now.log, client.log_digests, forget=forget)


def _verify_pinned_root(
    address: str, expectation: Expectation, status: CoordinatorStatus, root_der: bytes, *, forget: str
) -> None:
    try:
        verify_root(address, expectation, root_der, forget=forget)
    except PinMismatchError as exc:
        if status.code != _IN_RECOVERY:
            raise
        raise InRecoveryError(
            f"the coordinator at {address} is in recovery mode and shows a temporary root until it is recovered"
        ) from exc


def _verify_manifest(
    address: str, expectation: Expectation, status: CoordinatorStatus, client: CoordinatorClient, root: x509.Certificate
) -> tuple[StoredManifest | None, bytes | None]:
    """Step 9: the manifest, where something is pinned of it, and the signer, where that is who signs."""
    if status.code == _WAITS_FOR_MANIFEST or not (expectation.manifest_fingerprint or expectation.signers):
        return None, None
    if status.code == _IN_RECOVERY:
        raise InRecoveryError(
            f"the coordinator at {address} is in recovery mode and holds no manifest until it is recovered, and one is pinned"
        )
    manifest = client.manifest()
    if expectation.manifest_fingerprint is None:
        return manifest, verify_signed_manifest(address, manifest, root, expectation)
    verify_manifest(address, manifest, root, expectation.manifest_fingerprint)
    return manifest, None


def _parse_chain(address: str, quote: Quote) -> tuple[x509.Certificate, x509.Certificate]:
    try:
        chain = x509.load_pem_x509_certificates(quote.chain_pem)
    except CERTIFICATE_ERRORS as exc:
        raise PeerError(f"the certificates of {address} cannot be read: {exc}") from exc
    if len(chain) != 2:
        raise PeerError(f"{address} shows {len(chain)} certificates, expected two: intermediate and root")
    return chain[0], chain[1]


def _public_key(root: x509.Certificate) -> ec.EllipticCurvePublicKey:
    key = root.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise PeerError(f"the root key is a {type(key).__name__}, expected one on an elliptic curve")
    return key
