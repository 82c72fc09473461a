"""The certificate of an activated marble."""

from datetime import datetime

from cryptography.x509.oid import NameOID

from tacit.errors import PkiError
from tacit.pki.csr import Csr
from tacit.pki.keys import KeyPair, generate_key
from tacit.pki.shape import LIFETIME, LOOPBACK, Names, Shape, parse_ip, sign, subject_name

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


def issue_leaf(
    csr: Csr,
    *,
    issuer: KeyPair,
    uuid: str,
    marble_type: str,
    allowed_names: tuple[str, ...] | None,
    now: datetime,
    mark: str | None = None,
) -> KeyPair:
    """A new key and its certificate for a marble, under the marble root or the intermediate (they share the key).

    Of the request only names and subject attributes are used; authority, usages, validity and key are set here.

    Args:
        csr: The request, its signature already verified.
        issuer: Marble root or intermediate.
        uuid: The marble's UUID in canonical form; becomes the common name.
        marble_type: The type's name in the manifest; becomes an extension of its own.
        allowed_names: DNS names and addresses that the manifest allows this type. None leaves them to the request.
        now: Start of validity, UTC.
        mark: Organizational unit that says what this mesh is not (`SIMULATED`, `UNATTESTED`).

    Raises:
        PkiError: The request asks for a name that is not allowed, or for one that no certificate can hold.
    """
    names = csr.names if allowed_names is None else _allowed(csr.names, allowed_names)
    kept = [(oid, text) for oid, text in csr.attributes if oid in _KEPT]
    if mark:
        kept.append((NameOID.ORGANIZATIONAL_UNIT_NAME, mark))
    key = generate_key()
    shape = Shape(
        subject=subject_name([*kept, (NameOID.COMMON_NAME, uuid)]),
        public_key=key.public_key(),
        not_before=now,
        not_after=now + LIFETIME,
        usage=LEAF_USAGE,
        names=Names(names.dns, names.ips),
        marble_type=marble_type,
    )
    return KeyPair(sign(shape, issuer_name=issuer.certificate.subject, issuer=issuer, key=issuer.key), key)


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
