"""The certificate of an activated marble: issued, and known again."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tacit.errors import PkiError
from tacit.pki.csr import Csr
from tacit.pki.keys import CERTIFICATE_ERRORS, KeyPair, generate_key, parse_certificate_der, public_der
from tacit.pki.mould import Fresh, sign_leaf
from tacit.pki.shape import LIFETIME, LOOPBACK, MARBLE_TYPE_OID, Grants, Names, parse_ip, subject_name

LEAF_USAGE = 1 | 16  # digitalSignature, keyAgreement

# What a request may say about its subject. The common name is the marble's UUID, the organization is dropped.
_KEPT = frozenset(
    {
        NameOID.COUNTRY_NAME,
        NameOID.ORGANIZATIONAL_UNIT_NAME,
        NameOID.LOCALITY_NAME,
        NameOID.STATE_OR_PROVINCE_NAME,
        NameOID.STREET_ADDRESS,
        NameOID.POSTAL_CODE,
        NameOID.SERIAL_NUMBER,
    }
)


@dataclass(frozen=True)
class Leaf(KeyPair):
    """A marble's certificate and key, with the encodings that issuing it has made."""

    certificate_der: bytes
    public_der: bytes


def issue_leaf(
    csr: Csr,
    *,
    issuer: KeyPair,
    uuid: str,
    marble_type: str,
    allowed_names: tuple[str, ...] | None,
    now: datetime,
    lifetime: timedelta | None = None,
    mark: str | None = None,
) -> Leaf:
    """A new key and its certificate for a marble, under the marble root or the intermediate (they share the key).

    Of the request only names and subject attributes are used; authority, usages, validity and key are set here.

    Args:
        csr: The request, its signature already verified.
        issuer: Marble root or intermediate.
        uuid: The marble's UUID in canonical form; becomes the common name.
        marble_type: The type's name in the manifest; becomes an extension of its own.
        allowed_names: DNS names and addresses that the manifest allows this type. None leaves them to the request.
        now: Start of validity, UTC.
        lifetime: How long it is valid. None is as long as the mesh.
        mark: Organizational unit that says what this mesh is not (`SIMULATED`, `UNATTESTED`).

    Raises:
        PkiError: The request asks for a name that is not allowed, or for one that no certificate can hold.
    """
    names = csr.names if allowed_names is None else _allowed(csr.names, allowed_names)
    kept = [(oid, text) for oid, text in csr.attributes if oid in _KEPT]
    if mark:
        kept.append((NameOID.ORGANIZATIONAL_UNIT_NAME, mark))
    key = generate_key()
    fresh = Fresh(
        subject=subject_name([*kept, (NameOID.COMMON_NAME, uuid)]),
        public_der=public_der(key),
        not_before=now,
        not_after=now + (LIFETIME if lifetime is None else min(lifetime, LIFETIME)),
    )
    grants = Grants(LEAF_USAGE, Names(names.dns, names.ips), marble_type=marble_type)
    der = sign_leaf(fresh, grants, issuer=issuer)
    return Leaf(x509.load_der_x509_certificate(der), key, der, fresh.public_der)


@dataclass(frozen=True, slots=True)
class LeafIdentity:
    """Which marble a leaf was issued to: the type's name in the manifest, and the UUID in canonical form."""

    marble_type: str
    uuid: str


def verify_leaf(der: bytes, *, issuer: x509.Certificate, now: datetime) -> LeafIdentity:
    """The marble that this certificate was issued to by `issuer` itself (the marble root), in force at `now`.

    The issuer's key also signs certificate secrets, whose holders and names are the manifest's: only a leaf has the
    extension with the type, and nothing that may sign others is taken for a leaf.

    Raises:
        PkiError: it is none, in the words of Go's x509 where it has them.
    """
    try:
        leaf = parse_certificate_der(der)
        leaf.verify_directly_issued_by(issuer)
        extensions = leaf.extensions
        # The library takes one that lacks a bit for whole, so that two certificates would say the same.
        if der[-len(leaf.signature) - 1]:
            raise PkiError("a signature that is not whole bytes")
    except (*CERTIFICATE_ERRORS, InvalidSignature, PkiError) as exc:
        raise PkiError("x509: certificate signed by unknown authority") from exc
    if not leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
        when = "before" if now < leaf.not_valid_before_utc else "after"
        limit = leaf.not_valid_before_utc if when == "before" else leaf.not_valid_after_utc
        moment, bound = (f"{one:%Y-%m-%dT%H:%M:%SZ}" for one in (now, limit))
        raise PkiError(f"x509: certificate has expired or is not yet valid: current time {moment} is {when} {bound}")
    try:
        usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        is_ca = extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        marble_type = extensions.get_extension_for_oid(MARBLE_TYPE_OID).value
    except x509.ExtensionNotFound as exc:
        raise PkiError("the client certificate is not that of a marble; use the one from its activation") from exc
    if ExtendedKeyUsageOID.CLIENT_AUTH not in usage or is_ca:
        raise PkiError("x509: certificate specifies an incompatible key usage")
    names = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(names) != 1 or not isinstance(marble_type, x509.UnrecognizedExtension):
        raise PkiError("the client certificate does not say which marble it is of; use the one from its activation")
    return LeafIdentity(marble_type.value.decode("utf-8", "surrogateescape"), str(names[0].value))


def _allowed(asked: Names, allowed: tuple[str, ...]) -> Names:
    """The names that were asked for, if all are allowed.

    DNS names are compared whole and without case; a wildcard is allowed only where the manifest writes that very
    wildcard. Every marble's request names loopback: unless it is allowed, it is left out rather than refused.
    """
    addresses = {address for address in map(parse_ip, allowed) if address is not None}
    names = {name.lower().rstrip(".") for name in allowed}
    ips = tuple(ip for ip in asked.ips if ip in addresses or ip not in LOOPBACK)
    foreign = [name for name in asked.dns if name.lower().rstrip(".") not in names]
    foreign += [str(ip) for ip in ips if ip not in addresses]
    if foreign:
        listed = ", ".join(allowed) or "none"
        raise PkiError(
            f"the request asks for names that the manifest does not allow: {', '.join(map(repr, foreign))}; "
            f"allowed: {listed}; add them to AllowedNames or start the marble with other EDG_MARBLE_DNS_NAMES"
        )
    return Names(asked.dns, ips)
